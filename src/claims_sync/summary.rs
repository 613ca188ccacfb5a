//! Counts of a run, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::decision::Decision;
use super::options::RunMode;

/// Users that the summary names.
const NAMED_MAX: usize = 100;

/// Reasons that the summary counts separately.
const REASONS_MAX: usize = 50;

/// Key of all further reasons.
const OTHER_REASONS: &str = "other reasons";

/// Reason for users with another organisation.
const CONFLICT: &str = "has another organisation (--reassign overwrites it)";

/// Result of a run.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Summary {
    /// Users that were read.
    pub users: u64,
    /// Users whose organisation was written.
    pub updated: u64,
    /// Users that had the right organisation.
    pub already_right: u64,
    /// Inserted memberships of the default organisation.
    pub memberships: u64,
    /// Users whose sessions were ended.
    pub revoked: u64,
    /// Users that were left out, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Users that could not be updated, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Users that `--verify` found with another organisation than expected.
    pub differences: u64,
    /// Requests to the admin API.
    pub requests: u64,
    /// Page boundaries between users with equal `created_at`, whose order Supabase Auth does not define.
    pub unordered_pages: u64,
    /// Some of the users that failed, differ or have another organisation.
    pub named: Vec<NamedUser>,
}

/// A user and what is wrong with it.
#[derive(Debug, Deserialize, Serialize)]
pub struct NamedUser {
    user: Uuid,
    reason: String,
}

impl Summary {
    /// Whether the run left nothing to do.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failed.is_empty() && self.differences == 0 && self.unordered_pages == 0
    }

    pub(super) fn skip(&mut self, reason: &str) {
        *self.skipped.entry(reason.to_owned()).or_default() += 1;
    }

    pub(super) fn conflict(&mut self, user: Uuid) {
        self.skip(CONFLICT);
        self.name(user, CONFLICT.to_owned());
    }

    pub(super) fn differ(&mut self, user: Uuid, reason: String) {
        self.differences += 1;
        self.name(user, reason);
    }

    pub(super) fn fail(&mut self, user: Uuid, reason: String) {
        let is_known = self.failed.contains_key(&reason) || self.failed.len() < REASONS_MAX;
        let key = if is_known { reason.as_str() } else { OTHER_REASONS };
        *self.failed.entry(key.to_owned()).or_default() += 1;
        self.name(user, reason);
    }

    /// Adds the counts of a batch.
    pub(super) fn add(&mut self, other: Self) {
        self.users += other.users;
        self.updated += other.updated;
        self.already_right += other.already_right;
        self.memberships += other.memberships;
        self.revoked += other.revoked;
        self.differences += other.differences;
        for (reason, count) in other.skipped {
            *self.skipped.entry(reason).or_default() += count;
        }
        for (reason, count) in other.failed {
            let is_known = self.failed.contains_key(&reason) || self.failed.len() < REASONS_MAX;
            let key = if is_known { reason } else { OTHER_REASONS.to_owned() };
            *self.failed.entry(key).or_default() += count;
        }
        for NamedUser { user, reason } in other.named {
            self.name(user, reason);
        }
    }

    fn name(&mut self, user: Uuid, reason: String) {
        if self.named.len() < NAMED_MAX {
            self.named.push(NamedUser { user, reason });
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |count: u64, what: &str| writeln!(f, "{count:>10}  {what}");
        line(self.users, "users read")?;
        line(self.updated, "updated")?;
        line(self.already_right, "already right")?;
        line(self.memberships, "memberships inserted")?;
        line(self.revoked, "users whose sessions were ended")?;
        for (reason, count) in &self.skipped {
            line(*count, &format!("skipped: {reason}"))?;
        }
        for (reason, count) in &self.failed {
            line(*count, &format!("failed: {reason}"))?;
        }
        if self.differences > 0 {
            line(self.differences, "differences")?;
        }
        if self.unordered_pages > 0 {
            line(
                self.unordered_pages,
                "page boundaries between users with equal created_at: a user may be missing. Use --by sql, or another --page-size",
            )?;
        }
        if self.requests > 0 {
            let each = self.requests as f64 / self.users.max(1) as f64;
            line(self.requests, &format!("requests to the admin API, {each:.2} for each user"))?;
        }
        for NamedUser { user, reason } in &self.named {
            writeln!(f, "{user}  {reason}")?;
        }
        Ok(())
    }
}

/// Counts a decision that a run without writes made.
pub(super) fn count_unwritten(summary: &mut Summary, mode: RunMode, user: Uuid, decision: &Decision) {
    match (mode, decision) {
        (_, Decision::Right) => summary.already_right += 1,
        (RunMode::Verify, Decision::Conflict(org)) => {
            summary.differ(user, format!("has another organisation than {org}"));
        }
        (RunMode::Verify, Decision::Update { org, .. }) => {
            summary.differ(user, format!("does not have the organisation {org}"));
        }
        (RunMode::Verify, Decision::Join) => summary.differ(user, "has no membership".to_owned()),
        (_, Decision::Join) => {
            summary.memberships += 1;
            summary.updated += 1;
        }
        (_, Decision::Update { .. }) => summary.updated += 1,
        (_, Decision::Conflict(_)) => summary.conflict(user),
        (_, Decision::Skip(reason)) => summary.skip(reason),
    }
}

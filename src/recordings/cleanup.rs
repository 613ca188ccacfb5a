//! Clean-up of recordings: objects without a row, rows without an object, and all objects of deleted
//! organisations.
//!
//! Works organisation by organisation and in batches. Nothing that is younger than the grace period is
//! touched, and at most a given number of objects and rows. Without `changes`, it only reports.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::ensure;
use futures_util::TryStreamExt as _;
use sqlx::AssertSqlSafe;
use time::OffsetDateTime;
use uuid::Uuid;

use super::RecordingsError;
use super::queue::Queue;
use super::store::{RecordingStore, StoredObject};
use crate::org::OrgId;
use crate::postgres::begin_bound;

/// Objects or rows that are compared at once.
const BATCH: usize = 500;
/// Organisations that are read at once.
const ORGANIZATIONS_MAX: u32 = 1000;

/// Limits of a clean-up.
#[derive(Clone, Copy, Debug)]
pub struct CleanupOptions {
    /// Whether it changes anything. Otherwise it reports what it would change.
    pub changes: bool,
    /// Age below which nothing is touched.
    pub grace: Duration,
    /// Most objects and rows of one run.
    pub changes_max: u64,
}

/// Something that a clean-up has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CleanupFinding {
    /// An object without a row.
    Orphan {
        /// Organisation of its prefix.
        org: Uuid,
        /// Key of the object.
        key: String,
        /// Size in bytes.
        bytes: u64,
        /// Whether the organisation was deleted.
        is_of_deleted: bool,
    },
    /// A completed recording whose object is gone.
    Missing {
        /// Organisation of the row.
        org: Uuid,
        /// The recording.
        recording: Uuid,
    },
    /// An object that no recording can have. It stays.
    Unknown {
        /// Key of the object, or name of a prefix.
        key: String,
    },
}

/// Counts of a clean-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// Objects that were compared.
    pub objects: u64,
    /// Completed recordings that were compared.
    pub rows: u64,
    /// Objects without a row.
    pub orphans: u64,
    /// Bytes of these.
    pub orphan_bytes: u64,
    /// Recordings whose object is gone.
    pub missing: u64,
    /// Objects and prefixes that no recording can have.
    pub unknown: u64,
    /// Whether the limit ended the run.
    pub is_limited: bool,
}

/// A run.
pub struct Cleanup<'a> {
    queue: &'a Queue,
    store: &'a RecordingStore,
    options: CleanupOptions,
    report: CleanupReport,
    found: Box<dyn FnMut(&CleanupFinding) + Send + 'a>,
}

impl std::fmt::Debug for Cleanup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cleanup").field("report", &self.report).finish_non_exhaustive()
    }
}

impl<'a> Cleanup<'a> {
    /// A run that calls `found` for everything that it finds.
    pub fn new(
        queue: &'a Queue,
        store: &'a RecordingStore,
        options: CleanupOptions,
        found: impl FnMut(&CleanupFinding) + Send + 'a,
    ) -> Self {
        Self { queue, store, options, report: CleanupReport::default(), found: Box::new(found) }
    }

    /// Compares the store with the rows of every organisation.
    ///
    /// # Errors
    /// If the database or the store fails, or the database has no organisation. A later run completes it.
    pub async fn run(mut self) -> anyhow::Result<CleanupReport> {
        let mut known = HashSet::new();
        let mut after = None;
        loop {
            let orgs = self.queue.organizations(after, ORGANIZATIONS_MAX).await?;
            let Some(last) = orgs.last() else { break };
            after = Some(*last);
            for org in orgs {
                known.insert(org.as_uuid());
                self.objects(org).await?;
                self.rows(org).await?;
            }
        }
        ensure!(
            !known.is_empty(),
            "the database has no organisations, so every object would be an orphan: is it the right database?"
        );
        self.deleted_organizations(&known).await?;
        Ok(self.report)
    }

    fn is_full(&mut self) -> bool {
        let is_full = self.report.orphans + self.report.missing >= self.options.changes_max;
        self.report.is_limited |= is_full;
        is_full
    }

    fn is_old(&self, object: &StoredObject) -> bool {
        OffsetDateTime::now_utc() - object.modified >= self.options.grace
    }

    async fn objects(&mut self, org: OrgId) -> anyhow::Result<()> {
        let mut batches = self.store.objects(org).try_chunks(BATCH);
        while let Some(batch) = batches.try_next().await? {
            self.report.objects += batch.len() as u64;
            let (named, unknown): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|object| object.recording.is_some());
            for object in unknown {
                self.report.unknown += 1;
                (self.found)(&CleanupFinding::Unknown { key: object.key });
            }
            let ids: Vec<Uuid> = named.iter().filter_map(|object| object.recording).collect();
            let rows = self.queue.existing(org, &ids).await?;
            for object in named {
                let is_orphan =
                    object.recording.is_some_and(|id| !rows.contains(&id)) && self.is_old(&object);
                if is_orphan && !self.is_full() {
                    self.orphan(org.as_uuid(), object, false).await?;
                }
            }
        }
        Ok(())
    }

    async fn orphan(&mut self, org: Uuid, object: StoredObject, is_of_deleted: bool) -> anyhow::Result<()> {
        if self.options.changes {
            self.store.delete(org, &object.key).await?;
        }
        self.report.orphans += 1;
        self.report.orphan_bytes += object.bytes;
        (self.found)(&CleanupFinding::Orphan { org, key: object.key, bytes: object.bytes, is_of_deleted });
        Ok(())
    }

    async fn rows(&mut self, org: OrgId) -> anyhow::Result<()> {
        let mut after = None;
        loop {
            let batch = self.queue.completed(org, after, self.options.grace, BATCH).await?;
            let Some((last, _)) = batch.last() else { return Ok(()) };
            after = Some(*last);
            self.report.rows += batch.len() as u64;
            for (recording, path) in batch {
                // A path of the application's own is not the worker's to judge.
                if path != RecordingStore::key(org, recording)
                    || self.store.size(org, recording).await?.is_some()
                {
                    continue;
                }
                if self.is_full() {
                    return Ok(());
                }
                if self.options.changes {
                    self.queue.mark_absent(org, recording, &path).await?;
                }
                self.report.missing += 1;
                (self.found)(&CleanupFinding::Missing { org: org.as_uuid(), recording });
            }
        }
    }

    /// Everything of an organisation that was deleted is an orphan. Its objects keep the grace period.
    async fn deleted_organizations(&mut self, known: &HashSet<Uuid>) -> anyhow::Result<()> {
        for name in self.store.organizations().await? {
            let Some(org) = Uuid::try_parse(&name).ok().filter(|id| id.to_string() == name) else {
                self.report.unknown += 1;
                (self.found)(&CleanupFinding::Unknown { key: name });
                continue;
            };
            if known.contains(&org) {
                continue;
            }
            let mut objects = self.store.objects_of_prefix(org);
            while let Some(object) = objects.try_next().await? {
                self.report.objects += 1;
                if self.is_old(&object) && !self.is_full() {
                    self.orphan(org, object, true).await?;
                }
            }
        }
        Ok(())
    }
}

/// Queries of the clean-up.
impl Queue {
    /// Recordings of an organisation that have a row, of these.
    ///
    /// # Errors
    /// If the database fails.
    async fn existing(&self, org: OrgId, ids: &[Uuid]) -> Result<Vec<Uuid>, RecordingsError> {
        let mut bound = begin_bound(&self.pool, org).await?;
        let existing = sqlx::query_scalar(AssertSqlSafe(self.statements.recordings.existing.as_str()))
            .bind(ids)
            .fetch_all(&mut *bound)
            .await?;
        bound.commit().await?;
        Ok(existing)
    }

    /// Completed recordings after this one that did not change within the grace period, with their paths.
    ///
    /// # Errors
    /// If the database fails.
    async fn completed(
        &self,
        org: OrgId,
        after: Option<Uuid>,
        grace: Duration,
        rows_max: usize,
    ) -> Result<Vec<(Uuid, String)>, RecordingsError> {
        let mut bound = begin_bound(&self.pool, org).await?;
        let completed = sqlx::query_as(AssertSqlSafe(self.statements.recordings.completed.as_str()))
            .bind(after)
            .bind(grace.as_secs_f64())
            .bind(i64::try_from(rows_max).unwrap_or(i64::MAX))
            .fetch_all(&mut *bound)
            .await?;
        bound.commit().await?;
        Ok(completed)
    }

    /// Marks a completed recording whose object is gone, unless it has changed since it was read.
    ///
    /// # Errors
    /// If the database fails.
    async fn mark_absent(&self, org: OrgId, recording: Uuid, path: &str) -> Result<(), RecordingsError> {
        let mut bound = begin_bound(&self.pool, org).await?;
        let calls: Vec<Option<Uuid>> =
            sqlx::query_scalar(AssertSqlSafe(self.statements.recordings.mark_absent.as_str()))
                .bind(recording)
                .bind(path)
                .fetch_all(&mut *bound)
                .await?;
        if let (Some(Some(call)), Some(count)) = (calls.first(), &self.statements.recordings.count_in_call) {
            sqlx::query(AssertSqlSafe(count.as_str())).bind(call).execute(&mut *bound).await?;
        }
        bound.commit().await?;
        Ok(())
    }
}

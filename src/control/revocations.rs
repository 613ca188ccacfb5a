//! In-memory copy of the table `warden.revocations`.
//!
//! The tailer loads it whenever it connects, so before the node admits anybody. A background service loads it
//! again after a control event in the log, and at an interval, so that no event waits for a load. While the
//! database is unreachable the copy stays in use. This module ends sessions through the hub. It sees no
//! tokens, only their claims ([`TokenSubject`]). `docs/design/revocation.md` explains the order that leaves
//! no gap.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest as hash};
use futures_util::TryStreamExt as _;
use sqlx::postgres::PgPool;
use tokio::sync::Notify;

use crate::audit_trail;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::service::{Schedule, Trigger, periodic};

/// Revocations in memory. `warden.revoke()` allows 100,000, but concurrent calls may exceed that. Beyond this
/// number the oldest revocations of single logins are ignored, and that is logged.
pub(crate) const ENTRIES_MAX: usize = 110_000;

/// Estimated memory of one revocation. Its identifiers are stored as [`IdDigest`], so their length does not
/// matter.
pub(crate) const ENTRY_BYTES: usize = 160;

/// Limits of loading revocations.
#[derive(Clone, Copy, Debug)]
pub struct RevocationLimits {
    /// Time between two loads, even without a log event. Expired rows are deleted at the same time.
    pub interval: Duration,
    /// Longest load.
    pub timeout: Duration,
    /// First delay after a failed load.
    pub retry_first: Duration,
    /// Longest delay after a failed load.
    pub retry_max: Duration,
}

/// Claims of a verified token that decide whether it is revoked.
#[derive(Clone, Copy, Debug)]
pub struct TokenSubject<'a> {
    /// Organisation of the token.
    pub org: OrgId,
    /// Claim `iss`.
    pub issuer: Option<&'a str>,
    /// Claim `sub`.
    pub user: &'a str,
    /// Claim `session_id`: one login.
    pub session: Option<&'a str>,
    /// Claim `iat`.
    pub issued_at: Option<SystemTime>,
}

/// Reason why a token is no longer valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The login, user or organisation was revoked after the token was issued. A token without `iat` counts
    /// as issued before.
    Token,
    /// The organisation is suspended, so the time of issue does not matter.
    Suspended,
}

/// One row of the table.
#[derive(Debug)]
struct Row {
    id: i64,
    user: Option<String>,
    session: Option<String>,
    org: Option<OrgId>,
    issuer: Option<String>,
    /// Whole seconds since 1970. `iat` is compared in whole seconds.
    revoked_at: i64,
    is_suspended: bool,
    created_by: String,
    requested_by: Option<String>,
}

/// The first half of the SHA-256 of an identifier. Identifiers have up to 256 bytes, which back ends choose.
type IdDigest = [u8; 16];

fn digest(id: &str) -> IdDigest {
    let mut half = IdDigest::default();
    half.copy_from_slice(&hash(&SHA256, id.as_bytes()).as_ref()[..size_of::<IdDigest>()]);
    half
}

/// A revocation in memory, without the identifier by which it is found.
#[derive(Debug)]
struct Entry {
    org: Option<OrgId>,
    issuer: Option<IdDigest>,
    /// See [`Row::revoked_at`].
    revoked_at: i64,
    is_suspended: bool,
}

impl Entry {
    fn check(&self, subject: &TokenSubject<'_>) -> Option<Revoked> {
        let applies = self.org.is_none_or(|org| org == subject.org)
            && self.issuer.is_none_or(|issuer| subject.issuer.map(digest) == Some(issuer));
        if !applies {
            return None;
        }
        if self.is_suspended {
            return Some(Revoked::Suspended);
        }
        // A token of the same second may have been issued before the revocation, so it counts as revoked.
        let is_newer = subject.issued_at.is_some_and(|at| {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            i64::try_from(at).is_ok_and(|at| at > self.revoked_at)
        });
        (!is_newer).then_some(Revoked::Token)
    }
}

/// Revocations by login, user and organisation. A check takes three lookups, however many revocations there
/// are.
#[derive(Debug, Default)]
struct Entries {
    sessions: HashMap<IdDigest, Vec<Entry>>,
    users: HashMap<IdDigest, Vec<Entry>>,
    orgs: HashMap<OrgId, Vec<Entry>>,
    /// Id, time and kind of every revocation at the last load. None before the first load.
    known: Option<HashSet<(i64, i64, bool)>>,
}

impl Entries {
    fn check(&self, subject: &TokenSubject<'_>) -> Option<Revoked> {
        let of_org = self.orgs.get(&subject.org);
        let of_user = self.users.get(&digest(subject.user));
        let of_session = subject.session.and_then(|session| self.sessions.get(&digest(session)));
        let entries = [of_org, of_user, of_session];
        entries.into_iter().flatten().flatten().find_map(|entry| entry.check(subject))
    }

    fn add(&mut self, row: &Row) {
        let entry = Entry {
            org: row.org,
            issuer: row.issuer.as_deref().map(digest),
            revoked_at: row.revoked_at,
            is_suspended: row.is_suspended,
        };
        // Most identifiers have one revocation, and a vector would begin with room for four.
        let one = || Vec::with_capacity(1);
        if let Some(session) = &row.session {
            self.sessions.entry(digest(session)).or_insert_with(one).push(entry);
        } else if let Some(user) = &row.user {
            self.users.entry(digest(user)).or_insert_with(one).push(entry);
        } else if let Some(org) = row.org {
            self.orgs.entry(org).or_insert_with(one).push(entry);
        }
    }
}

/// Active revocations in memory.
#[derive(Debug)]
pub struct Revocations {
    pub(super) pool: PgPool,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    pub(super) limits: RevocationLimits,
    entries: RwLock<Arc<Entries>>,
    woken: Notify,
    /// Held during a load: a slow load must not overwrite the result of a later one.
    loading: tokio::sync::Mutex<()>,
}

impl Revocations {
    /// No revocations, before the first load. Sessions are closed through this hub.
    #[must_use]
    pub fn new(pool: PgPool, hub: Arc<Hub>, metrics: Arc<Metrics>, limits: RevocationLimits) -> Self {
        Self {
            pool,
            hub,
            metrics,
            limits,
            entries: RwLock::default(),
            woken: Notify::new(),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// Whether a token with these claims is revoked.
    #[must_use]
    pub fn check(&self, subject: &TokenSubject<'_>) -> Option<Revoked> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).check(subject)
    }

    /// Requests a load, because the log has an event about revocations.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Loads the table at the interval and when woken, for ever.
    pub async fn run(self: Arc<Self>) {
        let schedule = Schedule {
            interval: self.limits.interval,
            retry: (self.limits.retry_first, self.limits.retry_max),
            // The tailer loads the table when it connects.
            starts_immediately: false,
        };
        let this = &*self;
        periodic(schedule, &this.woken, |trigger| async move {
            this.clean_and_load(trigger == Trigger::Interval).await.inspect_err(|error| {
                tracing::warn!(%error, "loading revocations failed: the revocations in memory remain in use");
            })
        })
        .await;
    }

    /// Loads the table within the time limit. First deletes expired rows, if `cleans`.
    async fn clean_and_load(&self, cleans: bool) -> Result<(), sqlx::Error> {
        let work = async {
            if cleans {
                sqlx::query_scalar!("select warden.forget_revocations()").fetch_one(&self.pool).await?;
                self.merge().await;
            }
            self.load().await
        };
        tokio::time::timeout(self.limits.timeout, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// Merges the rows of deleted organisations. It reads a table of the application, which may be locked, so
    /// a failure is left to the next interval.
    async fn merge(&self) {
        let merge = sqlx::query_scalar!("select warden.merge_revocations()").fetch_one(&self.pool);
        if let Err(error) = merge.await {
            tracing::warn!(%error, "merging the revocations of deleted organisations failed");
        }
    }

    /// Loads the table, and closes the sessions of this node that are revoked by it.
    ///
    /// # Errors
    /// When the query fails. The revocations in memory remain, and the next load may log a revocation again.
    pub async fn load(&self) -> Result<(), sqlx::Error> {
        let _one = self.loading.lock().await;
        let rows_max = i64::try_from(ENTRIES_MAX).unwrap_or(i64::MAX);
        // Revocations of organisations and users first, then of logins; in each group the newest first. The
        // limit cuts off the least important ones.
        let mut rows = sqlx::query_as!(
            Row,
            r#"
            select id, user_id as "user", session_id as "session", org_id as "org: OrgId", issuer,
                   floor(extract(epoch from revoked_at))::bigint as "revoked_at!",
                   suspended as "is_suspended", created_by, requested_by
            from warden.revocations
            where suspended or expires_at > now()
            order by session_id is not null, revoked_at desc limit $1
            "#,
            rows_max + 1,
        )
        .fetch(&self.pool);
        let former = Arc::clone(&self.entries.read().unwrap_or_else(PoisonError::into_inner));
        let mut entries = Entries::default();
        let mut known = HashSet::new();
        let mut has_fresh = false;
        while let Some(row) = rows.try_next().await? {
            if known.len() == ENTRIES_MAX {
                tracing::error!(
                    limit = ENTRIES_MAX,
                    "too many revocations: the oldest revocations of single logins are ignored; delete rows from warden.revocations"
                );
                break;
            }
            let mark = (row.id, row.revoked_at, row.is_suspended);
            let is_fresh = former.known.as_ref().is_none_or(|known| !known.contains(&mark));
            // At its first load a node has no sessions, and other nodes have logged these revocations.
            if is_fresh && former.known.is_some() {
                log_revocation(&row);
            }
            has_fresh |= is_fresh;
            known.insert(mark);
            entries.add(&row);
        }
        drop(rows);
        let count = i64::try_from(known.len()).unwrap_or(i64::MAX);
        entries.known = Some(known);
        // Before the walk over the sessions: a session that registers meanwhile is either found by the walk,
        // or checks these entries after it has registered.
        *self.entries.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(entries);
        self.metrics.revocations.set(count);
        if !has_fresh {
            return Ok(());
        }
        let closed = self.hub.close_invalid_sessions();
        if closed > 0 {
            tracing::info!(sessions = closed, "revoked sessions closed");
        }
        Ok(())
    }
}

fn log_revocation(entry: &Row) {
    audit_trail::revoked(audit_trail::Revocation {
        id: entry.id,
        session: entry.session.as_deref(),
        user: entry.user.as_deref(),
        org: entry.org,
        issuer: entry.issuer.as_deref(),
        is_suspension: entry.is_suspended,
        by: &entry.created_by,
        requested_by: entry.requested_by.as_deref(),
    });
}

//! In-memory copy of the table `warden.revocations`.
//!
//! The tailer loads it whenever it connects, so before the node admits anybody. A background service loads
//! changed rows after a control event in the log, and the whole table at an interval, so that no event waits
//! for a load. While the database is unreachable the copy stays in use. This module ends sessions through the
//! hub. It sees no tokens, only their claims ([`TokenSubject`]). `docs/design/revocation.md` explains the
//! order that leaves no gap.

mod entries;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use sqlx::postgres::PgPool;
use tokio::sync::Notify;

use crate::audit_trail;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::service::{Schedule, Trigger, periodic};

use entries::{AffectedSessions, Entries, RevocationRow};
pub use entries::{Revoked, TokenSubject};

/// Revocations in memory. `warden.revoke()` allows 100,000, but concurrent calls may exceed that. Beyond this
/// number the oldest revocations of single logins are ignored, and that is logged.
pub(crate) const ENTRIES_MAX: usize = 110_000;

/// Changed rows that are loaded alone. If there are more, the whole table is loaded, row by row.
const CHANGES_MAX: usize = 1000;

/// Estimated memory of one revocation. Its identifiers are stored as a digest, so their length does not
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

/// Active revocations in memory.
#[derive(Debug)]
pub struct Revocations {
    pub(super) pool: PgPool,
    hub: Arc<Hub>,
    metrics: Arc<Metrics>,
    pub(super) limits: RevocationLimits,
    entries: RwLock<Entries>,
    woken: Notify,
    /// Whether rows may have been removed since the last load of the whole table.
    removed: AtomicBool,
    /// Snapshot of the last load, as PostgreSQL prints it; none before the first load. Locked during a load:
    /// a slow load must not overwrite the result of a later one.
    loaded_at: tokio::sync::Mutex<Option<String>>,
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
            removed: AtomicBool::new(false),
            loaded_at: tokio::sync::Mutex::default(),
        }
    }

    /// Whether a token with these claims is revoked.
    #[must_use]
    pub fn check(&self, subject: &TokenSubject<'_>) -> Option<Revoked> {
        self.entries().check(subject)
    }

    /// Requests a load of the rows that were added or changed, because the log has an event about them.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Requests a load of the whole table, because rows may have been removed.
    pub fn wake_for_all(&self) {
        self.removed.store(true, Ordering::Relaxed);
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

    /// Loads the changed rows, or all of them, within the time limit. If `is_periodic`, deletes expired rows
    /// first.
    async fn clean_and_load(&self, is_periodic: bool) -> Result<(), sqlx::Error> {
        let is_full = is_periodic || self.removed.swap(false, Ordering::Relaxed);
        let work = async {
            if is_periodic {
                sqlx::query_scalar!("select warden.forget_revocations()").fetch_one(&self.pool).await?;
                self.merge().await;
            }
            if is_full { self.load().await } else { self.load_changes().await }
        };
        let done =
            tokio::time::timeout(self.limits.timeout, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        if is_full && done.is_err() {
            // The repetition of this load must be as complete.
            self.removed.store(true, Ordering::Relaxed);
        }
        done
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
    /// When a query fails. The revocations in memory remain, and the next load may log a revocation again.
    pub async fn load(&self) -> Result<(), sqlx::Error> {
        let mut loaded_at = self.loaded_at.lock().await;
        let snapshot = self.snapshot().await?;
        let is_first = loaded_at.is_none();
        let rows_max = i64::try_from(ENTRIES_MAX).unwrap_or(i64::MAX);
        // Revocations of organisations and users first, then of logins; in each group the newest first. The
        // limit cuts off the least important ones.
        let mut rows = sqlx::query_as!(
            RevocationRow,
            r#"
            select id, user_id as "user", session_id as "session", org_id as "org: OrgId", issuer,
                   floor(extract(epoch from revoked_at))::bigint as "revoked_at!",
                   suspended as "is_suspended", (suspended or expires_at > now()) as "is_valid!",
                   created_by, requested_by
            from warden.revocations
            where suspended or expires_at > now()
            order by session_id is not null, revoked_at desc limit $1
            "#,
            rows_max + 1,
        )
        .fetch(&self.pool);
        let mut entries = Entries::default();
        let mut affected = AffectedSessions::default();
        while let Some(row) = rows.try_next().await? {
            if entries.len() == ENTRIES_MAX {
                tracing::error!(
                    limit = ENTRIES_MAX,
                    "too many revocations: the oldest revocations of single logins are ignored; delete rows from warden.revocations"
                );
                break;
            }
            // At its first load a node has no sessions, and other nodes have logged these revocations.
            if !is_first && !self.entries().knows(&row) {
                log_revocation(&row);
                affected.add(&row);
            }
            entries.put(&row);
        }
        drop(rows);
        self.metrics.revocations.set(i64::try_from(entries.len()).unwrap_or(i64::MAX));
        // Before the walk over the sessions: a session that registers meanwhile is either found by the walk,
        // or checks these entries after it has registered.
        let former = std::mem::replace(&mut *self.entries_mut(), entries);
        drop(former);
        *loaded_at = Some(snapshot);
        self.close_sessions(&affected);
        Ok(())
    }

    /// Loads the rows that were added or changed since the last load, and closes the sessions of this node
    /// that they revoke. The cost does not depend on the number of other revocations.
    async fn load_changes(&self) -> Result<(), sqlx::Error> {
        let mut loaded_at = self.loaded_at.lock().await;
        let Some(former) = loaded_at.clone() else {
            drop(loaded_at);
            return self.load().await;
        };
        let snapshot = self.snapshot().await?;
        let rows = sqlx::query_as!(
            RevocationRow,
            r#"
            select id, user_id as "user", session_id as "session", org_id as "org: OrgId", issuer,
                   floor(extract(epoch from revoked_at))::bigint as "revoked_at!",
                   suspended as "is_suspended", (suspended or expires_at > now()) as "is_valid!",
                   created_by, requested_by
            from warden.revocations
            where xid >= pg_snapshot_xmax($1::text::pg_snapshot)
               or xid = any (array(select pg_snapshot_xip($1::text::pg_snapshot)))
            limit $2
            "#,
            former,
            i64::try_from(CHANGES_MAX + 1).unwrap_or(i64::MAX),
        )
        .fetch_all(&self.pool)
        .await?;
        let added = rows.iter().filter(|row| !self.entries().contains(row)).count();
        let is_too_much = rows.len() > CHANGES_MAX || self.entries().len() + added > ENTRIES_MAX;
        // A row that has expired must be removed.
        if is_too_much || rows.iter().any(|row| !row.is_valid) {
            drop(loaded_at);
            return self.load().await;
        }
        let mut affected = AffectedSessions::default();
        for row in rows.iter().filter(|row| !self.entries().knows(row)) {
            log_revocation(row);
            affected.add(row);
            // Before the walk over the sessions, as in `load`.
            self.entries_mut().put(row);
        }
        self.metrics.revocations.set(i64::try_from(self.entries().len()).unwrap_or(i64::MAX));
        *loaded_at = Some(snapshot);
        self.close_sessions(&affected);
        Ok(())
    }

    /// The database's current snapshot. A load takes it first: rows that commit meanwhile are loaded twice
    /// rather than never.
    async fn snapshot(&self) -> Result<String, sqlx::Error> {
        sqlx::query_scalar!(r#"select pg_current_snapshot()::text as "snapshot!""#)
            .fetch_one(&self.pool)
            .await
    }

    fn close_sessions(&self, affected: &AffectedSessions) {
        let closed = match affected {
            AffectedSessions::OfOrgs(orgs) => self.hub.close_invalid_sessions_of(orgs.iter().copied()),
            AffectedSessions::All => self.hub.close_invalid_sessions(),
        };
        if closed > 0 {
            tracing::info!(sessions = closed, "revoked sessions closed");
        }
    }

    fn entries(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries_mut(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log_revocation(entry: &RevocationRow) {
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

//! Reconciler: finds organisations that were deleted without a log event, and ends their sessions.
//!
//! The log has an event for every deletion, with two exceptions: triggers were disabled (a restore, a
//! replication role), or the table was truncated, which has no rows to log. So the reconciler looks up all
//! organisations that this node believes to exist, at an interval, and immediately after events may have been
//! missed. It never admits anybody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;

use super::directory::Directory;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::org::{Incarnation, OrgId};
use crate::service::{Schedule, periodic};
use crate::wire::CloseCode;

/// Maximum number of organisations in one query.
pub(crate) const ORGS_IN_QUERY_MAX: usize = 10_000;

/// Limits of the reconciler.
#[derive(Clone, Copy, Debug)]
pub struct ReconcilerLimits {
    /// Time between two runs.
    pub interval: Duration,
    /// Longest query.
    pub timeout: Duration,
    /// First delay after a failed run.
    pub retry_first: Duration,
    /// Longest delay after a failed run.
    pub retry_max: Duration,
}

/// Compares the organisations in memory with the database.
#[derive(Debug)]
pub struct Reconciler {
    pool: PgPool,
    hub: Arc<Hub>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    limits: ReconcilerLimits,
    woken: Notify,
}

impl Reconciler {
    /// A reconciler for the organisations that the hub and the directory know.
    #[must_use]
    pub fn new(
        pool: PgPool,
        hub: Arc<Hub>,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
        limits: ReconcilerLimits,
    ) -> Self {
        Self { pool, hub, directory, metrics, limits, woken: Notify::new() }
    }

    /// Requests a run, because events may have been missed.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Reconciles at the interval and when woken, for ever.
    pub async fn run(self: Arc<Self>) {
        let schedule = Schedule {
            interval: self.limits.interval,
            retry: (self.limits.retry_first, self.limits.retry_max),
            // At the start no organisation is in memory.
            starts_immediately: false,
        };
        periodic(schedule, &self.woken, |_| async {
            self.reconcile().await.inspect_err(|error| {
                tracing::warn!(%error, "reconciling organisations failed: their sessions stay open");
            })
        })
        .await;
    }

    async fn reconcile(&self) -> Result<(), sqlx::Error> {
        let mut known: HashMap<(OrgId, i64), Incarnation> = HashMap::new();
        for (org, incarnation) in self.directory.known_orgs().into_iter().chain(self.hub.incarnations()) {
            known.insert((org, incarnation.number), incarnation);
        }
        let asked: Vec<(OrgId, i64)> = known.keys().copied().collect();
        for chunk in asked.chunks(ORGS_IN_QUERY_MAX) {
            let deleted = tokio::time::timeout(self.limits.timeout, self.deleted(chunk)).await;
            for (org, number) in deleted.unwrap_or(Err(sqlx::Error::PoolTimedOut))? {
                // Before the sessions end: from now on an upgrade queries the database.
                self.directory.forget_org(org);
                self.hub.close_org(org, known[&(org, number)], CloseCode::ORG_GONE);
                self.metrics.orgs_swept.inc();
                tracing::warn!(org.id = %org, "organisation was deleted without a log event: sessions closed");
            }
        }
        Ok(())
    }

    /// The organisations and incarnations of these that do not exist any more.
    async fn deleted(&self, asked: &[(OrgId, i64)]) -> Result<Vec<(OrgId, i64)>, sqlx::Error> {
        let ids: Vec<Uuid> = asked.iter().map(|(org, _)| org.as_uuid()).collect();
        let numbers: Vec<i64> = asked.iter().map(|(_, number)| *number).collect();
        let rows = sqlx::query!(
            r#"
            select asked.id as "id!: OrgId", asked.number as "number!"
            from unnest($1::uuid[], $2::bigint[]) as asked (id, number)
            where not exists (select from public.organizations o where o.id = asked.id)
               or asked.number < (select max(i.value) from warden.incarnations i
                                  where i.org_id in (asked.id, '00000000-0000-0000-0000-000000000000'))
            "#,
            &ids,
            &numbers
        );
        let rows = rows.fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|row| (row.id, row.number)).collect())
    }
}

//! Organisations that are gone without a word in the log: their sessions end, and nobody is let in from memory.
//!
//! The log tells of every deletion, unless its trigger was switched off (a restore, a replication role), or the
//! organisations were truncated, which has no rows to tell of. So all that this node knows to exist are asked
//! for now and then, and at once where the log says that something is not told. It decides about nobody new.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;

use super::directory::Directory;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::service::{Schedule, periodic};
use crate::wire::CloseCode;

/// Organisations in one query.
pub(crate) const ORGS_IN_QUERY_MAX: usize = 10_000;

/// Delays of the sweep.
#[derive(Clone, Copy, Debug)]
pub struct ReconcilerLimits {
    /// All are asked for so often.
    pub interval: Duration,
    /// A query that takes longer has failed.
    pub timeout: Duration,
    /// The first delay after a failure.
    pub retry_first: Duration,
    /// The longest delay after a failure.
    pub retry_max: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Reconciler {
    pool: PgPool,
    hub: Arc<Hub>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    limits: ReconcilerLimits,
    due: Notify,
}

impl Reconciler {
    /// Asks this database about those whom the hub and the directory know.
    #[must_use]
    pub fn new(
        pool: PgPool,
        hub: Arc<Hub>,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
        limits: ReconcilerLimits,
    ) -> Self {
        Self { pool, hub, directory, metrics, limits, due: Notify::new() }
    }

    /// The log tells that it does not tell everything.
    pub fn now(&self) {
        self.due.notify_one();
    }

    /// Sweeps when told to, and now and then.
    pub async fn run(self: Arc<Self>) {
        let schedule = Schedule {
            interval: self.limits.interval,
            retry: (self.limits.retry_first, self.limits.retry_max),
            // At the start no organisation is known.
            starts_immediately: false,
        };
        periodic(schedule, &self.due, |_| async {
            self.sweep().await.inspect_err(|error| {
                tracing::warn!(%error, "organisations could not be looked for; their sessions go on");
            })
        })
        .await;
    }

    async fn sweep(&self) -> Result<(), sqlx::Error> {
        let mut known: HashSet<OrgId> = self.directory.known_orgs().into_iter().collect();
        known.extend(self.hub.org_ids());
        let known: Vec<Uuid> = known.into_iter().map(OrgId::as_uuid).collect();
        for asked in known.chunks(ORGS_IN_QUERY_MAX) {
            let gone = tokio::time::timeout(self.limits.timeout, self.gone(asked)).await;
            for org in gone.unwrap_or(Err(sqlx::Error::PoolTimedOut))? {
                // First this: who is let in from now on asks the database.
                self.directory.forget_org(org);
                self.hub.close_org(org, CloseCode::ORG_GONE);
                self.metrics.orgs_swept.inc();
                tracing::warn!(
                    org.id = %org,
                    "an organisation is gone without a word in the event log: its sessions were ended"
                );
            }
        }
        Ok(())
    }

    async fn gone(&self, asked: &[Uuid]) -> Result<Vec<OrgId>, sqlx::Error> {
        sqlx::query_scalar!(
            r#"
            select asked.id as "id!: OrgId" from unnest($1::uuid[]) as asked (id)
            where not exists (select from public.organizations o where o.id = asked.id)
            "#,
            asked
        )
        .fetch_all(&self.pool)
        .await
    }
}

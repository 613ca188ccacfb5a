//! A check of the watches: which watched tables no longer fit their watch.
//!
//! Writes to such a table succeed, but cost more, and their events may be truncated or missing. The node
//! stays ready, because every node would be affected alike.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{Notify, watch};

use crate::log::TailerState;
use crate::metrics::Metrics;
use crate::service::{Schedule, periodic};

/// Limits of the check.
#[derive(Clone, Copy, Debug)]
pub struct WatchCheckLimits {
    /// Time between two checks.
    pub interval: Duration,
    /// Longest query.
    pub timeout: Duration,
}

/// The check, which runs in the background. Probes read its last result.
#[derive(Debug)]
pub struct WatchCheck {
    pool: PgPool,
    metrics: Arc<Metrics>,
    limits: WatchCheckLimits,
    unfit: watch::Sender<Vec<String>>,
}

impl WatchCheck {
    /// Creates a check of this database.
    #[must_use]
    pub fn new(pool: PgPool, metrics: Arc<Metrics>, limits: WatchCheckLimits) -> Self {
        Self { pool, metrics, limits, unfit: watch::Sender::new(Vec::new()) }
    }

    /// Names of the tables that do not fit their watch, as of the last check.
    #[must_use]
    pub fn unfit(&self) -> watch::Receiver<Vec<String>> {
        self.unfit.subscribe()
    }

    /// Checks at the interval until the future is dropped, while the node follows the log.
    pub async fn run(self, tailer: watch::Receiver<TailerState>) {
        let interval = self.limits.interval;
        let schedule = Schedule { interval, retry: (interval, interval), starts_immediately: true };
        periodic(schedule, &Notify::new(), |_| async {
            let mut tailer = tailer.clone();
            if tailer.wait_for(|state| *state == TailerState::Following).await.is_err() {
                // The tailer has ended for good.
                std::future::pending::<()>().await;
            }
            let checked = tokio::time::timeout(self.limits.timeout, self.query()).await;
            match checked.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                Ok(tables) => self.report(tables),
                // The former result stays. The log tailer reports a database that is unreachable.
                Err(error) => tracing::debug!(%error, "check of watches failed"),
            }
            Ok::<(), std::convert::Infallible>(())
        })
        .await;
    }

    async fn query(&self) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query_scalar("select warden.unfit_watches()").fetch_all(&self.pool).await
    }

    /// Publishes a result, and logs it if it differs from the former one.
    fn report(&self, tables: Vec<String>) {
        self.metrics.unfit_watches.set(i64::try_from(tables.len()).unwrap_or(i64::MAX));
        self.unfit.send_if_modified(|known| {
            if *known == tables {
                return false;
            }
            if tables.is_empty() {
                tracing::info!("all watched tables fit their watches again");
            } else {
                tracing::warn!(
                    tables = tables.join(", "),
                    "watched tables no longer fit their watches: run `warden audit`, or select warden.refresh_watches()"
                );
            }
            *known = tables;
            true
        });
    }
}

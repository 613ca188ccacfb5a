//! Retention as a job: moves the log's ring on when its present slot is old or large enough.
//!
//! Every node runs it; the database lets one at a time do it. A late job only keeps rows longer.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Slots of the ring, as in the migration: one is written, and the others are kept.
const SLOTS: u32 = 8;

/// What is kept, and how often that is looked after.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// Events are kept at least so long, unless their bytes say otherwise.
    pub keep: Duration,
    /// Bytes of the whole log, with its indexes.
    pub bytes_max: u64,
    /// Between two looks.
    pub interval: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Retention {
    pool: PgPool,
    metrics: Arc<Metrics>,
    limits: RetentionLimits,
}

impl Retention {
    /// A job on this database.
    #[must_use]
    pub fn new(pool: PgPool, metrics: Arc<Metrics>, limits: RetentionLimits) -> Self {
        Self { pool, metrics, limits }
    }

    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut interval = tokio::time::interval(self.limits.interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = interval.tick() => {}
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                done = self.run_once() => match done {
                    Ok(what) => self.tell(&what),
                    Err(error) => {
                        self.metrics.retention_late.set(1);
                        tracing::warn!(%error, "retention could not be looked after: the log grows until it is");
                    }
                },
            }
        }
    }

    /// Looks once; says what was done, in the words of `warden.rotate_events`.
    ///
    /// # Errors
    /// When the database can't be asked.
    pub async fn run_once(&self) -> Result<String, sqlx::Error> {
        let slot_seconds = self.limits.keep.as_secs_f64() / f64::from(SLOTS - 1);
        let slot_bytes = i64::try_from(self.limits.bytes_max / u64::from(SLOTS)).unwrap_or(i64::MAX);
        sqlx::query_scalar!(
            r#"select warden.rotate_events(make_interval(secs => $1), $2) as "done!""#,
            slot_seconds,
            slot_bytes
        )
        .fetch_one(&self.pool)
        .await
    }

    fn tell(&self, what: &str) {
        self.metrics.retention_late.set(i64::from(what == "blocked"));
        match what {
            "rotated" => {
                self.metrics.rotations.inc();
                tracing::info!("the event log has moved on by one slot; the oldest events are gone");
            }
            "blocked" => tracing::warn!(
                "the oldest slot of the event log can't be emptied: a transaction that writes to it is still open"
            ),
            _ => {}
        }
    }
}

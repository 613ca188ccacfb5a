//! Retention as a job: moves the log's ring on when its present slot is old or large enough.
//!
//! Every node runs it; the database lets one at a time do it. A late job only keeps rows longer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::log::TailerState;
use crate::metrics::Metrics;
use crate::service::{Schedule, periodic};

/// Slots of the ring, as in the migration: one is written, and the others are kept.
const SLOTS: u32 = 8;

/// A look that takes longer has failed.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

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
    late_since: watch::Sender<Option<Instant>>,
}

impl Retention {
    /// A job on this database.
    #[must_use]
    pub fn new(pool: PgPool, metrics: Arc<Metrics>, limits: RetentionLimits) -> Self {
        Self { pool, metrics, limits, late_since: watch::Sender::new(None) }
    }

    /// Since when retention is due and can't be done.
    #[must_use]
    pub fn late_since(&self) -> watch::Receiver<Option<Instant>> {
        self.late_since.subscribe()
    }

    /// Looks at every interval, while the node follows the log: one that doesn't has said so already.
    pub async fn run(self, tailer: watch::Receiver<TailerState>) {
        // A failure is repeated at the next interval: no attempt before it is needed.
        let interval = self.limits.interval;
        let schedule = Schedule { interval, retry: (interval, interval), starts_immediately: true };
        periodic(schedule, &Notify::new(), |_| async {
            let mut tailer = tailer.clone();
            if tailer.wait_for(|state| *state == TailerState::Following).await.is_err() {
                // The tailer has ended for good, so there is nothing to look after.
                std::future::pending().await
            }
            match tokio::time::timeout(LOOK_TIMEOUT, self.run_once()).await {
                Ok(Ok(what)) => self.tell(&what),
                Ok(Err(error)) => self.tell_failure(&error),
                Err(elapsed) => self.tell_failure(&elapsed),
            }
            Ok::<(), Infallible>(())
        })
        .await;
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

    fn set_late(&self, is_late: bool) {
        self.metrics.retention_late.set(i64::from(is_late));
        self.late_since.send_modify(|since| *since = is_late.then(|| since.unwrap_or_else(Instant::now)));
    }

    fn late_seconds(&self) -> u64 {
        self.late_since.borrow().map_or(0, |since| since.elapsed().as_secs())
    }

    fn tell_failure(&self, error: &dyn std::fmt::Display) {
        self.set_late(true);
        let seconds = self.late_seconds();
        tracing::warn!(
            %error,
            late.seconds = seconds,
            "retention could not be looked after: the log grows until it is"
        );
    }

    fn tell(&self, what: &str) {
        // Another node is at it, and knows.
        if what != "busy" {
            self.set_late(what == "blocked");
        }
        match what {
            "rotated" => {
                self.metrics.rotations.inc();
                tracing::info!("the event log has moved on by one slot; the oldest events are gone");
            }
            "blocked" => tracing::warn!(
                late.seconds = self.late_seconds(),
                "the oldest slot of the event log can't be emptied: a transaction that writes to it is still open (see pg_stat_activity.xact_start), and the log grows until it ends"
            ),
            _ => {}
        }
    }
}

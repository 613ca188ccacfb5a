//! Retention: a job that rotates the log to its next slot when the current slot is old or large enough, and
//! deletes expired idempotency keys. If the log is full, an organisation beyond its share loses its oldest
//! events; the database moves those of the others out of the oldest slot first.
//!
//! Every node runs the job, and the database lets one node at a time rotate. A late rotation only keeps rows
//! longer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::log::TailerState;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::service::{Schedule, periodic};

/// Slots of the log, as in the migration. One slot is written, and the others are kept.
const SLOTS: u32 = 8;

/// Time after which an attempt to rotate has failed.
pub(crate) const ROTATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Expired idempotency keys that one statement deletes, so that no statement takes long.
pub(crate) const KEYS_DELETED_MAX: usize = 10_000;

/// Attempts in a row that find another node rotating, after which retention is late. A rotation ends within
/// [`ROTATION_TIMEOUT`], so something else keeps the lock, such as a prepared transaction.
pub const BUSY_ATTEMPTS_MAX: u32 = 10;

/// Limits of the log in the database, and the interval of the job.
#[derive(Clone, Copy, Debug)]
pub struct RetentionLimits {
    /// Shortest time for which events are kept, unless the log exceeds `bytes_max`.
    pub keep: Duration,
    /// Most bytes of the whole log with its indexes.
    pub bytes_max: u64,
    /// Share of one organisation: bytes of its events, with their part of the indexes. If the log is full, an
    /// organisation beyond its share loses its oldest events instead of all organisations.
    pub org_bytes_max: u64,
    /// Interval between two attempts.
    pub interval: Duration,
}

/// Result of one attempt to rotate, as `warden.rotate_events` returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rotation {
    /// The oldest slot was truncated and is now the current one.
    Rotated,
    /// Rotation as above, in which only organisations beyond their share lost events that were not too old.
    RotatedByShare,
    /// A batch of the events that are kept was moved out of the oldest slot. More of them follow.
    Moving,
    /// The current slot is neither old nor large enough.
    NotDue,
    /// Another node is rotating.
    Busy,
    /// A transaction still uses the oldest slot, so it cannot be truncated.
    Blocked,
}

/// The retention job.
#[derive(Debug)]
pub struct Retention {
    pool: PgPool,
    metrics: Arc<Metrics>,
    limits: RetentionLimits,
    late_since: watch::Sender<Option<Instant>>,
    /// Attempts in a row that found another node rotating.
    busy_attempts: AtomicU32,
}

impl Retention {
    /// Creates a job on this database.
    #[must_use]
    pub fn new(pool: PgPool, metrics: Arc<Metrics>, limits: RetentionLimits) -> Self {
        Self { pool, metrics, limits, late_since: watch::Sender::new(None), busy_attempts: AtomicU32::new(0) }
    }

    /// Time since which a rotation is due but fails.
    #[must_use]
    pub fn late_since(&self) -> watch::Receiver<Option<Instant>> {
        self.late_since.subscribe()
    }

    /// Runs until the future is dropped. It rotates only while the node follows the log, because a node that
    /// does not has already reported that the database is unreachable.
    pub async fn run(self, tailer: watch::Receiver<TailerState>) {
        // A failed attempt is repeated at the next interval. No earlier attempt is needed.
        let interval = self.limits.interval;
        let schedule = Schedule { interval, retry: (interval, interval), starts_immediately: true };
        periodic(schedule, &Notify::new(), |_| async {
            let mut tailer = tailer.clone();
            if tailer.wait_for(|state| *state == TailerState::Following).await.is_err() {
                // The tailer has ended for good, so there is nothing to rotate.
                std::future::pending::<()>().await;
            }
            match tokio::time::timeout(ROTATION_TIMEOUT, self.delete_keys()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "deleting expired idempotency keys failed"),
                Err(error) => tracing::warn!(%error, "deleting expired idempotency keys takes long"),
            }
            self.rotate_if_due().await;
            Ok::<(), Infallible>(())
        })
        .await;
    }

    /// Deletes expired idempotency keys, and those of deleted organisations.
    async fn delete_keys(&self) -> Result<(), sqlx::Error> {
        let rows_max = i32::try_from(KEYS_DELETED_MAX).unwrap_or(i32::MAX);
        loop {
            let deleted =
                sqlx::query_scalar!(r#"select warden.forget_idempotency_keys($1) as "deleted!""#, rows_max)
                    .fetch_one(&self.pool)
                    .await?;
            if deleted < i64::from(rows_max) {
                return Ok(());
            }
        }
    }

    /// Moves the events that are kept, in one transaction per batch, and then rotates the log.
    async fn rotate_if_due(&self) {
        loop {
            match tokio::time::timeout(ROTATION_TIMEOUT, self.rotate()).await {
                Ok(Ok(Rotation::Moving)) => {}
                Ok(Ok(rotation)) => {
                    self.report(rotation);
                    if rotation == Rotation::RotatedByShare {
                        self.report_orgs_beyond_share().await;
                    }
                    return;
                }
                Ok(Err(error)) => return self.report_failure(&error),
                Err(elapsed) => return self.report_failure(&elapsed),
            }
        }
    }

    /// Rotates the log if that is due, or moves a batch of events first.
    async fn rotate(&self) -> Result<Rotation, sqlx::Error> {
        let slot_seconds = self.limits.keep.as_secs_f64() / f64::from(SLOTS - 1);
        let slot_bytes = i64::try_from(self.limits.bytes_max / u64::from(SLOTS)).unwrap_or(i64::MAX);
        let org_bytes = i64::try_from(self.limits.org_bytes_max).unwrap_or(i64::MAX);
        let result = sqlx::query_scalar!(
            r#"select warden.rotate_events(make_interval(secs => $1), $2, $3) as "done!""#,
            slot_seconds,
            slot_bytes,
            org_bytes
        )
        .fetch_one(&self.pool)
        .await?;
        match result.as_str() {
            "rotated" => Ok(Rotation::Rotated),
            "rotated by share" => Ok(Rotation::RotatedByShare),
            "moving" => Ok(Rotation::Moving),
            "not due" => Ok(Rotation::NotDue),
            "busy" => Ok(Rotation::Busy),
            "blocked" => Ok(Rotation::Blocked),
            other => Err(sqlx::Error::Decode(format!("unknown result of rotate_events: {other:?}").into())),
        }
    }

    fn set_late(&self, is_late: bool) {
        self.metrics.retention_late.set(i64::from(is_late));
        self.late_since.send_modify(|since| *since = is_late.then(|| since.unwrap_or_else(Instant::now)));
    }

    fn late_seconds(&self) -> u64 {
        self.late_since.borrow().map_or(0, |since| since.elapsed().as_secs())
    }

    fn report_failure(&self, error: &dyn std::fmt::Display) {
        self.set_late(true);
        let seconds = self.late_seconds();
        tracing::warn!(%error, late.seconds = seconds, "log rotation failed: the event log grows");
    }

    fn report(&self, rotation: Rotation) {
        // `Busy` does not mean that rotation is late, because the node that is rotating reports that. But no
        // rotation takes as long as many attempts.
        let busy = match rotation {
            Rotation::Busy => self.busy_attempts.load(Ordering::Relaxed).saturating_add(1),
            _ => 0,
        };
        self.busy_attempts.store(busy, Ordering::Relaxed);
        if rotation != Rotation::Busy || busy >= BUSY_ATTEMPTS_MAX {
            self.set_late(matches!(rotation, Rotation::Blocked | Rotation::Busy));
        }
        match rotation {
            Rotation::Rotated => {
                self.metrics.rotations.inc();
                tracing::info!("log rotated: the oldest events were deleted");
            }
            Rotation::RotatedByShare => {
                self.metrics.rotations.inc();
                self.metrics.rotations_by_share.inc();
            }
            Rotation::Blocked => tracing::warn!(
                late.seconds = self.late_seconds(),
                "log rotation blocked, the event log grows: an open transaction wrote to the oldest slot; \
                 end it (see pg_stat_activity.xact_start)"
            ),
            Rotation::Busy if busy >= BUSY_ATTEMPTS_MAX => tracing::warn!(
                attempts = busy,
                late.seconds = self.late_seconds(),
                "log rotation always busy, the event log grows: some transaction keeps the lock on \
                 warden.last_rotation; end it (see pg_locks and pg_prepared_xacts)"
            ),
            Rotation::NotDue | Rotation::Moving | Rotation::Busy => {}
        }
    }

    /// Logs which organisations the last rotation by share took events from.
    async fn report_orgs_beyond_share(&self) {
        let orgs = sqlx::query_scalar!(
            r#"select org_id as "org_id: OrgId" from warden.log_floors
               where rotation = (select number from warden.last_rotation where singleton) order by org_id"#
        )
        .fetch_all(&self.pool);
        match tokio::time::timeout(ROTATION_TIMEOUT, orgs).await {
            Ok(Ok(orgs)) => tracing::warn!(
                ?orgs,
                share.bytes = self.limits.org_bytes_max,
                "log rotated: the log is full, and organisations beyond their share lost their oldest events"
            ),
            // The rotation itself was successful.
            Ok(Err(error)) => tracing::warn!(%error, "log rotated by share, for unknown organisations"),
            Err(error) => tracing::warn!(%error, "log rotated by share, for unknown organisations"),
        }
    }
}

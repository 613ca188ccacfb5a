//! What a client missed: from its cursor up to where this node stands, from memory or from the log.
//!
//! A client comes back with the cursor (A, B, n), and this node stands at the point P. What B covers and A
//! doesn't, with ids above n, comes first, with cursors (A, B, id); then what P covers and B doesn't, with
//! cursors (B, P, id). No other snapshot takes part: one of its own, with the live events filtered by it,
//! would double events.
//!
//! While a node reads what takes many pages it stands between two points, at (P, Q, m). Then what Q covers and
//! P doesn't, up to m, comes as a third part, with cursors (P, Q, id), as the pages' events do that follow live.
//!
//! The log is read for an organisation, not for a client: those of its clients who wait share a read, and
//! organisations take turns ([`turns`]).

mod batch;
mod queue;
mod read;
mod recent;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::log::cursor::Cursor;
use crate::log::{DoorbellSignal, TailerProgress};
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::wire::{Event, Topic};
pub use batch::ReplayBatch;
use batch::{Events, has_reached, is_missed};
use queue::{ReplayQueue, TurnLimits};
pub use recent::{RecentEvents, RecentLimits};

/// Limits of replays.
#[derive(Clone, Copy, Debug)]
pub struct ReplayLimits {
    /// Reads of the log at the same time, each for another organisation; the others wait for their turn.
    pub from_log_max: usize,
    /// Resumes that wait for the log, of all organisations; beyond it a resume is told to try no more.
    pub waiting_max: usize,
    /// Events that one replay brings; who missed more reads its state anew.
    pub events_max: usize,
    /// Bytes of the events that one replay brings, and that one read of the log brings.
    pub bytes_max: usize,
    /// Bytes of events from the log that are being read or sent; beyond it reads wait. One organisation
    /// has half of it at most.
    pub memory_bytes_max: usize,
    /// How long a resume waits for a reader that makes no progress. For one that does it waits as long as it
    /// takes: the bulk that it is reading, and one look; the join has its reply by then.
    pub reader_timeout: Duration,
    /// How long a replay may wait for its turn and for the log; the join has its reply by then.
    pub read_timeout: Duration,
    /// How long one read of the log may take.
    pub turn_timeout: Duration,
    /// How long a client may take to read what it missed, which stays in memory for so long.
    pub send_timeout: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Replay {
    pool: PgPool,
    recent: Arc<RecentEvents>,
    ring: Arc<DoorbellSignal>,
    progress: watch::Receiver<TailerProgress>,
    turns: Arc<ReplayQueue<Waiter>>,
    metrics: Arc<Metrics>,
    limits: ReplayLimits,
}

/// Bytes of events from the log, and whose.
type MemoryReservation = queue::MemoryReservation<Waiter>;

/// A client that waits for the log to be read.
#[derive(Debug)]
struct Waiter {
    topic: Topic,
    since: Cursor,
    until: Cursor,
    answer: oneshot::Sender<Result<(Events, Arc<MemoryReservation>), ReplayError>>,
}

/// Why what was missed can't be told: the client is to read its state anew.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReplayError {
    /// More than the limit.
    #[error("too many events were missed")]
    TooMany,
    /// Some of it is older than what is kept.
    #[error("what was missed is older than what is kept")]
    TooOld,
    /// The database did not answer, or not in time.
    #[error("the event log can't be read: {0}")]
    Log(#[from] Arc<sqlx::Error>),
    /// No turn, or no reader, within the limit; or too many wait.
    #[error("the event log can't be read in time")]
    Timeout,
    /// The database was restored or failed over while the client waited.
    #[error("the log is another one now")]
    Epoch,
}

impl Waiter {
    fn wants(&self, xid: u64, event: &Event) -> bool {
        is_missed(xid, event, &self.topic, &self.since, &self.until)
    }
}

impl Replay {
    /// Replays from this window, and from the log through this pool.
    #[must_use]
    pub fn new(
        pool: PgPool,
        recent: Arc<RecentEvents>,
        ring: Arc<DoorbellSignal>,
        progress: watch::Receiver<TailerProgress>,
        metrics: Arc<Metrics>,
        limits: ReplayLimits,
    ) -> Self {
        // A read must always have room, whatever was configured.
        let read_bytes = limits.bytes_max.min(limits.memory_bytes_max / 2);
        let turns = TurnLimits {
            waiting_max: limits.waiting_max,
            read_bytes,
            bytes_max: limits.memory_bytes_max,
            org_bytes_max: limits.memory_bytes_max / 2,
        };
        let turns = Arc::new(ReplayQueue::new(turns, Arc::clone(&metrics)));
        Self { pool, recent, ring, progress, turns, metrics, limits }
    }

    /// Resolves when `position` (of this node) includes all that the client has seen. Where the client comes
    /// from a node that is ahead, the reader is made to look: what it reads from now on is later than any cursor
    /// that was handed out before.
    ///
    /// # Errors
    /// When the reader makes no progress, as when the database is away for long.
    pub async fn caught_up(
        &self,
        since: &Cursor,
        position: impl Fn() -> Option<Cursor>,
    ) -> Result<(), ReplayError> {
        let mut progress = self.progress.clone();
        // The look that is under way may have taken its snapshot already; the one after it has not.
        let enough = progress.borrow_and_update().reads + 2;
        loop {
            let reads = progress.borrow_and_update().reads;
            if position().is_some_and(|now| reads >= enough || has_reached(&now, since)) {
                return Ok(());
            }
            self.ring.pull();
            match tokio::time::timeout(self.limits.reader_timeout, progress.changed()).await {
                Ok(Ok(())) => {}
                // None; or the gateway is going down.
                Err(_) | Ok(Err(_)) => return Err(ReplayError::Timeout),
            }
        }
    }

    /// What `until` covers and the cursor doesn't.
    ///
    /// # Errors
    /// When it is too much, or can't be read.
    pub async fn missed(
        &self,
        org: OrgId,
        topic: &Topic,
        since: &Cursor,
        until: &Cursor,
    ) -> Result<ReplayBatch, ReplayError> {
        let (events, held) = if let Some(events) = self.recent.between(org, topic, since, until) {
            self.metrics.replays_from_memory.inc();
            (Arc::new(events), None)
        } else {
            self.metrics.replays_from_log.inc();
            let (events, held) = self.read_log(org, topic, since, until).await?;
            (events, Some(held))
        };
        let missed = ReplayBatch {
            events,
            topic: topic.clone(),
            since: since.clone(),
            until: until.clone(),
            _held: held,
        };
        let (count, bytes) = missed.size();
        if count > self.limits.events_max || bytes > self.limits.bytes_max {
            return Err(ReplayError::TooMany);
        }
        Ok(missed)
    }

    async fn read_log(
        &self,
        org: OrgId,
        topic: &Topic,
        since: &Cursor,
        until: &Cursor,
    ) -> Result<(Events, Arc<MemoryReservation>), ReplayError> {
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { topic: topic.clone(), since: since.clone(), until: until.clone(), answer };
        if !self.turns.push(org, waiter) {
            return Err(ReplayError::Timeout);
        }
        match tokio::time::timeout(self.limits.read_timeout, answered).await {
            Ok(Ok(answer)) => answer,
            // Late; or the gateway is going down.
            Ok(Err(_)) | Err(_) => Err(ReplayError::Timeout),
        }
    }

    /// How long a client may take to read what it missed.
    #[must_use]
    pub fn send_timeout(&self) -> Duration {
        self.limits.send_timeout
    }

    /// Takes turns at reading the log until cancelled: one of those tasks that do
    /// ([`ReplayLimits::from_log_max`]).
    pub async fn run(&self, cancel: CancellationToken) {
        let reading = async {
            loop {
                let turn = self.turns.next().await;
                self.take(turn).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => {}
            () = reading => {}
        }
    }
}

//! Replay of missed events: from a client's cursor up to the position of this node, from memory or from the
//! log.
//!
//! A client resumes with the cursor (A, B, n), and this node is at the point P. The client first receives the
//! events that B covers and A does not, with ids above n, and with cursors (A, B, id). Then it receives the
//! events that P covers and B does not, with cursors (B, P, id). No other snapshot takes part. A separate
//! snapshot for the replay, with live events filtered by it, would send some events twice.
//!
//! While a node reads several pages, its position is between two points, (P, Q, m). Then a third part
//! follows: the events that Q covers and P does not, with ids up to m, and with cursors (P, Q, id). The live
//! events of the remaining pages have the same points in their cursors.
//!
//! The log is read for an organisation, not for a client. All waiting clients of an organisation share a
//! read, and the fair queue in `queue` serves the organisations in turn. `docs/design/replay.md` explains the
//! design.

mod batch;
mod limits;
mod missed;
mod query;
mod queue;
mod read;
mod recent;
mod waiter;

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgPool;
use tokio::sync::{oneshot, watch};

use crate::cursor::Cursor;
use crate::log::{DoorbellSignal, TailerProgress};
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::wire::{Event, Topic};
pub use batch::{EventPosition, ReplayBatch};
pub use limits::ReplayLimits;
use missed::{Events, has_reached};
use queue::ReplayQueue;
pub(crate) use read::IN_PROGRESS_MAX;
pub use recent::{RecentEvents, RecentLimits};
use waiter::{MemoryReservation, Waiter};
pub use waiter::{ReplayError, ResumePlace};

/// The service that replays missed events.
#[derive(Debug)]
pub struct Replay {
    pool: PgPool,
    recent: Arc<RecentEvents>,
    doorbell: Arc<DoorbellSignal>,
    progress: watch::Receiver<TailerProgress>,
    queue: Arc<ReplayQueue<Waiter>>,
    metrics: Arc<Metrics>,
    limits: ReplayLimits,
}

impl Replay {
    /// Creates a service that replays from these recent events, and from the log through this pool.
    #[must_use]
    pub fn new(
        pool: PgPool,
        recent: Arc<RecentEvents>,
        doorbell: Arc<DoorbellSignal>,
        progress: watch::Receiver<TailerProgress>,
        metrics: Arc<Metrics>,
        limits: ReplayLimits,
    ) -> Self {
        let queue = Arc::new(ReplayQueue::new(limits.queue(), Arc::clone(&metrics)));
        Self { pool, recent, doorbell, progress, queue, metrics, limits }
    }

    /// Takes the organisation's place for a resume with these cursors, which it keeps in memory.
    ///
    /// # Errors
    /// If the organisation has used its share of the places.
    pub fn begin<'a>(
        &self,
        org: OrgId,
        cursors: impl IntoIterator<Item = &'a Cursor>,
    ) -> Result<ResumePlace, ReplayError> {
        let bytes = cursors.into_iter().map(Cursor::memory_bytes).sum();
        self.queue.enter(org, bytes).map(ResumePlace).ok_or_else(|| {
            self.metrics.limit_reached("resumes_per_org");
            ReplayError::TooManyResumes
        })
    }

    /// Waits until this node has dispatched everything that the client has seen. `position` is the current
    /// position of this node.
    ///
    /// If the client comes from a node that is ahead, this makes the tailer poll. A read that begins now
    /// leads beyond every cursor that any node has handed out before.
    ///
    /// # Errors
    /// If the tailer makes no progress, for example because the database is unreachable.
    pub async fn wait_until_reached(
        &self,
        since: &Cursor,
        position: impl Fn() -> Option<Cursor>,
    ) -> Result<(), ReplayError> {
        // The read that is under way may have taken its snapshot already. The read after it has not.
        let enough = self.progress.borrow().reads + 2;
        let counted = self.progress.clone();
        self.wait_until(|| {
            let reads = counted.borrow().reads;
            position().is_some_and(|now| reads >= enough || has_reached(&now, since))
        })
        .await
    }

    /// Makes the tailer poll until this is true.
    ///
    /// # Errors
    /// If the tailer makes no progress.
    pub async fn wait_until(&self, is_reached: impl Fn() -> bool) -> Result<(), ReplayError> {
        let mut progress = self.progress.clone();
        loop {
            progress.borrow_and_update();
            if is_reached() {
                return Ok(());
            }
            self.doorbell.request_poll();
            match tokio::time::timeout(self.limits.tailer_timeout, progress.changed()).await {
                Ok(Ok(())) => {}
                // No progress, or the gateway is shutting down.
                Err(_) | Ok(Err(_)) => return Err(ReplayError::Timeout),
            }
        }
    }

    /// Returns the events that `until` covers and the client's cursor does not.
    ///
    /// # Errors
    /// If there are too many events, or they cannot be read.
    pub async fn missed_events(
        &self,
        place: &ResumePlace,
        topic: &Topic,
        since: &Cursor,
        until: &Cursor,
    ) -> Result<ReplayBatch, ReplayError> {
        let (events, reservation) = if let Some(found) = self.find_recent(place, topic, since, until) {
            self.metrics.replays_from_memory.inc();
            found
        } else {
            self.metrics.replays_from_log.inc();
            let (events, reservation) = self.read_log(place, topic, since, until).await?;
            (events, Some(reservation))
        };
        let batch = ReplayBatch {
            events,
            topic: topic.clone(),
            since: since.clone(),
            until: until.clone(),
            reservation,
        };
        let (count, bytes) = batch.size();
        if count > self.limits.events_max || bytes > self.limits.bytes_max {
            return Err(ReplayError::TooMany);
        }
        Ok(batch)
    }

    /// Finds the missed events in memory, and reserves memory for the time in which they are sent. Returns
    /// none if there is no memory left: the client is then served from the log, where it waits for memory.
    fn find_recent(
        &self,
        place: &ResumePlace,
        topic: &Topic,
        since: &Cursor,
        until: &Cursor,
    ) -> Option<(Events, Option<Arc<MemoryReservation>>)> {
        let org = place.0.org();
        let events = self.recent.between(org, topic, since, until)?;
        if events.is_empty() {
            return Some((Arc::new(events), None));
        }
        // Clients that are sent the same event keep it in memory together, so each one is charged its part.
        // One reference belongs to the recent events.
        let charge = |event: &Arc<Event>| 2 * event.memory_bytes() / Arc::strong_count(event).max(2);
        let entry = size_of::<Arc<Event>>();
        let reservation = self.queue.reserve(org, events.iter().map(|event| entry + charge(event)).sum())?;
        Some((Arc::new(events), Some(Arc::new(reservation))))
    }

    async fn read_log(
        &self,
        place: &ResumePlace,
        topic: &Topic,
        since: &Cursor,
        until: &Cursor,
    ) -> Result<(Events, Arc<MemoryReservation>), ReplayError> {
        let (answer, answered) = oneshot::channel();
        let (topic, since, until) = (topic.clone(), since.clone(), until.clone());
        self.queue.push(place.0.org(), Waiter { place: place.0.id(), topic, since, until, answer });
        match tokio::time::timeout(self.limits.wait_timeout, answered).await {
            Ok(Ok(answer)) => answer,
            // Too late, or the gateway is shutting down.
            Ok(Err(_)) | Err(_) => Err(ReplayError::Timeout),
        }
    }

    /// Longest time that a client may take to receive its missed events.
    #[must_use]
    pub fn send_timeout(&self) -> Duration {
        self.limits.send_timeout
    }

    /// Reads the log for waiting clients until the future is dropped. Several tasks run this
    /// ([`ReplayLimits::concurrent_reads_max`]).
    pub async fn run(self: Arc<Self>) {
        loop {
            let job = self.queue.next_job().await;
            self.run_job(job).await;
        }
    }
}

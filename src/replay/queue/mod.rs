//! The fair queue of replay reads: round-robin over organisations, one read at a time for each, within a
//! memory budget.
//!
//! | module | does |
//! |---|---|
//! | this one | what the service calls: places, waiters, jobs |
//! | `state` | the bookkeeping behind the lock: whose turn it is, and who holds how much |
//! | `place` | the place of one resume, which it frees when it ends |
//! | `reservation` | memory that is reserved for a read and its events |
//!
//! The queue does no I/O. Of a waiter it knows only the place.

mod place;
mod reservation;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::sync::lock;
pub(super) use place::{Place, PlaceId, Queued};
pub(super) use reservation::MemoryReservation;
use state::{Held, State, Turn};

/// Limits of the queue and its memory budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplayQueueLimits {
    /// Most resumes of all organisations that have a place. One organisation may have half of them.
    pub(super) places_max: usize,
    /// Most bytes of the cursors of these resumes. One organisation may take half of them.
    pub(super) place_bytes_max: usize,
    /// Bytes that are reserved for a read when it begins.
    pub(super) read_bytes: usize,
    /// Most reserved bytes of all organisations together.
    pub(super) bytes_max: usize,
    /// Most reserved bytes of one organisation.
    pub(super) org_bytes_max: usize,
    /// Time for which events stay in memory for their clients, even if another organisation needs the memory.
    pub(super) hold_min: Duration,
}

/// Waiters by organisation, the order in which organisations are served, and the reserved memory.
#[derive(Debug)]
pub(super) struct ReplayQueue<W> {
    limits: ReplayQueueLimits,
    metrics: Arc<Metrics>,
    state: Mutex<State<W>>,
    /// Signals that there may be a job. A task that takes one signals the next task.
    changed: Notify,
}

/// One read of the log, for the waiters of an organisation that share it. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct ReadJob<W: Queued> {
    pub(super) org: OrgId,
    pub(super) waiters: Vec<W>,
    pub(super) reservation: MemoryReservation<W>,
}

impl<W: Queued> ReplayQueue<W> {
    pub(super) fn new(limits: ReplayQueueLimits, metrics: Arc<Metrics>) -> Self {
        Self { limits, metrics, state: Mutex::default(), changed: Notify::new() }
    }

    /// Takes a place for a resume whose cursors take this many bytes. Returns none if the organisation has
    /// used its share.
    pub(super) fn enter(self: &Arc<Self>, org: OrgId, bytes: usize) -> Option<Place<W>> {
        let mut state = lock(&self.state);
        let (id, evicted) = state.enter(org, bytes, &self.limits)?;
        self.report(&state);
        Some(Place { queue: Arc::clone(self), org, id, evicted })
    }

    /// Adds the waiter of a place. It leaves the queue when the place is dropped.
    pub(super) fn push(&self, org: OrgId, waiter: W) {
        lock(&self.state).push(org, waiter);
        self.changed.notify_one();
    }

    /// Waits for the next job: an organisation with waiters, and memory for its read.
    pub(super) async fn next_job(self: &Arc<Self>) -> ReadJob<W> {
        loop {
            match self.try_next_job() {
                Ok(job) => {
                    self.changed.notify_one();
                    return job;
                }
                Err(None) => self.changed.notified().await,
                Err(Some(retry_at)) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(retry_at) => {}
                    }
                }
            }
        }
    }

    /// Takes the next job. If there is none, returns the time at which memory can be reclaimed for one.
    fn try_next_job(self: &Arc<Self>) -> Result<ReadJob<W>, Option<Instant>> {
        let mut state = lock(&self.state);
        match state.next_turn(&self.limits, Instant::now()) {
            Turn::Read { org, waiters, id } => {
                self.report(&state);
                let reservation = MemoryReservation::new(Arc::clone(self), org, id, self.limits.read_bytes);
                Ok(ReadJob { org, waiters, reservation })
            }
            Turn::Wait(retry_at) => Err(retry_at),
        }
    }

    /// Reserves memory for events that are sent without a read. Returns none if the organisation has used its
    /// share, or if only the memory of the next read is left.
    pub(super) fn reserve(self: &Arc<Self>, org: OrgId, bytes: usize) -> Option<MemoryReservation<W>> {
        let reclaimed = CancellationToken::new();
        let held = Held { bytes, since: Instant::now(), reclaimed: reclaimed.clone() };
        let mut state = lock(&self.state);
        let id = state.reserve(org, held, &self.limits)?;
        self.report(&state);
        Some(MemoryReservation::held(Arc::clone(self), org, id, bytes, reclaimed))
    }

    /// Puts groups of waiters back, because one read was too large for all of them. Each group gets its own
    /// read. Waiters that arrived during the read come after them.
    pub(super) fn requeue(&self, org: OrgId, groups: Vec<Vec<W>>) {
        lock(&self.state).requeue(org, groups);
    }

    fn report(&self, state: &State<W>) {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.replay_bytes.set(gauge(state.reserved()));
        self.metrics.replays_waiting.set(gauge(state.places()));
    }
}

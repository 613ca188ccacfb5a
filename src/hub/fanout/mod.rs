//! Fan-out: from batches of events to the outboxes.
//!
//! It has two ends. The tailer holds the [`FanoutSender`], which sends a small organisation's events inline,
//! before anything else is scheduled, and queues the rest in a [`FairQueue`]. The [`FanoutWorker`] has a
//! thread of its own. It takes queued work in slices, round-robin over organisations.
//!
//! A slice writes to one segment, and an organisation's round has a fixed cost. A large organisation
//! therefore delays another one by one round at most, and a small organisation's work is done within one
//! round. Events that are queued for the same organisation are merged, across batches, into one buffer and
//! one write per socket. An organisation that is behind therefore needs fewer writes per event. If even that
//! is too slow, its own topics resync, and nobody else's.

mod broadcast;
mod chunk;
mod encode;
mod fair_queue;
mod helpers;
mod marks;
mod questions;
mod sender;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use broadcast::{Broadcast, SliceStats};
pub(crate) use chunk::CHUNK_BYTES;
pub(crate) use encode::{EVALUATIONS_MAX, EVENT_FRAMES_BYTES_MAX, STEP_BYTES_MAX};
use encode::{Encoded, Step, encode, evaluation_cost, events_max};
pub(crate) use fair_queue::ENCODE_EVENTS_MAX;
use fair_queue::FairQueue;
#[cfg(test)]
use fair_queue::QueuedEvent;
use helpers::Helpers;
#[cfg(test)]
use marks::BatchEnd;
pub use questions::CoverageQuestions;
pub use sender::FanoutSender;
pub(crate) use sender::INLINE_COST_MAX;
pub use worker::FanoutWorker;

use super::Hub;
use crate::cursor::{Cursor, CursorPrefix};
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::wire::Event;

/// Cost of one organisation's round, in small writes. Slices are not divided, so a round may cost one slice
/// more.
pub(crate) const ROUND_COST: usize = 64;

/// Most helper threads. With more, the kernel's own locks are the bottleneck.
pub(crate) const HELPERS_MAX: usize = 3;

/// A write of this many bytes costs about twice as much as a small one.
const COST_BYTES: usize = 1024;

/// Limits of the queued events.
#[derive(Clone, Copy, Debug)]
pub struct FanoutLimits {
    /// Maximum bytes of one organisation's events. If they exceed it, the events are dropped and the
    /// organisation's topics resync.
    pub org_bytes_max: usize,
    /// Maximum bytes of all organisations' events. If they exceed it, the organisation with the most bytes
    /// resyncs.
    pub bytes_max: usize,
}

/// The events of one read of the log.
#[derive(Debug)]
pub struct Batch {
    /// The number that [`Hub::advance`] returned.
    pub number: u64,
    /// The cursor of a client that has seen the whole batch.
    pub cursor: Cursor,
    /// The points of the events' cursors, encoded once for all of them.
    pub points: Arc<CursorPrefix>,
    /// The time of the read, from which the delay until the write to a socket is measured.
    pub read_at: Instant,
    /// Each organisation's events, in the order of their ids.
    pub orgs: Vec<OrgEvents>,
}

/// One organisation's part of a batch.
#[derive(Debug)]
pub struct OrgEvents {
    /// The organisation; none if the events concern all organisations.
    pub org: Option<OrgId>,
    /// The events, in the order of their ids.
    pub events: Vec<Arc<Event>>,
    /// The organisation was deleted: its sessions are closed after these events were sent.
    pub is_gone: bool,
}

impl Batch {
    /// Id of the cursor of each organisation's last event, which covers the whole batch. Otherwise the cursor
    /// would not cover the transaction of its own event if events of other organisations follow.
    ///
    /// None if the batch has another page. None if it has events for all organisations too, because an
    /// organisation's events are then in several parts.
    fn end_id(&self) -> Option<i64> {
        let is_complete = self.cursor.is_at_point() && self.orgs.iter().all(|part| part.org.is_some());
        is_complete.then_some(self.cursor.id)
    }
}

/// State that sender, worker and helpers share.
#[derive(Debug)]
struct Shared {
    hub: Arc<Hub>,
    limits: FanoutLimits,
    metrics: Arc<Metrics>,
    helpers: Helpers,
    queue: Mutex<FairQueue>,
    /// Notified when the queue gets its first work, and when the sender is dropped.
    work_added: Condvar,
}

/// Creates both ends of a hub's fan-out.
#[must_use]
pub fn fanout(hub: Arc<Hub>, limits: FanoutLimits, metrics: Arc<Metrics>) -> (FanoutSender, FanoutWorker) {
    let shared = Arc::new(Shared {
        hub,
        limits,
        metrics,
        helpers: Helpers::default(),
        queue: Mutex::default(),
        work_added: Condvar::new(),
    });
    (FanoutSender::new(Arc::clone(&shared)), FanoutWorker(shared))
}

impl Shared {
    /// Sends one slice of a broadcast, and counts it. Returns none if all slices are taken.
    fn send_slice(&self, broadcast: &Broadcast) -> Option<SliceStats> {
        let stats = broadcast.send_slice(self.hub.limits)?;
        let metrics = &self.metrics;
        if stats.has_recipient {
            metrics.fanout_slice(broadcast.subscribers_max(), broadcast.read_at().elapsed());
        }
        metrics.deliveries.inc_by(stats.deliveries);
        metrics.direct_writes.inc_by(stats.direct_writes);
        metrics.queued_writes.inc_by(stats.queued_writes);
        Some(stats)
    }
}

/// Cost of a write of this many bytes, in small writes.
fn write_cost(bytes: usize) -> usize {
    1 + bytes / COST_BYTES
}

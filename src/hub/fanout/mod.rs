//! Fan-out: from batches of events to the outboxes.
//!
//! It has two ends. The [`FanoutSender`] is the reader's: what a small organisation has is sent there and then, before
//! anything else can come between. Everything larger waits in [`turns`] for the [`FanoutWorker`], a thread of its own, which
//! works in slices, round-robin over organisations.
//!
//! A slice is one segment, and a turn so much work, so a large organisation holds nobody up for longer than that, and
//! what a small one has is done in one turn. What waits for
//! an organisation's turn goes out together, of whichever batches it is: one buffer, one write per socket.
//! So an organisation gets cheaper the further it is behind; where even that is not enough, its own topics
//! resync, and nobody else's.

mod chunk;
mod fair_queue;
mod sender;
mod share;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use chunk::Chunks;
use fair_queue::{FairQueue, QueuedEvent, Task};
pub use sender::FanoutSender;
use share::{Broadcast, Helpers, SliceStats};

use super::Hub;
use super::org::OrgChannel;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{Event, Topic};

/// What one turn of an organisation may cost, in small writes, before the next has its turn. Slices are not divided, so
/// it may be one slice more.
const TURN_COST: usize = 64;

/// A write of so many bytes costs about twice as much as a small one.
const COST_BYTES: usize = 1024;

/// How much may wait for its turn.
#[derive(Clone, Copy, Debug)]
pub struct FanoutLimits {
    /// Bytes of one organisation's events. Beyond it they are dropped, and its topics resync.
    pub org_bytes_max: usize,
    /// Bytes of all organisations' events. Beyond it the organisation with the most resyncs.
    pub bytes_max: usize,
}

/// What one read of the log brought.
#[derive(Debug)]
pub struct Batch {
    /// From [`Hub::advance`].
    pub number: u64,
    /// The cursor of one who has seen it all.
    pub cursor: Arc<str>,
    /// When it was read: what it takes until a socket has it is counted from here.
    pub read_at: Instant,
    /// Each organisation's events, in the order of their ids.
    pub orgs: Vec<OrgEvents>,
}

/// One organisation's part of a batch.
#[derive(Debug)]
pub struct OrgEvents {
    /// Whose; none: everybody's.
    pub org: Option<OrgId>,
    /// In the order of their ids.
    pub events: Vec<Arc<Event>>,
    /// The organisation was deleted: its sessions end once they have these events.
    pub is_gone: bool,
}

/// What both ends share.
#[derive(Debug)]
struct Shared {
    hub: Arc<Hub>,
    limits: FanoutLimits,
    metrics: Arc<Metrics>,
    helpers: Helpers,
    turns: Mutex<FairQueue>,
    /// Rung when there is a turn to take, and at the end.
    bell: Condvar,
}

/// The end that works through the turns.
#[derive(Debug)]
pub struct FanoutWorker(Arc<Shared>);

/// The two ends of a hub's fan-out; nothing to do yet.
#[must_use]
pub fn fanout(hub: Arc<Hub>, limits: FanoutLimits, metrics: Arc<Metrics>) -> (FanoutSender, FanoutWorker) {
    let shared = Arc::new(Shared {
        hub,
        limits,
        metrics,
        helpers: Helpers::default(),
        turns: Mutex::default(),
        bell: Condvar::new(),
    });
    (FanoutSender(Arc::clone(&shared)), FanoutWorker(shared))
}

impl Shared {
    /// One slice of a send. None where each was taken.
    fn step(&self, send: &Broadcast) -> Option<SliceStats> {
        let stepped = send.step(self.hub.limits)?;
        let metrics = &self.metrics;
        if stepped.any {
            metrics.fanout_slice(send.subscribers_max(), send.read_at().elapsed());
        }
        metrics.deliveries.inc_by(stepped.deliveries);
        metrics.direct_writes.inc_by(stepped.direct_writes);
        metrics.queued_writes.inc_by(stepped.queued_writes);
        Some(stepped)
    }
}

impl FanoutWorker {
    /// Works until the [`FanoutSender`] is gone and nothing is left.
    pub fn run(&self) {
        while self.has_turn() {
            self.step();
        }
        self.0.helpers.close();
    }

    /// Works until nothing is left to do now, for who has no thread for [`Self::run`].
    pub fn drain(&self) {
        while !lock(&self.0.turns).is_idle() {
            self.step();
        }
    }

    /// A thread that helps with large sends until [`Self::run`] ends, once it is run. There may be any number, also none.
    pub fn helper(&self) -> impl FnOnce() + Send + 'static {
        let shared = Arc::clone(&self.0);
        move || shared.helpers.run(|send| shared.step(send).is_some())
    }

    /// Waits for a turn. False where there will be none any more.
    fn has_turn(&self) -> bool {
        let mut turns = lock(&self.0.turns);
        while turns.is_idle() {
            if turns.is_closed {
                return false;
            }
            turns = self.0.bell.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }

    /// Does one slice of the work of the organisation whose turn it is. Nothing is locked meanwhile, so the feed is
    /// not held up.
    fn step(&self) {
        let turns = lock(&self.0.turns);
        let Some((org, task)) = turns.next() else { return };
        drop(turns);
        let mut turns = match task {
            Task::Broadcast(send) => self.step_send(&send),
            Task::Encode => self.step_encode(org),
        };
        let close = turns.end_step(org);
        drop(turns);
        if let Some(close) = close {
            self.0.hub.close_org(org, close);
        }
    }

    fn step_send(&self, send: &Broadcast) -> MutexGuard<'_, FairQueue> {
        let stepped = self.0.step(send);
        if stepped.is_none() && !send.is_done() {
            // A helper is at the last slices. Others may have their turn; where there are none, it is a moment.
            std::thread::yield_now();
        }
        let mut turns = lock(&self.0.turns);
        match stepped {
            Some(stepped) => turns.spend(stepped.subscribers * write_cost(send.bytes())),
            None if send.is_done() => {
                if let Some(next) = turns.next_send().filter(|next| next.is_large()) {
                    self.0.helpers.offer(&next);
                }
            }
            None => turns.spend(TURN_COST),
        }
        turns
    }

    /// Encodes the next events for the topics that somebody here joined.
    fn step_encode(&self, org: OrgId) -> MutexGuard<'_, FairQueue> {
        let waiting = lock(&self.0.turns).take_waiting(org);
        let sends = match self.0.hub.channel(org) {
            Some(channel) => encode(&channel, &waiting),
            None => Vec::new(),
        };
        if let Some(first) = sends.first().filter(|first| first.is_large()) {
            self.0.helpers.offer(first);
        }
        let mut turns = lock(&self.0.turns);
        turns.add_sends(org, sends);
        turns
    }
}

/// What a write of so many bytes costs, in small ones.
fn write_cost(bytes: usize) -> usize {
    1 + bytes / COST_BYTES
}

/// Encodes events for the topics of an organisation that somebody here joined, each once.
fn encode(channel: &OrgChannel, waiting: &[QueuedEvent]) -> Vec<Arc<Broadcast>> {
    let mut chunks = Chunks::default();
    for QueuedEvent { batch, read_at, event } in waiting {
        let mut topics: Vec<Topic> = event.topics().collect();
        if event.is_control() {
            topics = channel.topics_of_resync(&event.topic);
        }
        topics.retain(|topic| channel.has_topic(topic));
        chunks.append(event, *batch, *read_at, topics);
    }
    let sends = chunks.finish().map(|chunk| {
        let segments = channel.segments(chunk.topic());
        Arc::new(Broadcast::new(chunk, segments))
    });
    sends.collect()
}

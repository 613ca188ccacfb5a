//! Large sends are shared among threads: the fan-out's own goes through the segments of a send, and helpers take some
//! of them from it. A send is over when all of its segments are, and only then comes the next of its organisation,
//! so the order in which a socket gets its frames is that of one thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::chunk::Chunk;
use crate::hub::org::{SEGMENT_SUBSCRIPTIONS_MAX, Segment};
use crate::hub::{OutboxLimits, SendOutcome};
use crate::sync::lock;
use crate::wire::CloseCode;

/// Sends of so many segments are shared: smaller ones are over before a helper has woken up.
const SHARED_SEGMENTS_MIN: usize = 16;

/// Frames on their way to the segments of a topic.
#[derive(Debug)]
pub(super) struct Broadcast {
    chunk: Chunk,
    segments: Vec<Arc<Segment>>,
    /// How many segments were taken; may go beyond their number.
    taken: AtomicUsize,
    /// How many of them are done.
    done: AtomicUsize,
}

impl Broadcast {
    pub(super) fn new(chunk: Chunk, segments: Vec<Arc<Segment>>) -> Self {
        Self { chunk, segments, taken: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    /// Whether all segments were sent to.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) >= self.segments.len()
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn is_large(&self) -> bool {
        self.segments.len() >= SHARED_SEGMENTS_MIN
    }

    /// Bytes for each subscriber.
    pub(super) fn bytes(&self) -> usize {
        self.chunk.bytes()
    }

    /// When the first of its events was read.
    pub(super) fn read_at(&self) -> Instant {
        self.chunk.read_at()
    }

    /// Subscribers of the topic, at most: as many as its segments have room for.
    pub(super) fn subscribers_max(&self) -> usize {
        self.segments.len() * SEGMENT_SUBSCRIPTIONS_MAX
    }

    /// One slice: the same bytes to every subscription of the next segment. None where each was taken.
    pub(super) fn step(&self, limits: OutboxLimits) -> Option<SliceStats> {
        let segment = self.segments.get(self.taken.fetch_add(1, Ordering::Relaxed))?;
        let stepped = self.send(segment, limits);
        self.done.fetch_add(1, Ordering::Release);
        Some(stepped)
    }

    fn send(&self, segment: &Segment, limits: OutboxLimits) -> SliceStats {
        let mut subscriptions = lock(segment);
        let mut stepped = SliceStats { subscribers: subscriptions.len(), ..SliceStats::default() };
        for subscription in subscriptions.iter_mut() {
            let Some((frames, frame_count)) = self.chunk.after(subscription.after_batch) else { continue };
            stepped.any = true;
            if let Some(held) = &mut subscription.held {
                if !held.push(&frames, limits) {
                    subscription.outbox.close(CloseCode::SLOW);
                }
                continue;
            }
            match subscription.outbox.offer(&frames) {
                SendOutcome::Written => stepped.direct_writes += 1,
                SendOutcome::Queued => stepped.queued_writes += 1,
                SendOutcome::Sealed => continue,
            }
            stepped.deliveries += frame_count;
        }
        stepped
    }
}

/// What one slice was.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SliceStats {
    /// Of the segment.
    pub(super) subscribers: usize,
    /// Somebody was left to get it.
    pub(super) any: bool,
    /// Frames that went to a socket, or to its queue.
    pub(super) deliveries: u64,
    /// Writes that the kernel took whole at once.
    pub(super) direct_writes: u64,
    /// Buffers that had to be queued.
    pub(super) queued_writes: u64,
}

/// Where helpers find work. Any number of threads may be in [`Self::run`], also none.
#[derive(Debug, Default)]
pub(super) struct Helpers {
    /// The latest large send; there is little to gain from keeping several, as each is worked on by its owner too.
    offered: Mutex<Option<Arc<Broadcast>>>,
    bell: Condvar,
    is_closed: AtomicBool,
}

impl Helpers {
    pub(super) fn offer(&self, send: &Arc<Broadcast>) {
        *lock(&self.offered) = Some(Arc::clone(send));
        self.bell.notify_all();
    }

    /// Helps until [`Self::close`]. `step` does a slice of a send, and says whether there was one to take.
    pub(super) fn run(&self, mut step: impl FnMut(&Broadcast) -> bool) {
        while let Some(send) = self.wait() {
            while step(&send) {}
            let mut offered = lock(&self.offered);
            if offered.as_ref().is_some_and(|offered| Arc::ptr_eq(offered, &send)) {
                *offered = None;
            }
        }
    }

    /// Ends every [`Self::run`].
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Under the lock: who is about to wait has not looked yet, or hears the bell.
        let _offered = lock(&self.offered);
        self.bell.notify_all();
    }

    fn wait(&self) -> Option<Arc<Broadcast>> {
        let mut offered = lock(&self.offered);
        loop {
            if self.is_closed.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(send) = &*offered {
                return Some(Arc::clone(send));
            }
            offered = self.bell.wait(offered).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

//! Large sends are shared among threads: the fan-out's own goes through the segments of a send, and helpers take some
//! of them from it. A send is over when all of its segments are, and only then comes the next of its organisation,
//! so the order in which a socket gets its frames is that of one thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::chunk::Chunk;
use super::{FanoutCounts, Slice};
use crate::hub::org::{SEGMENT_SUBSCRIPTIONS_MAX, Segment};
use crate::hub::{Offer, OutboxLimits};
use crate::sync::lock;
use crate::wire::CloseCode;

/// Sends of so many segments are shared: smaller ones are over before a helper has woken up.
const SHARED_SEGMENTS_MIN: usize = 16;

/// Frames on their way to the segments of a topic.
#[derive(Debug)]
pub(super) struct Send {
    chunk: Chunk,
    segments: Vec<Arc<Segment>>,
    /// How many segments were taken; may go beyond their number.
    taken: AtomicUsize,
    /// How many of them are done.
    done: AtomicUsize,
}

impl Send {
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

    /// One slice: the same bytes to every subscription of the next segment. None where each was taken.
    pub(super) fn step(&self, limits: OutboxLimits, counts: &mut FanoutCounts) -> Option<Stepped> {
        let segment = self.segments.get(self.taken.fetch_add(1, Ordering::Relaxed))?;
        let stepped = self.send(segment, limits, counts);
        self.done.fetch_add(1, Ordering::Release);
        Some(stepped)
    }

    fn send(&self, segment: &Segment, limits: OutboxLimits, counts: &mut FanoutCounts) -> Stepped {
        let mut any = false;
        let mut subscriptions = lock(segment);
        for subscription in subscriptions.iter_mut() {
            let Some((frames, frame_count)) = self.chunk.after(subscription.after_batch) else { continue };
            any = true;
            if let Some(held) = &mut subscription.held {
                if !held.push(&frames, limits) {
                    subscription.outbox.close(CloseCode::SLOW);
                }
                continue;
            }
            match subscription.outbox.offer(&frames) {
                Offer::Written => counts.direct_writes += 1,
                Offer::Queued => counts.queued_writes += 1,
                Offer::Sealed => continue,
            }
            counts.deliveries += frame_count;
        }
        let subscribers_max = self.segments.len() * SEGMENT_SUBSCRIPTIONS_MAX;
        let slice = any.then_some(Slice { read_at: self.chunk.read_at(), subscribers_max });
        Stepped { subscribers: subscriptions.len(), slice }
    }
}

/// What one slice was.
pub(super) struct Stepped {
    /// Of the segment.
    pub(super) subscribers: usize,
    /// None where nobody was left to get any.
    pub(super) slice: Option<Slice>,
}

/// Where helpers find work. Any number of threads may be in [`Self::run`], also none.
#[derive(Debug)]
pub struct Helpers {
    limits: OutboxLimits,
    /// The latest large send; there is little to gain from keeping several, as each is worked on by its owner too.
    offered: Mutex<Option<Arc<Send>>>,
    bell: Condvar,
    is_closed: AtomicBool,
}

impl Helpers {
    pub(super) fn new(limits: OutboxLimits) -> Self {
        Self { limits, offered: Mutex::default(), bell: Condvar::new(), is_closed: AtomicBool::new(false) }
    }

    pub(super) fn offer(&self, send: &Arc<Send>) {
        *lock(&self.offered) = Some(Arc::clone(send));
        self.bell.notify_all();
    }

    /// Helps until [`Self::close`]. `tell` gets every slice that was sent here.
    pub fn run(&self, mut tell: impl FnMut(Option<Slice>, FanoutCounts)) {
        while let Some(send) = self.wait() {
            let mut counts = FanoutCounts::default();
            while let Some(stepped) = send.step(self.limits, &mut counts) {
                tell(stepped.slice, std::mem::take(&mut counts));
            }
            let mut offered = lock(&self.offered);
            if offered.as_ref().is_some_and(|offered| Arc::ptr_eq(offered, &send)) {
                *offered = None;
            }
        }
    }

    /// Ends every [`Self::run`].
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // Under the lock: who is about to wait has not looked yet, or hears the bell.
        let _offered = lock(&self.offered);
        self.bell.notify_all();
    }

    fn wait(&self) -> Option<Arc<Send>> {
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

//! A broadcast: one chunk on its way to all segments of a topic.
//!
//! Several threads may take slices of a broadcast. The next broadcast of the organisation begins only when
//! all slices of this one are done, so a socket gets its frames in the same order as with one thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::chunk::Chunk;
use crate::hub::org::{SEGMENT_SUBSCRIPTIONS_MAX, Segment};
use crate::hub::{OutboxLimits, SendOutcome};
use crate::sync::lock;
use crate::wire::CloseCode;

/// Broadcasts to this many segments are shared with helpers. A smaller one would be done before a helper
/// wakes up.
const SHARED_SEGMENTS_MIN: usize = 16;

/// A chunk, and the segments that it is sent to.
#[derive(Debug)]
pub(super) struct Broadcast {
    chunk: Chunk,
    segments: Vec<Arc<Segment>>,
    /// Number of slices that were taken. It may exceed the number of segments.
    taken: AtomicUsize,
    /// Number of slices that are done.
    done: AtomicUsize,
}

/// Result of one slice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SliceStats {
    /// Subscriptions in the segment.
    pub(super) subscribers: usize,
    /// Whether any subscription was due to get frames of the chunk.
    pub(super) has_recipient: bool,
    /// Frames that were written to a socket or queued in its outbox.
    pub(super) deliveries: u64,
    /// Writes that the kernel accepted whole.
    pub(super) direct_writes: u64,
    /// Writes that were queued, at least in part.
    pub(super) queued_writes: u64,
}

impl Broadcast {
    pub(super) fn new(chunk: Chunk, segments: Vec<Arc<Segment>>) -> Self {
        Self { chunk, segments, taken: AtomicUsize::new(0), done: AtomicUsize::new(0) }
    }

    /// Whether all slices are done.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) >= self.segments.len()
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether it is worth sharing with helpers.
    pub(super) fn is_large(&self) -> bool {
        self.segments.len() >= SHARED_SEGMENTS_MIN
    }

    /// Bytes for each subscriber.
    pub(super) fn bytes(&self) -> usize {
        self.chunk.bytes()
    }

    /// The time at which the first of its events was read.
    pub(super) fn read_at(&self) -> Instant {
        self.chunk.read_at()
    }

    /// Upper bound of the subscribers: the capacity of the segments.
    pub(super) fn subscribers_max(&self) -> usize {
        self.segments.len() * SEGMENT_SUBSCRIPTIONS_MAX
    }

    /// Takes the next slice and sends it: the same bytes to every subscription of one segment. Returns none
    /// if all slices are taken.
    pub(super) fn send_slice(&self, limits: OutboxLimits) -> Option<SliceStats> {
        let segment = self.segments.get(self.taken.fetch_add(1, Ordering::Relaxed))?;
        let stats = self.send_to(segment, limits);
        self.done.fetch_add(1, Ordering::Release);
        Some(stats)
    }

    fn send_to(&self, segment: &Segment, limits: OutboxLimits) -> SliceStats {
        let mut subscriptions = lock(segment);
        let mut stats = SliceStats { subscribers: subscriptions.len(), ..SliceStats::default() };
        for subscription in subscriptions.iter_mut() {
            let Some((frames, frame_count)) = self.chunk.after(subscription.after_batch) else { continue };
            stats.has_recipient = true;
            if let Some(buffer) = &mut subscription.replay_buffer {
                if !buffer.push(&frames, limits) {
                    subscription.outbox.close(CloseCode::SLOW);
                }
                continue;
            }
            match subscription.outbox.send(&frames) {
                SendOutcome::Written => stats.direct_writes += 1,
                SendOutcome::Queued => stats.queued_writes += 1,
                SendOutcome::Closed => continue,
            }
            stats.deliveries += frame_count;
        }
        stats
    }
}

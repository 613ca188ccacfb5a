//! A broadcast: one chunk or mark on its way to all segments of a topic.
//!
//! Several threads may take slices of a broadcast. The next broadcast of the organisation begins only when
//! all slices of this one are done, so a socket gets its frames in the same order as with one thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::chunk::Chunk;
use super::marks::{Mark, MarkFrame};
use super::write_cost;
use crate::hub::segments::{SEGMENT_SUBSCRIPTIONS_MAX, Segment};
use crate::hub::{OutboxLimits, SendOutcome};
use crate::sync::lock;
use crate::wire::CloseCode;

/// Broadcasts to this many segments are shared with helpers. A smaller one would be done before a helper
/// wakes up.
const SHARED_SEGMENTS_MIN: usize = 16;

/// The bytes of a broadcast.
#[derive(Debug)]
pub(super) enum Content {
    Chunk(Chunk),
    /// For the subscriptions alone that get marks.
    Mark(Mark),
}

/// A chunk or a mark, and the segments that it is sent to.
#[derive(Debug)]
pub(super) struct Broadcast {
    pub(super) content: Content,
    segments: Vec<Arc<Segment>>,
    /// Number of slices that were taken. It may exceed the number of segments.
    taken: AtomicUsize,
    /// Number of slices that are done.
    done: AtomicUsize,
}

/// Result of one slice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SliceStats {
    /// Cost in small writes.
    pub(super) cost: usize,
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
    pub(super) fn new(content: Content, segments: Vec<Arc<Segment>>) -> Self {
        Self { content, segments, taken: AtomicUsize::new(0), done: AtomicUsize::new(0) }
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

    /// The time at which the first of its events was read.
    pub(super) fn read_at(&self) -> Instant {
        match &self.content {
            Content::Chunk(chunk) => chunk.read_at(),
            Content::Mark(mark) => mark.read_at,
        }
    }

    /// Upper bound of the subscribers: the capacity of the segments.
    pub(super) fn subscribers_max(&self) -> usize {
        self.segments.len() * SEGMENT_SUBSCRIPTIONS_MAX
    }

    /// Takes the next slice and sends it: the same bytes to every subscription of one segment. Returns none
    /// if all slices are taken.
    pub(super) fn send_slice(&self, limits: OutboxLimits) -> Option<SliceStats> {
        let segment = self.segments.get(self.taken.fetch_add(1, Ordering::Relaxed))?;
        let stats = match &self.content {
            Content::Chunk(chunk) => send_chunk(chunk, segment, limits),
            Content::Mark(mark) => send_mark(mark, segment),
        };
        self.done.fetch_add(1, Ordering::Release);
        Some(stats)
    }
}

impl SliceStats {
    fn add(&mut self, outcome: SendOutcome, frame_count: u64) {
        match outcome {
            SendOutcome::Written => self.direct_writes += 1,
            SendOutcome::Queued => self.queued_writes += 1,
            SendOutcome::Closed => return,
        }
        self.deliveries += frame_count;
    }
}

fn send_chunk(chunk: &Chunk, segment: &Segment, limits: OutboxLimits) -> SliceStats {
    let mut subscriptions = lock(segment);
    let cost = subscriptions.len() * write_cost(chunk.bytes());
    let mut stats = SliceStats { cost, ..SliceStats::default() };
    for subscription in subscriptions.iter_mut() {
        let Some((frames, frame_count)) = chunk.after(subscription.after_batch) else { continue };
        stats.has_recipient = true;
        if let Some(buffer) = &mut subscription.replay_buffer {
            if !buffer.push(&frames, limits) {
                subscription.outbox.close(CloseCode::SLOW);
            }
            continue;
        }
        stats.add(subscription.outbox.send_counted(&frames), frame_count);
    }
    stats
}

fn send_mark(mark: &Mark, segment: &Segment) -> SliceStats {
    // Subscriptions without marks are visited too, so a slice is never free.
    let mut stats = SliceStats { cost: 1, ..SliceStats::default() };
    let mut last = MarkFrame::default();
    for subscription in lock(segment).iter() {
        if let Some(frame) = mark.frame_for(subscription, &mut last) {
            stats.cost += write_cost(frame.len());
            stats.add(subscription.outbox.send_counted(frame), 1);
        }
    }
    stats.cost += last.names_cost();
    stats
}

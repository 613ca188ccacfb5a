//! Subscriptions that get the same bytes, in segments of bounded size, each with its own lock.

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::memory::FramePortion;
use super::outbox_state::entry_bytes;
use super::{Outbox, OutboxLimits, SessionCheck};
use crate::sync::lock;

/// Subscriptions in one segment. A slice of fan-out writes to one segment and is never interrupted, so this
/// sets the scheduling granularity: 0.02 to 0.1 ms.
pub const SEGMENT_SUBSCRIPTIONS_MAX: usize = 8;

/// Segments that are probed for a free place before a new segment is created.
const SEGMENT_PROBES_MAX: usize = 8;

/// One session's membership of a topic.
#[derive(Debug)]
pub(super) struct Subscription {
    /// A session may have two subscriptions of a topic for a moment: when it joins again while its former
    /// join is still being replayed. The id tells them apart.
    pub(super) id: SubscriptionId,
    /// The subscription gets the batches after this one. The cursor in the join's reply covers those before.
    pub(super) after_batch: u64,
    pub(super) outbox: Arc<Outbox>,
    /// Live events that wait while the session is still sent its missed events.
    pub(super) replay_buffer: Option<ReplayBuffer>,
    /// Present if the subscription gets marks. Boxed, because few subscriptions do.
    pub(super) marks: Option<Box<MarkReader>>,
}

/// A subscription that gets marks.
#[derive(Debug)]
pub(super) struct MarkReader {
    /// Knows which topics a mark may name.
    pub(super) check: Arc<dyn SessionCheck>,
}

/// Frames that wait until a replay has ended. All subscribers of the topic share these bytes.
#[derive(Debug)]
pub(super) struct ReplayBuffer {
    frames: Vec<Bytes>,
    bytes: usize,
    outbox: Arc<Outbox>,
    /// Memory of the buffer itself.
    entries: FramePortion,
}

impl ReplayBuffer {
    /// An empty buffer of the session of this outbox. `entries` has no memory yet.
    pub(super) fn new(outbox: Arc<Outbox>, entries: FramePortion) -> Self {
        Self { frames: Vec::new(), bytes: 0, outbox, entries }
    }

    /// Frames in the order in which they were added.
    pub(super) fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// Adds frames. Returns false if the buffer exceeds the limits of an outbox.
    pub(super) fn push(&mut self, frames: &Bytes, limits: OutboxLimits) -> bool {
        self.bytes += frames.len();
        self.outbox.add_buffered(frames.len());
        self.frames.push(frames.clone());
        self.entries.resize(entry_bytes(self.frames.capacity()));
        self.bytes <= limits.queue_bytes_max && self.frames.len() <= limits.queue_chunks_max
    }
}

impl Drop for ReplayBuffer {
    fn drop(&mut self) {
        self.outbox.remove_buffered(self.bytes);
    }
}

/// Some subscriptions of a topic, under one lock.
pub(super) type Segment = Mutex<Vec<Subscription>>;

/// A subscription of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubscriptionId(pub(super) u64);

/// Subscriptions that get the same bytes.
#[derive(Debug, Default)]
pub(super) struct TopicChannel {
    segments: Vec<Arc<Segment>>,
    /// The first segment to probe for the next subscription.
    probe: usize,
    /// Number of subscriptions that get marks.
    marked: usize,
}

impl TopicChannel {
    /// The segments that the channel has now.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.clone()
    }

    /// The segments, if one of the subscriptions gets marks.
    pub(super) fn marked_segments(&self) -> Option<Vec<Arc<Segment>>> {
        (self.marked > 0).then(|| self.segments())
    }

    /// Upper bound of the subscribers: the capacity of the segments.
    pub(super) fn subscribers_max(&self) -> usize {
        self.segments.len() * SEGMENT_SUBSCRIPTIONS_MAX
    }

    /// A segment for a new subscription, which is counted if it gets marks.
    pub(super) fn segment_for(&mut self, has_marks: bool) -> Arc<Segment> {
        self.marked += usize::from(has_marks);
        self.segment_with_room()
    }

    /// Whether there is no subscription.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Removes a subscription. Returns whether it got marks.
    pub(super) fn remove(&mut self, segment: &Arc<Segment>, id: SubscriptionId) -> bool {
        let (is_empty, had_marks) = {
            let mut subscriptions = lock(segment);
            let at = subscriptions.iter().position(|s| s.id == id);
            let removed = at.map(|at| subscriptions.swap_remove(at));
            (subscriptions.is_empty(), removed.is_some_and(|removed| removed.marks.is_some()))
        };
        self.marked -= usize::from(had_marks);
        if let Some(at) = self.segments.iter().position(|s| Arc::ptr_eq(s, segment)) {
            if is_empty {
                self.segments.swap_remove(at);
            } else {
                self.probe = at;
            }
        }
        had_marks
    }

    fn segment_with_room(&mut self) -> Arc<Segment> {
        let count = self.segments.len();
        for n in 0..count.min(SEGMENT_PROBES_MAX) {
            let at = (self.probe + n) % count;
            if lock(&self.segments[at]).len() < SEGMENT_SUBSCRIPTIONS_MAX {
                self.probe = at;
                return Arc::clone(&self.segments[at]);
            }
        }
        self.probe = count;
        let segment = Arc::default();
        self.segments.push(Arc::clone(&segment));
        segment
    }
}

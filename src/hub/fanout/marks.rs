//! Marks through fan-out: after the events of a batch, every topic that had events is marked.
//!
//! A mark follows the events of its batch on *all* topics of the organisation, and precedes every later
//! event. So at any mark a socket has been sent exactly the events up to the mark's position, on each of its
//! topics that is not still resuming.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::write_cost;
use crate::cursor::Cursor;
use crate::hub::NamedTopics;
use crate::hub::memory::OrgFrames;
use crate::hub::org::OrgChannel;
use crate::hub::segments::{Segment, Subscription};
use crate::wire::{Topic, mark_frame};

/// Named topics that cost as much as one small write, when they are compared with a token or encoded. An
/// estimate.
pub(super) const NAMES_PER_WRITE: usize = 32;

/// Bytes of a mark beside the names, in inline sends. An estimate.
const MARK_BYTES: usize = 256;

/// Bytes of a name in a mark beside the name itself: quotes and a comma.
const NAME_BYTES: usize = 3;

/// The end of a batch. It is queued behind the events of the batch.
#[derive(Clone, Debug)]
pub(super) struct BatchEnd {
    /// Number of the batch.
    pub(super) batch: u64,
    /// The position, which is a point.
    pub(super) cursor: Cursor,
    /// The time at which the batch was read.
    pub(super) read_at: Instant,
}

/// A mark on its way to the subscriptions of one topic.
#[derive(Debug)]
pub(super) struct Mark {
    topic: Topic,
    batch: u64,
    /// The position, sealed for the organisation.
    cursor: Arc<str>,
    /// All named topics that had events since the last mark.
    named: Arc<NamedTopics>,
    /// For an aggregate topic, the named topics whose events reached it. A token's filters must name one of
    /// them. None if all sessions get the mark.
    sources: Option<NamedTopics>,
    pub(super) read_at: Instant,
    /// Memory of the frames.
    memory: Arc<OrgFrames>,
}

/// The frame of a mark for subscriptions whose tokens may join the same topics.
#[derive(Debug, Default)]
pub(super) struct MarkFrame {
    joinable: Option<Arc<[bool]>>,
    frame: Bytes,
    /// Number of names that were compared with tokens or encoded so far.
    names: usize,
}

/// The marks of an organisation at the end of a batch, with the segments of their topics: one on each topic
/// that has had events since its last mark.
pub(super) fn marks_at(channel: &OrgChannel, end: &BatchEnd) -> Vec<(Mark, Vec<Arc<Segment>>)> {
    let unmarked = channel.take_unmarked();
    let mut marked: Vec<_> = unmarked
        .topics()
        .filter_map(|topic| Some((topic.clone(), channel.marked_segments(topic)?)))
        .collect();
    if marked.is_empty() {
        return Vec::new();
    }
    marked.sort_unstable_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    let mut named: Vec<Topic> = unmarked.named().cloned().collect();
    named.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    let named = Arc::new(NamedTopics::new(named));
    // All topics get the same string, so a client recognises the marks of one batch.
    let cursor: Arc<str> = channel.seal().seal(&end.cursor).into();
    let marks = marked.into_iter().map(|(topic, segments)| {
        let (cursor, named, sources) = (Arc::clone(&cursor), Arc::clone(&named), unmarked.sources(&topic));
        let memory = Arc::clone(&channel.frames);
        (Mark { topic, batch: end.batch, cursor, named, sources, read_at: end.read_at, memory }, segments)
    });
    marks.collect()
}

/// Upper bound of the cost of one mark that names topics of these names, in small writes. If the tokens of
/// all subscriptions differ, the names are compared and encoded for each.
pub(super) fn mark_cost<'a>(named: impl Iterator<Item = &'a str>) -> usize {
    let (names, bytes) =
        named.fold((0, MARK_BYTES), |(names, bytes), name| (names + 1, bytes + name.len() + NAME_BYTES));
    write_cost(bytes) + 2 * names / NAMES_PER_WRITE
}

impl Mark {
    /// The frame for a subscription. None if it gets no marks, has begun later, or is still sent its missed
    /// events: then its first mark follows them. `last` is the frame of the previous subscription.
    pub(super) fn frame_for<'a>(
        &self,
        subscription: &Subscription,
        last: &'a mut MarkFrame,
    ) -> Option<&'a Bytes> {
        let reader = subscription.marks.as_ref()?;
        if subscription.after_batch >= self.batch || subscription.replay_buffer.is_some() {
            return None;
        }
        // A mark must not tell of events that a token's filters leave out.
        if let Some(sources) = &self.sources {
            last.names += sources.len();
            if !reader.check.is_carried(sources) {
                return None;
            }
        }
        let joinable = reader.check.joinable(&self.named);
        last.names += joinable.checked;
        if last.frame.is_empty() || last.joinable != joinable.topics {
            last.names += self.named.len();
            let frame = mark_frame(&self.topic, &self.cursor, &self.others(joinable.topics.as_deref()));
            last.frame = self.memory.count(frame, 0);
            last.joinable = joinable.topics;
        }
        Some(&last.frame)
    }

    /// The named topics beside the mark's own, as far as they may be joined.
    fn others(&self, joinable: Option<&[bool]>) -> Vec<&str> {
        let may_join = |n: usize| joinable.is_none_or(|joinable| joinable[n]);
        let others = self.named.iter().enumerate().filter(|(n, topic)| **topic != self.topic && may_join(*n));
        others.map(|(_, topic)| topic.as_str()).collect()
    }
}

impl MarkFrame {
    /// Cost of comparing and encoding names so far, in small writes.
    pub(super) fn names_cost(&self) -> usize {
        self.names / NAMES_PER_WRITE
    }
}

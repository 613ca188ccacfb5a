//! Marks through fan-out: after the events of a batch, every topic that had events is marked.
//!
//! A mark follows the events of its batch on *all* topics of the organisation, and precedes every later
//! event. So at any mark a socket has been sent exactly the events up to the mark's position, on each of its
//! topics that is not still resuming.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::cursor::Cursor;
use crate::hub::org::{OrgChannel, Segment, Subscription};
use crate::wire::{Topic, mark_frame};

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
    named: Arc<[Topic]>,
    pub(super) read_at: Instant,
}

/// The frame of a mark for subscriptions whose tokens may join the same topics.
#[derive(Debug, Default)]
pub(super) struct MarkFrame {
    may_join: Vec<bool>,
    frame: Bytes,
}

/// The marks of an organisation at the end of a batch, with the segments of their topics: one on each topic
/// that has had events since its last mark.
pub(super) fn marks_at(channel: &OrgChannel, end: &BatchEnd) -> Vec<(Mark, Vec<Arc<Segment>>)> {
    let topics = channel.take_unmarked();
    let mut marked: Vec<_> =
        topics.iter().filter_map(|topic| Some((topic.clone(), channel.marked_segments(topic)?))).collect();
    if marked.is_empty() {
        return Vec::new();
    }
    marked.sort_unstable_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    let mut named: Vec<Topic> = topics.into_iter().filter(|topic| matches!(topic, Topic::Named(_))).collect();
    named.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    let named: Arc<[Topic]> = named.into();
    // All topics get the same string, so a client recognises the marks of one batch.
    let cursor: Arc<str> = channel.seal().seal(&end.cursor).into();
    let marks = marked.into_iter().map(|(topic, segments)| {
        let (cursor, named) = (Arc::clone(&cursor), Arc::clone(&named));
        (Mark { topic, batch: end.batch, cursor, named, read_at: end.read_at }, segments)
    });
    marks.collect()
}

impl Mark {
    /// Approximate bytes for each subscriber.
    pub(super) fn bytes(&self) -> usize {
        self.cursor.len()
    }

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
        let may_join: Vec<bool> =
            self.named.iter().map(|topic| *topic != self.topic && reader.check.may_join(topic)).collect();
        if last.frame.is_empty() || last.may_join != may_join {
            let others = self.named.iter().zip(&may_join).filter(|(_, may_join)| **may_join);
            let others: Vec<&str> = others.map(|(topic, _)| topic.as_str()).collect();
            *last = MarkFrame { frame: mark_frame(&self.topic, &self.cursor, &others), may_join };
        }
        Some(&last.frame)
    }
}

//! The sessions and subscriptions of one organisation.
//!
//! A topic's subscriptions are stored in segments of bounded size, each with its own lock. Fan-out locks one
//! segment at a time. A join, a leave and the fan-out of another organisation therefore wait for one segment
//! at most, regardless of the number of sockets.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Outbox, OutboxLimits, SessionCheck, SessionId};
use crate::cursor::CursorSeal;
use crate::sparse::shrink;
use crate::sync::lock;
use crate::wire::Topic;

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

/// Frames that wait until a replay has ended. All subscribers of the topic share these bytes, so they count
/// against the session's limit and not against the memory of the machine.
#[derive(Debug, Default)]
pub(super) struct ReplayBuffer {
    frames: Vec<Bytes>,
    bytes: usize,
}

impl ReplayBuffer {
    /// Adds frames. Returns false if the buffer exceeds the limits of an outbox.
    pub(super) fn push(&mut self, frames: &Bytes, limits: OutboxLimits) -> bool {
        self.bytes += frames.len();
        self.frames.push(frames.clone());
        self.bytes <= limits.queue_bytes_max && self.frames.len() <= limits.queue_chunks_max
    }
}

/// Some subscriptions of a topic, under one lock.
pub(super) type Segment = Mutex<Vec<Subscription>>;

/// Handle of a subscription, with which it is ended.
#[derive(Debug)]
pub struct Subscribed {
    pub(super) segment: Arc<Segment>,
    pub(super) id: SubscriptionId,
    /// Whether the subscription gets marks.
    pub(super) has_marks: bool,
}

/// A subscription of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubscriptionId(pub(super) u64);

#[derive(Debug, Default)]
struct TopicChannel {
    segments: Vec<Arc<Segment>>,
    /// The first segment to probe for the next subscription.
    probe: usize,
    /// Number of subscriptions that get marks.
    marked: usize,
}

/// The parts of a session that the hub uses.
#[derive(Debug)]
pub(super) struct Member {
    /// The session was registered after this batch was announced.
    pub(super) after_batch: u64,
    pub(super) outbox: Arc<Outbox>,
    pub(super) check: Arc<dyn SessionCheck>,
}

/// All sessions and subscriptions of one organisation.
#[derive(Debug)]
pub(super) struct OrgChannel {
    /// Seals the cursors of the organisation's events.
    seal: CursorSeal,
    sessions: Mutex<HashMap<SessionId, Member>>,
    topics: Mutex<HashMap<Topic, TopicChannel>>,
    /// Number of subscriptions that get marks.
    marked: AtomicUsize,
    /// Topics that have had events since their last mark: joined ones, and all named ones. It is kept only
    /// while a subscription gets marks.
    unmarked: Mutex<HashSet<Topic>>,
}

impl OrgChannel {
    pub(super) fn new(seal: CursorSeal) -> Self {
        Self {
            seal,
            sessions: Mutex::default(),
            topics: Mutex::default(),
            marked: AtomicUsize::new(0),
            unmarked: Mutex::default(),
        }
    }

    pub(super) fn seal(&self) -> &CursorSeal {
        &self.seal
    }

    pub(super) fn add_session(&self, id: SessionId, member: Member) {
        lock(&self.sessions).insert(id, member);
    }

    pub(super) fn remove_session(&self, id: SessionId) {
        let mut sessions = lock(&self.sessions);
        sessions.remove(&id);
        shrink(&mut sessions);
    }

    /// The check of a session.
    pub(super) fn check_of(&self, id: SessionId) -> Option<Arc<dyn SessionCheck>> {
        lock(&self.sessions).get(&id).map(|member| Arc::clone(&member.check))
    }

    pub(super) fn session_count(&self) -> usize {
        lock(&self.sessions).len()
    }

    pub(super) fn for_each_session(&self, mut act: impl FnMut(&Member)) {
        for member in lock(&self.sessions).values() {
            act(member);
        }
    }

    /// Adds a subscription. While the caller's `position` guard is held, no batch can be announced. The guard
    /// is released when the segment is locked, and `send_reply` runs before the segment is released.
    pub(super) fn subscribe<Guard>(
        &self,
        topic: &Topic,
        subscription: Subscription,
        position: Guard,
        send_reply: impl FnOnce(),
    ) -> Subscribed {
        let (id, has_marks) = (subscription.id, subscription.marks.is_some());
        let mut topics = lock(&self.topics);
        let channel = topics.entry(topic.clone()).or_default();
        if has_marks {
            // Counted before the position is released, so fan-out knows of it before the next batch.
            channel.marked += 1;
            self.marked.fetch_add(1, Ordering::Release);
        }
        let segment = channel.segment_with_room();
        let mut subscriptions = lock(&segment);
        subscriptions.push(subscription);
        drop(topics);
        drop(position);
        send_reply();
        drop(subscriptions);
        Subscribed { segment, id, has_marks }
    }

    /// Sends the buffered events of a subscription. From now on its events are sent as they happen.
    pub(super) fn end_replay(subscribed: &Subscribed) {
        let mut subscriptions = lock(&subscribed.segment);
        let Some(subscription) = subscriptions.iter_mut().find(|s| s.id == subscribed.id) else { return };
        if let Some(buffer) = subscription.replay_buffer.take() {
            for frames in &buffer.frames {
                subscription.outbox.send(frames);
            }
        }
    }

    pub(super) fn unsubscribe(&self, topic: &Topic, subscribed: &Subscribed) {
        let mut topics = lock(&self.topics);
        let (is_empty, had_marks) = {
            let mut subscriptions = lock(&subscribed.segment);
            let at = subscriptions.iter().position(|s| s.id == subscribed.id);
            let removed = at.map(|at| subscriptions.swap_remove(at));
            (subscriptions.is_empty(), removed.is_some_and(|removed| removed.marks.is_some()))
        };
        let Some(channel) = topics.get_mut(topic) else { return };
        if had_marks {
            channel.marked -= 1;
            if self.marked.fetch_sub(1, Ordering::AcqRel) == 1 {
                *lock(&self.unmarked) = HashSet::new();
            }
        }
        let Some(at) = channel.segments.iter().position(|s| Arc::ptr_eq(s, &subscribed.segment)) else {
            return;
        };
        if is_empty {
            channel.segments.swap_remove(at);
        } else {
            channel.probe = at;
        }
        if channel.segments.is_empty() {
            topics.remove(topic);
            shrink(&mut topics);
        }
    }

    /// The segments that a topic has now. Segments added later contain only later subscriptions.
    pub(super) fn segments(&self, topic: &Topic) -> Vec<Arc<Segment>> {
        lock(&self.topics).get(topic).map(|channel| channel.segments.clone()).unwrap_or_default()
    }

    /// The joined topics that a control event on this topic reaches: the topic itself, `org`, and all entity
    /// topics, because any of them may carry events of the topic. A control event on `org` reaches all
    /// topics.
    pub(super) fn control_event_topics(&self, topic: &Topic) -> Vec<Topic> {
        let is_reached =
            |joined: &&Topic| topic.is_org() || joined.is_org() || *joined == topic || joined.is_entity();
        lock(&self.topics).keys().filter(is_reached).cloned().collect()
    }

    /// Upper bound of the topic's subscribers: the capacity of its segments.
    pub(super) fn subscribers_max(&self, topic: &Topic) -> usize {
        lock(&self.topics).get(topic).map_or(0, |channel| channel.segments.len() * SEGMENT_SUBSCRIPTIONS_MAX)
    }

    pub(super) fn has_topic(&self, topic: &Topic) -> bool {
        lock(&self.topics).contains_key(topic)
    }

    /// Number of subscriptions that get marks.
    pub(super) fn marked(&self) -> usize {
        self.marked.load(Ordering::Acquire)
    }

    /// The segments of a topic, if one of its subscriptions gets marks.
    pub(super) fn marked_segments(&self, topic: &Topic) -> Option<Vec<Arc<Segment>>> {
        lock(&self.topics).get(topic).filter(|channel| channel.marked > 0).map(|c| c.segments.clone())
    }

    /// Records topics that have had events since their last mark.
    pub(super) fn add_unmarked(&self, topics: Vec<Topic>) {
        lock(&self.unmarked).extend(topics);
    }

    /// The named topics that have had events since their last mark.
    pub(super) fn unmarked_names(&self) -> HashSet<Topic> {
        lock(&self.unmarked).iter().filter(|topic| matches!(topic, Topic::Named(_))).cloned().collect()
    }

    /// Takes the topics that have had events since their last mark.
    pub(super) fn take_unmarked(&self) -> HashSet<Topic> {
        std::mem::take(&mut lock(&self.unmarked))
    }
}

impl TopicChannel {
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

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::org::{Incarnation, OrgId};

    /// If the segment were unlocked while the reply is being sent, an event could overtake the reply.
    #[tokio::test]
    async fn no_event_overtakes_the_reply_of_its_join() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let limits = OutboxLimits { queue_bytes_max: 1024, queue_chunks_max: 8 };
        let subscription = Subscription {
            id: SubscriptionId(1),
            after_batch: 0,
            outbox: Arc::new(Outbox::new(crate::hub::Transport::plain(stream), limits)),
            replay_buffer: None,
            marks: None,
        };
        let seal = CursorSeal::new(Arc::default(), OrgId::for_tests(1), Incarnation::default());
        let (channel, topic, position) = (OrgChannel::new(seal), Topic::Org, Mutex::new(()));
        let mut was_replied = false;
        let _subscribed = channel.subscribe(&topic, subscription, lock(&position), || {
            let segments = channel.segments(&topic);
            assert!(segments[0].try_lock().is_err(), "fan-out could write before the reply");
            assert!(position.try_lock().is_ok(), "the tailer must not wait for a socket");
            was_replied = true;
        });
        assert!(was_replied);
    }
}

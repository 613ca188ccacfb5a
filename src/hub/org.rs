//! One organisation's sessions and subscriptions.
//!
//! A topic's subscriptions lie in segments of bounded size, each with a lock of its own. Fan-out
//! works through one segment at a time, so a join, a leave and another organisation's turn wait for
//! one segment at the most, however many sockets there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::{Outbox, OutboxLimits, SessionCheck, SessionId};
use crate::sparse::shrink;
use crate::sync::lock;
use crate::wire::Topic;

/// Subscriptions in one segment: a slice of fan-out is so many writes (0.02 to 0.1 ms), and nobody's turn can be shorter.
pub const SEGMENT_SUBSCRIPTIONS_MAX: usize = 8;

/// A segment that is not full is looked for in so many places before a new one is made.
const SEGMENT_PROBES_MAX: usize = 8;

/// A session that joined a topic.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Of this subscription alone: a session may hold two of a topic for a moment, when it joins again
    /// while the former join is still being resumed.
    pub(super) id: SubscriptionId,
    /// It gets the batches after this one: those before are covered by the cursor in its reply.
    pub(super) after_batch: u64,
    pub(super) outbox: Arc<Outbox>,
    /// What came while the session is still being told what it missed.
    pub(super) held: Option<ReplayBuffer>,
}

/// Frames that wait until a replay has ended. They are shared with everybody else who gets them, so
/// their bytes count against the session's limit, not against the machine's memory.
#[derive(Debug, Default)]
pub(super) struct ReplayBuffer {
    frames: Vec<Bytes>,
    bytes: usize,
}

impl ReplayBuffer {
    /// False where it would be more than an outbox may hold.
    pub(super) fn push(&mut self, frames: &Bytes, limits: OutboxLimits) -> bool {
        self.bytes += frames.len();
        self.frames.push(frames.clone());
        self.bytes <= limits.queue_bytes_max && self.frames.len() <= limits.queue_chunks_max
    }
}

pub(super) type Segment = Mutex<Vec<Subscription>>;

/// Where a subscription lies; needed to end it.
#[derive(Debug)]
pub struct Subscribed {
    segment: Arc<Segment>,
    id: SubscriptionId,
}

/// A subscription of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubscriptionId(pub(super) u64);

#[derive(Debug, Default)]
struct TopicChannel {
    segments: Vec<Arc<Segment>>,
    /// Where the next subscription is tried first.
    probe: usize,
}

/// A session, as far as the hub knows it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) outbox: Arc<Outbox>,
    pub(super) standing: Arc<dyn SessionCheck>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct OrgChannel {
    sessions: Mutex<HashMap<SessionId, Member>>,
    topics: Mutex<HashMap<Topic, TopicChannel>>,
}

impl OrgChannel {
    pub(super) fn add_session(&self, id: SessionId, member: Member) {
        lock(&self.sessions).insert(id, member);
    }

    pub(super) fn remove_session(&self, id: SessionId) {
        let mut sessions = lock(&self.sessions);
        sessions.remove(&id);
        shrink(&mut sessions);
    }

    pub(super) fn session_count(&self) -> usize {
        lock(&self.sessions).len()
    }

    pub(super) fn for_each_session(&self, mut act: impl FnMut(&Member)) {
        for member in lock(&self.sessions).values() {
            act(member);
        }
    }

    /// Adds a subscription. `position` is the guard that keeps batches from being announced; it is
    /// released once the segment is locked, and `welcome` runs before the segment is released.
    pub(super) fn subscribe<Guard>(
        &self,
        topic: &Topic,
        subscription: Subscription,
        position: Guard,
        welcome: impl FnOnce(),
    ) -> Subscribed {
        let id = subscription.id;
        let mut topics = lock(&self.topics);
        let channel = topics.entry(topic.clone()).or_default();
        let segment = channel.segment_with_room();
        let mut subscriptions = lock(&segment);
        subscriptions.push(subscription);
        drop(topics);
        drop(position);
        welcome();
        drop(subscriptions);
        Subscribed { segment, id }
    }

    /// Ends the hold of a subscription: what was held goes out, and from then on everything at once.
    pub(super) fn release(subscribed: &Subscribed) {
        let mut subscriptions = lock(&subscribed.segment);
        let Some(subscription) = subscriptions.iter_mut().find(|s| s.id == subscribed.id) else { return };
        if let Some(held) = subscription.held.take() {
            for frames in &held.frames {
                subscription.outbox.offer(frames);
            }
        }
    }

    pub(super) fn unsubscribe(&self, topic: &Topic, subscribed: &Subscribed) {
        let mut topics = lock(&self.topics);
        let is_empty = {
            let mut subscriptions = lock(&subscribed.segment);
            if let Some(at) = subscriptions.iter().position(|s| s.id == subscribed.id) {
                subscriptions.swap_remove(at);
            }
            subscriptions.is_empty()
        };
        let Some(channel) = topics.get_mut(topic) else { return };
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

    /// The segments of a topic as they are now; later ones hold only later subscriptions.
    pub(super) fn segments(&self, topic: &Topic) -> Vec<Arc<Segment>> {
        lock(&self.topics).get(topic).map(|channel| channel.segments.clone()).unwrap_or_default()
    }

    /// The joined topics that a resync of this topic concerns: itself, those of single calls, and the
    /// organisation's. A resync of the organisation's concerns all.
    pub(super) fn topics_of_resync(&self, topic: &Topic) -> Vec<Topic> {
        let concerned =
            |joined: &&Topic| topic.is_org() || joined.is_org() || *joined == topic || joined.is_entity();
        lock(&self.topics).keys().filter(concerned).cloned().collect()
    }

    /// Subscribers of a topic, at most: as many as its segments have room for.
    pub(super) fn subscribers_max(&self, topic: &Topic) -> usize {
        lock(&self.topics).get(topic).map_or(0, |channel| channel.segments.len() * SEGMENT_SUBSCRIPTIONS_MAX)
    }

    pub(super) fn has_topic(&self, topic: &Topic) -> bool {
        lock(&self.topics).contains_key(topic)
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

    /// Were the segment free while the reply is on its way, an event could overtake it.
    #[tokio::test]
    async fn nothing_is_sent_on_a_subscription_before_its_reply() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let limits = OutboxLimits { queue_bytes_max: 1024, queue_chunks_max: 8 };
        let subscription = Subscription {
            id: SubscriptionId(1),
            after_batch: 0,
            outbox: Arc::new(Outbox::new(crate::hub::Transport::plain(stream), limits)),
            held: None,
        };
        let (channel, topic, position) = (OrgChannel::default(), Topic::Org, Mutex::new(()));
        let mut was_welcomed = false;
        let _subscribed = channel.subscribe(&topic, subscription, lock(&position), || {
            let segments = channel.segments(&topic);
            assert!(segments[0].try_lock().is_err(), "fan-out could have written already");
            assert!(position.try_lock().is_ok(), "the reader must not wait for a socket");
            was_welcomed = true;
        });
        assert!(was_welcomed);
    }
}

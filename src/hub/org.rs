//! The sessions and subscriptions of one organisation.
//!
//! A topic's subscriptions are stored in segments of bounded size, each with its own lock. Fan-out locks one
//! segment at a time. A join, a leave and the fan-out of another organisation therefore wait for one segment
//! at most, regardless of the number of sockets.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::filtered::{FilterHandle, FilteredTopics};
use super::memory::OrgFrames;
use super::outbox::Backlog;
use super::segments::{Segment, Subscription, SubscriptionId, TopicChannel};
use super::unmarked::UnmarkedTopics;
use super::{Outbox, SessionCheck, SessionId};
use crate::cursor::CursorSeal;
use crate::sparse::shrink;
use crate::sync::lock;
use crate::wire::{CloseCode, Event, Topic};

/// Pause between two searches for sessions that hold too much memory.
const RELIEF_INTERVAL: Duration = Duration::from_millis(20);

/// Handle of a subscription, with which it is ended.
#[derive(Debug)]
pub struct Subscribed {
    /// The channel of the subscription's filter.
    pub(super) filter: Option<Arc<FilterHandle>>,
    pub(super) segment: Arc<Segment>,
    pub(super) id: SubscriptionId,
    /// Whether the subscription gets marks.
    pub(super) has_marks: bool,
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
    /// Memory of frames that wait.
    pub(super) frames: Arc<OrgFrames>,
    /// The last time at which sessions were closed because of it.
    relieved_at: Mutex<Option<Instant>>,
    topics: Mutex<HashMap<Topic, TopicChannel>>,
    /// Channels with a filter.
    pub(super) filters: Arc<FilteredTopics>,
    /// Number of subscriptions that get marks.
    marked: AtomicUsize,
    /// Topics that have had events since their last mark: joined ones, and all named ones. They are kept only
    /// while a subscription gets marks.
    unmarked: Mutex<UnmarkedTopics>,
}

impl OrgChannel {
    pub(super) fn new(seal: CursorSeal, frames: Arc<OrgFrames>) -> Self {
        Self {
            seal,
            sessions: Mutex::default(),
            frames,
            relieved_at: Mutex::default(),
            topics: Mutex::default(),
            filters: Arc::default(),
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

    /// Closes the fullest sessions if less than a quarter of the organisation's share of the memory is free,
    /// until half of it is free. Returns their number.
    pub(super) fn relieve_memory(&self) -> usize {
        if self.frames.is_crowded() { self.close_fullest() } else { 0 }
    }

    /// Closes the fullest sessions like [`Self::relieve_memory`], but only if the organisation has no memory
    /// left.
    pub(super) fn relieve_full_memory(&self) -> usize {
        if self.frames.room() == 0 { self.close_fullest() } else { 0 }
    }

    fn close_fullest(&self) -> usize {
        if !self.may_relieve() {
            return 0;
        }
        let mut fullest = Vec::new();
        // What closed sessions hold becomes free when their tasks end.
        let mut freed_soon = 0;
        self.for_each_session(|member| match member.outbox.backlog() {
            Backlog { bytes: 0, .. } => {}
            Backlog { bytes, is_closed: true, .. } => freed_soon += bytes,
            open => fullest.push((open, Arc::clone(&member.outbox))),
        });
        fullest.sort_unstable_by_key(|(backlog, _)| std::cmp::Reverse(backlog.bytes));
        let mut closed = 0;
        for (backlog, outbox) in fullest {
            if self.frames.is_half_free_after(freed_soon) {
                break;
            }
            outbox.close_as_slow();
            freed_soon += backlog.buffered_bytes;
            closed += 1;
        }
        closed
    }

    /// Whether sessions were not closed a moment ago. The memory of closed ones may be free only when their
    /// tasks end, and looking for further ones takes time.
    fn may_relieve(&self) -> bool {
        let now = Instant::now();
        let mut last = lock(&self.relieved_at);
        let is_due = last.is_none_or(|last| now.duration_since(last) >= RELIEF_INTERVAL);
        if is_due {
            *last = Some(now);
        }
        is_due
    }

    /// Adds a subscription, to the channel of its filter if it has one. While the caller's `position` guard
    /// is held, no batch can be announced. The guard is released when the segment is locked, and `send_reply`
    /// runs before the segment is released.
    pub(super) fn subscribe<Guard>(
        &self,
        topic: &Topic,
        filter: Option<&Arc<FilterHandle>>,
        subscription: Subscription,
        position: Guard,
        send_reply: impl FnOnce(),
    ) -> Subscribed {
        let (id, has_marks) = (subscription.id, subscription.marks.is_some());
        let segment = match filter {
            None => {
                let places = lock(&self.topics);
                let find = |topics: &mut HashMap<Topic, TopicChannel>| {
                    topics.entry(topic.clone()).or_default().segment_for(has_marks)
                };
                self.enter(places, find, subscription, position, send_reply)
            }
            Some(handle) => {
                let places = lock(&handle.channel.places);
                if handle.channel.is_outdated() {
                    subscription.outbox.close(CloseCode::TABLE_CHANGED);
                }
                let find = |channel: &mut TopicChannel| channel.segment_for(has_marks);
                self.enter(places, find, subscription, position, send_reply)
            }
        };
        Subscribed { filter: filter.cloned(), segment, id, has_marks }
    }

    /// Adds a subscription to the segment that `find` returns, while the places stay locked.
    fn enter<Places, Guard>(
        &self,
        mut places: MutexGuard<'_, Places>,
        find: impl FnOnce(&mut Places) -> Arc<Segment>,
        subscription: Subscription,
        position: Guard,
        send_reply: impl FnOnce(),
    ) -> Arc<Segment> {
        if subscription.marks.is_some() {
            // Counted before the position is released, so fan-out knows of it before the next batch.
            self.marked.fetch_add(1, Ordering::Release);
        }
        let segment = find(&mut places);
        let mut subscriptions = lock(&segment);
        subscriptions.push(subscription);
        drop(places);
        drop(position);
        send_reply();
        drop(subscriptions);
        segment
    }

    /// Sends the buffered events of a subscription. From now on its events are sent as they happen.
    pub(super) fn end_replay(subscribed: &Subscribed) {
        let mut subscriptions = lock(&subscribed.segment);
        let Some(subscription) = subscriptions.iter_mut().find(|s| s.id == subscribed.id) else { return };
        if let Some(buffer) = subscription.replay_buffer.take() {
            for frames in buffer.frames() {
                subscription.outbox.send_counted(frames);
            }
        }
    }

    pub(super) fn unsubscribe(&self, topic: &Topic, subscribed: &Subscribed) {
        let had_marks = if let Some(handle) = &subscribed.filter {
            lock(&handle.channel.places).remove(&subscribed.segment, subscribed.id)
        } else {
            let mut topics = lock(&self.topics);
            let Some(channel) = topics.get_mut(topic) else { return };
            let had_marks = channel.remove(&subscribed.segment, subscribed.id);
            if channel.is_empty() {
                topics.remove(topic);
                shrink(&mut topics);
            }
            had_marks
        };
        if had_marks && self.marked.fetch_sub(1, Ordering::AcqRel) == 1 {
            *lock(&self.unmarked) = UnmarkedTopics::default();
        }
    }

    /// The segments that a topic has now. Segments added later contain only later subscriptions.
    pub(super) fn segments(&self, topic: &Topic) -> Vec<Arc<Segment>> {
        lock(&self.topics).get(topic).map(TopicChannel::segments).unwrap_or_default()
    }

    /// The joined topics that a control event on this topic reaches: the topic itself, `org`, and all entity
    /// topics, because any of them may carry events of the topic. A control event on `org` reaches all
    /// topics.
    pub(super) fn control_event_topics(&self, topic: &Topic) -> Vec<Topic> {
        let is_reached =
            |joined: &&Topic| topic.is_org() || joined.is_org() || *joined == topic || joined.is_entity();
        lock(&self.topics).keys().filter(is_reached).cloned().collect()
    }

    /// Upper bound of the topic's subscribers without a filter: the capacity of its segments.
    pub(super) fn subscribers_max(&self, topic: &Topic) -> usize {
        lock(&self.topics).get(topic).map_or(0, TopicChannel::subscribers_max)
    }

    /// Whether the topic has a subscriber without a filter.
    pub(super) fn has_topic(&self, topic: &Topic) -> bool {
        lock(&self.topics).contains_key(topic)
    }

    /// Number of subscriptions that get marks.
    pub(super) fn marked(&self) -> usize {
        self.marked.load(Ordering::Acquire)
    }

    /// The segments of a topic's channels in which a subscription gets marks. None if there are none.
    pub(super) fn marked_segments(&self, topic: &Topic) -> Option<Vec<Arc<Segment>>> {
        let mut segments = self.filters.marked_segments(topic);
        segments.extend(
            lock(&self.topics).get(topic).and_then(TopicChannel::marked_segments).into_iter().flatten(),
        );
        (!segments.is_empty()).then_some(segments)
    }

    /// Records topics that an event reached.
    pub(super) fn add_unmarked(&self, topics: impl Iterator<Item = Topic>, event: &Event) {
        lock(&self.unmarked).add(topics, event);
    }

    /// The named topics that have had events since their last mark.
    pub(super) fn unmarked_names(&self) -> HashSet<Topic> {
        lock(&self.unmarked).named().cloned().collect()
    }

    /// Takes the topics that have had events since their last mark.
    pub(super) fn take_unmarked(&self) -> UnmarkedTopics {
        std::mem::take(&mut lock(&self.unmarked))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::hub::OutboxLimits;
    use crate::hub::memory::NodeFrames;
    use crate::org::{Incarnation, OrgId};

    /// If the segment were unlocked while the reply is being sent, an event could overtake the reply.
    #[tokio::test]
    async fn no_event_overtakes_the_reply_of_its_join() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connects");
        let limits = OutboxLimits { queue_bytes_max: 1024, queue_chunks_max: 8, memory_bytes_max: 1 << 20 };
        let subscription = Subscription {
            id: SubscriptionId(1),
            after_batch: 0,
            outbox: Arc::new(Outbox::new(crate::hub::Transport::plain(stream), limits)),
            replay_buffer: None,
            marks: None,
        };
        let seal = CursorSeal::new(Arc::default(), OrgId::for_tests(1), Incarnation::default());
        let (channel, topic, position) =
            (OrgChannel::new(seal, OrgFrames::new(&NodeFrames::new(1 << 20))), Topic::Org, Mutex::new(()));
        let mut was_replied = false;
        let _subscribed = channel.subscribe(&topic, None, subscription, lock(&position), || {
            let segments = channel.segments(&topic);
            assert!(segments[0].try_lock().is_err(), "fan-out could write before the reply");
            assert!(position.try_lock().is_ok(), "the tailer must not wait for a socket");
            was_replied = true;
        });
        assert!(was_replied);
    }
}

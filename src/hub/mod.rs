//! The hub: which session has joined which topic, partitioned by organisation, and the fan-out of events to
//! them.
//!
//! The hub never awaits, and it knows neither tokens nor the database. The tailer feeds it through
//! [`Hub::advance`] and a [`FanoutSender`]; the hub does not depend on where these events come from.
//!
//! ```text
//! OrgId -> OrgChannel -> Topic -> segments of up to 8 subscriptions -> Outbox
//!                                -> filter -> segments
//! ```

mod fanout;
mod filtered;
mod marks;
mod memory;
mod org;
mod outbox;
mod outbox_state;
mod questions;
mod segments;
mod session;
mod transport;
mod unmarked;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dashmap::DashMap;

pub use fanout::{Batch, CoverageQuestions, FanoutLimits, FanoutSender, FanoutWorker, OrgEvents, fanout};
pub(crate) use fanout::{
    CHUNK_BYTES, ENCODE_EVENTS_MAX, EVALUATIONS_MAX, EVENT_FRAMES_BYTES_MAX, HELPERS_MAX, INLINE_COST_MAX,
    ROUND_COST, STEP_BYTES_MAX,
};
pub use filtered::{ClaimFilter, FilterHandle, FilterLimit, Rendered};
pub(crate) use filtered::{
    EVENT_EVALUATIONS_MAX, FILTER_MEMORY_MAX, FILTERS_PER_VALUE_MAX, ORG_FILTERS_MAX, ORG_SCANNED_FILTERS_MAX,
};
pub use marks::MarkRequest;
pub use org::Subscribed;
pub use outbox::{Outbox, OutboxLimits, SendOutcome};
pub use outbox_state::CloseState;
pub use questions::{Coverage, CoverageTarget, Question, TooManyQuestions};
pub(crate) use questions::{ORG_QUESTIONS_MAX, QUESTION_TIMEOUT, QUESTIONS_MAX, SESSION_QUESTIONS_MAX};
pub use segments::SEGMENT_SUBSCRIPTIONS_MAX;
pub use session::{JoinableTopics, NamedTopics, SessionCheck, SessionId};
pub use transport::Transport;

use crate::cursor::{Cursor, CursorSeal};
use crate::org::{Incarnation, OrgId};
use crate::sync::lock;
use crate::wire::{CloseCode, Topic};
use filtered::FilterShares;
use marks::MarkRequests;
use memory::{NodeFrames, OrgFrames};
pub(crate) use memory::{ORG_FRAMES_MIN, OUTBOXES_PER_ORG};
use org::{Member, OrgChannel};
use questions::Questions;
use segments::{MarkReader, ReplayBuffer, Subscription, SubscriptionId};

/// The node's position in the log.
#[derive(Debug, Default)]
struct Position {
    /// The number of the last announced batch. A subscription gets the batches after the one at which it
    /// begins.
    batch: u64,
    /// A client with this cursor has seen all announced batches. None until the tailer has chosen its first
    /// position.
    cursor: Option<Cursor>,
    /// Whether every announced batch was sent or queued.
    is_dispatched: bool,
    /// Questions whose answers the position does not cover yet.
    questions: Questions,
    /// Subscriptions whose first mark waits for the end of a batch.
    mark_requests: MarkRequests,
}

impl Position {
    /// The position, if it is the end of a batch whose events were all sent or queued.
    fn end_of_batch(&self) -> Option<&Cursor> {
        self.cursor.as_ref().filter(|cursor| self.is_dispatched && cursor.is_at_point())
    }
}

/// All sessions and subscriptions of this process.
#[derive(Debug)]
pub struct Hub {
    orgs: DashMap<OrgId, Arc<OrgChannel>>,
    /// Locked while a batch is announced and while a subscription begins, so that every subscription begins
    /// exactly between two batches.
    position: Mutex<Position>,
    next_id: AtomicU64,
    limits: OutboxLimits,
    filter_shares: FilterShares,
    /// Memory of frames that wait.
    frames: Arc<NodeFrames>,
}

impl Hub {
    /// Creates a hub without sessions and without a position.
    #[must_use]
    pub fn new(limits: OutboxLimits) -> Self {
        Self {
            orgs: DashMap::new(),
            position: Mutex::default(),
            next_id: AtomicU64::new(1),
            limits,
            filter_shares: FilterShares::default(),
            frames: NodeFrames::new(limits.memory_bytes_max),
        }
    }

    /// The limits of each outbox.
    #[must_use]
    pub fn outbox_limits(&self) -> OutboxLimits {
        self.limits
    }

    /// Adds a session to the organisation of this seal. Dropping the returned registration removes it.
    #[must_use]
    pub fn register(
        self: &Arc<Self>,
        seal: &CursorSeal,
        outbox: Arc<Outbox>,
        check: Arc<dyn SessionCheck>,
    ) -> Registration {
        let id = SessionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let org = seal.org();
        let after_batch = lock(&self.position).batch;
        let incarnation = seal.incarnation();
        let new = || Arc::new(OrgChannel::new(seal.clone(), OrgFrames::new(&self.frames)));
        // The entry's guard keeps an empty channel from being removed before the session is in it.
        let mut entry = self.orgs.entry(org).or_insert_with(new);
        let is_other = entry.seal().incarnation() != incarnation;
        let former = is_other.then(|| std::mem::replace(&mut *entry, new()));
        let channel = Arc::clone(&entry);
        outbox.count_for(Arc::clone(&channel.frames));
        channel.add_session(id, Member { after_batch, outbox: Arc::clone(&outbox), check });
        drop(entry);
        if let Some(former) = former {
            // The sessions of the deleted organisation receive nothing of the new one.
            former.for_each_session(|member| member.outbox.close(CloseCode::ORG_GONE));
        }
        Registration { hub: Arc::clone(self), channel, org, id, outbox }
    }

    /// Announces a batch, and returns its number. `cursor` covers everything up to the end of the batch,
    /// which the caller gives to the fan-out next.
    pub fn advance(&self, cursor: Cursor) -> u64 {
        let mut position = lock(&self.position);
        position.batch += 1;
        position.is_dispatched = false;
        position.cursor = Some(cursor);
        position.batch
    }

    /// Moves the position without a batch, after a read that found no new events. If events were lost, their
    /// resync follows, and nothing may be answered before it.
    pub fn update_cursor(&self, cursor: Cursor) {
        let mut position = lock(&self.position);
        position.is_dispatched = false;
        position.cursor = Some(cursor);
    }

    /// The cursor of a client that has seen all announced batches. None until the tailer has a position.
    #[must_use]
    pub fn cursor(&self) -> Option<Cursor> {
        lock(&self.position).cursor.clone()
    }

    /// Whether the tailer has chosen its position. A session may not begin earlier: its join would promise
    /// all events from a cursor that does not exist yet.
    #[must_use]
    pub fn has_position(&self) -> bool {
        lock(&self.position).cursor.is_some()
    }

    /// Closes all sessions of an incarnation of an organisation.
    pub fn close_org(&self, org: OrgId, incarnation: Incarnation, close: CloseCode) {
        if let Some(channel) = self.channel(org).filter(|channel| channel.seal().incarnation() == incarnation)
        {
            channel.for_each_session(|member| member.outbox.close(close));
        }
    }

    /// Closes the sessions of an organisation that were registered before this batch was announced. Later
    /// sessions are members of an organisation that was created again with the same id.
    fn close_org_before(&self, org: OrgId, batch: u64, close: CloseCode) {
        if let Some(channel) = self.channel(org) {
            channel.for_each_session(|member| {
                if member.after_batch < batch {
                    member.outbox.close(close);
                }
            });
        }
    }

    /// Checks every session, closes those that may not stay, and returns their number.
    ///
    /// There is no index by user or login: it would cost every session memory, while this is rare and each
    /// check is a look-up in memory.
    pub fn close_invalid_sessions(&self) -> usize {
        self.close_invalid_sessions_of(self.org_ids())
    }

    /// Closes the sessions of these organisations that may not stay, and returns their number.
    pub fn close_invalid_sessions_of(&self, orgs: impl IntoIterator<Item = OrgId>) -> usize {
        let mut closed = 0;
        for channel in orgs.into_iter().filter_map(|org| self.channel(org)) {
            channel.for_each_session(|member| {
                if let Some(close) = member.check.close_reason() {
                    member.outbox.close(close);
                    closed += 1;
                }
            });
        }
        closed
    }

    /// Closes every session whose token does not name all these topics. When this returns, none of them
    /// receives another event.
    pub fn close_sessions_without(&self, topics: &[Arc<str>], close: CloseCode) {
        for org in self.org_ids() {
            let Some(channel) = self.channel(org) else { continue };
            channel.for_each_session(|member| {
                if !topics.iter().all(|topic| member.check.names(topic)) {
                    member.outbox.close(close);
                }
            });
        }
    }

    /// The outboxes of all open sessions.
    #[must_use]
    pub fn outboxes(&self) -> Vec<Arc<Outbox>> {
        let mut outboxes = Vec::new();
        for org in self.org_ids() {
            if let Some(channel) = self.channel(org) {
                channel.for_each_session(|member| outboxes.push(Arc::clone(&member.outbox)));
            }
        }
        outboxes
    }

    /// The number of open sessions.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.orgs.iter().map(|channel| channel.session_count()).sum()
    }

    /// The number of organisations with an open session.
    #[must_use]
    pub fn org_count(&self) -> usize {
        self.orgs.len()
    }

    /// The organisations with an open session, and their incarnations.
    #[must_use]
    pub fn incarnations(&self) -> Vec<(OrgId, Incarnation)> {
        self.orgs.iter().map(|entry| (*entry.key(), entry.seal().incarnation())).collect()
    }

    /// The organisations with an open session.
    #[must_use]
    pub fn org_ids(&self) -> Vec<OrgId> {
        self.orgs.iter().map(|entry| *entry.key()).collect()
    }

    /// Clones the handle out of the map, so that no shard of the map stays locked.
    fn channel(&self, org: OrgId) -> Option<Arc<OrgChannel>> {
        self.orgs.get(&org).map(|channel| Arc::clone(&channel))
    }
}

/// A session's membership of its organisation, which ends when it is dropped.
#[derive(Debug)]
pub struct Registration {
    hub: Arc<Hub>,
    channel: Arc<OrgChannel>,
    org: OrgId,
    id: SessionId,
    outbox: Arc<Outbox>,
}

impl Registration {
    /// Seals and opens the cursors of the session's organisation.
    #[must_use]
    pub fn seal(&self) -> &CursorSeal {
        self.channel.seal()
    }

    /// Joins a topic, with a filter or without, and with marks or without. `reply` builds the reply from the
    /// cursor at which the subscription begins. The reply is sent before any event of the topic.
    ///
    /// # Panics
    /// If the hub has no position yet; see [`Hub::has_position`].
    #[must_use]
    pub fn subscribe(
        &self,
        topic: &Topic,
        filter: Option<&Arc<FilterHandle>>,
        with_marks: bool,
        reply: impl FnOnce(&Cursor) -> Bytes,
    ) -> Subscribed {
        self.add(topic, filter, with_marks, None, |cursor| Some(reply(cursor)))
    }

    /// Joins a topic for a session that has its reply already, and is sent its missed events first. Live
    /// events are buffered until [`Self::end_replay`]. `on_begin` gets the cursor at which the subscription
    /// begins.
    ///
    /// # Panics
    /// If the hub has no position yet; see [`Hub::has_position`].
    #[must_use]
    pub fn subscribe_for_replay(
        &self,
        topic: &Topic,
        filter: Option<&Arc<FilterHandle>>,
        with_marks: bool,
        on_begin: impl FnOnce(&Cursor),
    ) -> Subscribed {
        let buffer = ReplayBuffer::new(Arc::clone(&self.outbox), self.channel.frames.take(0));
        self.add(topic, filter, with_marks, Some(buffer), |cursor| {
            on_begin(cursor);
            None
        })
    }

    /// Sends the buffered events. From now on events are sent as they happen.
    pub fn end_replay(&self, subscribed: &Subscribed) {
        OrgChannel::end_replay(subscribed);
    }

    /// Closes the fullest sessions of the organisation if its frames leave no memory for what the session
    /// sends. Returns their number.
    #[must_use]
    pub fn relieve_full_memory(&self) -> usize {
        self.channel.relieve_full_memory()
    }

    /// The request for the first mark of a subscription, which is due when its missed events were sent. None
    /// if the subscription gets no marks.
    #[must_use]
    pub fn mark_request(&self, topic: &Topic, subscribed: &Subscribed) -> Option<MarkRequest> {
        subscribed.has_marks.then(|| MarkRequest::new(self.seal(), topic, subscribed))
    }

    fn add(
        &self,
        topic: &Topic,
        filter: Option<&Arc<FilterHandle>>,
        with_marks: bool,
        replay_buffer: Option<ReplayBuffer>,
        reply: impl FnOnce(&Cursor) -> Option<Bytes>,
    ) -> Subscribed {
        let check = if with_marks { self.channel.check_of(self.id) } else { None };
        let position = lock(&self.hub.position);
        let Some(cursor) = position.cursor.clone() else {
            unreachable!("sessions are accepted only after the tailer has chosen a position");
        };
        let subscription = Subscription {
            id: SubscriptionId(self.hub.next_id.fetch_add(1, Ordering::Relaxed)),
            after_batch: position.batch,
            outbox: Arc::clone(&self.outbox),
            replay_buffer,
            marks: check.map(|check| Box::new(MarkReader { check })),
        };
        // The position stays locked until the segment is locked, and the segment until the reply is sent.
        self.channel.subscribe(topic, filter, subscription, position, || {
            if let Some(reply) = reply(&cursor) {
                self.outbox.send(&reply);
            }
        })
    }

    /// Leaves a topic. After this returns, no event of the topic is sent.
    pub fn unsubscribe(&self, topic: &Topic, subscribed: &Subscribed) {
        self.channel.unsubscribe(topic, subscribed);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.channel.remove_session(self.id);
        self.hub.orgs.remove_if(&self.org, |_, channel| channel.session_count() == 0);
    }
}

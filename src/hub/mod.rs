//! The hub: who listens to what, partitioned by organisation, and the fan-out of events to them.
//!
//! It never awaits and knows neither tokens nor the database. It is fed by whatever reads the log,
//! through [`Hub::advance`] and a [`FanoutSender`], and it is the same to it where that reads from.
//!
//! ```text
//! OrgId -> OrgChannel -> Topic -> segments of up to 8 subscriptions -> Outbox
//! ```

mod fanout;
mod org;
mod outbox;
mod transport;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dashmap::DashMap;

pub use fanout::{Batch, FanoutLimits, FanoutSender, FanoutWorker, OrgEvents, fanout};
pub use org::{SEGMENT_SUBSCRIPTIONS_MAX, Subscribed};
pub use outbox::{CloseState, Outbox, OutboxLimits, SendOutcome};
pub use transport::Transport;

use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{CloseCode, Topic};
use org::{Member, OrgChannel, ReplayBuffer, Subscription, SubscriptionId};

/// What a session is asked that may have to end with others: whether it may stay. The hub knows no tokens.
pub trait SessionCheck: std::fmt::Debug + Send + Sync {
    /// The code with which it must end, if it must.
    fn close_reason(&self) -> Option<CloseCode>;
}

/// A session of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(u64);

/// Where this node stands in the log.
#[derive(Debug)]
struct Position {
    /// Counts batches. A subscription gets those after the one at which it was made.
    batch: u64,
    /// The cursor of one who has seen everything so far.
    cursor: Arc<str>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Hub {
    orgs: DashMap<OrgId, Arc<OrgChannel>>,
    /// Locked while a batch is announced and while a subscription is made, which is what puts each
    /// subscription exactly between two batches.
    position: Mutex<Position>,
    next_id: AtomicU64,
    limits: OutboxLimits,
}

impl Hub {
    /// A hub without sessions, at no position yet.
    #[must_use]
    pub fn new(limits: OutboxLimits) -> Self {
        Self {
            orgs: DashMap::new(),
            position: Mutex::new(Position { batch: 0, cursor: "".into() }),
            next_id: AtomicU64::new(1),
            limits,
        }
    }

    /// The limits of each outbox.
    #[must_use]
    pub fn outbox_limits(&self) -> OutboxLimits {
        self.limits
    }

    /// Adds a session to its organisation, for as long as the returned handle lives.
    #[must_use]
    pub fn register(
        self: &Arc<Self>,
        org: OrgId,
        outbox: Arc<Outbox>,
        standing: Arc<dyn SessionCheck>,
    ) -> Registration {
        let id = SessionId(self.next_id.fetch_add(1, Ordering::Relaxed));
        // The entry's guard keeps an empty channel from being removed before the session is in it.
        self.orgs.entry(org).or_default().add_session(id, Member { outbox: Arc::clone(&outbox), standing });
        Registration { hub: Arc::clone(self), org, id, outbox }
    }

    /// The reader has read: there is a batch to come (in the fan-out right after this), and `cursor`
    /// is where that leads. Returns the number of the batch.
    pub fn advance(&self, cursor: Arc<str>) -> u64 {
        let mut position = lock(&self.position);
        position.batch += 1;
        position.cursor = cursor;
        position.batch
    }

    /// The reader has read and found nothing new.
    pub fn refresh(&self, cursor: Arc<str>) {
        lock(&self.position).cursor = cursor;
    }

    /// The cursor of one who has seen everything that was announced.
    #[must_use]
    pub fn cursor(&self) -> Arc<str> {
        Arc::clone(&lock(&self.position).cursor)
    }

    /// Whether the reader has found its place. Before that a join would promise events from a point that
    /// is not chosen yet, and lose those before it.
    #[must_use]
    pub fn has_position(&self) -> bool {
        !lock(&self.position).cursor.is_empty()
    }

    /// Ends all sessions of an organisation.
    pub fn close_org(&self, org: OrgId, close: CloseCode) {
        if let Some(channel) = self.channel(org) {
            channel.for_each_session(|member| member.outbox.close(close));
        }
    }

    /// Asks every session whether it may stay, and ends those that may not. Returns how many these were. All
    /// are asked, rather than kept by everything they may fall for: this is rare, and each costs a look-up.
    pub fn close_invalid_sessions(&self) -> usize {
        let mut ended = 0;
        for org in self.org_ids() {
            let Some(channel) = self.channel(org) else { continue };
            channel.for_each_session(|member| {
                if let Some(close) = member.standing.close_reason() {
                    member.outbox.close(close);
                    ended += 1;
                }
            });
        }
        ended
    }

    /// The ways out of all sessions that are open now.
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

    /// How many sessions are open.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.orgs.iter().map(|channel| channel.session_count()).sum()
    }

    /// How many organisations have a session here.
    #[must_use]
    pub fn org_count(&self) -> usize {
        self.orgs.len()
    }

    /// The organisations that have a session here.
    #[must_use]
    pub fn org_ids(&self) -> Vec<OrgId> {
        self.orgs.iter().map(|entry| *entry.key()).collect()
    }

    /// Clones the handle out, so that no shard of the map stays locked.
    fn channel(&self, org: OrgId) -> Option<Arc<OrgChannel>> {
        self.orgs.get(&org).map(|channel| Arc::clone(&channel))
    }
}

/// A session's membership of its organisation; ends when dropped.
#[derive(Debug)]
pub struct Registration {
    hub: Arc<Hub>,
    org: OrgId,
    id: SessionId,
    outbox: Arc<Outbox>,
}

impl Registration {
    /// Joins a topic. `reply` makes the reply from the cursor at which the subscription begins: it
    /// goes out before any event of the topic.
    #[must_use]
    pub fn subscribe(&self, topic: &Topic, reply: impl FnOnce(&str) -> Bytes) -> Subscribed {
        self.add(topic, None, |cursor| Some(reply(cursor)))
    }

    /// The same for a session that has its reply and is to be told first what it missed: events are held until
    /// [`Self::release`]. `at` is told the cursor at which the subscription begins.
    #[must_use]
    pub fn subscribe_held(&self, topic: &Topic, at: impl FnOnce(&str)) -> Subscribed {
        self.add(topic, Some(ReplayBuffer::default()), |cursor| {
            at(cursor);
            None
        })
    }

    /// What was held goes out, and from now on everything at once.
    pub fn release(&self, subscribed: &Subscribed) {
        OrgChannel::release(subscribed);
    }

    fn add(
        &self,
        topic: &Topic,
        held: Option<ReplayBuffer>,
        reply: impl FnOnce(&str) -> Option<Bytes>,
    ) -> Subscribed {
        let Some(channel) = self.hub.channel(self.org) else {
            unreachable!("the channel lives as long as the session that is registered in it");
        };
        let position = lock(&self.hub.position);
        let cursor = Arc::clone(&position.cursor);
        let subscription = Subscription {
            id: SubscriptionId(self.hub.next_id.fetch_add(1, Ordering::Relaxed)),
            after_batch: position.batch,
            outbox: Arc::clone(&self.outbox),
            held,
        };
        // The position stays locked until the segment is, and the segment until the reply is out.
        channel.subscribe(topic, subscription, position, || {
            if let Some(reply) = reply(&cursor) {
                self.outbox.offer(&reply);
            }
        })
    }

    /// Leaves a topic. No event of it is offered once this returns.
    pub fn unsubscribe(&self, topic: &Topic, subscribed: &Subscribed) {
        if let Some(channel) = self.hub.channel(self.org) {
            channel.unsubscribe(topic, subscribed);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(channel) = self.hub.channel(self.org) {
            channel.remove_session(self.id);
        }
        self.hub.orgs.remove_if(&self.org, |_, channel| channel.session_count() == 0);
    }
}

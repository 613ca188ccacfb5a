//! What waits for its turn: the organisations that have work, each once, and what theirs is.
//!
//! Plain state under a lock. The feed adds to it at the back, the fan-out works at the front.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::share::Broadcast;
use super::{Batch, FanoutLimits, TURN_COST};
use crate::org::OrgId;
use crate::wire::{CloseCode, Event, RESYNC_EVENT};

/// Events that are encoded in one step; a page of the log has up to 5,000.
const STEP_EVENTS_MAX: usize = 256;

/// Why the topics of an organisation that fell too far behind resync.
const OVERLOAD_DATA: &str = r#"{"reason":"overload"}"#;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    work: HashMap<OrgId, OrgWork>,
    /// The organisations that have work, each once.
    order: VecDeque<OrgId>,
    /// Of the turn of the first of them.
    cost: usize,
    /// Of all organisations.
    waiting_bytes: usize,
    /// Nothing more will be added.
    pub(super) is_closed: bool,
}

/// What is to be done for one organisation, in this order.
#[derive(Debug, Default)]
struct OrgWork {
    sends: VecDeque<Arc<Broadcast>>,
    waiting: VecDeque<QueuedEvent>,
    /// Of the events in `waiting`.
    waiting_bytes: usize,
    /// Once everything before it is done.
    close: Option<CloseCode>,
}

/// An event whose turn has not come.
#[derive(Debug)]
pub(super) struct QueuedEvent {
    pub(super) batch: u64,
    pub(super) read_at: Instant,
    pub(super) event: Arc<Event>,
}

impl QueuedEvent {
    pub(super) fn new(batch: &Batch, event: &Arc<Event>) -> Self {
        Self { batch: batch.number, read_at: batch.read_at, event: Arc::clone(event) }
    }
}

/// The next step of an organisation.
pub(super) enum Task {
    /// A slice of this.
    Broadcast(Arc<Broadcast>),
    /// What waits is encoded, or there is nothing left.
    Encode,
}

impl FairQueue {
    /// Whether nothing is left to do.
    pub(super) fn is_idle(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether the organisation has something to do: what comes for it now must wait for that.
    pub(super) fn has_work(&self, org: OrgId) -> bool {
        self.work.contains_key(&org)
    }

    /// Adds a batch's events of one organisation. Returns how many organisations fell too far behind by it.
    pub(super) fn add(
        &mut self,
        org: OrgId,
        batch: &Batch,
        events: &[Arc<Event>],
        limits: FanoutLimits,
    ) -> u64 {
        let work = self.work.entry(org).or_insert_with(|| {
            self.order.push_back(org);
            OrgWork::default()
        });
        let bytes: usize = events.iter().map(|event| event.memory_bytes()).sum();
        work.waiting.extend(events.iter().map(|event| QueuedEvent::new(batch, event)));
        work.waiting_bytes += bytes;
        self.waiting_bytes += bytes;
        let mut overloads = 0;
        if work.waiting_bytes > limits.org_bytes_max {
            self.overload(org, batch);
            overloads += 1;
        }
        while self.waiting_bytes > limits.bytes_max {
            let most = self.work.iter().max_by_key(|(_, work)| work.waiting_bytes).map(|(org, _)| *org);
            let Some(org) = most else { break };
            self.overload(org, batch);
            overloads += 1;
        }
        overloads
    }

    /// Ends the sessions of an organisation once everything that it has to do is done.
    pub(super) fn close_after(&mut self, org: OrgId, close: CloseCode) {
        if let Some(work) = self.work.get_mut(&org) {
            work.close = Some(close);
        }
    }

    /// The organisation can't be served as fast as it makes events. What waits is dropped, and its
    /// subscribers are told: they read their state anew, and go on after this batch.
    fn overload(&mut self, org: OrgId, batch: &Batch) {
        let Some(work) = self.work.get_mut(&org) else { return };
        self.waiting_bytes -= work.waiting_bytes;
        work.waiting_bytes = 0;
        work.waiting.clear();
        let resync = Event::control(RESYNC_EVENT, OVERLOAD_DATA, Arc::clone(&batch.cursor));
        work.waiting.push_back(QueuedEvent::new(batch, &Arc::new(resync)));
    }

    /// Whose turn it is, and what is to be done. It stays the first until [`Self::end_step`].
    pub(super) fn next(&self) -> Option<(OrgId, Task)> {
        let org = *self.order.front()?;
        let task = match self.work[&org].sends.front() {
            Some(send) => Task::Broadcast(Arc::clone(send)),
            None => Task::Encode,
        };
        Some((org, task))
    }

    /// The first send of the organisation whose turn it is has gone out. Returns the one after it.
    pub(super) fn next_send(&mut self) -> Option<Arc<Broadcast>> {
        let work = self.work.get_mut(self.order.front()?)?;
        work.sends.pop_front();
        work.sends.front().cloned()
    }

    /// Takes some of what waits, to be encoded.
    pub(super) fn take_waiting(&mut self, org: OrgId) -> Vec<QueuedEvent> {
        let Some(work) = self.work.get_mut(&org) else { return Vec::new() };
        let count = work.waiting.len().min(STEP_EVENTS_MAX);
        let taken: Vec<QueuedEvent> = work.waiting.drain(..count).collect();
        // A resync of an overload was added without being counted.
        let bytes: usize = taken.iter().map(|waiting| waiting.event.memory_bytes()).sum();
        let bytes = bytes.min(work.waiting_bytes);
        work.waiting_bytes -= bytes;
        self.waiting_bytes -= bytes;
        taken
    }

    pub(super) fn add_sends(&mut self, org: OrgId, sends: Vec<Arc<Broadcast>>) {
        if let Some(work) = self.work.get_mut(&org) {
            work.sends.extend(sends);
        }
    }

    /// The turn has cost so much more.
    pub(super) fn spend(&mut self, cost: usize) {
        self.cost += cost;
    }

    /// A step of the first organisation is done: it goes on, or the next has its turn. Returns the code with which
    /// its sessions are to be ended now.
    pub(super) fn end_step(&mut self, org: OrgId) -> Option<CloseCode> {
        let work = &self.work[&org];
        if !work.sends.is_empty() || !work.waiting.is_empty() {
            if self.cost >= TURN_COST {
                self.order.rotate_left(1);
                self.cost = 0;
            }
            return None;
        }
        self.order.pop_front();
        self.cost = 0;
        self.work.remove(&org)?.close
    }

    /// The send that an organisation is at.
    #[cfg(test)]
    pub(super) fn current(&self, org: OrgId) -> Arc<Broadcast> {
        Arc::clone(&self.work[&org].sends[0])
    }
}

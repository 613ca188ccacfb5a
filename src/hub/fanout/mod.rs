//! Fan-out: from batches of events to the outboxes, in slices, round-robin over organisations.
//!
//! A slice is one segment, and a turn so much work, so a large organisation holds nobody up for longer than that, and
//! what a small one has is done in one turn. What waits for
//! an organisation's turn goes out together, of whichever batches it is: one buffer, one write per socket.
//! So an organisation gets cheaper the further it is behind; where even that is not enough, its own topics
//! resync, and nobody else's.

mod chunk;
mod share;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use chunk::Chunks;
pub use share::Helpers;
use share::Send;

use super::Hub;
use crate::org::OrgId;
use crate::wire::{CloseCode, Event, RESYNC_EVENT, Topic};

/// Events that are encoded in one step; a page of the log has up to 5,000.
const STEP_EVENTS_MAX: usize = 256;

/// What one turn of an organisation may cost, in small writes, before the next has its turn. Slices are not divided, so
/// it may be one slice more.
const TURN_COST: usize = 64;

/// A write of so many bytes costs about twice as much as a small one.
const COST_BYTES: usize = 1024;

/// Why the topics of an organisation that fell too far behind resync.
const OVERLOAD_DATA: &str = r#"{"reason":"overload"}"#;

/// How much may wait for its turn.
#[derive(Clone, Copy, Debug)]
pub struct FanoutLimits {
    /// Bytes of one organisation's events. Beyond it they are dropped, and its topics resync.
    pub org_bytes_max: usize,
    /// Bytes of all organisations' events. Beyond it the organisation with the most resyncs.
    pub bytes_max: usize,
}

/// What one read of the log brought.
#[derive(Debug)]
pub struct Batch {
    /// From [`Hub::advance`].
    pub number: u64,
    /// The cursor of one who has seen it all.
    pub cursor: Arc<str>,
    /// When it was read: what it takes until a socket has it is counted from here.
    pub read_at: Instant,
    /// Each organisation's events, in the order of their ids.
    pub orgs: Vec<OrgEvents>,
}

/// One organisation's part of a batch.
#[derive(Debug)]
pub struct OrgEvents {
    /// Whose; none: everybody's.
    pub org: Option<OrgId>,
    /// In the order of their ids.
    pub events: Vec<Arc<Event>>,
    /// The organisation was deleted: its sessions end once they have these events.
    pub is_gone: bool,
}

/// One slice that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// When the first of its events was read.
    pub read_at: Instant,
    /// Subscribers of the topic, at most: as many as its segments have room for.
    pub subscribers_max: usize,
}

/// Counts of what was done since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FanoutCounts {
    /// Frames that went to a socket, or to its queue.
    pub deliveries: u64,
    /// Writes that the kernel took whole at once.
    pub direct_writes: u64,
    /// Buffers that had to be queued.
    pub queued_writes: u64,
    /// Times that an organisation fell too far behind and was told to resync.
    pub overloads: u64,
}

/// The fan-out of one hub: a plain state machine, driven by [`Fanout::push`] and [`Fanout::step`].
#[derive(Debug)]
pub struct Fanout {
    hub: Arc<Hub>,
    limits: FanoutLimits,
    helpers: Arc<Helpers>,
    work: HashMap<OrgId, OrgWork>,
    /// The organisations that have work, each once.
    turns: VecDeque<OrgId>,
    /// Of the turn of the first of them.
    turn_cost: usize,
    /// Of all organisations.
    waiting_bytes: usize,
    counts: FanoutCounts,
}

/// What is to be done for one organisation, in this order.
#[derive(Debug, Default)]
struct OrgWork {
    sends: VecDeque<Arc<Send>>,
    waiting: VecDeque<Waiting>,
    /// Of the events in `waiting`.
    waiting_bytes: usize,
    /// Once everything before it is done.
    close: Option<CloseCode>,
}

/// An event whose turn has not come.
#[derive(Debug)]
struct Waiting {
    batch: u64,
    read_at: Instant,
    event: Arc<Event>,
}

impl Fanout {
    /// Nothing to do yet.
    #[must_use]
    pub fn new(hub: Arc<Hub>, limits: FanoutLimits) -> Self {
        let helpers = Arc::new(Helpers::new(hub.limits));
        Self {
            hub,
            limits,
            helpers,
            work: HashMap::new(),
            turns: VecDeque::new(),
            turn_cost: 0,
            waiting_bytes: 0,
            counts: FanoutCounts::default(),
        }
    }

    /// Takes a batch. Organisations without a session here cost one look-up.
    pub fn push(&mut self, batch: &Batch) {
        for OrgEvents { org, events, is_gone } in &batch.orgs {
            match org {
                Some(org) if self.hub.orgs.contains_key(org) => {
                    self.add(*org, batch, events);
                    if *is_gone && let Some(work) = self.work.get_mut(org) {
                        work.close = Some(CloseCode::ORG_GONE);
                    }
                }
                Some(_) => {}
                None => {
                    for org in self.hub.org_ids() {
                        self.add(org, batch, events);
                    }
                }
            }
        }
        while self.waiting_bytes > self.limits.bytes_max {
            let most = self.work.iter().max_by_key(|(_, work)| work.waiting_bytes).map(|(org, _)| *org);
            let Some(org) = most else { return };
            self.overload(org, batch);
        }
    }

    /// For the threads that help with large sends.
    #[must_use]
    pub fn helpers(&self) -> Arc<Helpers> {
        Arc::clone(&self.helpers)
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.turns.is_empty()
    }

    /// Does one slice of the work of the organisation whose turn it is. Tells what was sent, if something was.
    pub fn step(&mut self) -> Option<Slice> {
        let org = self.turns.pop_front()?;
        let mut work = self.work.remove(&org)?;
        let mut sent = None;
        if let Some(send) = work.sends.front() {
            match send.step(self.hub.limits, &mut self.counts) {
                Some(stepped) => {
                    self.turn_cost += stepped.subscribers * (1 + send.bytes() / COST_BYTES);
                    sent = stepped.slice;
                }
                None if send.is_done() => {
                    work.sends.pop_front();
                    if let Some(next) = work.sends.front().filter(|next| next.is_large()) {
                        self.helpers.offer(next);
                    }
                }
                // A helper is at the last slices. Others may have their turn; where there are none, it is a moment.
                None => {
                    self.turn_cost = TURN_COST;
                    std::thread::yield_now();
                }
            }
        } else if !work.waiting.is_empty() {
            self.expand(org, &mut work);
        }
        let is_done = work.sends.is_empty() && work.waiting.is_empty();
        match work.close {
            Some(close) if is_done => self.hub.close_org(org, close),
            _ if is_done => {}
            _ => {
                self.work.insert(org, work);
                if self.turn_cost < TURN_COST {
                    self.turns.push_front(org);
                    return sent;
                }
                self.turns.push_back(org);
            }
        }
        self.turn_cost = 0;
        sent
    }

    /// What was done since the last call.
    pub fn take_counts(&mut self) -> FanoutCounts {
        std::mem::take(&mut self.counts)
    }

    fn add(&mut self, org: OrgId, batch: &Batch, events: &[Arc<Event>]) {
        let work = self.work.entry(org).or_insert_with(|| {
            self.turns.push_back(org);
            OrgWork::default()
        });
        let bytes: usize = events.iter().map(|event| event.memory_bytes()).sum();
        work.waiting.extend(events.iter().map(|event| Waiting {
            batch: batch.number,
            read_at: batch.read_at,
            event: Arc::clone(event),
        }));
        work.waiting_bytes += bytes;
        self.waiting_bytes += bytes;
        if work.waiting_bytes > self.limits.org_bytes_max {
            self.overload(org, batch);
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
        work.waiting.push_back(Waiting {
            batch: batch.number,
            read_at: batch.read_at,
            event: Arc::new(resync),
        });
        self.counts.overloads += 1;
    }

    /// Encodes the next events for the topics that somebody here joined.
    fn expand(&mut self, org: OrgId, work: &mut OrgWork) {
        let count = work.waiting.len().min(STEP_EVENTS_MAX);
        let channel = self.hub.channel(org);
        let mut chunks = Chunks::default();
        for Waiting { batch, read_at, event } in work.waiting.drain(..count) {
            // A resync of an overload was added without being counted.
            let bytes = event.memory_bytes().min(work.waiting_bytes);
            work.waiting_bytes -= bytes;
            self.waiting_bytes -= bytes;
            let Some(channel) = &channel else { continue };
            let mut topics: Vec<Topic> = event.topics().collect();
            if event.is_control() {
                topics = channel.topics_of_resync(&event.topic);
            }
            topics.retain(|topic| channel.has_topic(topic));
            chunks.append(&event, batch, read_at, topics);
        }
        let Some(channel) = channel else { return };
        work.sends.extend(chunks.finish().map(|chunk| {
            let segments = channel.segments(chunk.topic());
            Arc::new(Send::new(chunk, segments))
        }));
        if let Some(first) = work.sends.front().filter(|first| first.is_large()) {
            self.helpers.offer(first);
        }
    }
}

//! Fan-out: from batches of events to the outboxes, in slices, round-robin over organisations.
//!
//! A slice is one segment, so a large organisation holds nobody up for longer than that. What waits for
//! an organisation's turn goes out together, of whichever batches it is: one buffer, one write per socket.
//! So an organisation gets cheaper the further it is behind; where even that is not enough, its own topics
//! resync, and nobody else's.

mod chunk;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use chunk::{Chunk, Chunks};

use super::org::{SEGMENT_SUBSCRIPTIONS_MAX, Segment};
use super::{Hub, Offer};
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{CloseCode, Event, RESYNC_EVENT, Topic};

/// Events that are encoded in one step; a page of the log has up to 5,000.
const STEP_EVENTS_MAX: usize = 256;

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
    work: HashMap<OrgId, OrgWork>,
    /// The organisations that have work, each once.
    turns: VecDeque<OrgId>,
    /// Of all organisations.
    waiting_bytes: usize,
    counts: FanoutCounts,
}

/// What is to be done for one organisation, in this order.
#[derive(Debug, Default)]
struct OrgWork {
    sends: VecDeque<Send>,
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

/// Frames on their way to the segments of a topic.
#[derive(Debug)]
struct Send {
    chunk: Chunk,
    segments: Vec<Arc<Segment>>,
    subscribers_max: usize,
}

impl Fanout {
    /// Nothing to do yet.
    #[must_use]
    pub fn new(hub: Arc<Hub>, limits: FanoutLimits) -> Self {
        Self {
            hub,
            limits,
            work: HashMap::new(),
            turns: VecDeque::new(),
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

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.turns.is_empty()
    }

    /// Does one slice of one organisation's work; the next call serves the next organisation. Tells what
    /// was sent, if something was.
    pub fn step(&mut self) -> Option<Slice> {
        let org = self.turns.pop_front()?;
        let mut work = self.work.remove(&org)?;
        let mut sent = None;
        if let Some(send) = work.sends.front_mut() {
            if let Some(segment) = send.segments.pop() {
                let segment_sent = self.send(&send.chunk, &segment);
                sent = segment_sent.then_some(Slice {
                    read_at: send.chunk.read_at(),
                    subscribers_max: send.subscribers_max,
                });
            }
            if send.segments.is_empty() {
                work.sends.pop_front();
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
                self.turns.push_back(org);
            }
        }
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
            let subscribers_max = segments.len() * SEGMENT_SUBSCRIPTIONS_MAX;
            Send { chunk, segments, subscribers_max }
        }));
    }

    /// One slice: the same bytes to every subscription of a segment. False where nobody was left to get any.
    fn send(&mut self, chunk: &Chunk, segment: &Segment) -> bool {
        let mut any = false;
        for subscription in lock(segment).iter_mut() {
            let Some((frames, frame_count)) = chunk.after(subscription.after_batch) else { continue };
            any = true;
            if let Some(held) = &mut subscription.held {
                if !held.push(&frames, self.hub.limits) {
                    subscription.outbox.close(CloseCode::SLOW);
                }
                continue;
            }
            match subscription.outbox.offer(&frames) {
                Offer::Written => self.counts.direct_writes += 1,
                Offer::Queued => self.counts.queued_writes += 1,
                Offer::Sealed => continue,
            }
            self.counts.deliveries += frame_count;
        }
        any
    }
}

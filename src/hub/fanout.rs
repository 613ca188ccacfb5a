//! Fan-out: from a batch of events to the outboxes, in slices, round-robin over organisations.
//!
//! Events of a topic are encoded once, and its bytes are shared by all subscribers. What is ready
//! together for one topic goes out together: one buffer, one write per socket. A slice is one
//! segment, so a large organisation holds nobody up for longer than that.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::org::Segment;
use super::{Hub, Offer};
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{CloseCode, Event, Topic, append_event_frame};

/// A buffer of frames that go out together is closed once it has so many bytes: larger ones would
/// gain nothing and fill a slow client's queue in fewer, coarser steps.
const CHUNK_BYTES: usize = 64 * 1024;

/// Events that are encoded in one step; a page of the log has up to 5,000.
const STEP_EVENTS_MAX: usize = 256;

/// What one read of the log brought.
#[derive(Debug)]
pub struct Batch {
    /// From [`Hub::advance`].
    pub number: u64,
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

/// Counts of what was done since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FanoutCounts {
    /// Frames that went to a socket, or to its queue.
    pub deliveries: u64,
    /// Writes that the kernel took whole at once.
    pub direct_writes: u64,
    /// Buffers that had to be queued.
    pub queued_writes: u64,
}

/// The fan-out of one hub: a plain state machine, driven by [`Fanout::push`] and [`Fanout::step`].
#[derive(Debug)]
pub struct Fanout {
    hub: Arc<Hub>,
    work: HashMap<OrgId, VecDeque<Job>>,
    turns: VecDeque<OrgId>,
    /// Bytes of events and frames that wait for their turn.
    backlog_bytes: usize,
    counts: FanoutCounts,
}

#[derive(Debug)]
enum Job {
    Events { batch: u64, events: Vec<Arc<Event>> },
    Send { batch: u64, frames: Bytes, frame_count: u64, segments: Vec<Arc<Segment>> },
    Close(CloseCode),
}

impl Fanout {
    /// Nothing to do yet.
    #[must_use]
    pub fn new(hub: Arc<Hub>) -> Self {
        Self {
            hub,
            work: HashMap::new(),
            turns: VecDeque::new(),
            backlog_bytes: 0,
            counts: FanoutCounts::default(),
        }
    }

    /// Takes a batch. Organisations without a session here cost one look-up.
    pub fn push(&mut self, batch: Batch) {
        for OrgEvents { org, events, is_gone } in batch.orgs {
            match org {
                Some(org) if self.hub.orgs.contains_key(&org) => {
                    self.push_job(org, Job::Events { batch: batch.number, events });
                    if is_gone {
                        self.push_job(org, Job::Close(CloseCode::ORG_GONE));
                    }
                }
                Some(_) => {}
                None => {
                    for org in self.hub.org_ids() {
                        let events = events.clone();
                        self.push_job(org, Job::Events { batch: batch.number, events });
                    }
                }
            }
        }
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.turns.is_empty()
    }

    /// Does one slice of one organisation's work; the next call serves the next organisation.
    pub fn step(&mut self) {
        let Some(org) = self.turns.pop_front() else { return };
        let Some(mut jobs) = self.work.remove(&org) else { return };
        let job = jobs.pop_front();
        self.backlog_bytes -= job.as_ref().map_or(0, Job::bytes);
        let jobs_before = jobs.len();
        match job {
            Some(Job::Events { batch, mut events }) => {
                if events.len() > STEP_EVENTS_MAX {
                    let rest = events.split_off(STEP_EVENTS_MAX);
                    jobs.push_front(Job::Events { batch, events: rest });
                }
                self.expand(org, batch, &events, &mut jobs);
            }
            Some(Job::Send { batch, frames, frame_count, mut segments }) => {
                if let Some(segment) = segments.pop() {
                    self.send(batch, &frames, frame_count, &segment);
                }
                if !segments.is_empty() {
                    jobs.push_front(Job::Send { batch, frames, frame_count, segments });
                }
            }
            Some(Job::Close(close)) => self.hub.close_org(org, close),
            None => {}
        }
        let added = jobs.len().saturating_sub(jobs_before);
        self.backlog_bytes += jobs.iter().take(added).map(Job::bytes).sum::<usize>();
        if !jobs.is_empty() {
            self.work.insert(org, jobs);
            self.turns.push_back(org);
        }
    }

    /// What was done since the last call.
    pub fn take_counts(&mut self) -> FanoutCounts {
        std::mem::take(&mut self.counts)
    }

    /// Bytes that wait; whoever feeds the fan-out stops when it is too much. (What an event takes is counted
    /// for each organisation that gets it.)
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    fn push_job(&mut self, org: OrgId, job: Job) {
        self.backlog_bytes += job.bytes();
        let jobs = self.work.entry(org).or_default();
        if jobs.is_empty() {
            self.turns.push_back(org);
        }
        jobs.push_back(job);
    }

    /// Encodes events for the topics that somebody here joined.
    fn expand(&self, org: OrgId, batch: u64, events: &[Arc<Event>], jobs: &mut VecDeque<Job>) {
        let Some(channel) = self.hub.channel(org) else { return };
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut open: HashMap<Topic, usize> = HashMap::new();
        for event in events {
            let mut topics: Vec<Topic> = event.topics().collect();
            if event.is_control() {
                topics = channel.topics_of_resync(&event.topic);
            }
            topics.retain(|topic| channel.has_topic(topic));
            if topics.is_empty() {
                continue;
            }
            let payload = event.payload();
            for topic in topics {
                let at = match open.get(&topic) {
                    Some(at) if chunks[*at].frames.len() < CHUNK_BYTES => *at,
                    _ => {
                        chunks.push(Chunk { topic: topic.clone(), frames: BytesMut::new(), frame_count: 0 });
                        open.insert(topic.clone(), chunks.len() - 1);
                        chunks.len() - 1
                    }
                };
                append_event_frame(&mut chunks[at].frames, &topic, event, &payload);
                chunks[at].frame_count += 1;
            }
        }
        for chunk in chunks.into_iter().rev() {
            jobs.push_front(Job::Send {
                batch,
                frames: chunk.frames.freeze(),
                frame_count: chunk.frame_count,
                segments: channel.segments(&chunk.topic),
            });
        }
    }

    /// One slice: the same bytes to every subscription of a segment.
    fn send(&mut self, batch: u64, frames: &Bytes, frame_count: u64, segment: &Segment) {
        for subscription in lock(segment).iter_mut().filter(|s| s.after_batch < batch) {
            if let Some(held) = &mut subscription.held {
                if !held.push(frames, self.hub.limits) {
                    subscription.outbox.close(CloseCode::SLOW);
                }
                continue;
            }
            match subscription.outbox.offer(frames) {
                Offer::Written => self.counts.direct_writes += 1,
                Offer::Queued => self.counts.queued_writes += 1,
                Offer::Sealed => continue,
            }
            self.counts.deliveries += frame_count;
        }
    }
}

impl Job {
    fn bytes(&self) -> usize {
        match self {
            Self::Events { events, .. } => events.iter().map(|event| event.memory_bytes()).sum(),
            Self::Send { frames, .. } => frames.len(),
            Self::Close(_) => 0,
        }
    }
}

struct Chunk {
    topic: Topic,
    frames: BytesMut,
    frame_count: u64,
}

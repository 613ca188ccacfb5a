//! Encodes queued events: each once per topic, and once per filter to which it means something.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::broadcast::{Broadcast, Content};
use super::chunk::{Chunks, is_shared};
use super::fair_queue::{ENCODE_EVENTS_MAX, QueuedEvent};
use super::marks::{BatchEnd, marks_at};
use crate::cursor::TransactionSealer;
use crate::filter::{Selection, Verdict};
use crate::hub::filtered::{Candidates, ChannelId, FilterChannel, Selected, filter_resync, payload};
use crate::hub::memory::OrgFrames;
use crate::hub::org::OrgChannel;
use crate::metrics::{FilterOutcomeLabels, Metrics};
use crate::wire::{Event, Topic, append_event_frame};

/// Evaluations of conditions in one step of encoding, so that a step takes about a millisecond at most. One
/// event is always encoded.
pub(crate) const EVALUATIONS_MAX: usize = 8192;

/// Bytes of the frames of one step of encoding. An organisation whose share has less room gets that much. One
/// event is always encoded.
pub(crate) const STEP_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Bytes of the frames of one event for channels with a filter that select different columns, or fewer as
/// above. Further channels get a resync.
pub(crate) const EVENT_FRAMES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Evaluations of conditions that cost as much as one small write. An estimate.
pub(super) const EVALUATIONS_PER_WRITE: usize = 32;

/// Encoded bytes that cost as much as one small write. An estimate.
pub(super) const ENCODED_BYTES_PER_WRITE: usize = 4 * 1024;

/// How much is encoded in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// One event at least, and more within the limits of a step. The rest is encoded in further steps.
    Worker,
    /// Events whose cost was estimated. It ends at an event whose row lacks a column of filters, because then
    /// more filters may get it.
    Inline,
}

/// Encoded events.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) broadcasts: Vec<Arc<Broadcast>>,
    /// Number of the events that were encoded. Marks follow them if all were.
    pub(super) events: usize,
    /// Bytes of the frames. A frame that channels share counts once.
    pub(super) bytes: usize,
    /// Conditions that were evaluated.
    pub(super) evaluations: usize,
}

impl Encoded {
    /// Cost of evaluating filters and of encoding, in small writes.
    pub(super) fn cost(&self) -> usize {
        evaluation_cost(self.evaluations) + self.bytes / ENCODED_BYTES_PER_WRITE
    }
}

/// Events of an organisation that are taken for one step. More would not fit into it.
pub(super) fn events_max(channel: &OrgChannel) -> usize {
    (EVALUATIONS_MAX / channel.filters.evaluations_max().max(1)).clamp(1, ENCODE_EVENTS_MAX)
}

/// Cost of evaluating this many conditions, in small writes.
pub(super) fn evaluation_cost(evaluations: usize) -> usize {
    evaluations / EVALUATIONS_PER_WRITE
}

/// Encodes events for the channels of an organisation that are joined here, as many as fit into a step. If
/// they end a batch, marks follow.
pub(super) fn encode(
    channel: &OrgChannel,
    queued: &[QueuedEvent],
    end: Option<&BatchEnd>,
    step: Step,
    metrics: &Metrics,
) -> Encoded {
    let mut filtered = (channel.filters.count() > 0).then(|| Filtered::new(step));
    let mut chunks = Chunks::default();
    let mut transactions = TransactionSealer::new(channel.seal());
    let mut events = 0;
    let room = channel.frames.room();
    for QueuedEvent { batch, read_at, points, cursor_id, event } in queued {
        if events > 0 && chunks.bytes() >= STEP_BYTES_MAX.min(room) {
            break;
        }
        let selected = match &mut filtered {
            None => Vec::new(),
            Some(filtered) => match filtered.select(channel, event, *batch) {
                Some(selected) => selected,
                None => break,
            },
        };
        events += 1;
        let topics = joined_topics(channel, event);
        if topics.is_empty() && selected.is_empty() {
            continue;
        }
        let cursor = channel.seal().seal_at(points, *cursor_id);
        let tx = transactions.seal(points, event.xid);
        if !topics.is_empty() {
            let payload = event.payload(&cursor, tx);
            for topic in topics {
                chunks.append(topic, event, &payload, *batch, *read_at);
            }
        }
        let bytes_max = EVENT_FRAMES_BYTES_MAX.min(room.saturating_sub(chunks.bytes()));
        let mut frames = FilterFrames::new(event, &cursor, tx, bytes_max, &channel.frames);
        for (channel, verdict) in &selected {
            let frame = frames.get(channel, *verdict);
            chunks.append_frame(channel, &frame, *batch, *read_at);
        }
        chunks.count_shared(frames.shared_bytes);
    }
    let bytes = chunks.bytes();
    let evaluations = filtered.map_or(0, |filtered| {
        filtered.count(metrics);
        filtered.evaluations
    });
    let broadcasts = chunks.finish(&channel.frames).map(|chunk| {
        let segments = chunk.recipients().segments(channel);
        Arc::new(Broadcast::new(Content::Chunk(chunk), segments))
    });
    let mut broadcasts: Vec<_> = broadcasts.collect();
    if let Some(end) = end.filter(|_| events == queued.len()) {
        let marks = marks_at(channel, end).into_iter();
        broadcasts
            .extend(marks.map(|(mark, segments)| Arc::new(Broadcast::new(Content::Mark(mark), segments))));
    }
    Encoded { broadcasts, events, bytes, evaluations }
}

/// The topics of an event that have a subscriber without a filter. Records those that are marked next.
fn joined_topics(channel: &OrgChannel, event: &Event) -> Vec<Topic> {
    let mut topics: Vec<Topic> = event.topics().collect();
    if event.is_control() {
        topics = channel.control_event_topics(&event.topic);
    }
    if channel.marked() > 0 {
        let is_kept = |topic: &&Topic| {
            matches!(topic, Topic::Named(_)) || channel.has_topic(topic) || channel.filters.has_topic(topic)
        };
        channel.add_unmarked(topics.iter().filter(is_kept).cloned(), event);
    }
    topics.retain(|topic| channel.has_topic(topic));
    topics
}

/// Results of filters in one step of encoding.
#[derive(Debug)]
struct Filtered {
    step: Step,
    /// Channels that get a resync in this step, with the batch of its event. One for each batch is enough,
    /// because the client reads the rows after it, and by then all events of the batch are committed. A
    /// client that joins between two batches gets the resync of the second one alone.
    resynced: HashSet<(u64, ChannelId)>,
    /// Cost so far, in evaluations of one condition.
    evaluations: usize,
    outcomes: [u64; OUTCOMES.len()],
}

/// Outcomes in metrics.
const OUTCOMES: [&str; 5] = ["selected", "entered", "left", "unknown", "none"];

impl Filtered {
    fn new(step: Step) -> Self {
        Self { step, resynced: HashSet::new(), evaluations: 0, outcomes: [0; OUTCOMES.len()] }
    }

    /// The channels that get something of an event. None if the step ends before it.
    fn select(
        &mut self,
        org: &OrgChannel,
        event: &Event,
        batch: u64,
    ) -> Option<Vec<(Arc<FilterChannel>, Option<Verdict>)>> {
        let candidates = org.filters.candidates(event);
        if !self.has_room_for(org, event, &candidates) {
            return None;
        }
        let Selected { mut channels, others, evaluations } = candidates.select();
        self.evaluations += evaluations;
        let [selected, entered, left, unknown, none] = &mut self.outcomes;
        *none += others;
        for (_, verdict) in &channels {
            match verdict {
                Some(Verdict::Selected) => *selected += 1,
                Some(Verdict::Entered) => *entered += 1,
                Some(Verdict::Left) => *left += 1,
                Some(Verdict::Unknown) => *unknown += 1,
                None => {}
            }
        }
        channels.retain(|(channel, verdict)| {
            *verdict != Some(Verdict::Unknown) || self.resynced.insert((batch, channel.id))
        });
        Some(channels)
    }

    fn has_room_for(&self, org: &OrgChannel, event: &Event, candidates: &Candidates<'_>) -> bool {
        match self.step {
            Step::Worker => {
                self.evaluations == 0 || self.evaluations + candidates.evaluations <= EVALUATIONS_MAX
            }
            Step::Inline => {
                let (_, estimated) = org.filters.cost_of(event);
                candidates.evaluations <= estimated && !candidates.is_malformed()
            }
        }
    }

    fn count(&self, metrics: &Metrics) {
        for (outcome, count) in OUTCOMES.into_iter().zip(self.outcomes) {
            if count > 0 {
                metrics.filter_evaluations.get_or_create(&FilterOutcomeLabels { outcome }).inc_by(count);
            }
        }
    }
}

/// Frames of one event for channels with a filter. Those that differ in their filter alone share one.
struct FilterFrames<'e> {
    event: &'e Event,
    cursor: &'e str,
    tx: &'e str,
    known: HashMap<FrameKey<'e>, Bytes>,
    /// Bytes of all frames. Each channel has a copy of a small one.
    bytes: usize,
    /// Bytes of those that channels share.
    shared_bytes: usize,
    /// Bytes beyond which channels get a resync.
    bytes_max: usize,
    memory: &'e Arc<OrgFrames>,
}

/// Channels with the same topic, verdict and selected columns have the same frame.
type FrameKey<'e> = (&'e Topic, Option<Verdict>, Option<ContentKey<'e>>);

/// The selected columns, and whether the filter is signed, with the key of its table.
type ContentKey<'e> = (Option<&'e Selection>, Option<&'e Selection>);

impl<'e> FilterFrames<'e> {
    fn new(
        event: &'e Event,
        cursor: &'e str,
        tx: &'e str,
        bytes_max: usize,
        memory: &'e Arc<OrgFrames>,
    ) -> Self {
        Self { event, cursor, tx, known: HashMap::new(), bytes: 0, shared_bytes: 0, bytes_max, memory }
    }

    fn get(&mut self, channel: &'e FilterChannel, verdict: Option<Verdict>) -> Bytes {
        // A control event has the same payload for all, and so has a resync.
        let is_whole = verdict.is_none_or(|verdict| verdict == Verdict::Unknown);
        let filter = channel.filter_of(&self.event.topic).filter(|_| !is_whole);
        let content =
            filter.map(|filter| (filter.select.as_ref(), filter.is_signed.then_some(&filter.table.key)));
        let key = (&channel.topic, verdict, content);
        if let Some(known) = self.known.get(&key) {
            if !is_whole && !is_shared(known) && self.bytes > self.bytes_max {
                return self.get(channel, Some(Verdict::Unknown));
            }
            self.bytes += if is_shared(known) { 0 } else { known.len() };
            return known.clone();
        }
        if !is_whole && self.bytes > self.bytes_max {
            return self.get(channel, Some(Verdict::Unknown));
        }
        let (event, cursor, tx) = (self.event, self.cursor, self.tx);
        let mut frame = BytesMut::new();
        match (verdict, filter) {
            (None, _) => append_event_frame(&mut frame, &channel.topic, event, &event.payload(cursor, tx)),
            (Some(Verdict::Unknown), _) | (Some(_), None) => {
                let resync = filter_resync(event);
                append_event_frame(&mut frame, &channel.topic, &resync, &resync.payload(cursor, tx));
            }
            (Some(verdict), Some(filter)) => {
                let payload = payload(filter, verdict, event, cursor, tx);
                append_event_frame(&mut frame, &channel.topic, event, &payload);
            }
        }
        let capacity = frame.capacity();
        let mut frame = frame.freeze();
        self.bytes += frame.len();
        if is_shared(&frame) {
            self.shared_bytes += frame.len();
            frame = self.memory.count(frame, capacity);
        }
        self.known.insert(key, frame.clone());
        frame
    }
}

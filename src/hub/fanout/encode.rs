//! Encodes queued events: each once per topic, and once per filter to which it means something.

use std::collections::HashSet;
use std::sync::Arc;

use super::broadcast::{Broadcast, Content};
use super::chunk::{Chunks, Recipients};
use super::fair_queue::{ENCODE_EVENTS_MAX, QueuedEvent};
use super::marks::{BatchEnd, marks_at};
use crate::cursor::TransactionSealer;
use crate::filter::Verdict;
use crate::hub::filtered::{ChannelId, FilterChannel, filter_resync, payload};
use crate::hub::org::OrgChannel;
use crate::metrics::{FilterOutcomeLabels, Metrics};
use crate::wire::{Event, Topic};

/// Evaluations of filters in one step of encoding, so that a step takes about a millisecond at most. One
/// event is always encoded.
pub(crate) const EVALUATIONS_MAX: usize = 8192;

/// Evaluations of filters that cost as much as one small write. An estimate.
const EVALUATIONS_PER_WRITE: usize = 32;

/// Events of an organisation that are encoded in one step.
pub(super) fn events_max(channel: &OrgChannel) -> usize {
    let evaluations = channel.filters.evaluations_max().max(1);
    (EVALUATIONS_MAX / evaluations).clamp(1, ENCODE_EVENTS_MAX)
}

/// Cost of evaluating this many filters for each of these events, in small writes.
pub(super) fn evaluation_cost(evaluations: usize, events: usize) -> usize {
    evaluations * events / EVALUATIONS_PER_WRITE
}

/// Encodes events for the channels of an organisation that are joined here. If they end a batch, marks
/// follow.
pub(super) fn encode(
    channel: &OrgChannel,
    queued: &[QueuedEvent],
    end: Option<&BatchEnd>,
    metrics: &Metrics,
) -> Vec<Arc<Broadcast>> {
    let has_marks = channel.marked() > 0;
    let mut filtered = (channel.filters.count() > 0).then(Filtered::default);
    let mut chunks = Chunks::default();
    let mut transactions = TransactionSealer::new(channel.seal());
    for QueuedEvent { batch, read_at, points, event } in queued {
        let mut topics: Vec<Topic> = event.topics().collect();
        if event.is_control() {
            topics = channel.control_event_topics(&event.topic);
        }
        if has_marks {
            let is_kept = |topic: &&Topic| {
                matches!(topic, Topic::Named(_))
                    || channel.has_topic(topic)
                    || channel.filters.has_topic(topic)
            };
            channel.add_unmarked(topics.iter().filter(is_kept).cloned().collect());
        }
        topics.retain(|topic| channel.has_topic(topic));
        let selected = filtered.as_mut().map_or_else(Vec::new, |filtered| filtered.select(channel, event));
        if topics.is_empty() && selected.is_empty() {
            continue;
        }
        let cursor = channel.seal().seal_at(points, event.id);
        let tx = transactions.seal(points, event.xid);
        if !topics.is_empty() {
            let payload = event.payload(&cursor, tx);
            for topic in topics {
                chunks.append(Recipients::Topic(topic), event, &payload, *batch, *read_at);
            }
        }
        let mut payloads = Payloads::default();
        for (recipient, verdict) in selected {
            let (event, payload) = payloads.get(event, &recipient, verdict, &cursor, tx);
            chunks.append(Recipients::Filter(recipient), event, payload, *batch, *read_at);
        }
    }
    if let Some(filtered) = filtered {
        filtered.count(metrics);
    }
    let broadcasts = chunks.finish().map(|chunk| {
        let segments = chunk.recipients().segments(channel);
        Arc::new(Broadcast::new(Content::Chunk(chunk), segments))
    });
    let mut broadcasts: Vec<_> = broadcasts.collect();
    if let Some(end) = end {
        let marks = marks_at(channel, end).into_iter();
        broadcasts
            .extend(marks.map(|(mark, segments)| Arc::new(Broadcast::new(Content::Mark(mark), segments))));
    }
    broadcasts
}

/// Results of filters in one step of encoding.
#[derive(Debug, Default)]
struct Filtered {
    /// Channels that get a resync in this step. One is enough, because the client reads the rows after it,
    /// and by then all events of the step are committed.
    resynced: HashSet<ChannelId>,
    outcomes: [u64; OUTCOMES.len()],
}

/// Outcomes in metrics.
const OUTCOMES: [&str; 5] = ["selected", "entered", "left", "unknown", "none"];

impl Filtered {
    /// The channels that get something of an event.
    fn select(&mut self, org: &OrgChannel, event: &Event) -> Vec<(Arc<FilterChannel>, Option<Verdict>)> {
        let [.., none] = &mut self.outcomes;
        let mut found = org.filters.channels_of(event, none);
        for (_, verdict) in &found {
            let outcome = match verdict {
                Some(Verdict::Selected) => 0,
                Some(Verdict::Entered) => 1,
                Some(Verdict::Left) => 2,
                Some(Verdict::Unknown) => 3,
                None => continue,
            };
            self.outcomes[outcome] += 1;
        }
        found.retain(|(channel, verdict)| {
            *verdict != Some(Verdict::Unknown) || self.resynced.insert(channel.id)
        });
        found
    }

    fn count(&self, metrics: &Metrics) {
        for (outcome, count) in OUTCOMES.into_iter().zip(self.outcomes) {
            if count > 0 {
                metrics.filter_evaluations.get_or_create(&FilterOutcomeLabels { outcome }).inc_by(count);
            }
        }
    }
}

/// Payloads of one event for channels with a filter. Those that differ in their filter alone share one.
#[derive(Default)]
struct Payloads {
    known: Vec<(Arc<FilterChannel>, Option<Verdict>, String)>,
    resync: Option<Event>,
}

impl Payloads {
    /// The event whose name a channel gets, and the payload.
    fn get<'a>(
        &'a mut self,
        event: &'a Event,
        channel: &Arc<FilterChannel>,
        verdict: Option<Verdict>,
        cursor: &str,
        tx: &str,
    ) -> (&'a Event, &'a str) {
        let is_resync = verdict == Some(Verdict::Unknown);
        // A control event has the same payload for all, and so has a resync.
        let is_whole = is_resync || verdict.is_none();
        let is_same = |(known, of, _): &&(Arc<FilterChannel>, Option<Verdict>, String)| {
            *of == verdict && (is_whole || known.filter.select == channel.filter.select)
        };
        let at = self.known.iter().position(|entry| is_same(&entry)).unwrap_or_else(|| {
            let payload = match verdict {
                None => event.payload(cursor, tx),
                Some(Verdict::Unknown) => {
                    self.resync.get_or_insert_with(|| filter_resync(event)).payload(cursor, tx)
                }
                Some(verdict) => payload(channel.filter.select.as_ref(), verdict, event, cursor, tx),
            };
            self.known.push((Arc::clone(channel), verdict, payload));
            self.known.len() - 1
        });
        let sent = self.resync.as_ref().filter(|_| is_resync).unwrap_or(event);
        (sent, &self.known[at].2)
    }
}

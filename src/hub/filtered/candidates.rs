//! The channels with a filter that an event may concern, and what it means to them.
//!
//! The channels are found under the lock of their organisation, and their filters are evaluated without it:
//! patterns may take milliseconds, and the tailer and joins need the lock.

use std::sync::Arc;

use super::{EVENT_EVALUATIONS_MAX, FilterChannel, FilteredTopics};
use crate::filter::{Change, TableColumns, Verdict};
use crate::sync::lock;
use crate::wire::{Event, Topic};

/// Steps of patterns that cost as much as the evaluation of one condition. An estimate.
const PATTERN_STEPS_PER_EVALUATION: usize = 128;

/// Channels that an event may concern.
#[derive(Debug, Default)]
pub(in crate::hub) struct Candidates<'e> {
    pub(super) groups: Vec<GroupCandidates<'e>>,
    /// Channels that get the event whatever their filter is.
    pub(super) reached: Vec<Arc<FilterChannel>>,
    /// Channels whose filters cannot be evaluated, because the event has no row that can be read.
    pub(super) unknown: Vec<Arc<FilterChannel>>,
    /// Conditions that are evaluated.
    pub(in crate::hub) evaluations: usize,
    /// Filters that were not found, to which the event means nothing.
    pub(super) not_found: u64,
}

/// Channels of one group.
#[derive(Debug)]
pub(super) struct GroupCandidates<'e> {
    pub(super) change: Change<'e>,
    /// Those of one filter follow one another.
    pub(super) channels: Vec<Arc<FilterChannel>>,
}

/// Meaning of an event for channels.
#[derive(Debug, Default)]
pub(in crate::hub) struct Selected {
    /// The channels to which it means something, with the verdict; none for a control event.
    pub(in crate::hub) channels: Vec<(Arc<FilterChannel>, Option<Verdict>)>,
    /// Number of filters to which it means nothing.
    pub(in crate::hub) others: u64,
    /// Cost, in evaluations of one condition.
    pub(in crate::hub) evaluations: usize,
}

impl FilteredTopics {
    /// The channels that an event may concern.
    pub(in crate::hub) fn candidates<'e>(&self, event: &'e Event) -> Candidates<'e> {
        let mut candidates = Candidates::default();
        if event.is_control() {
            candidates.reached = self.reached_by(event);
            return candidates;
        }
        // A published event is no row.
        let Some(watch) = event.watch else { return candidates };
        let is_known = watch != Event::UNKNOWN_WATCH;
        for table in self.tables(&event.topic) {
            let change = is_known.then(|| table.change(&event.data, event.old.as_deref())).flatten();
            self.find(event, &table, change, &mut candidates);
        }
        candidates
    }

    /// Descriptions of a topic's table for which filters were compiled.
    fn tables(&self, topic: &Topic) -> Vec<Arc<TableColumns>> {
        let state = lock(&self.state);
        state.topics.get(topic).into_iter().flatten().map(|group| Arc::clone(&group.table)).collect()
    }

    /// The channels that a control event reaches.
    fn reached_by(&self, event: &Event) -> Vec<Arc<FilterChannel>> {
        let state = lock(&self.state);
        let is_reached = |topic: &Topic| event.topic.is_org() || *topic == event.topic;
        let groups =
            state.topics.iter().filter(|(topic, _)| is_reached(topic)).flat_map(|(_, groups)| groups);
        groups.flat_map(super::Group::all).map(Arc::clone).collect()
    }

    /// Adds the candidates of one group. If it has gone since, its last subscriber has left.
    fn find<'e>(
        &self,
        event: &Event,
        table: &Arc<TableColumns>,
        change: Option<Change<'e>>,
        candidates: &mut Candidates<'e>,
    ) {
        let state = lock(&self.state);
        let mut groups = state.topics.get(&event.topic).into_iter().flatten();
        let Some(group) = groups.find(|group| Arc::ptr_eq(&group.table, table)) else { return };
        let Some(change) = change else {
            candidates.unknown.extend(group.all().map(Arc::clone));
            return;
        };
        let found = group.index.candidates(&change);
        candidates.not_found += group.index.len().saturating_sub(found.len()) as u64;
        let mut channels = Vec::with_capacity(found.len());
        for entries in found.iter().filter_map(|id| group.channels.get(id)).map(|channels| &channels.entries)
        {
            candidates.evaluations +=
                entries.first().map_or(0, |entry| entry.channel.conditions(&event.topic));
            channels.extend(entries.iter().map(|entry| Arc::clone(&entry.channel)));
        }
        candidates.groups.push(GroupCandidates { change, channels });
    }
}

impl Candidates<'_> {
    /// Whether the event has no row that can be read, so that every channel resyncs.
    pub(in crate::hub) fn is_malformed(&self) -> bool {
        !self.unknown.is_empty()
    }

    /// Evaluates the filters. `topic` is the event's own.
    pub(in crate::hub) fn select(self, topic: &Topic) -> Selected {
        let control = self.reached.into_iter().map(|channel| (channel, None));
        let unknown = self.unknown.into_iter().map(|channel| (channel, Some(Verdict::Unknown)));
        let mut selected = Selected {
            channels: control.chain(unknown).collect(),
            others: self.not_found,
            evaluations: self.evaluations,
        };
        let mut evaluated = 0;
        for GroupCandidates { change, channels } in self.groups {
            let filter =
                |channel: &FilterChannel| channel.filter_of(topic).map(|filter| filter.filter.clone());
            for of_filter in channels.chunk_by(|a, b| filter(a) == filter(b)) {
                evaluated += of_filter[0].conditions(topic);
                let is_evaluated = evaluated <= EVENT_EVALUATIONS_MAX;
                let verdict = || filter(&of_filter[0]).and_then(|filter| filter.verdict(&change));
                match if is_evaluated { verdict() } else { Some(Verdict::Unknown) } {
                    None => selected.others += 1,
                    Some(verdict) => {
                        let channels = of_filter.iter().map(|channel| (Arc::clone(channel), Some(verdict)));
                        selected.channels.extend(channels);
                    }
                }
            }
            selected.evaluations += change.pattern_steps() / PATTERN_STEPS_PER_EVALUATION;
        }
        selected
    }
}

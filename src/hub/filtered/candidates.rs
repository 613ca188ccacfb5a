//! The channels with a filter that an event may concern, and what it means to them.
//!
//! The channels are found under the lock of their organisation, and their filters are evaluated without it:
//! patterns may take milliseconds, and the tailer and joins need the lock.

use std::sync::Arc;

use super::topic_filters::{Filtered, TopicFilters};
use super::topics::FilteredTopics;
use super::{EVENT_EVALUATIONS_MAX, FilterChannel};
use crate::filter::{Change, SelectedRows, TableColumns, Verdict};
use crate::sync::lock;
use crate::wire::{Event, Topic};

/// Steps of patterns that cost as much as the evaluation of one condition. An estimate.
const PATTERN_STEPS_PER_EVALUATION: usize = 128;

/// Channels that an event may concern.
#[derive(Debug, Default)]
pub(in crate::hub) struct Candidates<'e> {
    /// Topics that the event reaches.
    topics: Vec<Topic>,
    groups: Vec<GroupCandidates<'e>>,
    /// Channels that get the event whatever their filter is.
    reached: Vec<Arc<FilterChannel>>,
    /// Channels whose filters cannot be evaluated, because the event has no row that can be read.
    unknown: Vec<Arc<FilterChannel>>,
    /// Conditions that are evaluated.
    pub(in crate::hub) evaluations: usize,
    /// Filters that were not found, to which the event means nothing.
    not_found: u64,
}

/// Filters that were compiled for the same description of the table.
#[derive(Debug)]
struct GroupCandidates<'e> {
    change: Change<'e>,
    filters: Vec<Arc<Filtered>>,
}

/// Meaning of an event for channels.
#[derive(Debug, Default)]
pub(in crate::hub) struct Selected {
    /// The channels to which it means something, with the verdict; none for a control event, and for a
    /// channel that gets all events of the topic.
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
            let state = lock(&self.state);
            candidates.reached =
                state.all().filter(|channel| channel.is_controlled_by(event)).cloned().collect();
            return candidates;
        }
        candidates.topics = event.topics().collect();
        let tables: Vec<Arc<TableColumns>> = {
            let state = lock(&self.state);
            let Some(filters) = state.filters_of(&event.topic) else { return candidates };
            filters.add_whole_to(&candidates.topics, &mut candidates.reached);
            filters.groups().iter().map(|group| Arc::clone(&group.table)).collect()
        };
        // A published event is no row.
        let Some(watch) = event.watch else { return candidates };
        let is_known = watch != Event::UNKNOWN_WATCH;
        for table in tables {
            // Not locked meanwhile, because a row may be large.
            let change = is_known.then(|| table.change(&event.data, event.old.as_deref())).flatten();
            self.find(&table, change, &mut candidates);
        }
        candidates
    }

    /// Adds the candidates of one group. If the group has gone since, its last subscriber has left.
    fn find<'e>(
        &self,
        table: &Arc<TableColumns>,
        change: Option<Change<'e>>,
        candidates: &mut Candidates<'e>,
    ) {
        let topics = &candidates.topics;
        let state = lock(&self.state);
        let filters = topics.first().and_then(|own| state.filters_of(own));
        let groups = filters.map(TopicFilters::groups).unwrap_or_default();
        let Some(group) = groups.iter().find(|group| Arc::ptr_eq(&group.table, table)) else { return };
        let Some(change) = change else {
            group.add_to(topics, &mut candidates.unknown);
            return;
        };
        let filters = group.found(&change, topics);
        let all = group.index.len();
        drop(state);
        candidates.not_found += all.saturating_sub(filters.len()) as u64;
        candidates.evaluations += filters.iter().map(|found| found.filter.conditions()).sum::<usize>();
        candidates.groups.push(GroupCandidates { change, filters });
    }
}

impl FilterChannel {
    /// Whether a control event reaches the channel.
    fn is_controlled_by(&self, event: &Event) -> bool {
        event.topic.is_org() || self.parts().iter().any(|part| part.topic == event.topic)
    }
}

impl Candidates<'_> {
    /// Whether the event has no row that can be read, so that every channel resyncs.
    pub(in crate::hub) fn is_malformed(&self) -> bool {
        !self.unknown.is_empty()
    }

    /// Evaluates the filters, each once for all its channels.
    pub(in crate::hub) fn select(self) -> Selected {
        let reached = self.reached.into_iter().map(|channel| (channel, None));
        let unknown = self.unknown.into_iter().map(|channel| (channel, Some(Verdict::Unknown)));
        let mut selected = Selected {
            channels: reached.chain(unknown).collect(),
            others: self.not_found,
            evaluations: self.evaluations,
        };
        let mut evaluated = 0;
        for GroupCandidates { change, filters } in self.groups {
            for found in filters {
                evaluated += found.filter.conditions();
                let rows = (evaluated <= EVENT_EVALUATIONS_MAX).then(|| found.filter.selected(&change));
                if rows.is_some_and(SelectedRows::is_nothing) {
                    selected.others += 1;
                    continue;
                }
                let before = selected.channels.len();
                selected.channels.extend(found.channels_of(&self.topics).filter_map(|channel| {
                    let of_channel =
                        |topic: &Topic| rows.map(|rows| rows.on_topic(topic.is_entity(), &change));
                    let verdict =
                        of_channel(&channel.topic).map_or(Some(Verdict::Unknown), SelectedRows::verdict);
                    verdict.map(|verdict| (Arc::clone(channel), Some(verdict)))
                }));
                selected.others += u64::from(selected.channels.len() == before);
            }
            selected.evaluations += change.pattern_steps() / PATTERN_STEPS_PER_EVALUATION;
        }
        // In the order in which sockets without filters get the event.
        selected.channels.sort_by_key(|(channel, _)| match channel.topic {
            Topic::Named(_) => 0,
            Topic::Entity(_) => 1,
            Topic::Org => 2,
        });
        selected
    }
}

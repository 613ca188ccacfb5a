//! Channels that may get the events of one topic: those of the topic itself with a filter, and those of
//! aggregate topics (`org`, `call:<uuid>`) for tokens whose filters name it.
//!
//! An event is compared with each filter once, whatever the number of topics on which the filter is joined.

use std::collections::HashMap;
use std::sync::Arc;

use super::{FILTERS_PER_VALUE_MAX, FilterChannel};
use crate::filter::{ChannelFilter, FilterId, FilterIndex, Multiset, TableColumns};
use crate::sparse::shrink;
use crate::wire::Topic;

/// Channels in the order of the topics that their sessions have joined, and then of their ids. Most filters
/// have one.
#[derive(Debug, Default)]
struct ByJoinedTopic(Vec<Arc<FilterChannel>>);

/// Channels that may get the events of one topic.
#[derive(Debug, Default)]
pub(super) struct TopicFilters {
    /// Channels that get all events.
    whole: ByJoinedTopic,
    groups: Vec<Group>,
}

/// Channels whose filters were compiled for the same description of the table.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) table: Arc<TableColumns>,
    pub(super) index: FilterIndex,
    filters: HashMap<FilterId, Filtered>,
    /// Number of handles of all channels of the topic itself.
    handles: usize,
    /// Numbers of handles of each filter's channels of the topic itself.
    sizes: Multiset,
}

/// Channels of one filter. Those of one joined topic differ in the columns that they select, or in the
/// filters of other topics.
#[derive(Debug)]
struct Filtered {
    channels: ByJoinedTopic,
    /// Number of handles of the channels of the topic itself.
    handles: usize,
    /// Whether the filter counts as evaluated for most events.
    is_costly: bool,
}

impl ByJoinedTopic {
    fn position(&self, channel: &FilterChannel) -> Result<usize, usize> {
        self.0.binary_search_by(|other| {
            let topics = other.topic.as_str().cmp(channel.topic.as_str());
            topics.then_with(|| other.id.cmp(&channel.id))
        })
    }

    fn add(&mut self, channel: &Arc<FilterChannel>) {
        if let Err(at) = self.position(channel) {
            self.0.insert(at, Arc::clone(channel));
        }
    }

    fn remove(&mut self, channel: &FilterChannel) {
        if let Ok(at) = self.position(channel) {
            self.0.remove(at);
        }
    }

    /// Adds the channels of these joined topics.
    fn add_to(&self, topics: &[Topic], reached: &mut Vec<Arc<FilterChannel>>) {
        for topic in topics {
            let first = self.0.partition_point(|channel| channel.topic.as_str() < topic.as_str());
            let channels = self.0[first..].iter().take_while(|channel| channel.topic == *topic);
            reached.extend(channels.cloned());
        }
    }
}

impl TopicFilters {
    /// Adds a channel: with the filter of its events of this topic, or for all of them. Returns the number of
    /// filters that count as evaluated for most events, and that the topic did not have before.
    pub(super) fn add(&mut self, channel: &Arc<FilterChannel>, filter: Option<&ChannelFilter>) -> usize {
        let Some(filter) = filter else {
            self.whole.add(channel);
            return 0;
        };
        let at = self.groups.iter().position(|group| group.table == filter.table);
        let at = at.unwrap_or_else(|| {
            self.groups.push(Group::new(Arc::clone(&filter.table)));
            self.groups.len() - 1
        });
        self.groups[at].add(channel, filter)
    }

    /// Removes a channel without handles, as it was added. Returns the number of filters that counted as
    /// evaluated for most events, and that the topic no longer has.
    pub(super) fn remove(&mut self, channel: &FilterChannel, filter: Option<&ChannelFilter>) -> usize {
        let Some(filter) = filter else {
            self.whole.remove(channel);
            return 0;
        };
        let Some(at) = self.groups.iter().position(|group| group.table == filter.table) else { return 0 };
        let costly = self.groups[at].remove(channel, filter);
        if self.groups[at].filters.is_empty() {
            self.groups.swap_remove(at);
        }
        costly
    }

    /// Adds to the handles of a channel of the topic itself.
    pub(super) fn resize(&mut self, filter: &ChannelFilter, more: isize) {
        if let Some(group) = self.groups.iter_mut().find(|group| group.table == filter.table) {
            group.resize(filter, more);
        }
    }

    /// Whether a filter is, or would be, evaluated for most events.
    pub(super) fn is_costly(&self, filter: &ChannelFilter) -> bool {
        let group = self.groups.iter().find(|group| group.table == filter.table);
        group.map_or_else(
            || FilterIndex::default().is_costly(&filter.filter, FILTERS_PER_VALUE_MAX),
            |group| group.is_costly(filter),
        )
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.whole.0.is_empty()
    }

    /// Channels whose filters were compiled for the same description of the table, for each description.
    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Adds the channels of these joined topics that get all events.
    pub(super) fn add_whole_to(&self, topics: &[Topic], reached: &mut Vec<Arc<FilterChannel>>) {
        self.whole.add_to(topics, reached);
    }

    /// Upper bound of the conditions that one event is compared with, if its row has all columns.
    pub(super) fn evaluations_max(&self) -> usize {
        self.groups.iter().map(|group| group.index.evaluations_max()).sum()
    }

    /// Upper bound of the subscribers of channels of the topic itself that get one event, if its row has all
    /// columns.
    pub(super) fn subscribers_max(&self) -> usize {
        self.groups.iter().map(Group::subscribers_max).sum()
    }
}

impl Group {
    fn new(table: Arc<TableColumns>) -> Self {
        let (index, filters) = (FilterIndex::default(), HashMap::new());
        Self { table, index, filters, handles: 0, sizes: Multiset::default() }
    }

    fn is_costly(&self, filter: &ChannelFilter) -> bool {
        let known = self.index.id(&filter.filter).and_then(|id| self.filters.get(&id));
        known.map_or_else(
            || self.index.is_costly(&filter.filter, FILTERS_PER_VALUE_MAX),
            |filtered| filtered.is_costly,
        )
    }

    fn add(&mut self, channel: &Arc<FilterChannel>, filter: &ChannelFilter) -> usize {
        let is_costly = self.is_costly(filter);
        let id = self.index.add(&filter.filter);
        let mut costly = 0;
        let filtered = self.filters.entry(id).or_insert_with(|| {
            costly = usize::from(is_costly);
            Filtered { channels: ByJoinedTopic::default(), handles: 0, is_costly }
        });
        filtered.channels.add(channel);
        costly
    }

    fn remove(&mut self, channel: &FilterChannel, filter: &ChannelFilter) -> usize {
        let Some(id) = self.index.id(&filter.filter) else { return 0 };
        self.index.remove(id);
        let Some(filtered) = self.filters.get_mut(&id) else { return 0 };
        filtered.channels.remove(channel);
        if !filtered.channels.0.is_empty() {
            return 0;
        }
        let costly = usize::from(filtered.is_costly);
        self.filters.remove(&id);
        shrink(&mut self.filters);
        costly
    }

    fn resize(&mut self, filter: &ChannelFilter, more: isize) {
        let Some(id) = self.index.id(&filter.filter) else { return };
        let Some(filtered) = self.filters.get_mut(&id) else { return };
        let former = filtered.handles;
        filtered.handles = former.saturating_add_signed(more);
        self.handles = self.handles.saturating_add_signed(more);
        self.sizes.replace(former, filtered.handles);
    }

    fn subscribers_max(&self) -> usize {
        let filters_max = self.index.evaluations_max().max(1);
        self.handles.min(filters_max.saturating_mul(self.sizes.max()))
    }

    /// All channels.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<FilterChannel>> {
        self.filters.values().flat_map(|filtered| &filtered.channels.0)
    }

    /// Adds the channels of these joined topics.
    pub(super) fn add_to(&self, topics: &[Topic], reached: &mut Vec<Arc<FilterChannel>>) {
        self.filters.values().for_each(|filtered| filtered.channels.add_to(topics, reached));
    }

    /// The channels of a filter and of these joined topics.
    pub(super) fn channels_of(&self, id: FilterId, topics: &[Topic]) -> Vec<Arc<FilterChannel>> {
        let mut channels = Vec::new();
        if let Some(filtered) = self.filters.get(&id) {
            filtered.channels.add_to(topics, &mut channels);
        }
        channels
    }
}

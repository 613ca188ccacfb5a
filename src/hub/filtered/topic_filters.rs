//! Channels that may get the events of one topic: those of the topic itself with a filter, and those of
//! aggregate topics (`org`, `call:<uuid>`) for tokens whose filters name it.
//!
//! An event is compared with each filter once, whatever the number of topics on which the filter is joined.

use std::sync::Arc;

use super::{FILTERS_PER_VALUE_MAX, FilterChannel};
use crate::filter::{Change, ChannelFilter, Filter, FilterId, FilterIndex, Multiset, TableColumns};
use crate::wire::Topic;

/// Channels in the order of the topics that their sessions have joined, and then of their ids. Most filters
/// have one.
#[derive(Clone, Debug, Default)]
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
    /// By the position of the filter's id.
    filters: Vec<Option<Entry>>,
    /// Number of handles of all channels of the topic itself.
    handles: usize,
    /// Numbers of handles of each filter's channels of the topic itself.
    sizes: Multiset,
}

/// A filter with its channels. An event keeps the ones that it found, while others join and leave.
#[derive(Clone, Debug)]
pub(super) struct Filtered {
    pub(super) filter: Filter,
    /// Those of one joined topic differ in the columns that they select, or in the filters of other topics.
    channels: ByJoinedTopic,
}

#[derive(Debug)]
struct Entry {
    filtered: Arc<Filtered>,
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

    /// The channels of these joined topics.
    fn of(&self, topics: &[Topic]) -> impl Iterator<Item = &Arc<FilterChannel>> {
        topics.iter().flat_map(|topic| {
            let first = self.0.partition_point(|channel| channel.topic.as_str() < topic.as_str());
            self.0[first..].iter().take_while(move |channel| channel.topic == *topic)
        })
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
        if self.groups[at].index.is_empty() {
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
        reached.extend(self.whole.of(topics).cloned());
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

impl Filtered {
    /// The channels of these joined topics.
    pub(super) fn channels_of(&self, topics: &[Topic]) -> impl Iterator<Item = &Arc<FilterChannel>> {
        self.channels.of(topics)
    }
}

impl Group {
    fn new(table: Arc<TableColumns>) -> Self {
        let (index, filters) = (FilterIndex::default(), Vec::new());
        Self { table, index, filters, handles: 0, sizes: Multiset::default() }
    }

    fn entry(&mut self, id: FilterId) -> Option<&mut Entry> {
        self.filters.get_mut(id.position())?.as_mut()
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.filters.iter().flatten()
    }

    fn is_costly(&self, filter: &ChannelFilter) -> bool {
        let known = self.index.id(&filter.filter).and_then(|id| self.filters.get(id.position())?.as_ref());
        known.map_or_else(
            || self.index.is_costly(&filter.filter, FILTERS_PER_VALUE_MAX),
            |entry| entry.is_costly,
        )
    }

    fn add(&mut self, channel: &Arc<FilterChannel>, filter: &ChannelFilter) -> usize {
        let is_costly = self.is_costly(filter);
        let id = self.index.add(&filter.filter);
        if self.filters.len() <= id.position() {
            self.filters.resize_with(id.position() + 1, || None);
        }
        let mut costly = 0;
        let entry = self.filters[id.position()].get_or_insert_with(|| {
            costly = usize::from(is_costly);
            let (filter, channels) = (filter.filter.clone(), ByJoinedTopic::default());
            Entry { filtered: Arc::new(Filtered { filter, channels }), handles: 0, is_costly }
        });
        Arc::make_mut(&mut entry.filtered).channels.add(channel);
        costly
    }

    fn remove(&mut self, channel: &FilterChannel, filter: &ChannelFilter) -> usize {
        let Some(id) = self.index.id(&filter.filter) else { return 0 };
        self.index.remove(id);
        let Some(entry) = self.entry(id) else { return 0 };
        let channels = &mut Arc::make_mut(&mut entry.filtered).channels;
        channels.remove(channel);
        if !channels.0.is_empty() {
            return 0;
        }
        let costly = usize::from(entry.is_costly);
        self.filters[id.position()] = None;
        costly
    }

    fn resize(&mut self, filter: &ChannelFilter, more: isize) {
        let Some(id) = self.index.id(&filter.filter) else { return };
        let Some(entry) = self.entry(id) else { return };
        let former = entry.handles;
        entry.handles = former.saturating_add_signed(more);
        let handles = entry.handles;
        self.handles = self.handles.saturating_add_signed(more);
        self.sizes.replace(former, handles);
    }

    fn subscribers_max(&self) -> usize {
        let filters_max = self.index.evaluations_max().max(1);
        self.handles.min(filters_max.saturating_mul(self.sizes.max()))
    }

    /// All channels.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<FilterChannel>> {
        self.entries().flat_map(|entry| &entry.filtered.channels.0)
    }

    /// Adds the channels of these joined topics.
    pub(super) fn add_to(&self, topics: &[Topic], reached: &mut Vec<Arc<FilterChannel>>) {
        self.entries().for_each(|entry| reached.extend(entry.filtered.channels_of(topics).cloned()));
    }

    /// The filters to which an event may mean something, and that have a channel of these joined topics. The
    /// first topic is that of the event.
    pub(super) fn found(&self, change: &Change<'_>, topics: &[Topic]) -> Vec<Arc<Filtered>> {
        let entries = self.index.candidates(change).into_iter().filter_map(|id| {
            let entry = self.filters.get(id.position())?.as_ref()?;
            // Most filters have a subscriber of the event's own topic, and need no look-up then.
            let is_joined = entry.handles > 0 || entry.filtered.channels_of(topics).next().is_some();
            is_joined.then(|| Arc::clone(&entry.filtered))
        });
        entries.collect()
    }
}

//! All channels with a filter of one organisation.
//!
//! A channel is opened and closed with work that depends on its own filters alone. Maxima are kept for that,
//! because the tailer takes the same lock.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::topic_filters::TopicFilters;
use super::{
    CHANNEL_BYTES, ChannelId, ChannelRows, EVENT_EVALUATIONS_MAX, FilterChannel, FilterLimit, FilterShares,
    MEMORY_PER_BYTE, ORG_FILTERS_MAX, ORG_SCANNED_FILTERS_MAX, Part,
};
use crate::capacity::Portion;
use crate::filter::Multiset;
use crate::hub::segments::Segment;
use crate::metrics::{FilterKindLabels, Metrics};
use crate::org::OrgId;
use crate::sparse::shrink;
use crate::sync::lock;
use crate::wire::{Event, Topic};

/// All channels with a filter of one organisation.
#[derive(Debug, Default)]
pub(in crate::hub) struct FilteredTopics {
    /// Number of channels, which is read without a lock.
    count: AtomicUsize,
    /// Upper bound of the conditions that one event is compared with, if its row has all columns.
    evaluations_max: AtomicUsize,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    channels: HashMap<ChannelKey, Entry>,
    /// By the topic that sessions have joined.
    joined: HashMap<Topic, JoinedChannels>,
    /// By the topic of an event.
    filters: HashMap<Topic, TopicFilters>,
    /// The conditions that an event of each topic is compared with.
    evaluations: Multiset,
    /// Number of filters that count as evaluated for most events.
    costly: usize,
    last_id: u64,
}

/// Sessions with equal keys share a channel.
#[derive(Clone, Debug)]
struct ChannelKey {
    topic: Topic,
    rows: Arc<ChannelRows>,
}

#[derive(Debug)]
struct Entry {
    channel: Arc<FilterChannel>,
    handles: usize,
    _memory: Portion<OrgId>,
}

/// Channels of one joined topic.
#[derive(Debug, Default)]
struct JoinedChannels {
    channels: HashMap<ChannelId, Arc<FilterChannel>>,
    handles: usize,
}

impl PartialEq for ChannelKey {
    fn eq(&self, other: &Self) -> bool {
        self.topic == other.topic && self.rows.is_same(&other.rows)
    }
}

impl Eq for ChannelKey {}

impl Hash for ChannelKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.topic.hash(state);
        self.rows.hash(state);
    }
}

impl FilteredTopics {
    /// Number of channels.
    pub(in crate::hub) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Upper bound of the conditions that one event is compared with, if its row has all columns.
    pub(in crate::hub) fn evaluations_max(&self) -> usize {
        self.evaluations_max.load(Ordering::Acquire)
    }

    /// Whether a joined topic has a channel with a filter.
    pub(in crate::hub) fn has_topic(&self, topic: &Topic) -> bool {
        self.count() > 0 && lock(&self.state).joined.contains_key(topic)
    }

    /// Upper bounds for one event whose row has all columns: numbers of subscribers that get it, and of
    /// conditions that are evaluated.
    pub(in crate::hub) fn cost_of(&self, event: &Event) -> (usize, usize) {
        if self.count() == 0 {
            return (0, 0);
        }
        let state = lock(&self.state);
        let filters = state.filters_of(&event.topic);
        let (subscribers, evaluations) =
            filters.map_or((0, 0), |filters| (filters.subscribers_max(), filters.evaluations_max()));
        // Those of aggregate topics. Of the event's own topic, one value finds few.
        let joined = event.topics().skip(1).filter_map(|topic| state.joined.get(&topic));
        (subscribers + joined.map(|joined| joined.handles).sum::<usize>(), evaluations)
    }

    /// Segments of those channels of a joined topic that have a subscription with marks.
    pub(in crate::hub) fn marked_segments(&self, topic: &Topic) -> Vec<Arc<Segment>> {
        if self.count() == 0 {
            return Vec::new();
        }
        let state = lock(&self.state);
        let channels = state.joined.get(topic).into_iter().flat_map(|joined| joined.channels.values());
        channels.filter_map(|channel| lock(&channel.places).marked_segments()).flatten().collect()
    }

    /// Finds or creates a channel, and adds a handle.
    pub(super) fn open(
        &self,
        org: OrgId,
        topic: &Topic,
        rows: ChannelRows,
        node: &FilterShares,
        metrics: &Metrics,
    ) -> Result<Arc<FilterChannel>, FilterLimit> {
        let key = ChannelKey { topic: topic.clone(), rows: Arc::new(rows) };
        let mut state = lock(&self.state);
        // A check that begins later finds the channel.
        if key.rows.filters().any(|filter| filter.table.checks != node.table_checks.count()) {
            return Err(FilterLimit::OUTDATED);
        }
        if let Some(entry) = state.channels.get_mut(&key) {
            entry.handles += 1;
            let channel = Arc::clone(&entry.channel);
            state.resize(&channel, 1);
            return Ok(channel);
        }
        let channel = state.new_channel(&key);
        state.add(&channel);
        let bytes = CHANNEL_BYTES * key.rows.entries()
            + MEMORY_PER_BYTE * key.rows.filters().map(|filter| filter.bytes).sum::<usize>();
        let taken = match state.check_budget(&channel) {
            Ok(()) => node.memory.try_take(org, bytes).filter(|_| self.count() < ORG_FILTERS_MAX),
            Err(limit) => {
                state.remove(&channel);
                return Err(limit);
            }
        };
        let Some(memory) = taken else {
            state.remove(&channel);
            return Err(FilterLimit::FILTERS);
        };
        state.channels.insert(key, Entry { channel: Arc::clone(&channel), handles: 1, _memory: memory });
        state.resize(&channel, 1);
        self.count.fetch_add(1, Ordering::Release);
        self.evaluations_max.store(state.evaluations.max(), Ordering::Release);
        metrics.filters.get_or_create(&FilterKindLabels::of(channel.is_costly)).inc();
        Ok(channel)
    }

    /// Removes a handle of a channel, and the channel with its last one.
    pub(super) fn close(&self, channel: &Arc<FilterChannel>, metrics: &Metrics) {
        let key = ChannelKey { topic: channel.topic.clone(), rows: Arc::clone(&channel.rows) };
        let mut state = lock(&self.state);
        let Some(entry) = state.channels.get_mut(&key) else { return };
        entry.handles -= 1;
        let is_last = entry.handles == 0;
        state.resize(channel, -1);
        if is_last {
            state.channels.remove(&key);
            shrink(&mut state.channels);
            state.remove(channel);
            self.count.fetch_sub(1, Ordering::AcqRel);
            self.evaluations_max.store(state.evaluations.max(), Ordering::Release);
            metrics.filters.get_or_create(&FilterKindLabels::of(channel.is_costly)).dec();
        }
    }
}

impl State {
    /// Channels that may get the events of a topic.
    pub(super) fn filters_of(&self, topic: &Topic) -> Option<&TopicFilters> {
        self.filters.get(topic)
    }

    /// The topics whose events have filters.
    pub(super) fn filters(&self) -> impl Iterator<Item = (&Topic, &TopicFilters)> {
        self.filters.iter()
    }

    /// All channels.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<FilterChannel>> {
        self.channels.values().map(|entry| &entry.channel)
    }

    fn new_channel(&mut self, key: &ChannelKey) -> Arc<FilterChannel> {
        self.last_id += 1;
        let mut channel = FilterChannel {
            id: ChannelId(self.last_id),
            topic: key.topic.clone(),
            rows: Arc::clone(&key.rows),
            is_costly: false,
            is_outdated: AtomicBool::new(false),
            places: Mutex::default(),
        };
        let none = TopicFilters::default();
        channel.is_costly = channel.parts().into_iter().any(|Part { topic, filter }| {
            filter.is_some_and(|filter| self.filters.get(&topic).unwrap_or(&none).is_costly(filter))
        });
        Arc::new(channel)
    }

    /// Adds a channel without handles.
    fn add(&mut self, channel: &Arc<FilterChannel>) {
        for Part { topic, filter } in channel.parts() {
            let filters = self.filters.entry(topic).or_default();
            let former = filters.evaluations_max();
            self.costly += filters.add(channel, filter.map(|filter| &**filter));
            self.evaluations.replace(former, filters.evaluations_max());
        }
        let joined = self.joined.entry(channel.topic.clone()).or_default();
        joined.channels.insert(channel.id, Arc::clone(channel));
    }

    /// Removes a channel without handles.
    fn remove(&mut self, channel: &FilterChannel) {
        for Part { topic, filter } in channel.parts() {
            let Some(filters) = self.filters.get_mut(&topic) else { continue };
            let former = filters.evaluations_max();
            self.costly -= filters.remove(channel, filter.map(|filter| &**filter));
            self.evaluations.replace(former, filters.evaluations_max());
            if filters.is_empty() {
                self.filters.remove(&topic);
            }
        }
        if let Some(joined) = self.joined.get_mut(&channel.topic) {
            joined.channels.remove(&channel.id);
            shrink(&mut joined.channels);
            if joined.channels.is_empty() {
                self.joined.remove(&channel.topic);
                shrink(&mut self.joined);
            }
        }
    }

    /// Adds to the handles of a channel.
    fn resize(&mut self, channel: &FilterChannel, more: isize) {
        if let Some(joined) = self.joined.get_mut(&channel.topic) {
            joined.handles = joined.handles.saturating_add_signed(more);
        }
        for Part { topic, filter } in channel.parts() {
            // Those of an aggregate topic are counted there.
            if topic == channel.topic
                && let (Some(filters), Some(filter)) = (self.filters.get_mut(&topic), filter)
            {
                filters.resize(filter, more);
            }
        }
    }

    /// Checks what the events of a channel that was added are compared with.
    fn check_budget(&self, channel: &FilterChannel) -> Result<(), FilterLimit> {
        let is_exceeded = |part: &Part<'_>| {
            self.filters.get(&part.topic).is_some_and(|all| all.evaluations_max() > EVENT_EVALUATIONS_MAX)
        };
        let costly = self.costly > ORG_SCANNED_FILTERS_MAX && channel.is_costly;
        if costly || channel.parts().iter().any(is_exceeded) { Err(FilterLimit::SCANNED) } else { Ok(()) }
    }
}

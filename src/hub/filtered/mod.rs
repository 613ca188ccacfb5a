//! Channels with a filter: the subscribers of a topic whose joins asked for the same rows and columns.
//!
//! Each event is compared with all filters of its topic at once, through a [`FilterIndex`]. Subscribers with
//! equal filters share a channel, so they share the encoding too. An organisation without filters pays for
//! one atomic load per batch.

mod candidates;
mod claim_filter;
mod claims;
mod content;
mod handle;
mod outdated;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

pub(super) use candidates::{Candidates, Selected};
pub use claim_filter::ClaimFilter;
pub(super) use claims::ClaimChannels;
pub use content::Rendered;
pub(super) use content::{filter_resync, payload};
pub use handle::FilterHandle;

use super::segments::{Segment, TopicChannel};
use crate::capacity::{Capacity, Portion};
use crate::filter::{ChannelFilter, FilterId, FilterIndex, TableChecks, TableColumns};
use crate::metrics::{FilterKindLabels, Metrics};
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::Topic;

/// Channels with a filter of one organisation on a node.
pub(crate) const ORG_FILTERS_MAX: usize = 20_000;

/// Filters of one organisation that are evaluated for most events of their topic.
pub(crate) const ORG_SCANNED_FILTERS_MAX: usize = 1000;

/// Conditions that one event is compared with. A filter that would exceed it gets no channel. If a row lacks
/// a column and so finds more filters, the rest of them is not evaluated, and resyncs.
pub(crate) const EVENT_EVALUATIONS_MAX: usize = 32_768;

/// Filters that one value of a column may find. Further ones count as evaluated for most events.
pub(crate) const FILTERS_PER_VALUE_MAX: usize = 100;

/// Estimated memory of all filters of a node. An organisation leaves free at least as much as it takes.
pub(crate) const FILTER_MEMORY_MAX: usize = 48 * 1024 * 1024;

/// Estimated memory of a channel beside its filter.
const CHANNEL_BYTES: usize = 1024;

/// Estimated memory of a filter, for each byte that the client wrote.
const MEMORY_PER_BYTE: usize = 8;

/// Number of a channel, which is not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChannelId(u64);

/// The subscribers that get the same bytes of a topic.
#[derive(Debug)]
pub(super) struct FilterChannel {
    pub(super) id: ChannelId,
    pub(super) topic: Topic,
    rows: ChannelRows,
    /// Number of its filters that count as evaluated for most events.
    costly: usize,
    /// Whether the table has changed since the filter was compiled. It is set while `places` is locked, and
    /// the sessions of all subscriptions are closed with it.
    is_outdated: AtomicBool,
    pub(super) places: Mutex<TopicChannel>,
}

/// Rows that the subscribers of a channel get.
#[derive(Debug)]
enum ChannelRows {
    /// Those of one table that a filter selects.
    Table(Arc<ChannelFilter>),
    /// Those of several topics that the filters of a token allow.
    Claim(Arc<ClaimFilter>),
}

/// A limit that a filter exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterLimit {
    /// Name in errors and metrics.
    pub name: &'static str,
    /// Meaning for people.
    pub hint: &'static str,
}

/// State that the filters of all organisations of a node share.
#[derive(Debug)]
pub(super) struct FilterShares {
    /// Estimated memory.
    memory: Arc<Capacity<OrgId>>,
    /// Checks for changes of tables.
    pub(super) table_checks: Arc<TableChecks>,
}

/// All channels with a filter of one organisation.
#[derive(Debug, Default)]
pub(super) struct FilteredTopics {
    /// Number of channels, which is read without a lock.
    count: AtomicUsize,
    /// Number of channels whose filters count as evaluated for most events.
    costly: AtomicUsize,
    /// Upper bound of the conditions that one event is compared with, if its row has all columns.
    evaluations_max: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    topics: HashMap<Topic, Vec<Group>>,
    last_id: u64,
}

/// Channels of one topic whose filters were compiled for the same description of the table.
#[derive(Debug)]
struct Group {
    table: Arc<TableColumns>,
    index: FilterIndex,
    channels: HashMap<FilterId, Channels>,
    /// Number of handles of all channels.
    handles: usize,
    /// Number of filters whose channels have this many handles.
    sizes: BTreeMap<usize, usize>,
}

/// Channels of one filter, which differ in the columns that they select.
#[derive(Debug, Default)]
struct Channels {
    entries: Vec<Entry>,
    handles: usize,
}

#[derive(Debug)]
struct Entry {
    channel: Arc<FilterChannel>,
    handles: usize,
    _memory: Portion<OrgId>,
}

impl FilteredTopics {
    /// Number of channels.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Upper bound of the conditions that one event is compared with, if its row has all columns.
    pub(super) fn evaluations_max(&self) -> usize {
        self.evaluations_max.load(Ordering::Acquire)
    }

    /// Whether a topic has a channel with a filter.
    pub(super) fn has_topic(&self, topic: &Topic) -> bool {
        self.count() > 0 && lock(&self.state).topics.contains_key(topic)
    }

    /// Upper bounds for one event of a topic whose row has all columns: the subscribers that get it, and the
    /// conditions that it is compared with.
    pub(super) fn cost_of(&self, topic: &Topic) -> (usize, usize) {
        if self.count() == 0 {
            return (0, 0);
        }
        let state = lock(&self.state);
        let groups = state.topics.get(topic).into_iter().flatten();
        groups.fold((0, 0), |(subscribers, evaluations), group| {
            let (of_group, compared) = group.cost();
            (subscribers + of_group, evaluations + compared)
        })
    }

    /// Segments of those channels of a topic that have a subscription with marks.
    pub(super) fn marked_segments(&self, topic: &Topic) -> Vec<Arc<Segment>> {
        if self.count() == 0 {
            return Vec::new();
        }
        let state = lock(&self.state);
        let groups = state.topics.get(topic).into_iter().flatten();
        let marked =
            groups.flat_map(Group::all).filter_map(|channel| lock(&channel.places).marked_segments());
        marked.flatten().collect()
    }

    /// Finds or creates the channel of a filter, and adds a handle.
    fn open(
        &self,
        org: OrgId,
        topic: &Topic,
        filter: ChannelFilter,
        node: &FilterShares,
        metrics: &Metrics,
    ) -> Result<(Arc<FilterChannel>, FilterId), FilterLimit> {
        let mut state = lock(&self.state);
        // A check that begins later finds the channel.
        if filter.table.checks != node.table_checks.count() {
            return Err(FilterLimit::OUTDATED);
        }
        let State { topics, last_id } = &mut *state;
        let known = topics.get_mut(topic).and_then(|groups| {
            let group = groups.iter_mut().find(|group| group.table == filter.table)?;
            let id = group.index.id(&filter.filter)?;
            let entries = &mut group.channels.get_mut(&id)?.entries;
            let is_same = |entry: &&mut Entry| {
                entry.channel.filter_of(topic).is_some_and(|known| known.is_same(&filter))
            };
            let entry = entries.iter_mut().find(is_same)?;
            entry.handles += 1;
            let channel = Arc::clone(&entry.channel);
            group.resize(id, 1);
            Some((channel, group.index.add(&filter.filter)))
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let memory = &node.memory;
        let is_costly = topics.get(topic).into_iter().flatten().any(|group| {
            group.table == filter.table && group.index.is_costly(&filter.filter, FILTERS_PER_VALUE_MAX)
        }) || FilterIndex::default().is_costly(&filter.filter, FILTERS_PER_VALUE_MAX);
        if is_costly && self.costly.load(Ordering::Acquire) >= ORG_SCANNED_FILTERS_MAX {
            return Err(FilterLimit::SCANNED);
        }
        // Both rows of an update find it.
        if self.evaluations_max() + 2 * filter.filter.conditions() > EVENT_EVALUATIONS_MAX {
            return Err(FilterLimit::SCANNED);
        }
        let portion = memory.try_take(org, CHANNEL_BYTES + MEMORY_PER_BYTE * filter.bytes);
        let Some(portion) = portion.filter(|_| self.count() < ORG_FILTERS_MAX) else {
            return Err(FilterLimit::FILTERS);
        };
        let groups = topics.entry(topic.clone()).or_default();
        let at = groups.iter().position(|group| group.table == filter.table);
        let at = at.unwrap_or_else(|| {
            groups.push(Group::new(Arc::clone(&filter.table)));
            groups.len() - 1
        });
        *last_id += 1;
        let id = groups[at].index.add(&filter.filter);
        let channel = Arc::new(FilterChannel {
            id: ChannelId(*last_id),
            topic: topic.clone(),
            rows: ChannelRows::Table(Arc::new(filter)),
            costly: usize::from(is_costly),
            is_outdated: AtomicBool::new(false),
            places: Mutex::default(),
        });
        let entry = Entry { channel: Arc::clone(&channel), handles: 1, _memory: portion };
        groups[at].channels.entry(id).or_default().entries.push(entry);
        groups[at].resize(id, 1);
        self.count.fetch_add(1, Ordering::Release);
        self.costly.fetch_add(usize::from(is_costly), Ordering::Release);
        self.evaluations_max.store(state.evaluations_max(), Ordering::Release);
        metrics.filters.get_or_create(&FilterKindLabels::of(is_costly)).inc();
        Ok((channel, id))
    }

    fn close(&self, channel: &FilterChannel, id: FilterId, metrics: &Metrics) {
        let mut state = lock(&self.state);
        let Some(groups) = state.topics.get_mut(&channel.topic) else { return };
        let Some(table) = channel.filter_of(&channel.topic).map(|filter| &filter.table) else { return };
        let Some(group) = groups.iter_mut().find(|group| group.table == *table) else { return };
        group.index.remove(id);
        group.resize(id, -1);
        let Some(Channels { entries, .. }) = group.channels.get_mut(&id) else { return };
        let Some(at) = entries.iter().position(|entry| entry.channel.id == channel.id) else { return };
        entries[at].handles -= 1;
        if entries[at].handles > 0 {
            return;
        }
        entries.swap_remove(at);
        if entries.is_empty() {
            group.channels.remove(&id);
        }
        groups.retain(|group| !group.channels.is_empty());
        if groups.is_empty() {
            state.topics.remove(&channel.topic);
        }
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.costly.fetch_sub(channel.costly, Ordering::AcqRel);
        self.evaluations_max.store(state.evaluations_max(), Ordering::Release);
        metrics.filters.get_or_create(&FilterKindLabels::of(channel.costly > 0)).dec();
    }
}

impl State {
    fn evaluations_max(&self) -> usize {
        let of_topic = |groups: &Vec<Group>| groups.iter().map(|group| group.index.evaluations_max()).sum();
        self.topics.values().map(of_topic).max().unwrap_or_default()
    }
}

impl Group {
    fn new(table: Arc<TableColumns>) -> Self {
        let (index, channels) = (FilterIndex::default(), HashMap::new());
        Self { table, index, channels, handles: 0, sizes: BTreeMap::new() }
    }

    /// Adds to the handles of a filter's channels.
    fn resize(&mut self, id: FilterId, more: isize) {
        let Some(channels) = self.channels.get_mut(&id) else { return };
        let former = channels.handles;
        channels.handles = former.saturating_add_signed(more);
        self.handles = self.handles.saturating_add_signed(more);
        let size = channels.handles;
        if let Some(count) = self.sizes.get_mut(&former) {
            *count -= 1;
            if *count == 0 {
                self.sizes.remove(&former);
            }
        }
        if size > 0 {
            *self.sizes.entry(size).or_default() += 1;
        }
    }

    /// Upper bounds for one event whose row has all columns: its subscribers, and its evaluations of
    /// conditions.
    fn cost(&self) -> (usize, usize) {
        let evaluations = self.index.evaluations_max();
        let largest = self.sizes.last_key_value().map_or(0, |(handles, _)| *handles);
        (self.handles.min(evaluations.max(1).saturating_mul(largest)), evaluations)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<FilterChannel>> {
        self.channels.values().flat_map(|channels| &channels.entries).map(|entry| &entry.channel)
    }
}

impl FilterChannel {
    /// The filter for events of a topic. None if the channel gets them as they are, or not at all.
    pub(super) fn filter_of(&self, topic: &Topic) -> Option<&Arc<ChannelFilter>> {
        match &self.rows {
            ChannelRows::Table(filter) => Some(filter),
            ChannelRows::Claim(claim) => claim.filter_of(topic),
        }
    }

    /// Conditions that an event of a topic is compared with.
    fn conditions(&self, topic: &Topic) -> usize {
        self.filter_of(topic).map_or(0, |filter| filter.filter.conditions())
    }

    /// The segments that the channel has now.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        lock(&self.places).segments()
    }
}

impl FilterLimit {
    fn count(&self, metrics: &Metrics) {
        if *self != Self::OUTDATED {
            metrics.limit_reached(self.name);
        }
    }

    /// No limit: the filter must be compiled again.
    pub const OUTDATED: Self = Self {
        name: "table_changed",
        hint: "the table of this topic is being changed: join again in a moment",
    };
    /// Limit of channels, or of their memory.
    const FILTERS: Self = Self {
        name: "filters_per_org",
        hint: "your organisation has too many different filters on this gateway: join with filters that others use \
               too, or without one",
    };
    /// Limit of filters that are evaluated for most events.
    const SCANNED: Self = Self {
        name: "scanned_filters_per_org",
        hint: "your organisation has too many different filters on this gateway that most events must be compared \
               with: add a condition with eq or in that few rows fulfil",
    };
}

impl Default for FilterShares {
    fn default() -> Self {
        Self { memory: Capacity::new(FILTER_MEMORY_MAX), table_checks: Arc::default() }
    }
}

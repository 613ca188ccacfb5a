//! Channels of aggregate topics (`org`, `call:<uuid>`) for tokens with filters.
//!
//! An aggregate topic carries events of several topics. Such a channel gets those of the topics that the
//! token's filters name, each by the filter of its own topic. Sessions share it if all filters of their
//! tokens are equal. Each topic has an index of the filters, so that an event does not search all channels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::candidates::{Candidates, GroupCandidates};
use super::claim_filter::ClaimFilter;
use super::{
    CHANNEL_BYTES, ChannelId, ChannelRows, FILTERS_PER_VALUE_MAX, FilterChannel, FilterLimit, FilterShares,
    MEMORY_PER_BYTE, ORG_FILTERS_MAX, ORG_SCANNED_FILTERS_MAX,
};
use crate::capacity::Portion;
use crate::filter::{Change, ChannelFilter, FilterId, FilterIndex, TableColumns};
use crate::hub::segments::Segment;
use crate::metrics::{FilterKindLabels, Metrics};
use crate::org::OrgId;
use crate::sync::lock;
use crate::wire::{Event, Topic};

/// Distinguishes the ids of these channels from those of other channels.
const CLAIM_CHANNEL: u64 = 1 << 63;

/// All such channels of one organisation.
#[derive(Debug, Default)]
pub(in crate::hub) struct ClaimChannels {
    /// Number of channels, which is read without a lock.
    count: AtomicUsize,
    /// Upper bound of the conditions that one event is compared with.
    evaluations_max: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By the joined topic.
    joined: HashMap<Topic, Aggregate>,
    last_id: u64,
    /// Number of filters that count as evaluated for most events.
    costly: usize,
}

/// The channels of one aggregate topic.
#[derive(Debug, Default)]
struct Aggregate {
    /// By the hash of their filters.
    channels: HashMap<u64, Vec<Entry>>,
    /// Number of handles of all channels.
    handles: usize,
    /// By the topic of an event.
    by_topic: HashMap<Arc<str>, OwnTopic>,
}

#[derive(Debug)]
struct Entry {
    channel: Arc<FilterChannel>,
    claim: Arc<ClaimFilter>,
    handles: usize,
    _memory: Portion<OrgId>,
}

/// The channels that get events of one topic.
#[derive(Debug, Default)]
struct OwnTopic {
    /// Channels that get all of them.
    whole: Vec<Arc<FilterChannel>>,
    groups: Vec<Group>,
}

/// Channels whose filters of the topic were compiled for the same description of the table.
#[derive(Debug)]
struct Group {
    table: Arc<TableColumns>,
    index: FilterIndex,
    channels: HashMap<FilterId, Vec<Arc<FilterChannel>>>,
}

impl ClaimChannels {
    /// Number of channels.
    pub(in crate::hub) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Upper bound of the conditions that one event is compared with.
    pub(in crate::hub) fn evaluations_max(&self) -> usize {
        self.evaluations_max.load(Ordering::Acquire)
    }

    /// Adds the channels that an event may concern.
    pub(in crate::hub) fn add_candidates<'e>(&self, event: &'e Event, candidates: &mut Candidates<'e>) {
        if self.count() == 0 {
            return;
        }
        if event.is_control() {
            let state = lock(&self.state);
            let entries = state.joined.values().flat_map(|aggregate| aggregate.channels.values().flatten());
            let reached = entries.filter(|entry| entry.claim.is_reached(event));
            candidates.reached.extend(reached.map(|entry| Arc::clone(&entry.channel)));
            return;
        }
        let tables = {
            let state = lock(&self.state);
            let whole = state.own_topics(event).flat_map(|own| &own.whole);
            candidates.reached.extend(whole.map(Arc::clone));
            let groups = state.own_topics(event).flat_map(|own| &own.groups);
            groups.fold(Vec::<Arc<TableColumns>>::new(), |mut tables, group| {
                if !tables.iter().any(|table| Arc::ptr_eq(table, &group.table)) {
                    tables.push(Arc::clone(&group.table));
                }
                tables
            })
        };
        // A published event is no row.
        let Some(watch) = event.watch else { return };
        let is_known = watch != Event::UNKNOWN_WATCH;
        for table in tables {
            // Not locked meanwhile, because a row may be large.
            let change = is_known.then(|| table.change(&event.data, event.old.as_deref())).flatten();
            self.find(event, &table, change, candidates);
        }
    }

    /// Adds the candidates of the groups with this description of the table.
    fn find<'e>(
        &self,
        event: &Event,
        table: &Arc<TableColumns>,
        change: Option<Change<'e>>,
        candidates: &mut Candidates<'e>,
    ) {
        let state = lock(&self.state);
        let groups = state.own_topics(event).flat_map(|own| &own.groups);
        let groups = groups.filter(|group| Arc::ptr_eq(&group.table, table));
        let Some(change) = change else {
            let all = groups.flat_map(|group| group.channels.values().flatten());
            candidates.unknown.extend(all.map(Arc::clone));
            return;
        };
        let mut channels = Vec::new();
        for group in groups {
            let found = group.index.candidates(&change);
            candidates.not_found += group.index.len().saturating_sub(found.len()) as u64;
            for of_filter in found.iter().filter_map(|id| group.channels.get(id)) {
                candidates.evaluations += of_filter.first().map_or(0, |first| first.conditions(&event.topic));
                channels.extend(of_filter.iter().map(Arc::clone));
            }
        }
        candidates.groups.push(GroupCandidates { change, channels });
    }

    /// Topics for which there is a filter.
    pub(super) fn topics(&self) -> Vec<Topic> {
        if self.count() == 0 {
            return Vec::new();
        }
        let state = lock(&self.state);
        let entries = state.joined.values().flat_map(|aggregate| aggregate.channels.values().flatten());
        entries
            .flat_map(|entry| entry.claim.filters())
            .map(|(topic, _)| Topic::Named(Arc::clone(topic)))
            .collect()
    }

    /// Channels with a filter that was compiled for another version of its topic's table than these.
    pub(super) fn outdated(&self, versions: &HashMap<String, Option<String>>) -> Vec<Arc<FilterChannel>> {
        if self.count() == 0 {
            return Vec::new();
        }
        let is_outdated = |(topic, filter): (&Arc<str>, &Arc<ChannelFilter>)| {
            versions.get(&**topic).is_some_and(|version| version.as_ref() != Some(&filter.table.version))
        };
        let state = lock(&self.state);
        let entries = state.joined.values().flat_map(|aggregate| aggregate.channels.values().flatten());
        let outdated = entries.filter(|entry| entry.claim.filters().any(is_outdated));
        outdated.map(|entry| Arc::clone(&entry.channel)).collect()
    }

    /// Whether an aggregate topic has such a channel.
    pub(in crate::hub) fn has_topic(&self, topic: &Topic) -> bool {
        self.count() > 0 && lock(&self.state).joined.contains_key(topic)
    }

    /// Upper bounds for one event: the subscribers, and the filters that the event is compared with.
    pub(in crate::hub) fn cost_of(&self, event: &Event) -> (usize, usize) {
        if self.count() == 0 {
            return (0, 0);
        }
        let state = lock(&self.state);
        let joined = reached_topics(event).filter_map(|topic| state.joined.get(topic));
        joined.fold((0, 0), |(subscribers, evaluations), aggregate| {
            let own = aggregate.by_topic.get(event.topic.as_str());
            (subscribers + aggregate.handles, evaluations + own.map_or(0, OwnTopic::evaluations_max))
        })
    }

    /// Segments of those channels of an aggregate topic that have a subscription with marks.
    pub(in crate::hub) fn marked_segments(&self, topic: &Topic) -> Vec<Arc<Segment>> {
        if self.count() == 0 {
            return Vec::new();
        }
        let state = lock(&self.state);
        let entries = state.joined.get(topic).into_iter().flat_map(|a| a.channels.values().flatten());
        entries.filter_map(|entry| lock(&entry.channel.places).marked_segments()).flatten().collect()
    }

    /// Finds or creates the channel of a token's filters, and adds a handle.
    pub(super) fn open(
        &self,
        org: OrgId,
        topic: &Topic,
        claim: ClaimFilter,
        node: &FilterShares,
        metrics: &Metrics,
    ) -> Result<Arc<FilterChannel>, FilterLimit> {
        let mut state = lock(&self.state);
        // A check that begins later finds the channel.
        if claim.filters().any(|(_, filter)| filter.table.checks != node.table_checks.count()) {
            return Err(FilterLimit::OUTDATED);
        }
        let known = state.joined.get_mut(topic).and_then(|aggregate| {
            let entries = aggregate.channels.get_mut(&claim.hash)?;
            let entry = entries.iter_mut().find(|entry| entry.claim.is_same(&claim))?;
            entry.handles += 1;
            aggregate.handles += 1;
            Some(Arc::clone(&entry.channel))
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let costly = state.costly_filters(topic, &claim);
        if state.costly + costly > ORG_SCANNED_FILTERS_MAX {
            return Err(FilterLimit::SCANNED);
        }
        let bytes: usize = claim.filters().map(|(_, filter)| filter.bytes).sum();
        let portion =
            node.memory.try_take(org, CHANNEL_BYTES * (1 + claim.topics.len()) + MEMORY_PER_BYTE * bytes);
        let Some(portion) = portion.filter(|_| self.count() < ORG_FILTERS_MAX) else {
            return Err(FilterLimit::FILTERS);
        };
        state.last_id += 1;
        state.costly += costly;
        let claim = Arc::new(claim);
        let channel = Arc::new(FilterChannel {
            id: ChannelId(CLAIM_CHANNEL | state.last_id),
            topic: topic.clone(),
            rows: ChannelRows::Claim(Arc::clone(&claim)),
            costly,
            is_outdated: AtomicBool::new(false),
            places: Mutex::default(),
        });
        let aggregate = state.joined.entry(topic.clone()).or_default();
        aggregate.add(&channel, &claim);
        aggregate.handles += 1;
        let entry = Entry { channel: Arc::clone(&channel), claim, handles: 1, _memory: portion };
        aggregate.channels.entry(entry.claim.hash).or_default().push(entry);
        self.count.fetch_add(1, Ordering::Release);
        self.evaluations_max.store(state.evaluations_max(), Ordering::Release);
        metrics.filters.get_or_create(&FilterKindLabels::of(costly > 0)).inc();
        Ok(channel)
    }

    /// Removes a handle of a channel, and the channel with its last one.
    pub(super) fn close(&self, channel: &FilterChannel, claim: &ClaimFilter, metrics: &Metrics) {
        let mut state = lock(&self.state);
        let Some(aggregate) = state.joined.get_mut(&channel.topic) else { return };
        let Some(entries) = aggregate.channels.get_mut(&claim.hash) else { return };
        let Some(at) = entries.iter().position(|entry| entry.channel.id == channel.id) else { return };
        entries[at].handles -= 1;
        aggregate.handles -= 1;
        if entries[at].handles > 0 {
            return;
        }
        entries.swap_remove(at);
        if entries.is_empty() {
            aggregate.channels.remove(&claim.hash);
        }
        aggregate.remove(channel, claim);
        if aggregate.channels.is_empty() {
            state.joined.remove(&channel.topic);
        }
        state.costly -= channel.costly;
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.evaluations_max.store(state.evaluations_max(), Ordering::Release);
        metrics.filters.get_or_create(&FilterKindLabels::of(channel.costly > 0)).dec();
    }
}

/// The aggregate topics that an event reaches.
fn reached_topics(event: &Event) -> impl Iterator<Item = &Topic> {
    [Some(&Topic::Org), event.entity_topic.as_ref()].into_iter().flatten()
}

impl State {
    /// The channels that may get an event, for `org` and for the event's entity topic.
    fn own_topics<'s>(&'s self, event: &'s Event) -> impl Iterator<Item = &'s OwnTopic> {
        let joined = reached_topics(event).filter_map(|topic| self.joined.get(topic));
        joined.filter_map(|aggregate| aggregate.by_topic.get(event.topic.as_str()))
    }

    /// Filters of a new channel that most events would be compared with.
    fn costly_filters(&self, topic: &Topic, claim: &ClaimFilter) -> usize {
        let is_costly = |(own, filter): &(&Arc<str>, &Arc<ChannelFilter>)| {
            let groups = self.joined.get(topic).and_then(|aggregate| aggregate.by_topic.get(*own));
            let mut groups = groups.into_iter().flat_map(|own| &own.groups);
            let group = groups.find(|group| group.table == filter.table);
            group.map_or_else(
                || FilterIndex::default().is_costly(&filter.filter, FILTERS_PER_VALUE_MAX),
                |group| {
                    group.index.id(&filter.filter).is_none()
                        && group.index.is_costly(&filter.filter, FILTERS_PER_VALUE_MAX)
                },
            )
        };
        claim.filters().filter(is_costly).count()
    }

    fn evaluations_max(&self) -> usize {
        // An event has one entity topic at most, and reaches `org` too.
        let of = |aggregate: &Aggregate| {
            aggregate.by_topic.values().map(OwnTopic::evaluations_max).max().unwrap_or_default()
        };
        let (org, entities): (Vec<_>, Vec<_>) = self.joined.iter().partition(|(topic, _)| topic.is_org());
        let max =
            |all: Vec<(&Topic, &Aggregate)>| all.into_iter().map(|(_, a)| of(a)).max().unwrap_or_default();
        max(org) + max(entities)
    }
}

impl Aggregate {
    fn add(&mut self, channel: &Arc<FilterChannel>, claim: &ClaimFilter) {
        for (topic, filter) in &claim.topics {
            let own = self.by_topic.entry(Arc::clone(topic)).or_default();
            match filter {
                None => own.whole.push(Arc::clone(channel)),
                Some(filter) => own.add(channel, filter),
            }
        }
    }

    fn remove(&mut self, channel: &FilterChannel, claim: &ClaimFilter) {
        for (topic, filter) in &claim.topics {
            let Some(own) = self.by_topic.get_mut(topic) else { continue };
            match filter {
                None => own.whole.retain(|other| other.id != channel.id),
                Some(filter) => own.remove(channel, filter),
            }
            if own.whole.is_empty() && own.groups.is_empty() {
                self.by_topic.remove(topic);
            }
        }
    }
}

impl OwnTopic {
    fn add(&mut self, channel: &Arc<FilterChannel>, filter: &ChannelFilter) {
        let at = self.groups.iter().position(|group| group.table == filter.table);
        let at = at.unwrap_or_else(|| {
            let (table, index) = (Arc::clone(&filter.table), FilterIndex::default());
            self.groups.push(Group { table, index, channels: HashMap::new() });
            self.groups.len() - 1
        });
        let id = self.groups[at].index.add(&filter.filter);
        self.groups[at].channels.entry(id).or_default().push(Arc::clone(channel));
    }

    fn remove(&mut self, channel: &FilterChannel, filter: &ChannelFilter) {
        let Some(group) = self.groups.iter_mut().find(|group| group.table == filter.table) else { return };
        let Some(id) = group.index.id(&filter.filter) else { return };
        group.index.remove(id);
        if let Some(channels) = group.channels.get_mut(&id) {
            channels.retain(|other| other.id != channel.id);
            if channels.is_empty() {
                group.channels.remove(&id);
            }
        }
        self.groups.retain(|group| !group.channels.is_empty());
    }

    fn evaluations_max(&self) -> usize {
        self.groups.iter().map(|group| group.index.evaluations_max()).sum()
    }
}

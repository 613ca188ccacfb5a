//! The rows that the subscribers of a channel get.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::FilterChannel;
use crate::filter::ChannelFilter;
use crate::wire::{Event, Topic};

/// The rows of each topic that a token allows. Events of other topics are left out.
#[derive(Debug)]
pub struct ClaimFilter {
    /// Topics by name. A topic without a filter is allowed as a whole.
    topics: BTreeMap<Arc<str>, Option<Arc<ChannelFilter>>>,
}

/// Rows that the subscribers of a channel get.
#[derive(Debug)]
pub(super) enum ChannelRows {
    /// Those of one table that a filter selects.
    Table(Arc<ChannelFilter>),
    /// Those of several topics that the filters of a token allow.
    Claim(ClaimFilter),
}

/// Rows of one topic that a channel gets.
#[derive(Debug)]
pub(super) struct Part<'a> {
    /// The topic of the events.
    pub(super) topic: Topic,
    /// None if the channel gets all of them.
    pub(super) filter: Option<&'a Arc<ChannelFilter>>,
}

impl ClaimFilter {
    /// The filters of a token. A topic without a filter is allowed as a whole.
    #[must_use]
    pub fn new(topics: BTreeMap<Arc<str>, Option<Arc<ChannelFilter>>>) -> Self {
        Self { topics }
    }

    /// The filter of a topic that is named. None if the topic is allowed as a whole.
    pub(super) fn filter_of(&self, topic: &Topic) -> Option<&Arc<ChannelFilter>> {
        self.topics.get(topic.as_str())?.as_ref()
    }

    /// Whether the token allows an event of this topic, or a part of its rows.
    pub(super) fn is_reached(&self, event: &Event) -> bool {
        // A control event on `org` concerns all topics. Anything else on `org` was published there.
        (event.is_control() && event.topic.is_org()) || self.topics.contains_key(event.topic.as_str())
    }

    fn is_same(&self, other: &Self) -> bool {
        let is_same = |a: &Option<Arc<ChannelFilter>>, b: &Option<Arc<ChannelFilter>>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => a.is_same(b),
            _ => false,
        };
        self.topics.len() == other.topics.len()
            && self.topics.iter().zip(&other.topics).all(|(a, b)| a.0 == b.0 && is_same(a.1, b.1))
    }
}

impl ChannelRows {
    /// Whether subscribers get the same bytes.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Table(filter), Self::Table(other)) => filter.is_same(other),
            (Self::Claim(claim), Self::Claim(other)) => claim.is_same(other),
            _ => false,
        }
    }

    /// Number of entries that a channel has, beside its filters.
    pub(super) fn entries(&self) -> usize {
        match self {
            Self::Table(_) => 1,
            Self::Claim(claim) => 1 + claim.topics.len(),
        }
    }

    /// The filters of all topics.
    pub(super) fn filters(&self) -> impl Iterator<Item = &Arc<ChannelFilter>> {
        let (table, claim) = match self {
            Self::Table(filter) => (Some(filter), None),
            Self::Claim(claim) => (None, Some(claim)),
        };
        table.into_iter().chain(claim.into_iter().flat_map(|claim| claim.topics.values().flatten()))
    }
}

/// Rows that are the same have the same hash.
impl Hash for ChannelRows {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for ChannelFilter { filter, select, is_signed, .. } in self.filters().map(|filter| &**filter) {
            (filter, select, is_signed).hash(state);
        }
    }
}

impl FilterChannel {
    /// The filter for events of a topic. None if the channel gets them as they are, or not at all.
    pub(in crate::hub) fn filter_of(&self, topic: &Topic) -> Option<&Arc<ChannelFilter>> {
        match &*self.rows {
            ChannelRows::Table(filter) => Some(filter),
            ChannelRows::Claim(claim) => claim.filter_of(topic),
        }
    }

    /// The rows of each topic.
    pub(super) fn parts(&self) -> Vec<Part<'_>> {
        match &*self.rows {
            ChannelRows::Table(filter) => vec![Part { topic: self.topic.clone(), filter: Some(filter) }],
            ChannelRows::Claim(claim) => {
                let named = |name| Topic::Named(Arc::clone(name));
                let parts = claim.topics.iter();
                parts.map(|(name, filter)| Part { topic: named(name), filter: filter.as_ref() }).collect()
            }
        }
    }
}

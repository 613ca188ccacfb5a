//! The part of an aggregate topic that a token with filters gets.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use crate::filter::ChannelFilter;
use crate::wire::{Event, Topic};

/// The rows of each topic that a token allows. Events of other topics are left out.
#[derive(Debug)]
pub struct ClaimFilter {
    /// Topics by name. A topic without a filter is allowed as a whole.
    pub(super) topics: BTreeMap<Arc<str>, Option<Arc<ChannelFilter>>>,
    pub(super) hash: u64,
}

impl ClaimFilter {
    /// The filters of a token. A topic without a filter is allowed as a whole.
    #[must_use]
    pub fn new(topics: BTreeMap<Arc<str>, Option<Arc<ChannelFilter>>>) -> Self {
        let mut hasher = DefaultHasher::new();
        for (topic, filter) in &topics {
            topic.hash(&mut hasher);
            filter.as_ref().map(|filter| &filter.filter).hash(&mut hasher);
        }
        Self { topics, hash: hasher.finish() }
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

    pub(super) fn is_same(&self, other: &Self) -> bool {
        let is_same = |a: &Option<Arc<ChannelFilter>>, b: &Option<Arc<ChannelFilter>>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => a.is_same(b),
            _ => false,
        };
        self.topics.len() == other.topics.len()
            && self.topics.iter().zip(&other.topics).all(|(a, b)| a.0 == b.0 && is_same(a.1, b.1))
    }

    pub(super) fn filters(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<ChannelFilter>)> {
        self.topics.iter().filter_map(|(topic, filter)| Some((topic, filter.as_ref()?)))
    }
}

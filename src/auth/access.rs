//! The topics that a token may use, by its claims `warden_topics` and `warden_filters` together.

use super::filters::{FilterClaim, SignedFilter};
use super::topics::TopicClaim;
use crate::wire::Topic;

/// The claims of a token that limit its topics. If it has both, both must allow a topic.
#[derive(Clone, Copy, Debug)]
pub struct TopicAccess<'a> {
    /// Topics that the token names.
    pub topics: &'a TopicClaim,
    /// Topics of whose rows the token names some.
    pub filters: &'a FilterClaim,
}

impl TopicAccess<'_> {
    /// Whether the token may use only topics that it names. Its filters name no aggregate topics, because
    /// these leave out what the filters do not allow.
    #[must_use]
    pub fn is_limited_for(&self, topic: &Topic) -> bool {
        self.topics.is_present() || (self.filters.is_present() && matches!(topic, Topic::Named(_)))
    }

    /// Whether the token names a topic, or `<kind>:*`.
    #[must_use]
    pub fn names(&self, topic: &str) -> bool {
        if !matches!(Topic::parse(topic), Some(Topic::Named(_))) {
            return self.topics.names(topic);
        }
        let by_topics = self.topics.is_present().then(|| self.topics.names(topic));
        let by_filters = self.filters.is_present().then(|| self.filters.of(topic).is_some());
        match (by_topics, by_filters) {
            (None, None) => false,
            (by_topics, by_filters) => by_topics.unwrap_or(true) && by_filters.unwrap_or(true),
        }
    }

    /// Whether aggregate topics leave out the events of this topic, because of the token's filters.
    #[must_use]
    pub fn leaves_out(&self, topic: &str) -> bool {
        self.filters.is_present() && self.filters.of(topic).is_none()
    }

    /// Whether the token may publish on a topic. A published event is no row, so a topic of which the token
    /// allows some rows only is not enough.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        (!self.topics.is_present() || self.topics.names(topic))
            && (!self.filters.is_present() || self.filters.of(topic) == Some(&SignedFilter::All))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn both_claims_must_allow_a_topic() {
        let access = |topics: Option<Value>, filters: Option<Value>| {
            let topics = topics.map_or_else(TopicClaim::default, |list| TopicClaim::for_tests(&list));
            let filters = filters.map_or_else(FilterClaim::default, |map| FilterClaim::for_tests(&map));
            move |topic: &str| {
                let access = TopicAccess { topics: &topics, filters: &filters };
                (access.names(topic), access.leaves_out(topic), access.may_publish(topic))
            }
        };
        let none = access(None, None);
        assert_eq!((none("calls"), none("org")), ((false, false, true), (false, false, true)));
        let filters = access(None, Some(json!({"calls": "a=eq.1", "notices": "*"})));
        assert_eq!((filters("calls"), filters("notices")), ((true, false, false), (true, false, true)));
        assert_eq!((filters("org"), filters("call:1")), ((false, true, false), (false, true, false)));
        let both = access(Some(json!(["org", "calls", "recordings"])), Some(json!({"calls": "*", "x": "*"})));
        assert_eq!((both("calls"), both("recordings")), ((true, false, true), (false, true, false)));
        assert_eq!((both("x"), both("org")), ((false, false, false), (true, true, false)));
    }
}

//! Topics that have had events since their last mark, and which topics the events of an aggregate topic
//! stem from.

use std::collections::{HashMap, HashSet};

use super::NamedTopics;
use crate::wire::{Event, Topic};

/// Topics that have had events since their last mark.
#[derive(Debug, Default)]
pub(super) struct UnmarkedTopics(HashMap<Topic, EventSources>);

/// Named topics whose events reached an aggregate topic. Empty for a named topic.
#[derive(Debug, Default)]
struct EventSources {
    named: HashSet<Topic>,
    /// Whether a control event to all topics reached it.
    all: bool,
}

impl UnmarkedTopics {
    /// Adds topics that an event reached.
    pub(super) fn add(&mut self, topics: impl Iterator<Item = Topic>, event: &Event) {
        for topic in topics {
            let is_aggregate = !matches!(topic, Topic::Named(_));
            let sources = self.0.entry(topic).or_default();
            if is_aggregate {
                sources.all |= event.is_control() && event.topic.is_org();
                if matches!(event.topic, Topic::Named(_)) && !sources.named.contains(&event.topic) {
                    sources.named.insert(event.topic.clone());
                }
            }
        }
    }

    /// All of them.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.0.keys()
    }

    /// Those that are no aggregate topics.
    pub(super) fn named(&self) -> impl Iterator<Item = &Topic> {
        self.topics().filter(|topic| matches!(topic, Topic::Named(_)))
    }

    /// The named topics whose events reached an aggregate topic. None for a named topic, and if all sessions
    /// received an event.
    pub(super) fn sources(&self, topic: &Topic) -> Option<NamedTopics> {
        let sources = self.0.get(topic).filter(|_| !matches!(topic, Topic::Named(_)))?;
        (!sources.all).then(|| NamedTopics::new(sources.named.iter().cloned().collect()))
    }
}

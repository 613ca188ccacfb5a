//! The claim `app_metadata.warden_topics`, which limits a token to some topics.
//!
//! The claim is in `app_metadata` because only the application's back end can write there. It is strictly
//! typed: an invalid claim rejects the token and never means "all topics". `session::topic_policy` decides
//! what the claim means for a join.

use std::sync::Arc;

use serde_json::Value;

use crate::wire::{Topic, is_entity_kind};

/// Most entries in one claim.
pub(crate) const TOPICS_MAX: usize = 100;

/// Entry for all topics.
const ALL: &str = "*";

/// End of an entry for all entities of one kind, such as `call:*`.
const ALL_OF_KIND: &str = ":*";

/// Topics that a token names. A token without the claim names none and is not limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicClaim(Option<Arc<[String]>>);

impl TopicClaim {
    /// Parses the claim: a list whose entries are topics, `<kind>:*`, or `*`.
    pub(super) fn from_claim(value: &Value) -> Option<Self> {
        let entries = value.as_array().filter(|entries| entries.len() <= TOPICS_MAX)?;
        let names: Option<Arc<[String]>> = entries
            .iter()
            .map(|entry| entry.as_str().filter(|entry| *entry == ALL || is_topic(entry)).map(str::to_owned))
            .collect();
        names.map(|names| Self(Some(names)))
    }

    /// Creates a claim without a token, for unit tests.
    #[cfg(test)]
    pub(crate) fn for_tests(value: &Value) -> Self {
        Self::from_claim(value).expect("a claim")
    }

    /// Whether the token has the claim. If so, it may join only the topics that it names.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the claim names this topic, `*`, or, for an entity topic, `<kind>:*`.
    #[must_use]
    pub fn names(&self, topic: &str) -> bool {
        let names = self.0.as_deref().unwrap_or_default();
        names.iter().any(|name| name == topic || name == ALL || names_kind_of(name, topic))
    }
}

/// Whether a string is spelled like a topic, or like `<kind>:*` for all entities of a kind. Only the database
/// knows which topics and kinds are declared and how the ids of a kind are spelled.
#[must_use]
pub fn is_topic(text: &str) -> bool {
    text.strip_suffix(ALL_OF_KIND).map_or_else(|| Topic::parse(text).is_some(), is_entity_kind)
}

/// Whether an entry is `<kind>:*`, and the topic is one of that kind.
#[must_use]
pub fn names_kind_of(entry: &str, topic: &str) -> bool {
    let kind = topic.split_once(':').map(|(kind, _)| kind);
    kind.is_some() && entry.strip_suffix(ALL_OF_KIND) == kind
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const CALL: &str = "call:6f9619ff-8b86-4d01-b42d-00cf4fc964ff";

    #[test]
    fn a_claim_names_only_the_topics_that_it_lists() {
        let none = TopicClaim::default();
        assert!(!none.is_present() && !none.names("calls"));
        let empty = TopicClaim::from_claim(&json!([])).expect("a claim");
        assert!(empty.is_present() && !empty.names("calls") && !empty.names(CALL));
        let some = TopicClaim::from_claim(&json!(["calls", "call:*"])).expect("a claim");
        assert!(some.names("calls") && some.names(CALL) && some.names("call:*"));
        assert!(!some.names("call_logs") && !some.names("org") && !some.names("recordings"));
        let kinds = TopicClaim::from_claim(&json!(["call:*", "invoice:17"])).expect("a claim");
        assert!(kinds.names("call:1") && kinds.names("invoice:17"));
        assert!(!kinds.names("invoice:1") && !kinds.names("invoice:*") && !kinds.names("call"));
        let one = TopicClaim::from_claim(&json!([CALL])).expect("a claim");
        assert!(one.names(CALL) && !one.names("call:*"));
        assert!(!one.names("call:6f9619ff-8b86-4d01-b42d-00cf4fc964fe"));
        let all = TopicClaim::from_claim(&json!(["*"])).expect("a claim");
        assert!(all.names("org") && all.names(CALL) && all.names("anything"));
    }

    #[test]
    fn an_invalid_claim_is_rejected() {
        let many: Vec<String> = (0..101).map(|n| format!("topic_{n}")).collect();
        for invalid in [
            json!(null),
            json!("calls"),
            json!("*"),
            json!(true),
            json!({"calls": true}),
            json!(["calls", 7]),
            json!(["calls", null]),
            json!([["calls"]]),
            json!([""]),
            json!(["Calls"]),
            json!(["calls "]),
            json!(["call*"]),
            json!(["**"]),
            json!(["call:"]),
            json!(["call:*:*"]),
            json!(["org:*"]),
            json!(["call:a b"]),
            json!(["a".repeat(64)]),
            json!(many),
        ] {
            assert_eq!(TopicClaim::from_claim(&invalid), None, "{invalid}");
        }
    }
}

//! The claim that limits a token to some topics: `app_metadata.warden_topics`.
//!
//! It stands in `app_metadata`, which only the application's back end writes. It is strictly typed: what
//! can't be read is a refusal, never "everything". What follows from it for a join is the session's
//! business.

use std::sync::Arc;

use serde_json::Value;

use crate::wire::{Topic, is_entity_kind};

/// Entries in one claim.
const TOPICS_MAX: usize = 100;

/// The entry for every topic.
const ALL: &str = "*";

/// Ends the entry for all entities of one kind, such as `call:*`.
const ALL_OF_KIND: &str = ":*";

/// Which topics a token grants by name; one without the claim grants none by name, and limits none.
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

    /// For unit tests, which have no token.
    #[cfg(test)]
    pub(crate) fn for_tests(value: &Value) -> Self {
        Self::from_claim(value).expect("a claim")
    }

    /// Whether the token has the claim: then it grants what it names, and nothing else.
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

/// Whether a string is a topic, or `<kind>:*` for all entities of a kind. Which topics and kinds are declared, and how
/// ids of a kind are spelled, is known to the database alone.
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
    fn names_what_it_lists_and_nothing_else() {
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
    fn what_cannot_be_read_is_no_claim() {
        let many: Vec<String> = (0..101).map(|n| format!("topic_{n}")).collect();
        for wrong in [
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
            assert_eq!(TopicClaim::from_claim(&wrong), None, "{wrong}");
        }
    }
}

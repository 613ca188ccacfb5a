//! The claim that limits a token to some topics: `app_metadata.warden_topics`.
//!
//! It stands in `app_metadata`, which only the application's back end writes. It is strictly typed: what
//! can't be read is a refusal, never "everything". What follows from it for a join is the session's
//! business.

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

/// Entries in one claim.
const TOPICS_MAX: usize = 100;

/// Longest name of a topic, in bytes, as in the check on `warden.topics`.
const TOPIC_BYTES_MAX: usize = 63;

/// The entry for every topic.
const ALL: &str = "*";

/// The entry for every `call:<uuid>`.
pub const ALL_CALLS: &str = "call:*";

const CALL_PREFIX: &str = "call:";

/// Which topics a token grants by name; one without the claim grants none by name, and limits none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicClaim(Option<Arc<[String]>>);

impl TopicClaim {
    /// Reads the claim: a list of topics, of `call:*`, or `*`.
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

    /// Whether the claim names this topic, `*`, or, for one call, `call:*`.
    #[must_use]
    pub fn names(&self, topic: &str) -> bool {
        let names = self.0.as_deref().unwrap_or_default();
        names
            .iter()
            .any(|name| name == topic || name == ALL || (name == ALL_CALLS && topic.starts_with(CALL_PREFIX)))
    }
}

/// Whether a text names a topic, or `call:*` all calls.
#[must_use]
pub fn is_topic(text: &str) -> bool {
    if let Some(call) = text.strip_prefix(CALL_PREFIX) {
        return call == "*" || Uuid::try_parse(call).is_ok_and(|id| id.to_string() == call);
    }
    text.len() <= TOPIC_BYTES_MAX
        && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
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
            json!(["call:6F9619FF-8B86-4D01-B42D-00CF4FC964FF"]),
            json!(["a".repeat(64)]),
            json!(many),
        ] {
            assert_eq!(TopicClaim::from_claim(&wrong), None, "{wrong}");
        }
    }
}

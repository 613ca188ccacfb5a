//! Which topics a session may join: what its token says, and which topics need to be named by it.
//!
//! `org` and entity topics such as `call:<uuid>` are aggregates: they carry events of other topics. An event is encoded
//! once for all subscribers of a topic, so no event can be left out for one of them. If an aggregate could carry events
//! of a topic that the token needs to name and does not, the join is rejected as a whole.

use crate::auth::{TopicClaim, names_kind_of};
use crate::wire::Topic;

/// The topics that are closed to tokens that do not name them.
#[derive(Clone, Debug, Default)]
pub struct TopicPolicy {
    need_claim: Vec<String>,
}

/// Why a topic can't be joined.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Forbidden {
    #[error("the token does not name {0} in app_metadata.warden_topics, and needs to")]
    NotNamed(String),
    #[error(
        "{topic} carries {carried} as well, which the token does not name in app_metadata.warden_topics: join the topics that you need one by one"
    )]
    Carries { topic: String, carried: String },
}

impl TopicPolicy {
    /// `need_claim`: topics, and `<kind>:*` for all entities of a kind.
    #[must_use]
    pub fn new(need_claim: Vec<String>) -> Self {
        Self { need_claim }
    }

    pub(super) fn check(&self, claim: &TopicClaim, topic: &Topic) -> Result<(), Forbidden> {
        let name = topic.as_str();
        let is_it = |needed: &str| needed == name || names_kind_of(needed, name);
        let must_be_named = claim.is_present() || self.need_claim.iter().any(|needed| is_it(needed));
        if must_be_named && !claim.names(name) {
            return Err(Forbidden::NotNamed(name.to_owned()));
        }
        let carried = self.need_claim.iter().filter(|needed| match topic {
            Topic::Org => true,
            Topic::Named(_) => false,
            // It may carry events of any named topic, but an event belongs to one entity at most.
            Topic::Entity(_) => matches!(Topic::parse(needed), Some(Topic::Named(_))),
        });
        match carried.filter(|needed| !is_it(needed)).find(|needed| !claim.names(needed)) {
            Some(needed) => Err(Forbidden::Carries { topic: name.to_owned(), carried: needed.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CALL: &str = "call:6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
    const OTHER_CALL: &str = "call:6f9619ff-8b86-4d01-b42d-00cf4fc964fe";
    const INVOICE: &str = "invoice:17";
    const TOPICS: [&str; 7] = ["calls", "call_logs", "recordings", "org", CALL, OTHER_CALL, INVOICE];

    /// Those of `TOPICS` that may be joined.
    fn joined(need_claim: &[&str], claim: Option<Value>) -> Vec<&'static str> {
        let policy = TopicPolicy::new(need_claim.iter().map(|&topic| topic.to_owned()).collect());
        let claim = claim.map_or_else(TopicClaim::default, |list| TopicClaim::for_tests(&list));
        let may = |topic: &&str| policy.check(&claim, &Topic::parse(topic).expect("a topic")).is_ok();
        TOPICS.into_iter().filter(may).collect()
    }

    #[test]
    fn without_a_claim_everything_that_needs_none_can_be_joined() {
        assert_eq!(joined(&[], None), TOPICS);
        // And nothing that carries it.
        assert_eq!(joined(&["recordings"], None), ["calls", "call_logs"]);
        assert_eq!(joined(&["call:*"], None), ["calls", "call_logs", "recordings", INVOICE]);
        assert_eq!(joined(&["invoice:*"], None), ["calls", "call_logs", "recordings", CALL, OTHER_CALL]);
        assert_eq!(joined(&["org"], None), ["calls", "call_logs", "recordings", CALL, OTHER_CALL, INVOICE]);
        assert_eq!(joined(&[CALL], None), ["calls", "call_logs", "recordings", OTHER_CALL, INVOICE]);
    }

    #[test]
    fn a_claim_grants_what_it_names() {
        assert_eq!(joined(&[], Some(json!([]))), Vec::<&str>::new());
        assert_eq!(joined(&[], Some(json!(["calls", "call:*"]))), ["calls", CALL, OTHER_CALL]);
        assert_eq!(joined(&[], Some(json!([CALL, "invoice:*"]))), [CALL, INVOICE]);
        assert_eq!(joined(&[], Some(json!(["org"]))), ["org"]);
        assert_eq!(joined(&[], Some(json!(["*"]))), TOPICS);
    }

    #[test]
    fn aggregate_topics_do_not_leak_restricted_topics() {
        let need = &["recordings"];
        assert_eq!(joined(need, Some(json!(["calls", "org", "call:*", CALL, "invoice:*"]))), ["calls"]);
        assert_eq!(joined(need, Some(json!(["recordings", "calls"]))), ["calls", "recordings"]);
        assert_eq!(joined(need, Some(json!(["recordings", CALL]))), ["recordings", CALL]);
        assert_eq!(joined(need, Some(json!(["recordings", "org"]))), ["recordings", "org"]);
        assert_eq!(joined(need, Some(json!(["*"]))), TOPICS);
        assert_eq!(joined(&["recordings", "call_logs"], Some(json!(["recordings", "org"]))), ["recordings"]);
    }
}

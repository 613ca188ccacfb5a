//! Which topics a session may join: what its token says, and which topics need to be named by it.
//!
//! `org` and `call:<uuid>` carry events of other topics. Who may not have one of the topics that need to
//! be named must not get it through these, and since an event is encoded once for all subscribers of a
//! topic, nothing can be left out for one of them: the join is refused.

use crate::auth::{ALL_CALLS, TopicClaim};
use crate::wire::{ORG_TOPIC, Topic};

/// Begins the topic of one call, and the name for all of them.
const CALL_PREFIX: &str = "call:";

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
    /// `need_claim`: names of topics, and `call:*` for every call.
    #[must_use]
    pub fn new(need_claim: Vec<String>) -> Self {
        Self { need_claim }
    }

    pub(super) fn check(&self, claim: &TopicClaim, topic: &Topic) -> Result<(), Forbidden> {
        let name = topic.to_string();
        // What the operator calls it.
        let is_it = |needed: &str| match topic {
            Topic::Named(_) => needed == name,
            Topic::Call(_) => needed == name || needed == ALL_CALLS,
        };
        let must_be_named = claim.is_present() || self.need_claim.iter().any(|needed| is_it(needed));
        if must_be_named && !claim.names(&name) {
            return Err(Forbidden::NotNamed(name));
        }
        let carried = self.need_claim.iter().filter(|needed| match topic {
            Topic::Named(_) => topic.is_org(),
            // Nor is one call carried by another.
            Topic::Call(_) => *needed != ORG_TOPIC && !needed.starts_with(CALL_PREFIX),
        });
        match carried.filter(|needed| !is_it(needed)).find(|needed| !claim.names(needed)) {
            Some(needed) => Err(Forbidden::Carries { topic: name, carried: needed.clone() }),
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
    const TOPICS: [&str; 6] = ["calls", "call_logs", "recordings", "org", CALL, OTHER_CALL];

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
        assert_eq!(joined(&["call:*"], None), ["calls", "call_logs", "recordings"]);
        assert_eq!(joined(&["org"], None), ["calls", "call_logs", "recordings", CALL, OTHER_CALL]);
        assert_eq!(joined(&[CALL], None), ["calls", "call_logs", "recordings", OTHER_CALL]);
    }

    #[test]
    fn a_claim_grants_what_it_names() {
        assert_eq!(joined(&[], Some(json!([]))), Vec::<&str>::new());
        assert_eq!(joined(&[], Some(json!(["calls", "call:*"]))), ["calls", CALL, OTHER_CALL]);
        assert_eq!(joined(&[], Some(json!([CALL]))), [CALL]);
        assert_eq!(joined(&[], Some(json!(["org"]))), ["org"]);
        assert_eq!(joined(&[], Some(json!(["*"]))), TOPICS);
    }

    #[test]
    fn what_needs_a_claim_is_not_had_by_a_detour() {
        let need = &["recordings"];
        assert_eq!(joined(need, Some(json!(["calls", "org", "call:*", CALL]))), ["calls"]);
        assert_eq!(joined(need, Some(json!(["recordings", "calls"]))), ["calls", "recordings"]);
        assert_eq!(joined(need, Some(json!(["recordings", CALL]))), ["recordings", CALL]);
        assert_eq!(joined(need, Some(json!(["recordings", "org"]))), ["recordings", "org"]);
        assert_eq!(joined(need, Some(json!(["*"]))), TOPICS);
        assert_eq!(joined(&["recordings", "call_logs"], Some(json!(["recordings", "org"]))), ["recordings"]);
    }
}

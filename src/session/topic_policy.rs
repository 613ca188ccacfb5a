//! The decision which topics a session may join, from its token and from the topics that the operator
//! restricted.
//!
//! `org` and entity topics such as `call:<uuid>` are aggregate topics: they carry events of other topics. An
//! event is encoded once for all subscribers of a topic, so it cannot be left out for one of them. If an
//! aggregate topic could carry events of a restricted topic that the token does not name, the join is
//! rejected as a whole. A token with filters has channels of its own. They leave out the events of topics
//! without a filter.

use std::sync::Arc;

use crate::auth::{TopicAccess, names_kind_of};
use crate::wire::Topic;

/// Restricted topics, which a token may join only if it names them.
#[derive(Clone, Debug, Default)]
pub struct TopicPolicy {
    restricted: Vec<String>,
}

/// Reason for which a session may not join a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForbiddenTopic {
    /// The token does not name the topic.
    #[error("the token must name {0} in app_metadata.warden_topics: get a token that does")]
    NotNamed(String),
    /// The token has filters, of which none is for the topic.
    #[error("the token has app_metadata.warden_filters, which do not name {0}: get a token whose filters do")]
    NoFilter(String),
    /// The token does not name a topic that this one carries.
    #[error(
        "{topic} also carries events of {carried}, which the token does not name in app_metadata.warden_topics: join \
         the topics that you need one by one"
    )]
    Carries {
        /// The topic.
        topic: String,
        /// The topic that it carries.
        carried: String,
    },
}

impl TopicPolicy {
    /// Restricts these topics. `<kind>:*` restricts all entities of a kind.
    #[must_use]
    pub fn new(restricted: Vec<String>) -> Self {
        Self { restricted }
    }

    /// Checks whether a token with these claims names the topic, if it must. `watched` is as for
    /// [`Self::check`].
    pub(super) fn check_named(
        &self,
        access: TopicAccess<'_>,
        topic: &Topic,
        watched: &[Arc<str>],
    ) -> Result<(), ForbiddenTopic> {
        let name = topic.as_str();
        let is_meant = |entry: &str| entry == name || names_kind_of(entry, name);
        let must_be_named = access.is_limited_for(topic)
            || self.restricted.iter().any(|entry| is_meant(entry))
            || watched.iter().any(|entry| is_meant(entry));
        if !must_be_named || access.names(name) {
            return Ok(());
        }
        let is_filtered = matches!(topic, Topic::Named(_)) && access.leaves_out(name);
        let forbidden = if is_filtered { ForbiddenTopic::NoFilter } else { ForbiddenTopic::NotNamed };
        Err(forbidden(name.to_owned()))
    }

    /// Checks whether a token with these claims may join the topic. `watched` are the topics that it must
    /// name according to their watch: the topic itself, or topics that it carries.
    pub(super) fn check(
        &self,
        access: TopicAccess<'_>,
        topic: &Topic,
        watched: &[Arc<str>],
    ) -> Result<(), ForbiddenTopic> {
        self.check_named(access, topic, watched)?;
        let name = topic.as_str();
        let is_meant = |entry: &str| entry == name || names_kind_of(entry, name);
        let carried = self.restricted.iter().filter(|entry| match topic {
            Topic::Org => true,
            Topic::Named(_) => false,
            // An entity topic may carry events of any named topic. An event belongs to one entity at most.
            Topic::Entity(_) => matches!(Topic::parse(entry), Some(Topic::Named(_))),
        });
        let mut carried = carried.map(String::as_str).chain(watched.iter().map(|entry| &**entry));
        let is_missing = |entry: &str| !is_meant(entry) && !access.leaves_out(entry) && !access.names(entry);
        match carried.find(|entry| is_missing(entry)) {
            Some(entry) => Err(ForbiddenTopic::Carries { topic: name.to_owned(), carried: entry.to_owned() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::{FilterClaim, TopicClaim};

    const CALL: &str = "call:6f9619ff-8b86-4d01-b42d-00cf4fc964ff";
    const OTHER_CALL: &str = "call:6f9619ff-8b86-4d01-b42d-00cf4fc964fe";
    const INVOICE: &str = "invoice:17";
    const TOPICS: [&str; 7] = ["calls", "call_logs", "recordings", "org", CALL, OTHER_CALL, INVOICE];

    /// Topics of `TOPICS` that a token with this claim may join.
    fn allowed(restricted: &[&str], claim: Option<Value>) -> Vec<&'static str> {
        allowed_with_filters(restricted, claim, None)
    }

    fn allowed_with_filters(
        restricted: &[&str],
        topics: Option<Value>,
        filters: Option<Value>,
    ) -> Vec<&'static str> {
        let policy = TopicPolicy::new(restricted.iter().map(|&topic| topic.to_owned()).collect());
        let topics = topics.map_or_else(TopicClaim::default, |list| TopicClaim::for_tests(&list));
        let filters = filters.map_or_else(FilterClaim::default, |map| FilterClaim::for_tests(&map));
        let access = TopicAccess { topics: &topics, filters: &filters };
        let is_allowed =
            |topic: &&str| policy.check(access, &Topic::parse(topic).expect("a topic"), &[]).is_ok();
        TOPICS.into_iter().filter(is_allowed).collect()
    }

    #[test]
    fn a_token_without_a_claim_joins_all_unrestricted_topics() {
        assert_eq!(allowed(&[], None), TOPICS);
        // A restricted topic also closes the aggregate topics that carry it.
        assert_eq!(allowed(&["recordings"], None), ["calls", "call_logs"]);
        assert_eq!(allowed(&["call:*"], None), ["calls", "call_logs", "recordings", INVOICE]);
        assert_eq!(allowed(&["invoice:*"], None), ["calls", "call_logs", "recordings", CALL, OTHER_CALL]);
        assert_eq!(allowed(&["org"], None), ["calls", "call_logs", "recordings", CALL, OTHER_CALL, INVOICE]);
        assert_eq!(allowed(&[CALL], None), ["calls", "call_logs", "recordings", OTHER_CALL, INVOICE]);
    }

    #[test]
    fn a_token_with_a_claim_joins_only_the_topics_that_it_names() {
        assert_eq!(allowed(&[], Some(json!([]))), Vec::<&str>::new());
        assert_eq!(allowed(&[], Some(json!(["calls", "call:*"]))), ["calls", CALL, OTHER_CALL]);
        assert_eq!(allowed(&[], Some(json!([CALL, "invoice:*"]))), [CALL, INVOICE]);
        assert_eq!(allowed(&[], Some(json!(["org"]))), ["org"]);
        assert_eq!(allowed(&[], Some(json!(["*"]))), TOPICS);
    }

    #[test]
    fn a_token_with_filters_joins_the_topics_that_they_name_and_aggregate_topics() {
        let filters = || Some(json!({"calls": "a=eq.1", "call_logs": "*"}));
        let aggregates = ["org", CALL, OTHER_CALL, INVOICE];
        let with = |named: &[&'static str]| [named, &aggregates].concat();
        assert_eq!(allowed_with_filters(&[], None, filters()), with(&["calls", "call_logs"]));
        assert_eq!(allowed_with_filters(&[], None, Some(json!({}))), aggregates);
        // Filters name a restricted topic, and aggregate topics leave the others out.
        assert_eq!(allowed_with_filters(&["calls"], None, filters()), with(&["calls", "call_logs"]));
        assert_eq!(allowed_with_filters(&["recordings"], None, filters()), with(&["calls", "call_logs"]));
        // Both claims must allow a topic.
        assert_eq!(allowed_with_filters(&[], Some(json!(["calls", "recordings"])), filters()), ["calls"]);
        assert_eq!(allowed_with_filters(&[], Some(json!(["org"])), filters()), ["org"]);
        assert_eq!(allowed_with_filters(&["calls"], Some(json!(["org"])), filters()), Vec::<&str>::new());
        // Filters name no aggregate topic, so a restricted one stays closed.
        assert_eq!(
            allowed_with_filters(&["org", CALL], None, filters()),
            ["calls", "call_logs", OTHER_CALL, INVOICE]
        );
    }

    #[test]
    fn aggregate_topics_do_not_leak_restricted_topics() {
        let restricted = &["recordings"];
        assert_eq!(
            allowed(restricted, Some(json!(["calls", "org", "call:*", CALL, "invoice:*"]))),
            ["calls"]
        );
        assert_eq!(allowed(restricted, Some(json!(["recordings", "calls"]))), ["calls", "recordings"]);
        assert_eq!(allowed(restricted, Some(json!(["recordings", CALL]))), ["recordings", CALL]);
        assert_eq!(allowed(restricted, Some(json!(["recordings", "org"]))), ["recordings", "org"]);
        assert_eq!(allowed(restricted, Some(json!(["*"]))), TOPICS);
        assert_eq!(allowed(&["recordings", "call_logs"], Some(json!(["recordings", "org"]))), ["recordings"]);
    }
}

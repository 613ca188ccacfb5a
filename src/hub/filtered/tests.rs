//! Limits of filters, and the share of one organisation.

use std::num::NonZeroI64;

use super::*;
use crate::filter::{Columns, FilterParser, Selection, Verdict};
use crate::wire::{CloseCode, Event};

fn table() -> Arc<TableColumns> {
    let columns = Columns::for_tests(&[("id", "bigint"), ("a", "text"), ("n", "integer")]);
    let key = Selection::of_names(vec!["id".into()]);
    Arc::new(TableColumns { version: "1".into(), columns, key, checks: 0 })
}

/// Channels of one organisation, and what they share with others.
struct Org {
    id: OrgId,
    topics: Arc<FilteredTopics>,
    node: Arc<FilterShares>,
    metrics: Arc<Metrics>,
}

impl Org {
    fn new(number: u128, node: &Arc<FilterShares>) -> Self {
        let (id, node) = (OrgId::for_tests(number), Arc::clone(node));
        Self { id, topics: Arc::default(), node, metrics: Arc::default() }
    }

    fn open(&self, group: &str) -> Result<Arc<FilterHandle>, FilterLimit> {
        let condition = FilterParser::default().group("and", group).expect("parses");
        let filter = ChannelFilter::compile(table(), &[condition], &[], None, group.len()).expect("compiles");
        let topic = Topic::parse("items").expect("a topic");
        FilterHandle::open(&self.topics, self.id, &topic, filter, &self.node, &self.metrics)
    }
}

fn node() -> Arc<FilterShares> {
    Arc::default()
}

#[test]
fn filters_that_most_events_are_compared_with_are_limited() {
    let org = Org::new(1, &node());
    let mut handles: Vec<_> =
        (0..ORG_SCANNED_FILTERS_MAX).map(|n| org.open(&format!("(n.gt.{n})")).expect("is allowed")).collect();
    assert_eq!(org.open("(n.lt.1)").expect_err("is one too many").name, "scanned_filters_per_org");
    org.open("(n.gt.7)").expect("is known");
    org.open("(n.lt.1,a.eq.x)").expect("is found by a value");
    assert_eq!(org.topics.evaluations_max(), ORG_SCANNED_FILTERS_MAX);
    handles.pop();
    org.open("(n.lt.1)").expect("there is room");
    drop(handles);
    assert_eq!((org.topics.count(), org.topics.evaluations_max()), (0, 0));
    // A value that finds many filters helps no more.
    let of_value = |n: usize| org.open(&format!("(a.eq.x,n.gt.{n})"));
    let max = FILTERS_PER_VALUE_MAX + ORG_SCANNED_FILTERS_MAX;
    let handles: Vec<_> = (0..max).map(|n| of_value(n).expect("is allowed")).collect();
    assert_eq!(of_value(max).expect_err("is one too many").name, "scanned_filters_per_org");
    org.open("(a.eq.y,n.gt.1)").expect("is found by another value");
    assert_eq!(org.topics.evaluations_max(), 2 * 2 * max);
    drop(handles);
}

#[test]
fn one_organisation_leaves_half_of_the_memory_of_filters_to_others() {
    let node = node();
    let (greedy, other) = (Org::new(1, &node), Org::new(2, &node));
    let mut handles = Vec::new();
    let limit = loop {
        match greedy.open(&format!("(a.eq.{:0>200})", handles.len())) {
            Ok(handle) => handles.push(handle),
            Err(limit) => break limit,
        }
    };
    assert_eq!(limit.name, "filters_per_org");
    let used = handles.len() * (CHANNEL_BYTES + MEMORY_PER_BYTE * "(a.eq.)".len() + MEMORY_PER_BYTE * 200);
    assert_eq!(used.div_ceil(1024 * 1024), FILTER_MEMORY_MAX / 2 / (1024 * 1024), "{}", handles.len());
    let theirs: Vec<_> =
        (0..1000).map(|n| other.open(&format!("(a.eq.{n})")).expect("has a share of its own")).collect();
    // Even after five that have taken all that they get.
    let mut all = Vec::new();
    for number in 3..8 {
        let org = Org::new(number, &node);
        all.extend((0..).map_while(|n| org.open(&format!("(a.eq.{n:0>400})")).ok()));
    }
    let last = Org::new(9, &node);
    let few: Vec<_> = (0..100).map(|n| last.open(&format!("(a.eq.{n})")).expect("has a share")).collect();
    drop((theirs, all, few));
    handles.clear();
    greedy.open("(a.eq.1)").expect("the memory is free again");
}

#[test]
fn an_event_concerns_each_channel_of_a_selected_filter_once() {
    let org = Org::new(1, &node());
    let [x, same, y, other_table] =
        ["(a.eq.x)", "(a.eq.x)", "(a.eq.y)", "(n.gt.1)"].map(|g| org.open(g).expect("opens"));
    assert_eq!((x.channel.id, org.topics.count()), (same.channel.id, 3));
    let mut event = Event::control("item.updated", r#"{"a": "y", "n": 1}"#, 7);
    event.topic = Topic::parse("items").expect("a topic");
    event.watch = NonZeroI64::new(7);
    event.old = Some(r#"{"a": "x"}"#.into());
    let found = |event: &Event| {
        let selected = org.topics.candidates(event).select(&event.topic);
        let mut found: Vec<_> = selected.channels.into_iter().map(|(c, v)| (c.id, v)).collect();
        found.sort_by_key(|(id, _)| id.0);
        (found, selected.others)
    };
    let expected = vec![(x.channel.id, Some(Verdict::Left)), (y.channel.id, Some(Verdict::Entered))];
    assert_eq!(found(&event), (expected, 1));
    // Of a malformed row, nobody knows whether it is selected, nor whether an old event is a row.
    let unknown = vec![x.channel.id, y.channel.id, other_table.channel.id];
    let unknown = (unknown.into_iter().map(|id| (id, Some(Verdict::Unknown))).collect(), 0);
    event.watch = Some(Event::UNKNOWN_WATCH);
    assert_eq!(found(&event), unknown);
    event.watch = NonZeroI64::new(7);
    event.data = "[1]".into();
    assert_eq!(found(&event), unknown);
    // A published event is no row.
    event.watch = None;
    assert_eq!(found(&event), (vec![], 0));
    drop(other_table);
}

/// The estimate does not grow with the number of channels.
#[test]
fn the_estimated_cost_of_an_event_follows_its_filters() {
    let org = Org::new(1, &node());
    let topic = Topic::parse("items").expect("a topic");
    let mut handles: Vec<_> = (0..500).map(|n| org.open(&format!("(a.eq.{n})")).expect("opens")).collect();
    assert_eq!(org.topics.cost_of(&topic), (2, 2), "one filter by each of the rows");
    handles.extend((0..9).map(|_| org.open("(a.eq.7)").expect("opens")));
    assert_eq!(org.topics.cost_of(&topic), (20, 2));
    handles.push(org.open("(n.gt.1,n.lt.9)").expect("opens"));
    assert_eq!(org.topics.cost_of(&topic), (40, 4));
    handles.drain(500..509);
    assert_eq!(org.topics.cost_of(&topic), (4, 4));
    drop(handles);
    assert_eq!(org.topics.cost_of(&topic), (0, 0));
}

#[test]
fn a_filter_that_was_compiled_before_a_check_of_tables_gets_no_channel() {
    let org = Org::new(1, &node());
    let known = org.open("(a.eq.x)").expect("opens");
    org.node.table_checks.begin();
    // Not even a channel that exists.
    for group in ["(a.eq.x)", "(a.eq.y)"] {
        assert_eq!(org.open(group).expect_err("is out of date"), FilterLimit::OUTDATED);
    }
    assert_eq!(org.topics.count(), 1);
    let versions = |version: Option<&str>| [("items".to_owned(), version.map(str::to_owned))].into();
    let close = |versions| {
        let outdated = org.topics.outdated(&versions);
        outdated.iter().for_each(|channel| channel.close(CloseCode::TABLE_CHANGED));
        outdated.len()
    };
    assert_eq!((close(versions(Some("1"))), known.channel.is_outdated()), (0, false));
    assert_eq!(close([("calls".to_owned(), None)].into()), 0, "another topic");
    assert_eq!((close(versions(Some("2"))), known.channel.is_outdated()), (1, true));
    assert_eq!(close(versions(None)), 1);
}

#[test]
fn the_conditions_of_one_event_are_limited() {
    let org = Org::new(1, &node());
    let many = |n: usize| format!("(a.eq.{n},n.gt.{n})");
    let handles: Vec<_> =
        (0..EVENT_EVALUATIONS_MAX / 2 + 10).map_while(|n| org.open(&many(n)).ok()).collect();
    let mut event = Event::control("item.created", r#"{"n": 20000}"#, 7);
    event.topic = Topic::parse("items").expect("a topic");
    event.watch = NonZeroI64::new(7);
    // Without `a`, every filter may select the row.
    let candidates = org.topics.candidates(&event);
    assert_eq!(candidates.evaluations, 2 * handles.len());
    assert!(handles.len() > EVENT_EVALUATIONS_MAX / 2, "{}", handles.len());
    assert_eq!(candidates.select(&event.topic).channels.len(), handles.len(), "unknown");
    // With a condition that decides without `a`, those that are evaluated mean nothing.
    event.data = r#"{"n": -1}"#.into();
    let selected = org.topics.candidates(&event).select(&event.topic);
    assert_eq!(selected.others, EVENT_EVALUATIONS_MAX as u64 / 2);
    assert_eq!(selected.channels.len(), handles.len() - EVENT_EVALUATIONS_MAX / 2);
    drop(handles);
    // Conditions of filters that most events are compared with.
    let long =
        |n: usize| format!("({})", (0..60).map(|c| format!("n.gt.{n}{c:02}")).collect::<Vec<_>>().join(","));
    let handles: Vec<_> = (0..1000).map_while(|n| org.open(&long(n)).ok()).collect();
    assert_eq!(handles.len(), (EVENT_EVALUATIONS_MAX - 60) / 60);
    assert_eq!(org.open(&long(1000)).expect_err("is one too many").name, "scanned_filters_per_org");
}

//! Limits of filters, and the share of one organisation.

use std::num::NonZeroI64;

use super::*;
use crate::filter::{Columns, FilterParser};

fn table() -> Arc<TableColumns> {
    let columns = Columns::for_tests(&[("id", "bigint"), ("a", "text"), ("n", "integer")]);
    Arc::new(TableColumns { version: "1".into(), columns })
}

/// Channels of one organisation, and what they share with others.
struct Org {
    id: OrgId,
    topics: Arc<FilteredTopics>,
    memory: Arc<Capacity<OrgId>>,
    metrics: Arc<Metrics>,
}

impl Org {
    fn new(number: u128, memory: &Arc<Capacity<OrgId>>) -> Self {
        let (id, memory) = (OrgId::for_tests(number), Arc::clone(memory));
        Self { id, topics: Arc::default(), memory, metrics: Arc::default() }
    }

    fn open(&self, group: &str) -> Result<Arc<FilterHandle>, FilterLimit> {
        let condition = FilterParser::default().group("and", group).expect("parses");
        let filter = ChannelFilter::compile(table(), &[condition], &[], None, group.len()).expect("compiles");
        let topic = Topic::parse("items").expect("a topic");
        FilterHandle::open(&self.topics, self.id, &topic, filter, &self.memory, &self.metrics)
    }
}

fn memory() -> Arc<Capacity<OrgId>> {
    Capacity::with_reserve(FILTER_MEMORY_MAX, FILTER_MEMORY_MAX / 2)
}

#[test]
fn filters_that_most_events_are_compared_with_are_limited() {
    let org = Org::new(1, &memory());
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
    assert_eq!(org.topics.evaluations_max(), 2 * max);
    drop(handles);
}

#[test]
fn one_organisation_leaves_half_of_the_memory_of_filters_to_others() {
    let memory = memory();
    let (greedy, other) = (Org::new(1, &memory), Org::new(2, &memory));
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
    other.open("(a.eq.1)").expect("has a share of its own");
    handles.clear();
    greedy.open("(a.eq.1)").expect("the memory is free again");
}

#[test]
fn an_event_concerns_each_channel_of_a_selected_filter_once() {
    let org = Org::new(1, &memory());
    let [x, same, y, other_table] =
        ["(a.eq.x)", "(a.eq.x)", "(a.eq.y)", "(n.gt.1)"].map(|g| org.open(g).expect("opens"));
    assert_eq!((x.channel.id, org.topics.count()), (same.channel.id, 3));
    let mut event = Event::control("item.updated", r#"{"a": "y", "n": 1}"#, 7);
    event.topic = Topic::parse("items").expect("a topic");
    event.watch = NonZeroI64::new(7);
    event.old = Some(r#"{"a": "x"}"#.into());
    let mut others = 0;
    let mut found: Vec<_> =
        org.topics.channels_of(&event, &mut others).into_iter().map(|(c, v)| (c.id, v)).collect();
    found.sort_by_key(|(id, _)| id.0);
    let expected = [(x.channel.id, Some(Verdict::Left)), (y.channel.id, Some(Verdict::Entered))];
    assert_eq!((&found[..], others), (&expected[..], 1));
    // A published event is no row.
    event.watch = None;
    assert!(org.topics.channels_of(&event, &mut others).is_empty());
    event.watch = NonZeroI64::new(7);
    // Of a malformed row, nobody knows whether it is selected.
    event.data = "[1]".into();
    let found = org.topics.channels_of(&event, &mut others);
    assert!(found.len() == 3 && found.iter().all(|(_, verdict)| *verdict == Some(Verdict::Unknown)));
    drop(other_table);
}

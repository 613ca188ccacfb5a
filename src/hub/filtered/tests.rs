//! Limits of filters, and the share of one organisation.

use std::collections::BTreeMap;
use std::num::NonZeroI64;

use super::rows::ClaimFilter;
use super::*;
use crate::filter::{ChannelFilter, Columns, EntityTopic, FilterParser, Selection, TableColumns, Verdict};
use crate::wire::{CloseCode, Event};

fn table() -> Arc<TableColumns> {
    let columns = Columns::for_tests(&[("id", "bigint"), ("a", "text"), ("n", "integer")]);
    let key = Selection::of_names(vec!["id".into()]);
    Arc::new(TableColumns { version: "1".into(), columns, key, entity: None, checks: 0 })
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
        self.open_rows("items", ChannelRows::Table(Arc::new(filter(group))))
    }

    /// Opens the channel of an aggregate topic for a token with a filter for items.
    fn open_claim(&self, topic: &str, group: &str) -> Result<Arc<FilterHandle>, FilterLimit> {
        let topics = BTreeMap::from([("items".into(), Some(Arc::new(filter(group).signed())))]);
        self.open_rows(topic, ChannelRows::Claim(ClaimFilter::new(topics)))
    }

    fn open_rows(&self, topic: &str, rows: ChannelRows) -> Result<Arc<FilterHandle>, FilterLimit> {
        let topic = Topic::parse(topic).expect("a topic");
        FilterHandle::open(&self.topics, self.id, &topic, rows, &self.node, &self.metrics)
    }

    /// Upper bounds for an event: subscribers and conditions.
    fn cost_of(&self, entity: Option<&str>) -> (usize, usize) {
        let mut event = item("{}");
        event.entity_topic = entity.and_then(Topic::parse);
        self.topics.cost_of(&event)
    }
}

fn filter(group: &str) -> ChannelFilter {
    let condition = FilterParser::default().group("and", group).expect("parses");
    ChannelFilter::compile(table(), &[condition], &[], None, group.len()).expect("compiles")
}

/// An item with this row.
fn item(data: &str) -> Event {
    let mut event = Event::control("item.updated", data, 7);
    event.topic = Topic::parse("items").expect("a topic");
    event.watch = NonZeroI64::new(7);
    event
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
    let mut event = item(r#"{"a": "y", "n": 1}"#);
    event.old = Some(r#"{"a": "x"}"#.into());
    let found = |event: &Event| {
        let selected = org.topics.candidates(event).select();
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
    let mut handles: Vec<_> = (0..500).map(|n| org.open(&format!("(a.eq.{n})")).expect("opens")).collect();
    assert_eq!(org.cost_of(None), (2, 2), "one filter by each of the rows");
    handles.extend((0..9).map(|_| org.open("(a.eq.7)").expect("opens")));
    assert_eq!(org.cost_of(None), (20, 2));
    handles.push(org.open("(n.gt.1,n.lt.9)").expect("opens"));
    assert_eq!(org.cost_of(None), (40, 4));
    handles.drain(500..509);
    assert_eq!(org.cost_of(None), (4, 4));
    drop(handles);
    assert_eq!(org.cost_of(None), (0, 0));
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
    let mut event = item(r#"{"n": 20000}"#);
    // Without `a`, every filter may select the row.
    let candidates = org.topics.candidates(&event);
    assert_eq!(candidates.evaluations, 2 * handles.len());
    assert!(handles.len() > EVENT_EVALUATIONS_MAX / 2, "{}", handles.len());
    assert_eq!(candidates.select().channels.len(), handles.len(), "unknown");
    // With a condition that decides without `a`, those that are evaluated mean nothing.
    event.data = r#"{"n": -1}"#.into();
    let selected = org.topics.candidates(&event).select();
    assert_eq!(selected.others, EVENT_EVALUATIONS_MAX as u64 / 2);
    assert_eq!(selected.channels.len(), handles.len() - EVENT_EVALUATIONS_MAX / 2);
    drop(handles);
    // Conditions of filters that most events are compared with.
    let long =
        |n: usize| format!("({})", (0..60).map(|c| format!("n.gt.{n}{c:02}")).collect::<Vec<_>>().join(","));
    let handles: Vec<_> = (0..1000).map_while(|n| org.open(&long(n)).ok()).collect();
    assert_eq!(handles.len(), EVENT_EVALUATIONS_MAX / 60);
    assert_eq!(org.open(&long(1000)).expect_err("is one too many").name, "scanned_filters_per_org");
}

/// Sealing costs more than many filters.
#[test]
fn a_replayed_event_that_a_filter_withholds_is_not_sealed() {
    let org = Org::new(1, &node());
    let handle = org.open("(a.eq.x)").expect("opens");
    let mut event = item(r#"{"a": "y"}"#);
    let is_sealed = std::cell::Cell::new(false);
    let render = |event: &Event| {
        is_sealed.set(false);
        let rendered = handle.render(event, || {
            is_sealed.set(true);
            ("cursor".to_owned(), "tx")
        });
        (rendered, is_sealed.get())
    };
    assert_eq!(render(&event), (Rendered::Nothing, false));
    event.data = "{}".into();
    assert_eq!(render(&event), (Rendered::Unknown, false));
    event.data = r#"{"a": "x"}"#.into();
    assert!(matches!(render(&event), (Rendered::Payload(payload), true) if payload.contains("cursor")));
}

#[test]
fn channels_of_all_topics_share_one_budget_of_conditions() {
    let org = Org::new(1, &node());
    let long =
        |n: usize| format!("({})", (0..60).map(|c| format!("n.gt.{n}{c:02}")).collect::<Vec<_>>().join(","));
    let max = EVENT_EVALUATIONS_MAX / 60;
    let tables: Vec<_> = (0..max / 2).map(|n| org.open(&long(n)).expect("is allowed")).collect();
    let claims: Vec<_> =
        (max / 2..max).map(|n| org.open_claim("org", &long(n)).expect("is allowed")).collect();
    assert_eq!(org.topics.evaluations_max(), 60 * max);
    for refused in
        [org.open(&long(max)), org.open_claim("org", &long(max)), org.open_claim("item:1", &long(max))]
    {
        assert_eq!(refused.expect_err("is one too many").name, "scanned_filters_per_org");
    }
    // An event is compared once with a filter, on however many topics it is joined.
    let entities: Vec<_> =
        (0..2000).map(|n| org.open_claim(&format!("item:{n}"), &long(0)).expect("opens")).collect();
    assert_eq!((org.topics.evaluations_max(), org.cost_of(Some("item:1"))), (60 * max, (max + 1, 60 * max)));
    let mut event = item(r#"{"n": 1000000}"#);
    event.entity_topic = Topic::parse("item:1");
    let candidates = org.topics.candidates(&event);
    assert_eq!(candidates.evaluations, 60 * max);
    assert_eq!(candidates.select().channels.len(), max + 1);
    drop(tables);
    org.open_claim("org", &long(max)).expect("there is room");
    drop((claims, entities));
    assert_eq!((org.topics.count(), org.topics.evaluations_max()), (0, 0));
}

#[test]
fn the_number_of_filters_that_most_events_are_compared_with_is_that_of_all_topics() {
    let org = Org::new(1, &node());
    let condition = |n: usize| format!("(n.gt.{n})");
    let half = ORG_SCANNED_FILTERS_MAX / 2;
    let tables: Vec<_> = (0..half).map(|n| org.open(&condition(n)).expect("is allowed")).collect();
    let claims: Vec<_> = (0..2 * half)
        .map(|n| org.open_claim(&format!("item:{}", n % 7), &condition(n)).expect("is allowed"))
        .collect();
    for refused in [org.open(&condition(2 * half)), org.open_claim("item:1", &condition(2 * half))] {
        assert_eq!(refused.expect_err("is one too many").name, "scanned_filters_per_org");
    }
    org.open_claim("item:9", &condition(3)).expect("is known");
    drop((tables, claims));
    org.open(&condition(2 * half)).expect("there is room");
}

/// Alternatives on several columns are found by each of them.
#[test]
fn alternatives_on_several_columns_are_charged_for_each_of_them() {
    let org = Org::new(1, &node());
    let values: Vec<String> = (0..60).map(|n| format!("n.eq.{n}")).collect();
    let wide = |n: usize| format!("(or(a.eq.{n},id.eq.7,{}))", values.join(","));
    let mut handles = Vec::new();
    let limit = loop {
        match org.open(&wide(handles.len())) {
            Ok(handle) => handles.push(handle),
            Err(limit) => break limit,
        }
    };
    assert_eq!(limit.name, "scanned_filters_per_org");
    let max = org.topics.evaluations_max();
    assert!(max <= EVENT_EVALUATIONS_MAX, "{max}");
    // Both rows find all of them by `id` and by `n`, and one by `a`.
    assert_eq!(max, 2 * 62 * (2 * handles.len() + 1));
}

/// Maxima are kept while channels come and go.
#[test]
fn the_estimate_depends_on_the_open_channels_alone() {
    let groups =
        ["(a.eq.x)", "(a.eq.x,n.gt.1)", "(n.gt.1)", "(or(a.eq.x,n.eq.5))", "(a.in.(x,y))", "(n.eq.5)"];
    let topics = ["items", "org", "item:1", "item:2"];
    let open = |org: &Org, (topic, group): (&str, &str)| {
        let opened = if topic == "items" { org.open(group) } else { org.open_claim(topic, group) };
        opened.expect("opens")
    };
    let costs = |org: &Org| {
        let events = [None, Some("item:1"), Some("item:2"), Some("item:3")];
        (org.topics.evaluations_max(), org.topics.count(), events.map(|entity| org.cost_of(entity)))
    };
    let org = Org::new(1, &node());
    let mut handles = Vec::new();
    for _ in 0..500 {
        if handles.is_empty() || fastrand::bool() {
            let kind = (topics[fastrand::usize(..topics.len())], groups[fastrand::usize(..groups.len())]);
            handles.push((kind, open(&org, kind)));
        } else {
            handles.swap_remove(fastrand::usize(..handles.len()));
        }
        let fresh = Org::new(1, &node());
        let same: Vec<_> = handles.iter().map(|(kind, _)| open(&fresh, *kind)).collect();
        assert_eq!(costs(&org), costs(&fresh), "{handles:?}");
        drop(same);
    }
    handles.clear();
    assert_eq!(costs(&org), (0, 0, [(0, 0); 4]));
}

#[test]
fn the_memory_of_a_channel_is_free_with_its_last_handle() {
    let org = Org::new(1, &node());
    let open: [&dyn Fn() -> Result<Arc<FilterHandle>, FilterLimit>; 2] =
        [&|| org.open("(a.eq.x)"), &|| org.open_claim("item:1", "(a.eq.x)")];
    for open in open {
        let (handle, same) = (open().expect("opens"), open().expect("opens"));
        let (channel, rows) = (Arc::downgrade(&handle.channel), Arc::downgrade(&handle.channel.rows));
        let filter = Arc::downgrade(handle.channel.filter_of(&item("{}").topic).expect("has a filter"));
        drop(handle);
        assert!(channel.upgrade().is_some() && org.node.memory.try_take(org.id, FILTER_MEMORY_MAX).is_none());
        drop(same);
        let is_freed = channel.upgrade().is_none() && rows.upgrade().is_none() && filter.upgrade().is_none();
        assert!(is_freed, "the compiled filter is in memory");
        assert!(org.node.memory.try_take(org.id, FILTER_MEMORY_MAX).is_some(), "its share is free");
    }
}

/// On the topic of an entity, a row that was about another one before has not left.
#[test]
fn an_entity_topic_knows_whether_the_row_was_there() {
    let (left, entered, updated, unknown) =
        (Some(Verdict::Left), Some(Verdict::Entered), Some(Verdict::Selected), Some(Verdict::Unknown));
    for (column, is_known) in [("n", true), ("hidden", true), ("a", true), ("absent", false)] {
        let entity = Some(EntityTopic { kind: "item".into(), column: Some(column.into()) });
        let TableColumns { version, columns, key, checks, .. } =
            Arc::into_inner(table()).expect("is not shared");
        let columns = columns.with_hidden(Some(column));
        let table = Arc::new(TableColumns { version, columns, key, entity, checks });
        let condition = FilterParser::default().group("and", "(id.gt.0)").expect("parses");
        let filter = ChannelFilter::compile(table, &[condition], &[], None, 0).expect("compiles");
        let verdict = |id: i64, former: i64, other: &str| {
            let data = format!(r#"{{"id": {id}, "n": 1, "a": "x", "hidden": 1}}"#);
            let old = format!(r#"{{"id": {former}{other}}}"#);
            (filter.verdict(&data, Some(&old), true), filter.verdict(&data, Some(&old), false))
        };
        let moved = format!(r#", "{column}": 2"#);
        let stays = |expected| if is_known { expected } else { unknown };
        assert_eq!(verdict(-1, 1, ""), (stays(left), left), "{column}");
        assert_eq!(verdict(1, 2, ""), (stays(updated), updated), "{column}");
        assert_eq!(verdict(1, -1, ""), (entered, entered), "{column}");
        assert_eq!(verdict(-1, -2, ""), (None, None), "{column}");
        assert_eq!(verdict(-1, 1, &moved), (None, left), "{column}");
        assert_eq!(verdict(1, 2, &moved), (entered, updated), "{column}");
        let created = |topic| filter.verdict(r#"{"id": 1}"#, None, topic);
        assert_eq!((created(true), created(false)), (updated, updated));
    }
}

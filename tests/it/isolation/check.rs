//! The comparison of what a socket received with the model.
//!
//! A witness of each organisation joins `org` without a filter, and its events are compared with the model.
//! They show the order, in which every other socket must receive its own.

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;

use sqlx::AssertSqlSafe;

use super::listener::{JoinKind, Joined, Listener};
use super::model::{Delivery, Expected, Fact, Seen, Table};
use crate::harness::TestDb;

/// The events of an organisation in the order of its witness.
pub struct Witnessed<'a>(Vec<(i64, &'a Seen, &'a Fact)>);

impl<'a> Witnessed<'a> {
    pub fn new(witness: &'a Listener, expected: &'a Expected) -> Self {
        let received = &witness.topics["org"].segments[0].deliveries;
        Self(received.iter().map(|d| (d.id, &d.seen, &expected.facts[&d.seen])).collect())
    }

    fn of_topic(&self, topic: &str) -> Vec<(i64, &'a Seen, &'a Fact)> {
        self.0.iter().filter(|(_, _, fact)| fact.topics.contains(topic)).copied().collect()
    }
}

/// Checks a socket. Returns the number of its deliveries with a filter.
pub async fn check(
    db: &TestDb,
    listener: &Listener,
    witnessed: &Witnessed<'_>,
    expected: &Expected,
) -> usize {
    listener.check_moved();
    let mut filtered = 0;
    for (topic, joined) in &listener.topics {
        check_unique(topic, joined);
        let all = || joined.segments.iter().flat_map(|segment| &segment.deliveries);
        if joined.segments.len() == 1 && joined.segments[0].filters.is_empty() && !joined.is_closed {
            if matches!(joined.kind, JoinKind::Live | JoinKind::Replay(_)) {
                let seen: Vec<Seen> = all().map(|delivery| delivery.seen.clone()).collect();
                expected.check(listener.org, topic, &seen);
            }
        } else {
            filtered += all().count();
        }
        let stream = witnessed.of_topic(topic);
        match joined.kind {
            JoinKind::Live => check_segments(topic, joined, &stream),
            JoinKind::Replay(_) => check_replay(topic, joined, &stream),
            JoinKind::Snapshot => check_rows(db, listener, topic, joined).await,
        }
    }
    filtered
}

fn check_unique(topic: &str, joined: &Joined) {
    let mut ids = HashSet::new();
    for delivery in joined.segments.iter().flat_map(|segment| &segment.deliveries) {
        assert!(ids.insert(delivery.id), "an event arrived twice on {topic}: {delivery:?}");
    }
}

/// Compares live events. With a fresh token, the filters change at some point of the stream: what arrived
/// before the resync is what the former filters select up to a point, and what arrived after it is what the
/// present ones select from another point on. The resync covers what lies between the two, but nothing that
/// began after it.
fn check_segments(topic: &str, joined: &Joined, stream: &[(i64, &Seen, &Fact)]) {
    // Positions of the stream at which the next segment may begin.
    let mut begin = 0..=0;
    for (n, segment) in joined.segments.iter().enumerate() {
        if n > 0 {
            let latest = stream.iter().position(|(_, _, fact)| fact.transaction >= segment.from);
            begin = *begin.start()..=latest.unwrap_or(stream.len());
        }
        let selected: Vec<(usize, Delivery)> = stream
            .iter()
            .enumerate()
            .filter_map(|(at, (id, seen, fact))| Some((at, segment.filters.delivery(*id, seen, fact)?)))
            .collect();
        begin = end_of_segment(&segment.deliveries, &selected, &begin, stream.len()).unwrap_or_else(|| {
            let expected: Vec<&Delivery> = selected.iter().map(|(_, delivery)| delivery).collect();
            panic!(
                "topic {topic}, {} segments, {:#?}\nreceived {:#?}\ninstead of a part of {expected:#?}",
                joined.segments.len(),
                segment.filters,
                segment.deliveries,
            )
        });
    }
    assert!(joined.is_closed || *begin.end() == stream.len(), "topic {topic} ended early: {joined:#?}");
}

/// Positions at which a segment may end that begins at one of these.
fn end_of_segment(
    received: &[Delivery],
    selected: &[(usize, Delivery)],
    begin: &RangeInclusive<usize>,
    length: usize,
) -> Option<RangeInclusive<usize>> {
    let position = |n: usize| selected.get(n).map_or(length, |(at, _)| *at);
    let Some(first) = received.first() else {
        let next = selected.partition_point(|(at, _)| at < begin.end());
        return Some(*begin.start()..=position(next));
    };
    let first = selected.iter().position(|(_, delivery)| delivery == first)?;
    let end = first + received.len();
    let is_equal = selected.get(first..end)?.iter().map(|(_, delivery)| delivery).eq(received);
    let earliest = if first == 0 { 0 } else { position(first - 1) + 1 };
    let begins = earliest <= *begin.end() && *begin.start() <= position(first);
    (is_equal && begins).then(|| position(end - 1) + 1..=position(end))
}

/// Compares missed and live events: those of each row, or of each worker, in order. A replay may order
/// different rows in another way than the witness has seen them.
fn check_replay(topic: &str, joined: &Joined, stream: &[(i64, &Seen, &Fact)]) {
    let [segment] = joined.segments.as_slice() else { panic!("{topic} has no fresh token") };
    let selected: Vec<Delivery> =
        stream.iter().filter_map(|(id, seen, fact)| segment.filters.delivery(*id, seen, fact)).collect();
    assert_eq!(by_subject(&segment.deliveries), by_subject(&selected), "{topic} {:#?}", segment.filters);
}

fn by_subject(deliveries: &[Delivery]) -> BTreeMap<&str, Vec<&Delivery>> {
    let mut subjects: BTreeMap<&str, Vec<&Delivery>> = BTreeMap::new();
    for delivery in deliveries {
        subjects.entry(&delivery.seen.what).or_default().push(delivery);
    }
    subjects
}

/// Compares a collection with the rows that PostgreSQL selects at the end.
async fn check_rows(db: &TestDb, listener: &Listener, topic: &str, joined: &Joined) {
    let table = Table::of_topic(topic).expect("a table");
    let filters = &joined.segments[0].filters;
    let conditions = filters.conditions(topic).expect("the topic is allowed").into_iter().flatten();
    let conditions: String = conditions.map(|c| format!(" and ({}) is true", c.filter.sql)).collect();
    let sql = format!(
        "select id::text, {}, {} from {topic} where org_id = $1{conditions}",
        table.version().2,
        table.mark_column()
    );
    let mut transaction = db.pool.begin().await.expect("begins");
    sqlx::query("set local timezone = 'UTC'").execute(&mut *transaction).await.expect("sets");
    let query = sqlx::query_as(AssertSqlSafe(sql)).bind(listener.org);
    let rows: Vec<(String, i64, Option<String>)> = query.fetch_all(&mut *transaction).await.expect("reads");
    let rows: BTreeMap<String, (i64, String)> =
        rows.into_iter().map(|(id, version, mark)| (id, (version, mark.unwrap_or_default()))).collect();
    assert_eq!(joined.rows, rows, "{topic} {filters:#?}");
}

//! Filters on events: how much an event costs with many distinct filters on its topic.
//!
//! `cargo bench --bench filters`. Each sample reads an update of a call from its JSON, in both its versions,
//! and finds the filters for which it means something. `nothing` is the same without filters.

use std::hint::black_box;

use divan::Bencher;
use divan::counter::ItemsCount;
use warden::filter::{Change, Columns, Filter, FilterIndex, Row};
use warden::reading::RowRequest;

/// Events of a sample.
const EVENTS: usize = 100;

/// Columns of a call with their types.
const COLUMNS: [(&str, &str); 12] = [
    ("id", "uuid"),
    ("org_id", "uuid"),
    ("status", "text"),
    ("direction", "text"),
    ("from_number", "text"),
    ("to_number", "text"),
    ("agent_id", "text"),
    ("queue", "text"),
    ("priority", "integer"),
    ("started_at", "timestamp with time zone"),
    ("ended_at", "timestamp with time zone"),
    ("price", "numeric"),
];

fn main() {
    divan::main();
}

fn columns() -> Columns {
    let column = |(name, kind): (&str, &str)| {
        let is_text = kind == "text";
        serde_json::json!({
            "name": name, "type": kind, "is_nullable": true, "is_ordered": true, "is_text": is_text,
            "is_boolean": false, "is_enum": false, "is_virtual": false, "collation": is_text.then_some("bytes")
        })
    };
    serde_json::from_value(COLUMNS.into_iter().map(column).collect()).expect("columns")
}

/// An update that gives a call to another agent: `data` and `old`.
fn update(n: usize) -> (String, String) {
    let (agent, former) = (n * 7 % 10_000, n * 13 % 10_000);
    let (queue, priority) = (n % 10, n % 6);
    let data = format!(
        r#"{{"id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "price": 1.50, "queue": "q{queue}", "org_id":
        "6f9619ff-8b86-4d01-b42d-00cf4fc964fe", "status": "ringing", "agent_id": "agent-{agent}", "ended_at": null,
        "priority": {priority}, "direction": "inbound", "to_number": "+4930123456", "started_at":
        "2026-01-02T03:04:05.678901+00:00", "from_number": "+4940123456"}}"#
    );
    (data, format!(r#"{{"status": "queued", "agent_id": "agent-{former}"}}"#))
}

/// An index of these filters.
fn index(columns: &Columns, filters: impl Iterator<Item = String>) -> FilterIndex {
    let mut index = FilterIndex::default();
    for text in filters {
        let conditions = RowRequest::parse(&text).expect("parses").conditions;
        index.add(&Filter::compile(&conditions, columns, &[]).expect("compiles"));
    }
    index
}

fn measure(bencher: Bencher<'_, '_>, index: &FilterIndex, columns: &Columns) {
    let events: Vec<_> = (0..EVENTS).map(update).collect();
    bencher.counter(ItemsCount::new(EVENTS)).bench(|| {
        for (data, old) in &events {
            let row = Row::new(columns, black_box(data)).expect("an object");
            let before = row.before(columns, black_box(old));
            black_box(index.verdicts(&Change { row, before, entity: None }));
        }
    });
}

/// Reading the rows alone.
#[divan::bench]
fn nothing(bencher: Bencher<'_, '_>) {
    measure(bencher, &FilterIndex::default(), &columns());
}

/// One column must have one value.
#[divan::bench(args = [1, 100, 10_000])]
fn equality(bencher: Bencher<'_, '_>, filters: usize) {
    let columns = columns();
    let filters = (0..filters).map(|n| format!("agent_id=eq.agent-{n}"));
    measure(bencher, &index(&columns, filters), &columns);
}

/// The value of one column is required, and others decide too.
#[divan::bench(args = [10_000])]
fn equality_and_more(bencher: Bencher<'_, '_>, filters: usize) {
    let columns = columns();
    let filters = (0..filters).map(|n| format!("agent_id=eq.agent-{n}&or=(priority.gt.3,status.eq.ringing)"));
    measure(bencher, &index(&columns, filters), &columns);
}

/// No value is required, so every filter is evaluated.
#[divan::bench(args = [100, 1000])]
fn compound(bencher: Bencher<'_, '_>, filters: usize) {
    let columns = columns();
    let filters = (0..filters)
        .map(|n| format!("or=(agent_id.eq.agent-{n},and(priority.gt.3,queue.like.q{n}*))&status=neq.done"));
    measure(bencher, &index(&columns, filters), &columns);
}

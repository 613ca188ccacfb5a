//! Channels with a filter: what an event costs, and what their subscribers get.

use std::collections::HashSet;
use std::num::NonZeroI64;

use super::super::broadcast::Content;
use super::super::encode::{ENCODED_BYTES_PER_WRITE, EVALUATIONS_PER_WRITE};
use super::*;
use crate::filter::{ChannelFilter, Columns, FilterParser, Selection, TableColumns};
use crate::hub::org::OrgChannel;
use crate::hub::{FilterHandle, Registration};

/// Bytes of an event that is queued, because it exceeds the budget of inline sends.
const LARGE_ROW: usize = 2 * INLINE_COST_MAX * COST_BYTES;

/// Columns that filters of these tests may select.
const SELECTABLE: [&str; 9] = ["b", "c", "d", "e", "f", "g", "h", "i", "j"];

fn table() -> Arc<TableColumns> {
    let mut columns = vec![("id", "bigint"), ("a", "text"), ("n", "integer"), ("pad", "text")];
    columns.extend(SELECTABLE.map(|name| (name, "text")));
    let (columns, key) = (Columns::for_tests(&columns), Selection::of_names(vec!["id".into()]));
    Arc::new(TableColumns { version: "1".into(), columns, key, entity: None, checks: 0 })
}

fn open(registration: &Registration, group: &str, select: Option<&[String]>) -> Arc<FilterHandle> {
    let condition = FilterParser::default().group("and", group).expect("parses");
    let filter = ChannelFilter::compile(table(), &[condition], &[], select, group.len()).expect("compiles");
    registration.open_filter(&calls(), filter, &Arc::default()).expect("opens")
}

async fn subscriber(hub: &Arc<Hub>, org: OrgId, group: &str) -> Subscriber {
    let mut subscriber = Subscriber::new(hub, org).await;
    if let Some(unfiltered) = subscriber.subscribed.take() {
        subscriber.registration.unsubscribe(&calls(), &unfiltered);
    }
    let filter = open(&subscriber.registration, group, None);
    let subscribed =
        subscriber.registration.subscribe(&calls(), Some(&filter), false, |_| bytes::Bytes::new());
    subscriber.subscribed = Some(subscribed);
    subscriber
}

/// A batch with this row for one organisation.
fn row(hub: &Hub, org: OrgId, name: &str, data: &str) -> Batch {
    let mut batch = batch(hub, name, &[org], 0);
    let event = &mut batch.orgs[0].events[0];
    *event = Arc::new(Event { data: data.into(), watch: NonZeroI64::new(7), ..Event::clone(event) });
    batch
}

/// Events that wait to be encoded.
fn queued(batches: &[Batch]) -> Vec<QueuedEvent> {
    batches.iter().map(|batch| QueuedEvent::new(batch, &batch.orgs[0].events[0])).collect()
}

fn step(channel: &OrgChannel, events: &[QueuedEvent]) -> Encoded {
    encode(channel, events, None, Step::Worker, &Metrics::default())
}

/// Bytes of the chunks, each buffer once, and the number of buffers.
fn memory(encoded: &Encoded) -> (usize, usize) {
    let mut known = HashSet::new();
    let bytes = encoded.broadcasts.iter().filter_map(|broadcast| match &broadcast.content {
        Content::Chunk(chunk) => Some(chunk.frames()).filter(|frames| known.insert(frames.as_ptr())),
        Content::Mark(_) => None,
    });
    (bytes.map(bytes::Bytes::len).sum(), known.len())
}

#[tokio::test]
async fn a_client_that_joins_between_two_unknown_events_resyncs() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut early = subscriber(&hub, org, "(a.eq.x)").await;
    let (mut sender, worker, _) = new_fanout(&hub, LIMITS);
    let pad = "x".repeat(LARGE_ROW);
    // Neither has the column on which the filter depends. Both are encoded in one step.
    sender.send(&row(&hub, org, "first", &format!(r#"{{"id": 1, "pad": "{pad}"}}"#)));
    sender.send(&row(&hub, org, "same", r#"{"id": 2}"#));
    let mut late = subscriber(&hub, org, "(a.eq.x)").await;
    sender.send(&row(&hub, org, "second", r#"{"id": 3}"#));
    sender.send(&row(&hub, org, "third", r#"{"id": 3, "a": "x"}"#));
    worker.drain();
    let all = late.received();
    assert_eq!((all.matches("warden.resync").count(), all.matches("third").count()), (1, 1), "{all}");
    assert!(early.received().contains("warden.resync"));
}

#[tokio::test]
async fn an_event_that_few_of_many_filters_select_is_sent_inline() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut subscribers = Vec::new();
    for n in 0..20 {
        subscribers.push(subscriber(&hub, org, &format!("(a.eq.{n})")).await);
    }
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    sender.send(&row(&hub, org, "moved", r#"{"id": 1, "a": "7"}"#));
    assert_eq!(metrics.deliveries.get(), 1, "nothing was queued");
    assert!(subscribers[7].received().contains("moved"));
    // All must resync, which is too much for an inline send.
    sender.send(&row(&hub, org, "moved", r#"{"id": 1}"#));
    sender.send(&row(&hub, org, "again", r#"{"id": 1, "a": "7"}"#));
    assert_eq!(metrics.deliveries.get(), 1);
    worker.drain();
    assert!(subscribers.iter_mut().take(7).all(|subscriber| subscriber.received().contains("warden.resync")));
    let all = subscribers[7].received();
    assert!(all.find("warden.resync").expect("a resync") < all.find("again").expect("an event"), "{all}");
}

#[tokio::test]
async fn a_step_ends_with_its_evaluations_and_charges_them() {
    const FILTERS: usize = 1000;
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let one = Subscriber::new(&hub, org).await;
    let _handles: Vec<_> =
        (0..FILTERS).map(|n| open(&one.registration, &format!("(a.eq.{n},n.eq.1)"), None)).collect();
    let channel = &one.registration.channel;
    let batches: Vec<_> =
        (0..20).map(|n| row(&hub, org, "e", &format!(r#"{{"id": {n}, "n": 1}}"#))).collect();
    // Each has two conditions, and the row lacks the column that finds them.
    let encoded = step(channel, &queued(&batches));
    let expected = EVALUATIONS_MAX / (2 * FILTERS);
    let encoding = |encoded: &Encoded| encoded.bytes / ENCODED_BYTES_PER_WRITE;
    let evaluating = expected * 2 * FILTERS / EVALUATIONS_PER_WRITE;
    assert_eq!((encoded.events, encoded.cost()), (expected, evaluating + encoding(&encoded)));
    assert_eq!(encoded.bytes, memory(&encoded).0);
    // A row with the column finds one filter.
    let batches: Vec<_> =
        (0..20).map(|n| row(&hub, org, "e", &format!(r#"{{"a": "{n}", "n": 1}}"#))).collect();
    let encoded = step(channel, &queued(&batches));
    let evaluating = 20 * 2 / EVALUATIONS_PER_WRITE;
    assert_eq!((encoded.events, encoded.cost()), (20, evaluating + encoding(&encoded)));
}

#[tokio::test]
async fn patterns_are_charged_by_the_length_of_the_text() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let one = Subscriber::new(&hub, org).await;
    let _handle = open(&one.registration, "(pad.like.*aaaaab*)", None);
    let data = format!(r#"{{"pad": "{}"}}"#, "a".repeat(60_000));
    let batches: Vec<_> = (0..40).map(|_| row(&hub, org, "e", &data)).collect();
    let encoded = step(&one.registration.channel, &queued(&batches));
    assert!(encoded.cost() >= encoded.events * 60_000 / 128 / EVALUATIONS_PER_WRITE, "{encoded:?}");
    assert!(encoded.events < 20, "{}", encoded.events);
}

#[tokio::test]
async fn channels_share_large_frames_and_a_step_has_a_limit_of_bytes() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let one = Subscriber::new(&hub, org).await;
    let _handles: Vec<_> = (0..200).map(|n| open(&one.registration, &format!("(n.gt.{n})"), None)).collect();
    let pad = "x".repeat(60_000);
    let batches: Vec<_> =
        (0..8).map(|_| row(&hub, org, "e", &format!(r#"{{"n": 9999, "pad": "{pad}"}}"#))).collect();
    let encoded = step(&one.registration.channel, &queued(&batches));
    let (bytes, buffers) = memory(&encoded);
    assert_eq!((encoded.events, encoded.broadcasts.len()), (8, 8 * 201));
    // One for the subscriber without a filter, which merges small events.
    assert_eq!(buffers, 8 + 8);
    assert!(bytes < 2 * 8 * 61_000, "{bytes}");
    // Small frames are merged in each channel.
    let batches: Vec<_> = (0..200)
        .map(|n| row(&hub, org, "e", &format!(r#"{{"id": {n}, "n": 9999, "pad": "{}"}}"#, &pad[..600])))
        .collect();
    let events = queued(&batches);
    let (bytes, buffers) = memory(&step(&one.registration.channel, &events));
    assert!(bytes < STEP_BYTES_MAX + 201 * 1000 && buffers > 200, "{bytes} {buffers}");
}

/// Filters that select every row, each with other columns.
fn open_selections(one: &Subscriber) -> Vec<Arc<FilterHandle>> {
    let select = |bits: usize| {
        let names =
            SELECTABLE.iter().enumerate().filter(move |(n, _)| bits & (1 << n) != 0).map(|(_, name)| *name);
        names.chain(["pad"]).map(str::to_owned).collect::<Vec<_>>()
    };
    (0..512).map(|bits| open(&one.registration, "(n.gt.1)", Some(&select(bits)))).collect()
}

#[tokio::test]
async fn many_selections_of_many_large_events_have_the_limit_of_a_step() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let one = Subscriber::new(&hub, org).await;
    let _handles = open_selections(&one);
    // Frames of one event, for all selections: more than a step has.
    let pad = "x".repeat(9_000);
    let batches: Vec<_> =
        (0..64).map(|_| row(&hub, org, "e", &format!(r#"{{"n": 9999, "pad": "{pad}"}}"#))).collect();
    let mut events = queued(&batches);
    for n in 0..2 {
        let encoded = step(&one.registration.channel, &events);
        let (bytes, _) = memory(&encoded);
        assert_eq!((encoded.events, encoded.bytes), (1, bytes), "step {n}");
        assert!((STEP_BYTES_MAX..5_500_000).contains(&bytes), "{bytes}");
        assert!(encoded.cost() >= bytes / ENCODED_BYTES_PER_WRITE, "{}", encoded.cost());
        events.drain(..encoded.events);
    }
    // The worker sends all of them, step by step.
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    for batch in &batches[..3] {
        sender.send(batch);
    }
    worker.drain();
    assert_eq!(metrics.overloads.get(), 0);
}

#[tokio::test]
async fn many_selections_of_one_large_event_have_a_limit_of_bytes() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let one = Subscriber::new(&hub, org).await;
    let _handles = open_selections(&one);
    let pad = "x".repeat(60_000);
    let batches = [row(&hub, org, "e", &format!(r#"{{"n": 9999, "pad": "{pad}"}}"#))];
    let encoded = step(&one.registration.channel, &queued(&batches));
    let (bytes, _) = memory(&encoded);
    assert_eq!(encoded.broadcasts.len(), 513);
    assert!(bytes < EVENT_FRAMES_BYTES_MAX + 200_000, "{bytes}");
    let text = |broadcast: &Arc<Broadcast>| match &broadcast.content {
        Content::Chunk(chunk) => String::from_utf8_lossy(chunk.frames()).into_owned(),
        Content::Mark(_) => String::new(),
    };
    let resyncs = encoded.broadcasts.iter().map(text).filter(|text| text.contains("warden.resync")).count();
    assert!((200..300).contains(&resyncs), "{resyncs}");
}

#[tokio::test]
async fn sessions_of_outdated_filters_are_closed_whether_they_subscribe_before_or_after() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let (early, other) = (subscriber(&hub, org, "(a.eq.x)").await, Subscriber::new(&hub, org).await);
    let late = Subscriber::new(&hub, org).await;
    let opened = open(&late.registration, "(a.eq.x)", None);
    let versions = [("calls".to_owned(), Some("2".to_owned()))].into();
    assert_eq!(hub.close_outdated_filters(&versions, CloseCode::TABLE_CHANGED), 1);
    let state = |one: &Subscriber| one.registration.outbox.close_state();
    let closed = Some(CloseState::Closing(Some(CloseCode::TABLE_CHANGED)));
    assert_eq!((state(&early), state(&other), state(&late)), (closed, None, None));
    let subscribed = late.registration.subscribe(&calls(), Some(&opened), false, |_| bytes::Bytes::new());
    assert_eq!(state(&late), closed);
    late.registration.unsubscribe(&calls(), &subscribed);
}

//! Marks: the events that they follow, and the subscriptions that get them.

use super::super::broadcast::Content;
use super::super::marks::NAMES_PER_WRITE;
use super::*;
use crate::hub::Subscribed;
use crate::wire::Topic;

const MARK: &str = "warden.mark";

/// Sends a batch as the tailer does.
fn dispatch(sender: &mut FanoutSender, batch: &Batch) {
    sender.send(batch);
    sender.answer_questions();
}

/// The numbers of events that precede each mark.
fn events_before_marks(received: &str) -> Vec<usize> {
    let parts: Vec<&str> = received.split(MARK).collect();
    let mut events = 0;
    let mut before = Vec::new();
    for part in &parts[..parts.len() - 1] {
        events += part.matches("\"note\"").count();
        before.push(events);
    }
    before
}

/// A batch with this number of events. Its cursor is between two points if it is only a page.
fn notes(hub: &Hub, org: OrgId, count: usize, is_page: bool) -> Batch {
    let mut batch = batch(hub, "note", &[org], 10);
    let event = batch.orgs[0].events[0].clone();
    batch.orgs[0].events = vec![event; count];
    if is_page {
        let mut page = batch.cursor.clone();
        page.from = cursor(0).from;
        page.id -= 1;
        hub.update_cursor(page.clone());
        batch.cursor = page;
    }
    batch
}

#[tokio::test]
async fn batches_that_are_merged_get_one_mark_at_their_end() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut early = Subscriber::with_marks(&hub, org).await;
    let mut without = Subscriber::new(&hub, org).await;
    let (mut sender, worker, _) = new_fanout(&hub, LIMITS);
    // Too large for an inline send, so the others are queued behind it.
    dispatch(&mut sender, &batch(&hub, "large", &[org], LARGE_BYTES));
    dispatch(&mut sender, &notes(&hub, org, 1, false));
    let mut late = Subscriber::with_marks(&hub, org).await;
    dispatch(&mut sender, &notes(&hub, org, 2, false));
    worker.drain();
    assert_eq!(events_before_marks(&early.received()), [3]);
    assert_eq!(events_before_marks(&late.received()), [2]);
    assert_eq!(events_before_marks(&without.received()), Vec::<usize>::new());
    // Inline, the mark follows at once.
    dispatch(&mut sender, &notes(&hub, org, 2, false));
    assert_eq!(events_before_marks(&early.received()), [2]);
    assert_eq!(events_before_marks(&without.received()), Vec::<usize>::new());
}

#[tokio::test]
async fn no_mark_divides_a_batch_or_a_paged_read() {
    const LARGE: usize = 2 * ENCODE_EVENTS_MAX + 5;
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut one = Subscriber::with_marks(&hub, org).await;
    let (mut sender, worker, _) = new_fanout(&hub, LIMITS);
    dispatch(&mut sender, &notes(&hub, org, LARGE, false));
    dispatch(&mut sender, &notes(&hub, org, 1, false));
    dispatch(&mut sender, &notes(&hub, org, LARGE, false));
    worker.drain();
    assert_eq!(events_before_marks(&one.received_until_count(MARK, 2)), [LARGE + 1, 2 * LARGE + 1]);

    // Two pages, and a last one without events.
    dispatch(&mut sender, &notes(&hub, org, 2, true));
    dispatch(&mut sender, &notes(&hub, org, LARGE, true));
    worker.drain();
    assert_eq!(one.received_until_count("\"note\"", LARGE + 2).matches(MARK).count(), 0);
    hub.update_cursor(cursor(100));
    sender.answer_questions();
    worker.drain();
    let mark = one.received();
    assert!(mark.contains(&seal(org, 0).seal(&cursor(100))) && mark.matches(MARK).count() == 1, "{mark}");
}

#[tokio::test]
async fn a_first_mark_waits_for_the_end_of_a_batch_and_ends_with_its_subscription() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let (mut sender, worker, _) = new_fanout(&hub, LIMITS);
    let questions = sender.questions();
    let request = |one: &Subscriber| {
        let subscribed: &Subscribed = one.subscribed.as_ref().expect("subscribed");
        one.registration.mark_request(&calls(), subscribed)
    };
    let mut one = Subscriber::with_marks(&hub, org).await;
    dispatch(&mut sender, &notes(&hub, org, 1, true));
    assert_eq!(events_before_marks(&one.received()), Vec::<usize>::new(), "the read has more pages");
    questions.request_mark(request(&one).expect("has marks"));
    worker.drain();
    one.client.set_nonblocking(true).expect("set");
    assert!(one.received().is_empty());
    hub.update_cursor(cursor(100));
    sender.answer_questions();
    worker.drain();
    // The mark of the batch, and the first mark.
    assert_eq!(one.received().matches(MARK).count(), 2);

    // A session that has joined again does not get the mark of its former join.
    questions.request_mark(request(&one).expect("has marks"));
    let former = one.subscribed.take().expect("subscribed");
    one.registration.unsubscribe(&calls(), &former);
    one.subscribed = Some(one.registration.subscribe(&calls(), None, true, |_| bytes::Bytes::new()));
    worker.drain();
    assert!(one.received().is_empty());
    assert!(request(&Subscriber::new(&hub, org).await).is_none(), "it gets no marks");
}

/// Topics that nobody has joined, which marks name.
const NAMED: usize = 10 * NAMES_PER_WRITE;

/// A batch with an event on `calls`, and one on each of many other topics.
fn on_many_topics(hub: &Hub, org: OrgId) -> Batch {
    let mut batch = notes(hub, org, 1, false);
    let event = batch.orgs[0].events[0].clone();
    batch.orgs[0].events.extend((0..NAMED).map(|n| {
        let topic = Topic::parse(&format!("topic_{n}")).expect("a topic");
        Arc::new(Event { topic, ..Event::clone(&event) })
    }));
    batch
}

#[tokio::test]
async fn marks_that_name_many_topics_are_not_sent_inline() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let without = Subscriber::new(&hub, org).await;
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    dispatch(&mut sender, &on_many_topics(&hub, org));
    assert_eq!(metrics.deliveries.get(), 1, "without marks the events are sent inline");
    drop(without);
    let mut subscribers = Vec::new();
    for _ in 0..SEGMENT_SUBSCRIPTIONS_MAX {
        subscribers.push(Subscriber::with_marks(&hub, org).await);
    }
    dispatch(&mut sender, &on_many_topics(&hub, org));
    assert_eq!(metrics.deliveries.get(), 1, "queued");
    worker.drain();
    for one in &mut subscribers {
        let received = one.received_until(MARK);
        assert_eq!(received.matches("\"topic_").count(), NAMED, "{received}");
    }
}

/// Each slice of a mark costs what its names, its frames and its visits of subscriptions cost.
#[tokio::test]
async fn marks_are_charged_for_their_size_and_their_names() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut subscribers = Vec::new();
    for _ in 0..3 {
        subscribers.push(Subscriber::with_marks(&hub, org).await);
    }
    let channel = hub.channel(org).expect("has sessions");
    let cost_of_mark = |batch: &Batch| {
        let queued: Vec<_> =
            batch.orgs[0].events.iter().map(|event| QueuedEvent::new(batch, event)).collect();
        let (number, cursor) = (batch.number, batch.cursor.clone());
        let end = BatchEnd { batch: number, cursor, read_at: batch.read_at };
        let Encoded { broadcasts, .. } =
            encode(&channel, &queued, Some(&end), Step::Worker, &Metrics::default());
        let mark = broadcasts.iter().find(|broadcast| matches!(broadcast.content, Content::Mark(_)));
        mark.expect("a mark").send_slice(OUTBOX).expect("a slice").cost
    };
    let small = cost_of_mark(&notes(&hub, org, 1, false));
    assert_eq!(small, 1 + subscribers.len());
    let large = cost_of_mark(&on_many_topics(&hub, org));
    let bytes = subscribers[0].received_until_count(MARK, 2).len();
    let write = bytes / COST_BYTES;
    // The names are encoded once, and compared with the token of each subscription.
    let names = (1 + NAMED) * (1 + subscribers.len()) / NAMES_PER_WRITE;
    assert!(write > 2 && large >= 3 * write + names, "{large}, {write}, {names}");
}

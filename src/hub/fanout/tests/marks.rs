//! Marks: the events that they follow, and the subscriptions that get them.

use super::*;
use crate::hub::Subscribed;

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
    one.subscribed = Some(one.registration.subscribe(&calls(), true, |_| bytes::Bytes::new()));
    worker.drain();
    assert!(one.received().is_empty());
    assert!(request(&Subscriber::new(&hub, org).await).is_none(), "it gets no marks");
}

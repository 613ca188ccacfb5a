//! Fan-out to real sockets, slice by slice.

mod filtered;
mod marks;
mod memory;
mod questions;
mod subscriber;

use super::super::CloseState;
use super::super::segments::SEGMENT_SUBSCRIPTIONS_MAX;
use super::sender::INLINE_COST_MAX;
use super::*;
use crate::cursor::{Epoch, Point, Snapshot};
use crate::sync::lock;
use crate::wire::CloseCode;
use subscriber::{DEADLINE, OUTBOX, Subscriber, calls, seal};

const LIMITS: FanoutLimits = FanoutLimits { org_bytes_max: 1 << 20, bytes_max: 4 << 20 };

/// A hub with a position, so that sessions may join.
fn new_hub() -> Arc<Hub> {
    let hub = Hub::new(OUTBOX);
    hub.update_cursor(cursor(0));
    Arc::new(hub)
}

/// The cursor of a client that has seen all events up to this id.
fn cursor(id: i64) -> Cursor {
    let point = Point { snapshot: Snapshot { xmin: 10, xmax: 10, in_progress: Vec::new() }, max_id: id };
    Cursor::at(Epoch::default(), Arc::new(point))
}

/// A batch with one event for each of these organisations. Its number is also the id of its cursor.
fn batch(hub: &Hub, name: &str, orgs: &[OrgId], bytes: usize) -> Batch {
    let data = format!("\"{}\"", "x".repeat(bytes));
    let mut event = Event::control(name, &data, 0);
    event.topic = calls();
    let orgs = orgs
        .iter()
        .map(|org| OrgEvents { org: Some(*org), events: vec![Arc::new(event.clone())], is_gone: false })
        .collect();
    let last = hub.cursor().expect("a position").id;
    let cursor = cursor(last + 1);
    let points = Arc::new(CursorPrefix::of(&cursor));
    Batch { number: hub.advance(cursor.clone()), cursor, points, read_at: Instant::now(), orgs }
}

/// Segments whose broadcast exceeds the budget of inline sends, so that it is queued.
const LARGE_SEGMENTS: usize = 2 * INLINE_COST_MAX / SEGMENT_SUBSCRIPTIONS_MAX;

/// Bytes of an event that exceeds the budget of inline sends even for one segment.
const LARGE_BYTES: usize = INLINE_COST_MAX / SEGMENT_SUBSCRIPTIONS_MAX * COST_BYTES;

/// Both ends of a hub's fan-out, and its metrics.
fn new_fanout(hub: &Arc<Hub>, limits: FanoutLimits) -> (FanoutSender, FanoutWorker, Arc<Metrics>) {
    let metrics = Arc::<Metrics>::default();
    let (sender, worker) = fanout(Arc::clone(hub), limits, Arc::clone(&metrics));
    (sender, worker, metrics)
}

async fn subscribers(hub: &Arc<Hub>, org: OrgId, segments: usize) -> Vec<Subscriber> {
    let mut subscribers = Vec::new();
    for _ in 0..segments * SEGMENT_SUBSCRIPTIONS_MAX {
        subscribers.push(Subscriber::new(hub, org).await);
    }
    subscribers
}

#[tokio::test]
async fn a_small_organisations_events_are_sent_inline() {
    let hub = new_hub();
    let (large, small) = (OrgId::for_tests(1), OrgId::for_tests(2));
    let mut many = subscribers(&hub, large, LARGE_SEGMENTS).await;
    let mut few = subscribers(&hub, small, 1).await;
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    // One batch, with the large organisation's events first.
    sender.send(&batch(&hub, "both", &[large, small], 10));
    assert!(few.iter_mut().all(|one| one.received().contains("both")));
    assert_eq!(metrics.deliveries.get(), few.len() as u64, "the large organisation's events are queued");
    worker.drain();
    assert!(many.iter_mut().all(|one| one.received().contains("both")));
}

#[tokio::test]
async fn inline_sends_of_one_batch_have_a_limit() {
    const ORGS: u128 = 2 * (INLINE_COST_MAX / SEGMENT_SUBSCRIPTIONS_MAX) as u128;
    let hub = new_hub();
    let orgs: Vec<OrgId> = (0..ORGS).map(OrgId::for_tests).collect();
    let mut all = Vec::new();
    for org in &orgs {
        all.push(Subscriber::new(&hub, *org).await);
    }
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    sender.send(&batch(&hub, "all", &orgs, 10));
    assert_eq!(u128::from(metrics.deliveries.get()), ORGS / 2);
    worker.drain();
    assert!(all.iter_mut().all(|one| one.received().contains("all")));
}

#[tokio::test]
async fn nothing_overtakes_queued_events_or_a_broadcast_to_all_organisations() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut one = Subscriber::new(&hub, org).await;
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    // The first event is too large for an inline send, the second is not.
    sender.send(&batch(&hub, "large", &[org], LARGE_BYTES));
    sender.send(&batch(&hub, "quick", &[org], 10));
    worker.drain();
    // A control event for all organisations between two events of this one.
    let with_barrier = |mut batch: Batch| {
        let event = Arc::new(Event::control("warden.cursor", "{}", batch.cursor.id));
        let all = OrgEvents { org: None, events: vec![event], is_gone: false };
        let after =
            batch.orgs.iter().map(|part| OrgEvents { events: part.events.clone(), ..*part }).collect();
        batch.orgs.push(all);
        batch.orgs.extend::<Vec<_>>(after);
        batch
    };
    let delivered = metrics.deliveries.get();
    sender.send(&with_barrier(batch(&hub, "around", &[org], 10)));
    assert_eq!(metrics.deliveries.get(), delivered, "the worker may already be sending the control event");
    worker.drain();
    let all = one.received();
    let at = |name: &str| all.find(name).expect("received");
    assert!(at("\"large\"") < at("\"quick\"") && at("\"quick\"") < at("\"around\""), "{all}");
    assert!(at("\"around\"") < at("warden.cursor"), "{all}");
    assert!(all.rfind("\"around\"").expect("twice") > at("warden.cursor"), "{all}");
}

/// Only the last event of an organisation in a complete batch has a cursor that covers the batch.
#[test]
fn the_last_event_of_a_complete_batch_covers_the_batch() {
    let (hub, org) = (new_hub(), OrgId::for_tests(1));
    let two_events = || {
        let mut batch = batch(&hub, "two", &[org, OrgId::for_tests(2)], 1);
        let mut next = Event::clone(&batch.orgs[0].events[0]);
        next.id = 1;
        batch.orgs[0].events.push(Arc::new(next));
        batch.cursor = cursor(7);
        batch
    };
    let ids = |batch: &Batch| -> Vec<i64> {
        QueuedEvent::last_of(batch, &batch.orgs[0].events, batch.end_id())
            .map(|queued| queued.cursor_id)
            .collect()
    };
    let complete = two_events();
    assert_eq!(ids(&complete), [0, 7]);
    // A page of the batch, of which more pages follow.
    let mut page = two_events();
    page.cursor.id = 2;
    assert_eq!(ids(&page), [0, 1]);
    // Behind the event for all, the batch may have more events of the organisation.
    let mut with_barrier = two_events();
    with_barrier.orgs.insert(1, OrgEvents { org: None, events: Vec::new(), is_gone: false });
    assert_eq!(ids(&with_barrier), [0, 1]);
}

#[tokio::test]
async fn a_small_organisation_waits_for_one_round_of_a_large_one() {
    // The writes are small.
    const SLICES_PER_ROUND: usize = ROUND_COST.div_ceil(SEGMENT_SUBSCRIPTIONS_MAX);
    const SEGMENTS: usize = 2 * SLICES_PER_ROUND;
    let hub = new_hub();
    let (large, small) = (OrgId::for_tests(1), OrgId::for_tests(2));
    let mut many = subscribers(&hub, large, SEGMENTS).await;
    let mut one = Subscriber::new(&hub, small).await;
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    sender.send(&batch(&hub, "flood", &[large], 10));
    // The first slice encodes, the second one sends.
    worker.run_slice();
    worker.run_slice();
    assert_eq!(metrics.deliveries.get(), SEGMENT_SUBSCRIPTIONS_MAX as u64);
    // The event is too large for an inline send.
    sender.send(&batch(&hub, "quick", &[small], LARGE_BYTES));
    // The rest of the large organisation's round, and three slices of the small one: encode, send, and find
    // it done.
    for _ in 1..SLICES_PER_ROUND + 3 {
        worker.run_slice();
    }
    assert!(one.received().contains("quick"));
    assert!(metrics.deliveries.get() < many.len() as u64, "the large organisation is still being served");
    worker.drain();
    assert!(many.iter_mut().all(|s| s.received().contains("flood")));
}

#[tokio::test]
async fn queued_events_are_merged_and_reach_only_earlier_subscriptions() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut early = Subscriber::new(&hub, org).await;
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    // The first event is too large for an inline send, so the others are queued behind it.
    sender.send(&batch(&hub, "zeroth", &[org], LARGE_BYTES));
    sender.send(&batch(&hub, "first", &[org], 10));
    sender.send(&batch(&hub, "second", &[org], 10));
    let mut late = Subscriber::new(&hub, org).await;
    sender.send(&batch(&hub, "third", &[org], 10));
    worker.drain();
    let all = early.received();
    let at = |name: &str| all.find(name).expect("received");
    assert!(at("first") < at("second") && at("second") < at("third"), "{all:?}");
    let last = late.received();
    assert!(last.contains("third") && !last.contains("second") && !last.contains("first"), "{last:?}");
    assert_eq!(
        (metrics.direct_writes.get(), metrics.deliveries.get()),
        (3, 5),
        "one write for all small events"
    );
}

#[tokio::test]
async fn an_overloaded_organisation_resyncs_alone() {
    let hub = new_hub();
    let (flooded, other) = (OrgId::for_tests(1), OrgId::for_tests(2));
    let (mut behind, mut beside) = (Subscriber::new(&hub, flooded).await, Subscriber::new(&hub, other).await);
    let (mut sender, worker, metrics) =
        new_fanout(&hub, FanoutLimits { org_bytes_max: 20_000, bytes_max: 1 << 20 });
    for name in ["lost1", "lost2", "lost3"] {
        sender.send(&batch(&hub, name, &[flooded, other], 8000));
    }
    // The third batch exceeds the limit of each organisation: `other` has been sent nothing either.
    sender.send(&batch(&hub, "next", &[flooded, other], 10));
    worker.drain();
    for (org, subscriber) in [(flooded, &mut behind), (other, &mut beside)] {
        let after_lost3 = seal(org, 0).seal(&cursor(3));
        let all = subscriber.received();
        assert!(!all.contains("lost1"), "{all}");
        let resync = format!(r#""warden.resync",{{"cursor":"{after_lost3}","reason":"overload"}}"#);
        let resync = all.find(&resync).expect("a resync");
        assert!(resync < all.find("\"next\"").expect("later events"), "{all}");
    }
    assert_eq!(metrics.overloads.get(), 2);

    // If the limit of all organisations is exceeded, the organisation with the most bytes is dropped.
    let (mut sender, worker, metrics) =
        new_fanout(&hub, FanoutLimits { org_bytes_max: 1 << 20, bytes_max: 20_000 });
    sender.send(&batch(&hub, "most", &[flooded], 15_000));
    sender.send(&batch(&hub, "little", &[other], 8000));
    worker.drain();
    let (all, kept) = (behind.received(), beside.received());
    assert!(all.contains("overload") && !all.contains("most"), "{all}");
    assert!(kept.contains("little") && !kept.contains("overload"), "{kept}");
    assert_eq!(metrics.overloads.get(), 1);

    // The counters are back at zero: the same load later is no overload.
    sender.send(&batch(&hub, "later", &[flooded, other], 4000));
    worker.drain();
    assert!(behind.received().contains("later") && beside.received().contains("later"));
}

#[tokio::test]
async fn helpers_share_a_large_broadcast_and_keep_the_order() {
    const SEGMENTS: usize = 40;
    const EVENTS: usize = 30;
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut many = subscribers(&hub, org, SEGMENTS).await;
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    let helped = std::sync::atomic::AtomicU64::new(0);
    let mut events = EVENTS;
    std::thread::scope(|threads| {
        let (shared, helped) = (&worker.0, &helped);
        threads.spawn(move || {
            shared.helpers.run(|broadcast| {
                let Some(stats) = shared.send_slice(broadcast) else { return false };
                helped.fetch_add(stats.deliveries, std::sync::atomic::Ordering::Relaxed);
                true
            });
        });
        for n in 0..EVENTS {
            sender.send(&batch(&hub, &format!("event{n:02}"), &[org], 10));
            worker.drain();
        }
        // On busy cores the helper may not have run at all so far.
        let began = Instant::now();
        while helped.load(std::sync::atomic::Ordering::Relaxed) == 0 && began.elapsed() < DEADLINE {
            sender.send(&batch(&hub, "more", &[org], 10));
            worker.drain();
            events += 1;
        }
        shared.helpers.close();
    });
    let sent = usize::try_from(metrics.deliveries.get()).expect("small");
    assert_eq!(sent, many.len() * events, "each event once");
    assert!((1..sent as u64).contains(&helped.into_inner()), "one thread has sent everything");
    let last = format!("event{:02}", EVENTS - 1);
    for subscriber in &mut many {
        let all = subscriber.received_until(&last);
        let at: Vec<_> = (0..EVENTS).map(|n| all.find(&format!("event{n:02}")).expect("received")).collect();
        assert!(at.is_sorted(), "{all}");
    }
}

#[tokio::test]
async fn the_next_broadcast_waits_for_a_late_helper() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut many = subscribers(&hub, org, LARGE_SEGMENTS).await;
    let (mut sender, worker, _) = new_fanout(&hub, LIMITS);
    let first_segment = Arc::clone(&hub.channel(org).expect("sessions").segments(&calls())[0]);
    sender.send(&batch(&hub, "early", &[org], 10));
    worker.run_slice();
    let current = || lock(&worker.0.queue).current_broadcast(org);
    let broadcast = current();
    std::thread::scope(|threads| {
        let busy = first_segment.lock().expect("no panic");
        threads.spawn(|| broadcast.send_slice(OUTBOX).is_some());
        while broadcast.taken() == 0 {
            std::thread::yield_now();
        }
        sender.send(&batch(&hub, "late", &[org], 10));
        // Many more slices than there are.
        for _ in 0..100 {
            worker.run_slice();
            assert!(Arc::ptr_eq(&current(), &broadcast), "the next broadcast has begun");
        }
        let (_, others) = many.split_at_mut(SEGMENT_SUBSCRIPTIONS_MAX);
        assert!(others.iter_mut().all(|other| other.received_until("early").contains("early")));
        assert!(others.iter_mut().all(|other| {
            other.client.set_nonblocking(true).expect("set");
            !other.received().contains("late")
        }));
        drop(busy);
    });
    worker.drain();
    for subscriber in &mut many[..SEGMENT_SUBSCRIPTIONS_MAX] {
        let all = subscriber.received_until("late");
        assert!(all.find("early").expect("received") < all.find("late").expect("received"), "{all}");
    }
}

#[tokio::test]
async fn an_organisation_that_was_created_again_is_another_one() {
    let hub = new_hub();
    let org = OrgId::for_tests(1);
    let mut former = Subscriber::new(&hub, org).await;
    let (mut sender, worker, _) = new_fanout(&hub, LIMITS);
    // Announced, but not sent yet.
    let mut deletion = batch(&hub, "deleted", &[org], 10);
    deletion.orgs[0].is_gone = true;
    let mut reborn = Subscriber::in_incarnation(&hub, org, 1).await;
    sender.send(&deletion);
    sender.send(&batch(&hub, "later", &[org], 10));
    worker.drain();
    let close_state = |one: &Subscriber| one.registration.outbox.close_state();
    assert_eq!(close_state(&former), Some(CloseState::Closing(Some(CloseCode::ORG_GONE))));
    assert!(!former.received().contains("later"));
    assert_eq!(close_state(&reborn), None);
    let received = reborn.received();
    assert!(received.contains("later") && !received.contains("deleted"), "{received}");
}

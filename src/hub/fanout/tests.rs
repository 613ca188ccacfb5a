//! Fan-out to real sockets, step by step.

use std::io::Read as _;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};

use super::super::org::SEGMENT_SUBSCRIPTIONS_MAX;
use super::super::{Outbox, OutboxLimits, Registration, SessionCheck, Subscribed};
use super::sender::NOW_COST_MAX;
use super::*;
use crate::wire::CloseCode;

const OUTBOX: OutboxLimits = OutboxLimits { queue_bytes_max: 1 << 20, queue_chunks_max: 64 };
const LIMITS: FanoutLimits = FanoutLimits { org_bytes_max: 1 << 20, bytes_max: 4 << 20 };

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(30);

/// Nothing is revoked here.
#[derive(Debug)]
struct Steadfast;

impl SessionCheck for Steadfast {
    fn close_reason(&self) -> Option<CloseCode> {
        None
    }
}

/// A socket that joined `calls`.
struct Subscriber {
    client: std::net::TcpStream,
    registration: Registration,
    subscribed: Option<Subscribed>,
}

impl Subscriber {
    async fn new(hub: &Arc<Hub>, org: OrgId) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("bound");
        let (client, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let (server, _) = accepted.expect("accepts");
        server.writable().await.expect("writable");
        let registration = hub.register(
            org,
            Arc::new(Outbox::new(crate::hub::Transport::plain(server), OUTBOX)),
            Arc::new(Steadfast),
        );
        let subscribed = registration.subscribe(&calls(), |_| Bytes::new());
        let client = client.expect("connects").into_std().expect("a socket");
        Self { client, registration, subscribed: Some(subscribed) }
    }

    /// What came so far: loopback delivers before `write` returns.
    fn received(&mut self) -> String {
        let mut bytes = vec![0; 1 << 20];
        let n = self.client.read(&mut bytes).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    }
}

impl Subscriber {
    /// What came until this did. (With several writers the kernel may deliver after `write` has returned.)
    fn received_until(&mut self, marker: &str) -> String {
        self.client.set_nonblocking(false).expect("set");
        self.client.set_read_timeout(Some(DEADLINE)).expect("set");
        let (mut all, mut bytes) = (String::new(), [0; 4096]);
        while !all.contains(marker) {
            let n = self.client.read(&mut bytes).expect("before the deadline");
            all.push_str(&String::from_utf8_lossy(&bytes[..n]));
        }
        all
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        if let Some(subscribed) = self.subscribed.take() {
            self.registration.unsubscribe(&calls(), &subscribed);
        }
    }
}

fn calls() -> Topic {
    Topic::parse("calls").expect("a topic")
}

/// A batch of one event for each of these organisations.
fn batch(hub: &Hub, name: &str, orgs: &[OrgId], bytes: usize) -> Batch {
    let cursor: Arc<str> = format!("after {name}").into();
    let data = format!("\"{}\"", "x".repeat(bytes));
    let mut event = Event::control(name, &data, Arc::clone(&cursor));
    event.topic = calls();
    let orgs = orgs
        .iter()
        .map(|org| OrgEvents { org: Some(*org), events: vec![Arc::new(event.clone())], is_gone: false })
        .collect();
    Batch { number: hub.advance(Arc::clone(&cursor)), cursor, read_at: Instant::now(), orgs }
}

/// More than may be sent at once, so that a thread of their own has work.
const LARGE_SEGMENTS: usize = 2 * NOW_COST_MAX / SEGMENT_SUBSCRIPTIONS_MAX;

/// An event so large is too much for being sent at once even to one segment.
const LARGE_BYTES: usize = NOW_COST_MAX / SEGMENT_SUBSCRIPTIONS_MAX * COST_BYTES;

/// A hub's fan-out, and what it counts.
fn new_fanout(hub: &Arc<Hub>, limits: FanoutLimits) -> (FanoutSender, FanoutWorker, Arc<Metrics>) {
    let metrics = Arc::<Metrics>::default();
    let (feed, fanout) = fanout(Arc::clone(hub), limits, Arc::clone(&metrics));
    (feed, fanout, metrics)
}

async fn subscribers(hub: &Arc<Hub>, org: OrgId, segments: usize) -> Vec<Subscriber> {
    let mut subscribers = Vec::new();
    for _ in 0..segments * SEGMENT_SUBSCRIPTIONS_MAX {
        subscribers.push(Subscriber::new(hub, org).await);
    }
    subscribers
}

#[tokio::test]
async fn what_a_small_organisation_has_is_sent_at_once() {
    let hub = Arc::new(Hub::new(OUTBOX));
    let (large, small) = (OrgId::for_tests(1), OrgId::for_tests(2));
    let mut many = subscribers(&hub, large, LARGE_SEGMENTS).await;
    let mut few = subscribers(&hub, small, 1).await;
    let (mut feed, fanout, metrics) = new_fanout(&hub, LIMITS);
    // One batch, the large one's part first.
    feed.push(&batch(&hub, "both", &[large, small], 10));
    assert!(few.iter_mut().all(|one| one.received().contains("both")));
    assert_eq!(metrics.deliveries.get(), few.len() as u64, "the large one waits for its turn");
    fanout.drain();
    assert!(many.iter_mut().all(|one| one.received().contains("both")));
}

#[tokio::test]
async fn what_is_sent_at_once_of_one_batch_is_bounded() {
    const ORGS: u128 = 2 * (NOW_COST_MAX / SEGMENT_SUBSCRIPTIONS_MAX) as u128;
    let hub = Arc::new(Hub::new(OUTBOX));
    let orgs: Vec<OrgId> = (0..ORGS).map(OrgId::for_tests).collect();
    let mut all = Vec::new();
    for org in &orgs {
        all.push(Subscriber::new(&hub, *org).await);
    }
    let (mut feed, fanout, metrics) = new_fanout(&hub, LIMITS);
    feed.push(&batch(&hub, "all", &orgs, 10));
    assert_eq!(u128::from(metrics.deliveries.get()), ORGS / 2);
    fanout.drain();
    assert!(all.iter_mut().all(|one| one.received().contains("all")));
}

#[tokio::test]
async fn nothing_overtakes_what_waits() {
    let hub = Arc::new(Hub::new(OUTBOX));
    let org = OrgId::for_tests(1);
    let mut one = Subscriber::new(&hub, org).await;
    let (mut feed, fanout, metrics) = new_fanout(&hub, LIMITS);
    // Too large to be sent at once; then one that is not; then what concerns all, between two others.
    feed.push(&batch(&hub, "large", &[org], LARGE_BYTES));
    feed.push(&batch(&hub, "quick", &[org], 10));
    let everybody = |mut batch: Batch| {
        let event = Arc::new(Event::control("warden.cursor", "{}", Arc::clone(&batch.cursor)));
        let all = OrgEvents { org: None, events: vec![event], is_gone: false };
        let after =
            batch.orgs.iter().map(|part| OrgEvents { events: part.events.clone(), ..*part }).collect();
        batch.orgs.push(all);
        batch.orgs.extend::<Vec<_>>(after);
        batch
    };
    fanout.drain();
    let sent = metrics.deliveries.get();
    feed.push(&everybody(batch(&hub, "around", &[org], 10)));
    assert_eq!(
        metrics.deliveries.get(),
        sent,
        "the thread that takes turns may already be at what concerns all"
    );
    fanout.drain();
    let all = one.received();
    let at = |name: &str| all.find(name).expect("received");
    assert!(at("\"large\"") < at("\"quick\"") && at("\"quick\"") < at("\"around\""), "{all}");
    assert!(at("\"around\"") < at("warden.cursor"), "{all}");
    assert!(all.rfind("\"around\"").expect("twice") > at("warden.cursor"), "{all}");
}

#[tokio::test]
async fn a_small_organisation_waits_for_one_turn_of_a_large_one() {
    // Small writes.
    const SLICES_OF_A_TURN: usize = TURN_COST.div_ceil(SEGMENT_SUBSCRIPTIONS_MAX);
    const SEGMENTS: usize = 2 * SLICES_OF_A_TURN;
    let hub = Arc::new(Hub::new(OUTBOX));
    let (large, small) = (OrgId::for_tests(1), OrgId::for_tests(2));
    let mut many = subscribers(&hub, large, SEGMENTS).await;
    let mut one = Subscriber::new(&hub, small).await;
    let (mut feed, fanout, metrics) = new_fanout(&hub, LIMITS);
    feed.push(&batch(&hub, "flood", &[large], 10));
    // Encoded, and one slice sent.
    fanout.step();
    fanout.step();
    assert_eq!(metrics.deliveries.get(), SEGMENT_SUBSCRIPTIONS_MAX as u64);
    // More than is sent at once.
    feed.push(&batch(&hub, "quick", &[small], LARGE_BYTES));
    // The rest of the large one's turn, and the small one's: encoded, sent, and found done.
    for _ in 1..SLICES_OF_A_TURN + 3 {
        fanout.step();
    }
    assert!(one.received().contains("quick"));
    assert!(metrics.deliveries.get() < many.len() as u64, "the large one is still being served");
    fanout.drain();
    assert!(many.iter_mut().all(|s| s.received().contains("flood")));
}

#[tokio::test]
async fn what_waited_together_goes_out_together_and_only_to_those_who_joined_before() {
    let hub = Arc::new(Hub::new(OUTBOX));
    let org = OrgId::for_tests(1);
    let mut early = Subscriber::new(&hub, org).await;
    let (mut feed, fanout, metrics) = new_fanout(&hub, LIMITS);
    // Something that waits, so that all do.
    feed.push(&batch(&hub, "zeroth", &[org], LARGE_BYTES));
    feed.push(&batch(&hub, "first", &[org], 10));
    feed.push(&batch(&hub, "second", &[org], 10));
    let mut late = Subscriber::new(&hub, org).await;
    feed.push(&batch(&hub, "third", &[org], 10));
    fanout.drain();
    let all = early.received();
    let at = |name: &str| all.find(name).expect("received");
    assert!(at("first") < at("second") && at("second") < at("third"), "{all:?}");
    let last = late.received();
    assert!(last.contains("third") && !last.contains("second") && !last.contains("first"), "{last:?}");
    assert_eq!(
        (metrics.direct_writes.get(), metrics.deliveries.get()),
        (3, 5),
        "one write for what is small"
    );
}

#[tokio::test]
async fn an_organisation_that_falls_too_far_behind_resyncs_alone() {
    let hub = Arc::new(Hub::new(OUTBOX));
    let (flooded, other) = (OrgId::for_tests(1), OrgId::for_tests(2));
    let (mut behind, mut beside) = (Subscriber::new(&hub, flooded).await, Subscriber::new(&hub, other).await);
    let (mut feed, fanout, metrics) =
        new_fanout(&hub, FanoutLimits { org_bytes_max: 20_000, bytes_max: 1 << 20 });
    for name in ["lost1", "lost2", "lost3"] {
        feed.push(&batch(&hub, name, &[flooded, other], 8000));
    }
    // The third is more than may wait: `other`, which was sent nothing either, is over it too.
    feed.push(&batch(&hub, "next", &[flooded, other], 10));
    fanout.drain();
    for subscriber in [&mut behind, &mut beside] {
        let all = subscriber.received();
        assert!(!all.contains("lost1"), "{all}");
        let resync =
            all.find(r#""warden.resync",{"cursor":"after lost3","reason":"overload"}"#).expect("told");
        assert!(resync < all.find("\"next\"").expect("goes on"), "{all}");
    }
    assert_eq!(metrics.overloads.get(), 2);

    // The limit of all together hits the one that has most.
    let (mut feed, fanout, metrics) =
        new_fanout(&hub, FanoutLimits { org_bytes_max: 1 << 20, bytes_max: 20_000 });
    feed.push(&batch(&hub, "most", &[flooded], 15_000));
    feed.push(&batch(&hub, "little", &[other], 8000));
    fanout.drain();
    let (all, kept) = (behind.received(), beside.received());
    assert!(all.contains("overload") && !all.contains("most"), "{all}");
    assert!(kept.contains("little") && !kept.contains("overload"), "{kept}");
    assert_eq!(metrics.overloads.get(), 1);

    // Nothing is left behind of either: the same load later is no overload.
    feed.push(&batch(&hub, "later", &[flooded, other], 4000));
    fanout.drain();
    assert!(behind.received().contains("later") && beside.received().contains("later"));
}

#[tokio::test]
async fn helpers_take_part_in_a_large_send_and_change_no_order() {
    const SEGMENTS: usize = 40;
    const EVENTS: usize = 30;
    let hub = Arc::new(Hub::new(OUTBOX));
    let org = OrgId::for_tests(1);
    let mut many = subscribers(&hub, org, SEGMENTS).await;
    let (mut feed, fanout, metrics) = new_fanout(&hub, LIMITS);
    let helped = std::sync::atomic::AtomicU64::new(0);
    let mut events = EVENTS;
    std::thread::scope(|threads| {
        let (shared, helped) = (&fanout.0, &helped);
        threads.spawn(move || {
            shared.helpers.run(|send| {
                let Some(stepped) = shared.step(send) else { return false };
                helped.fetch_add(stepped.deliveries, std::sync::atomic::Ordering::Relaxed);
                true
            });
        });
        for n in 0..EVENTS {
            feed.push(&batch(&hub, &format!("event{n:02}"), &[org], 10));
            fanout.drain();
        }
        // Where cores are busy a helper may have slept through all of it.
        let began = Instant::now();
        while helped.load(std::sync::atomic::Ordering::Relaxed) == 0 && began.elapsed() < DEADLINE {
            feed.push(&batch(&hub, "more", &[org], 10));
            fanout.drain();
            events += 1;
        }
        shared.helpers.close();
    });
    let sent = usize::try_from(metrics.deliveries.get()).expect("small");
    assert_eq!(sent, many.len() * events, "each once");
    assert!((1..sent as u64).contains(&helped.into_inner()), "one thread does it all");
    let last = format!("event{:02}", EVENTS - 1);
    for subscriber in &mut many {
        let all = subscriber.received_until(&last);
        let at: Vec<_> = (0..EVENTS).map(|n| all.find(&format!("event{n:02}")).expect("received")).collect();
        assert!(at.is_sorted(), "{all}");
    }
}

#[tokio::test]
async fn the_next_send_waits_for_a_helper_that_is_late() {
    let hub = Arc::new(Hub::new(OUTBOX));
    let org = OrgId::for_tests(1);
    let mut many = subscribers(&hub, org, LARGE_SEGMENTS).await;
    let (mut feed, fanout, _) = new_fanout(&hub, LIMITS);
    let first_segment = Arc::clone(&hub.channel(org).expect("sessions").segments(&calls())[0]);
    feed.push(&batch(&hub, "early", &[org], 10));
    fanout.step();
    let current = || lock(&fanout.0.turns).current(org);
    let send = current();
    std::thread::scope(|threads| {
        let busy = first_segment.lock().expect("nobody panicked");
        threads.spawn(|| send.step(OUTBOX).is_some());
        while send.taken() == 0 {
            std::thread::yield_now();
        }
        feed.push(&batch(&hub, "late", &[org], 10));
        // Far more than all there is to do.
        for _ in 0..100 {
            fanout.step();
            assert!(Arc::ptr_eq(&current(), &send), "the next one has begun");
        }
        let (_, others) = many.split_at_mut(SEGMENT_SUBSCRIPTIONS_MAX);
        assert!(others.iter_mut().all(|other| other.received_until("early").contains("early")));
        assert!(others.iter_mut().all(|other| {
            other.client.set_nonblocking(true).expect("set");
            !other.received().contains("late")
        }));
        drop(busy);
    });
    fanout.drain();
    for subscriber in &mut many[..SEGMENT_SUBSCRIPTIONS_MAX] {
        let all = subscriber.received_until("late");
        assert!(all.find("early").expect("received") < all.find("late").expect("received"), "{all}");
    }
}

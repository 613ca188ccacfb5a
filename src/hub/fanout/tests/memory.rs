//! Memory of frames that wait: of broadcasts, outboxes and replay buffers.

use super::*;
use crate::hub::OutboxLimits;

const MIB: usize = 1 << 20;

/// Memory of all organisations. One of them may hold half of it.
const MEMORY: usize = 2 * MIB;

/// Bytes of an event.
const EVENT: usize = 60_000;

fn small_hub() -> Arc<Hub> {
    let hub = Hub::new(OutboxLimits { memory_bytes_max: MEMORY, ..OUTBOX });
    hub.update_cursor(cursor(0));
    Arc::new(hub)
}

fn is_open(one: &Subscriber) -> bool {
    one.registration.outbox.close_state().is_none()
}

#[tokio::test]
async fn the_fullest_sockets_of_an_organisation_beyond_its_share_are_closed_and_no_others() {
    const CLIENTS: usize = 4;
    let hub = small_hub();
    let (hostile, other) = (OrgId::for_tests(1), OrgId::for_tests(2));
    let mut stalled = Vec::new();
    for _ in 0..CLIENTS {
        stalled.push(Subscriber::with_small_buffers(&hub, hostile).await);
    }
    let mut beside = Subscriber::new(&hub, other).await;
    // It does not read either, but holds little.
    let slow = Subscriber::with_small_buffers(&hub, other).await;
    let (mut sender, worker, metrics) = new_fanout(&hub, LIMITS);
    sender.send(&batch(&hub, "first", &[other], EVENT));
    worker.drain();
    beside.received_until("first");
    // Each socket alone may queue 1 MiB. The four share each event.
    for n in 0..12 {
        sender.send(&batch(&hub, "flood", &[hostile], EVENT));
        worker.drain();
        assert_eq!(stalled.iter().filter(|one| is_open(one)).count(), CLIENTS, "after {n} events");
    }
    assert!(hub.frames.held() > 12 * EVENT && hub.frames.held() < 15 * EVENT, "{}", hub.frames.held());
    // A client that joins later holds less.
    let late = Subscriber::with_small_buffers(&hub, hostile).await;
    let closed_after = (0..3).position(|_| {
        sender.send(&batch(&hub, "flood", &[hostile], EVENT));
        worker.drain();
        assert!(hub.frames.held() < MEMORY * 2 / 3, "{}", hub.frames.held());
        !stalled.iter().any(is_open)
    });
    assert!(closed_after.is_some(), "all of them hold the same frames");
    assert!(is_open(&late) && is_open(&slow) && is_open(&beside));
    let closed = Some(CloseState::Closing(Some(CloseCode::SLOW)));
    assert!(stalled.iter().all(|one| one.registration.outbox.close_state() == closed));
    assert_eq!(metrics.overloads.get(), 0);
    sender.send(&batch(&hub, "last", &[other], EVENT));
    worker.drain();
    beside.received_until("last");
    drop((stalled, late, slow, beside));
    assert_eq!(hub.frames.held(), 0);
}

#[tokio::test]
async fn replies_and_the_entries_of_queues_count_too() {
    let hub = small_hub();
    let org = OrgId::for_tests(1);
    let one = Subscriber::with_small_buffers(&hub, org).await;
    let outbox = Arc::clone(&one.registration.outbox);
    let reply = bytes::Bytes::from(vec![b'x'; 20_000]);
    let before = hub.frames.held();
    for _ in 0..20 {
        outbox.send(&reply);
    }
    assert!(hub.frames.held() >= before + 15 * reply.len(), "{}", hub.frames.held());
    assert_eq!(one.registration.channel.relieve_memory(), 0);
    for _ in 0..25 {
        outbox.send(&reply);
    }
    assert_eq!(one.registration.channel.relieve_memory(), 1);
    assert!(!is_open(&one) && hub.frames.held() < 2 * reply.len(), "{}", hub.frames.held());
    drop((one, outbox));

    let limits = OutboxLimits { queue_chunks_max: 5000, ..hub.outbox_limits() };
    let many = Arc::new(Hub::new(limits));
    many.update_cursor(cursor(0));
    let one = Subscriber::with_small_buffers(&many, org).await;
    let (mut sender, worker, _) = new_fanout(&many, LIMITS);
    sender.send(&batch(&many, "large", &[org], EVENT));
    worker.drain();
    let frame = one.registration.channel.frames.count(reply.slice(..10), 0);
    let before = many.frames.held();
    for _ in 0..4000 {
        one.registration.outbox.send_counted(&frame);
    }
    assert!(many.frames.held() >= before + 4000 * size_of::<bytes::Bytes>(), "{}", many.frames.held());
    one.registration.outbox.close_as_slow();
    drop((one, frame));
    assert_eq!(many.frames.held(), 0);
}

#[tokio::test]
async fn sessions_with_full_replay_buffers_are_closed_too() {
    let hub = small_hub();
    let org = OrgId::for_tests(1);
    let mut one = Subscriber::new(&hub, org).await;
    let mut resuming = Subscriber::new(&hub, org).await;
    let live = resuming.subscribed.take().expect("joined");
    resuming.registration.unsubscribe(&calls(), &live);
    let buffered = resuming.registration.subscribe_for_replay(&calls(), None, false, |_| {});
    let (mut sender, worker, _) = new_fanout(&hub, LIMITS);
    for n in 0..16 {
        let name = format!("event{n}");
        sender.send(&batch(&hub, &name, &[org], EVENT));
        worker.drain();
        one.received_until(&name);
    }
    assert!(is_open(&one) && !is_open(&resuming));
    resuming.registration.unsubscribe(&calls(), &buffered);
    assert!(hub.frames.held() < 2 * EVENT, "{}", hub.frames.held());
}

//! Shares of organisations in the places and in the memory of resumes: an organisation that takes all that it
//! gets does not keep another from resuming.

use std::time::Duration;

use serde_json::json;
use socket2::SockRef;
use uuid::Uuid;
use warden::app::Gateway;
use warden_testkit::phoenix;

use super::log::{expect_calls, insert_calls, lock_log, own_connection, resume_from_log};
use super::{connect, cursor_after_one_call, gateway_without_recent};
use crate::harness::{Client, TestDb, eventually, token};

/// Size of a large event.
const LARGE_BYTES: usize = 60_000;

/// Large events that one read returns at most. An organisation can hold two such reads.
fn large_events() -> usize {
    let read_bytes = warden::config::Limits::default().replay.bytes_max;
    // An event takes some memory beside its payload.
    read_bytes * 24 / 25 / LARGE_BYTES
}

/// Publishes as many large events as one read returns.
async fn publish_large_events(db: &TestDb, gateway: &Gateway, org: Uuid) {
    let events = large_events();
    let expected = gateway.metrics().events.get() + u64::try_from(events).expect("few");
    db.run(format!(
        "select warden.publish('{org}', 'calls', 'large', jsonb_build_object('x', repeat('x', {LARGE_BYTES})))
         from generate_series(1, {events})"
    ))
    .await;
    eventually("the tailer has read the events", async || gateway.metrics().events.get() >= expected).await;
}

/// Connects a user of its own, because one user may have only a hundred sockets.
async fn connect_user(gateway: &Gateway, org: Uuid) -> Client {
    Client::connect(gateway.public_addr(), &token(org, &json!({"sub": Uuid::new_v4()}))).await
}

/// Resumes, and never reads its socket.
async fn resume_without_reading(gateway: &Gateway, org: Uuid, since: &str) -> Client {
    let mut client = connect_user(gateway, org).await;
    SockRef::from(client.socket.get_ref()).set_recv_buffer_size(4096).expect("a smaller buffer");
    phoenix::send_join(&mut client.socket, "1", "calls", Some(since)).await.expect("sends");
    client
}

/// Waits until this many reads of large events take memory.
async fn held_reads(gateway: &Gateway, reads: usize) {
    let at_least = i64::try_from(reads * large_events() * LARGE_BYTES).expect("few");
    eventually("the events take memory", async || gateway.metrics().replay_bytes.get() >= at_least).await;
}

/// Clients of another organisation connect, resume, join and receive, and none of them resyncs.
async fn expect_undisturbed(db: &TestDb, gateway: &Gateway, org: Uuid, since: &str, missed: usize) {
    let mut live = connect(gateway, org).await;
    live.join("recordings").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = connect(gateway, org).await;
        client.join_with("calls", json!({"since": since})).await;
        clients.push(client);
    }
    db.publish(org, "recordings", "live").await;
    live.expect_only("recordings", "live").await;
    for client in &mut clients {
        expect_calls(client, "calls", missed).await;
    }
}

/// Four sockets that do not read hold the memory of their organisation's replays, and 206 more join a hundred
/// topics each with old cursors.
#[tokio::test]
async fn blocked_resumes_of_one_organisation_do_not_reject_those_of_another() {
    const SOCKETS: usize = 206;
    let db = TestDb::create().await;
    let (greedy, other) = (db.create_org().await, db.create_org().await);
    let gateway = gateway_without_recent(&db, |config| {
        // On a busy machine the sockets take longer than a wait may.
        config.limits.replay.wait_timeout = Duration::from_secs(600);
        config.limits.replay.send_timeout = Duration::from_secs(600);
    })
    .await;
    let share = i64::try_from(warden::config::Limits::default().replay.resumes_max / 2).expect("few");
    let since = cursor_after_one_call(&gateway, &db, greedy).await;
    let other_since = cursor_after_one_call(&gateway, &db, other).await;
    insert_calls(&db, other, 3).await;
    publish_large_events(&db, &gateway, greedy).await;

    let mut sockets = Vec::new();
    for n in 0..4 {
        sockets.push(resume_without_reading(&gateway, greedy, &since).await);
        held_reads(&gateway, if n == 0 { 1 } else { 2 }).await;
    }
    for socket in 1..=SOCKETS {
        let mut client = connect_user(&gateway, greedy).await;
        for n in 0..100 {
            let topic = format!("call:{}", Uuid::from_u128(n));
            let reference = n.to_string();
            phoenix::send_join(&mut client.socket, &reference, &topic, Some(&since)).await.expect("sends");
        }
        sockets.push(client);
        let waiting = share.min(i64::try_from(socket * 100).expect("few"));
        eventually("its joins wait, up to the share of the organisation", async || {
            gateway.metrics().replays_waiting.get() >= waiting
        })
        .await;
    }

    expect_undisturbed(&db, &gateway, other, &other_since, 3).await;
    assert_eq!(gateway.metrics().replays_waiting.get(), share, "the greedy resumes still wait");
    // Places and memory are free as soon as the sockets are closed, long before any wait would end.
    drop(sockets);
    eventually("everything is released", async || {
        gateway.metrics().replays_waiting.get() == 0 && gateway.metrics().replay_bytes.get() == 0
    })
    .await;
    gateway.stop().await;
}

/// Sockets of five organisations hold all memory of replays. The one that holds most gives way.
#[tokio::test]
async fn memory_that_slow_clients_hold_is_reclaimed_for_another_organisation() {
    let db = TestDb::create().await;
    let gateway = gateway_without_recent(&db, |_| {}).await;
    let other = db.create_org().await;
    let other_since = cursor_after_one_call(&gateway, &db, other).await;
    insert_calls(&db, other, 3).await;
    let mut sockets = Vec::new();
    for n in 1..=4 {
        let greedy = db.create_org().await;
        let since = cursor_after_one_call(&gateway, &db, greedy).await;
        publish_large_events(&db, &gateway, greedy).await;
        sockets.push(resume_without_reading(&gateway, greedy, &since).await);
        held_reads(&gateway, n).await;
    }
    // No further read fits into the memory.
    let started = std::time::Instant::now();
    expect_undisturbed(&db, &gateway, other, &other_since, 3).await;
    assert!(started.elapsed() < gateway_send_timeout(), "waited for the slow clients");
    // The client that gave way knows it, and what it has received ends with a resync.
    eventually("one of them has to resync", async || gateway.metrics().resyncs.get() == 1).await;
    gateway.stop().await;
}

fn gateway_send_timeout() -> std::time::Duration {
    warden::config::Limits::default().replay.send_timeout
}

#[tokio::test]
async fn resumes_above_the_organisations_share_resync() {
    const SHARE: usize = 3;
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    let gateway = gateway_without_recent(&db, |config| config.limits.replay.resumes_max = 2 * SHARE).await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    let other_since = cursor_after_one_call(&gateway, &db, other).await;
    for org in [org, other] {
        insert_calls(&db, org, 3).await;
    }
    eventually("the tailer has read the events", async || gateway.metrics().events.get() >= 8).await;
    let mut connection = own_connection(&db).await;
    let lock = lock_log(&mut connection).await;
    let mut clients = Vec::new();
    for _ in 0..SHARE {
        clients.push(resume_from_log(&gateway, org, "calls", &since).await);
    }
    let mut beyond = connect(&gateway, org).await;
    beyond.join_with("calls", json!({"since": since})).await;
    let resync = beyond.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "unavailable");
    clients.push(resume_from_log(&gateway, other, "calls", &other_since).await);
    // A client that leaves the topic frees its place.
    let mut left = clients.remove(0);
    left.push("calls", "phx_leave", json!({})).await;
    eventually("the place is free", async || gateway.metrics().replays_waiting.get() == 3).await;
    clients.push(resume_from_log(&gateway, org, "calls", &since).await);
    lock.commit().await.expect("ends");
    for client in &mut clients {
        expect_calls(client, "calls", 3).await;
    }
    assert_eq!(gateway.metrics().resyncs.get(), 1);
    gateway.stop().await;
}

//! Resumes from the log: one read serves all waiting clients of an organisation, the fair queue serves
//! organisations in turn, memory is bounded, and truncated events cause a resync.

use serde_json::json;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{Connection as _, Transaction};
use uuid::Uuid;
use warden::app::Gateway;

use super::{connect, cursor_after_one_call, gateway_on, gateway_without_recent};
use crate::harness::{Client, LogCapture, TestDb, eventually, rotate_log};

pub(super) async fn own_connection(db: &TestDb) -> PgConnection {
    PgConnection::connect(db.url()).await.expect("connects")
}

/// Locks the log, so that no read proceeds until the transaction ends.
pub(super) async fn lock_log(connection: &mut PgConnection) -> Transaction<'_, Postgres> {
    let mut tx = connection.begin().await.expect("begins");
    sqlx::query("lock table warden.events in access exclusive mode").execute(&mut *tx).await.expect("locks");
    tx
}

/// Starts a resume, and returns when it waits for a read of the log.
pub(super) async fn resume_from_log(gateway: &Gateway, org: Uuid, topic: &str, since: &str) -> Client {
    let before = gateway.metrics().replays_from_log.get();
    let mut client = connect(gateway, org).await;
    assert_eq!(client.join_with(topic, json!({"since": since})).await, json!({"cursor": since}));
    eventually("the resume waits for the log", async || gateway.metrics().replays_from_log.get() > before)
        .await;
    client
}

pub(super) async fn insert_calls(db: &TestDb, org: Uuid, count: usize) {
    db.run(format!("insert into calls (org_id) select '{org}' from generate_series(1, {count})")).await;
}

pub(super) async fn expect_calls(client: &mut Client, topic: &str, count: usize) {
    let mut last = 0;
    for _ in 0..count {
        let id = client.expect_event(topic, "call.created").await.payload["id"].as_i64().expect("an id");
        assert!(id > last, "{id} after {last}");
        last = id;
    }
}

#[tokio::test]
async fn waiting_clients_share_a_read_and_resume_from_their_own_cursors() {
    const CLIENTS: usize = 40;
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    let first = gateway_on(&db).await;
    let mut follower = connect(&first, org).await;
    follower.join("calls").await;
    let mut cursors = Vec::new();
    for _ in 0..CLIENTS {
        db.insert_call(org).await;
        db.insert_call(other).await;
        cursors.push(follower.expect_event("calls", "call.created").await.cursor().to_owned());
    }
    insert_calls(&db, org, 10).await;
    db.publish(org, "recordings", "another.topic").await;

    // A second node has none of these events in memory, as after a restart.
    let second = gateway_without_recent(&db, |_| {}).await;
    let mut connection = own_connection(&db).await;
    let lock = lock_log(&mut connection).await;
    // The clients that missed least come first, so that the shared read must reach back beyond their cursors.
    let mut clients = Vec::new();
    for (n, since) in cursors.iter().enumerate().rev() {
        let topic = if n % 2 == 0 { "calls" } else { "org" };
        clients.push(resume_from_log(&second, org, topic, since).await);
    }
    clients.reverse();
    lock.commit().await.expect("ends");
    for (n, client) in clients.iter_mut().enumerate() {
        let topic = if n % 2 == 0 { "calls" } else { "org" };
        expect_calls(client, topic, CLIENTS - n - 1 + 10).await;
        if n % 2 == 1 {
            client.expect_event("org", "another.topic").await;
        }
    }
    // One read serves the first client and one serves all others. Each read takes a second query, for
    // retention.
    assert_eq!(second.metrics().replay_queries.get(), 4);
    assert_eq!(second.metrics().replays_from_log.get(), CLIENTS as u64);
    // Then all clients receive live events.
    db.publish(org, "calls", "live").await;
    for (n, client) in clients.iter_mut().enumerate() {
        client.expect_only(if n % 2 == 0 { "calls" } else { "org" }, "live").await;
    }
    drop(clients);
    eventually("all memory is released", async || second.metrics().replay_bytes.get() == 0).await;
    first.stop().await;
    second.stop().await;
}

/// Only one read runs at a time here. The clients of the first organisation missed too much for one read, so
/// their reads are split repeatedly.
#[tokio::test]
async fn split_reads_of_one_organisation_do_not_delay_another() {
    const CLIENTS: usize = 16;
    let db = TestDb::create().await;
    let (large, small) = (db.create_org().await, db.create_org().await);
    let gateway = gateway_without_recent(&db, |config| {
        config.limits.replay.concurrent_reads_max = 1;
        config.limits.replay.events_max = 20;
    })
    .await;
    let small_cursor = cursor_after_one_call(&gateway, &db, small).await;
    let mut follower = connect(&gateway, large).await;
    follower.join("calls").await;
    let mut cursors = Vec::new();
    for _ in 0..CLIENTS {
        db.insert_call(large).await;
        cursors.push(follower.expect_event("calls", "call.created").await.cursor().to_owned());
    }
    insert_calls(&db, large, 12).await;
    let missed = db.insert_call(small).await;
    eventually("the tailer has read the events", async || {
        gateway.metrics().events.get() >= CLIENTS as u64 + 14
    })
    .await;

    let logs = LogCapture::begin();
    let mut connection = own_connection(&db).await;
    let lock = lock_log(&mut connection).await;
    let mut clients = Vec::new();
    for since in &cursors {
        clients.push(resume_from_log(&gateway, large, "calls", since).await);
    }
    let mut single = resume_from_log(&gateway, small, "calls", &small_cursor).await;
    lock.commit().await.expect("ends");
    assert_eq!(single.expect_event("calls", "call.created").await.row_id(), missed.to_string());
    // Clients whose missed events fit into one read are served, whatever the others missed. The others
    // resync.
    for (n, client) in clients.iter_mut().enumerate() {
        let missed = CLIENTS - n - 1 + 12;
        if missed <= 20 {
            expect_calls(client, "calls", missed).await;
        } else {
            let resync = client.expect_event("calls", "warden.resync").await;
            assert_eq!(resync.payload["reason"], "too_many", "client {n}");
        }
    }
    let text = logs.text();
    let reads: Vec<Uuid> = text
        .lines()
        .filter(|line| line.contains("replay read done") || line.contains("replay read split"))
        .filter_map(|line| [large, small].into_iter().find(|org| line.contains(&org.to_string())))
        .collect();
    assert!(reads.len() > 4, "the large organisation had several reads: {reads:?}");
    assert!(reads[..2].contains(&small), "the small one waited for at most one read: {reads:?}");
    gateway.stop().await;
}

/// Events that are read and not yet sent stay in memory. This is limited in time, and the client then
/// resyncs.
#[tokio::test]
async fn a_client_that_reads_its_replay_too_slowly_resyncs() {
    const EVENTS: usize = 300;
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_without_recent(&db, |config| {
        config.limits.replay.send_timeout = std::time::Duration::from_millis(300);
    })
    .await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    db.run(format!(
        "select warden.publish('{org}', 'calls', 'large', jsonb_build_object('x', repeat('x', 30000)))
         from generate_series(1, {EVENTS})"
    ))
    .await;
    eventually("the tailer has read the events", async || gateway.metrics().events.get() > EVENTS as u64)
        .await;
    let mut slow = connect(&gateway, org).await;
    let socket = socket2::SockRef::from(slow.socket.get_ref());
    socket.set_recv_buffer_size(64 * 1024).expect("a smaller buffer");
    slow.join_with("calls", json!({"since": since})).await;
    eventually("its events take memory", async || gateway.metrics().replay_bytes.get() > 1_000_000).await;
    eventually("the replay ends with a resync", async || gateway.metrics().resyncs.get() == 1).await;
    eventually("all memory is released", async || gateway.metrics().replay_bytes.get() == 0).await;
    let mut received = 0;
    let resync = loop {
        let event = slow.next_event().await;
        if event.name == "warden.resync" {
            break event;
        }
        assert_eq!(event.name, "large");
        received += 1;
    };
    assert!(received < EVENTS, "{received}");
    assert_eq!(resync.payload["reason"], "too_many");
    let live = db.insert_call(org).await;
    assert_eq!(slow.expect_event("calls", "call.created").await.row_id(), live.to_string());
    gateway.stop().await;
}

/// The budget has room for two reads. The other resumes wait for it, and none is lost.
#[tokio::test]
async fn resumes_wait_for_the_memory_budget() {
    const ORGS: usize = 6;
    let db = TestDb::create().await;
    let gateway = gateway_without_recent(&db, |config| {
        config.limits.replay.concurrent_reads_max = 4;
        config.limits.replay.bytes_max = 200_000;
        config.limits.replay.memory_bytes_max = 400_000;
    })
    .await;
    let mut orgs = Vec::new();
    for _ in 0..ORGS {
        let org = db.create_org().await;
        orgs.push((org, cursor_after_one_call(&gateway, &db, org).await));
    }
    for (org, _) in &orgs {
        insert_calls(&db, *org, 200).await;
    }
    eventually("the tailer has read the events", async || {
        gateway.metrics().events.get() >= 201 * ORGS as u64
    })
    .await;
    let mut connection = own_connection(&db).await;
    let lock = lock_log(&mut connection).await;
    let mut clients = Vec::new();
    for (org, since) in &orgs {
        clients.push(resume_from_log(&gateway, *org, "calls", since).await);
    }
    eventually("the reads have taken all memory", async || gateway.metrics().replay_bytes.get() == 400_000)
        .await;
    lock.commit().await.expect("ends");
    for client in &mut clients {
        expect_calls(client, "calls", 200).await;
    }
    assert_eq!(gateway.metrics().resyncs.get(), 0);
    // One client alone missed more than a read may return.
    let (org, since) = &orgs[0];
    insert_calls(&db, *org, 1000).await;
    // The node's position covers what its clients have received; the metric counts events before that.
    expect_calls(&mut clients[0], "calls", 1000).await;
    let mut client = connect(&gateway, *org).await;
    client.join_with("calls", json!({"since": since})).await;
    assert_eq!(client.expect_event("calls", "warden.resync").await.payload["reason"], "too_many");
    eventually("all memory is released", async || gateway.metrics().replay_bytes.get() == 0).await;
    gateway.stop().await;
}

/// Retention truncates the slot while the replay waits to read it. The read finds nothing there, and must not
/// conclude that nothing happened.
#[tokio::test]
async fn a_slot_truncated_during_a_replay_read_causes_a_resync() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_without_recent(&db, |_| {}).await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    db.insert_call(org).await;
    eventually("the tailer has read the events", async || gateway.metrics().events.get() >= 2).await;
    let mut connection = own_connection(&db).await;
    rotate_log(&mut connection, 7).await;
    let mut tx = connection.begin().await.expect("begins");
    rotate_log(&mut tx, 1).await;
    let mut client = resume_from_log(&gateway, org, "calls", &since).await;
    eventually("the replay waits for the slot's lock", async || {
        sqlx::query_scalar(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%org_id is null%'",
        )
        .fetch_one(&db.pool)
        .await
        .expect("queries")
    })
    .await;
    tx.commit().await.expect("commits");
    let resync = client.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "too_old");
    gateway.stop().await;
}

/// After a bulk statement of one organisation its clients and those of others reconnect, and no live event
/// waits.
#[tokio::test]
async fn a_bulk_statement_does_not_delay_resumes_of_other_organisations() {
    const BULK: usize = 60_000;
    let db = TestDb::create().await;
    let gateway =
        gateway_without_recent(&db, |config| config.limits.outbox.queue_bytes_max = 1024 * 1024 * 1024).await;
    let bulky = db.create_org().await;
    let bulky_cursor = cursor_after_one_call(&gateway, &db, bulky).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let org = db.create_org().await;
        others.push((org, cursor_after_one_call(&gateway, &db, org).await));
    }
    let mut live = connect(&gateway, others[0].0).await;
    live.join("recordings").await;
    insert_calls(&db, bulky, BULK).await;
    for (org, _) in &others {
        insert_calls(&db, *org, 3).await;
    }
    // Each page has a deadline of its own, because all of them together may take long on a busy machine.
    let all = BULK as u64 + 17;
    for part in (0..all).step_by(5_000).chain([all]) {
        eventually("the tailer has read a page", async || gateway.metrics().events.get() >= part).await;
    }

    let mut clients = Vec::new();
    for n in 0..4 {
        let mut client = connect(&gateway, bulky).await;
        client.join_with(["calls", "recordings"][n % 2], json!({"since": bulky_cursor})).await;
        clients.push(client);
        for (org, since) in &others {
            let mut client = connect(&gateway, *org).await;
            client.join_with("calls", json!({"since": since})).await;
            clients.push(client);
        }
    }
    db.publish(others[0].0, "recordings", "live").await;
    live.expect_only("recordings", "live").await;
    for (n, client) in clients.iter_mut().enumerate() {
        match (n % 5, n / 5 % 2) {
            // The client missed too much on the topic of the bulk. On another topic it missed nothing, so it
            // must not resync.
            (0, 0) => {
                let resync = client.expect_event("calls", "warden.resync").await;
                assert_eq!(resync.payload["reason"], "too_many");
            }
            (0, _) => {}
            _ => expect_calls(client, "calls", 3).await,
        }
    }
    db.publish(bulky, "recordings", "live").await;
    clients[5].expect_only("recordings", "live").await;
    gateway.stop().await;
}

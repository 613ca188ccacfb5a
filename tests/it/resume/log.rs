//! Resumes from the log: read once for all clients of an organisation, in turns, within bounds, and never
//! silent about what is gone.

use serde_json::json;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{Connection as _, Transaction};
use uuid::Uuid;
use warden::app::Gateway;

use super::{connect, forgetful, gateway_on, seen_one};
use crate::harness::{Client, LogCapture, TestDb, eventually};

pub(super) async fn own_connection(db: &TestDb) -> PgConnection {
    PgConnection::connect(db.url()).await.expect("connects")
}

/// Nobody reads the log until this ends.
pub(super) async fn hold_log(connection: &mut PgConnection) -> Transaction<'_, Postgres> {
    let mut tx = connection.begin().await.expect("begins");
    sqlx::query("lock table warden.events in access exclusive mode").execute(&mut *tx).await.expect("locks");
    tx
}

/// A client whose resume waits for the log.
pub(super) async fn resuming(gateway: &Gateway, org: Uuid, topic: &str, since: &str) -> Client {
    let before = gateway.metrics().replays_from_log.get();
    let mut client = connect(gateway, org).await;
    assert_eq!(client.join_with(topic, json!({"since": since})).await, json!({"cursor": since}));
    eventually("it waits for the log", async || gateway.metrics().replays_from_log.get() > before).await;
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
async fn those_who_wait_share_a_read_each_from_its_own_cursor() {
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

    // As after a restart: a node that remembers nothing of it.
    let second = forgetful(&db, |_| {}).await;
    let mut connection = own_connection(&db).await;
    let held = hold_log(&mut connection).await;
    // Those who missed least come first, so that the others reach back beyond them.
    let mut clients = Vec::new();
    for (n, since) in cursors.iter().enumerate().rev() {
        let topic = if n % 2 == 0 { "calls" } else { "org" };
        clients.push(resuming(&second, org, topic, since).await);
    }
    clients.reverse();
    held.commit().await.expect("ends");
    for (n, client) in clients.iter_mut().enumerate() {
        let topic = if n % 2 == 0 { "calls" } else { "org" };
        expect_calls(client, topic, CLIENTS - n - 1 + 10).await;
        if n % 2 == 1 {
            client.expect_event("org", "another.topic").await;
        }
    }
    // One for the first of them, one for all others; each with the look for what is gone.
    assert_eq!(second.metrics().replay_queries.get(), 4);
    assert_eq!(second.metrics().replays_from_log.get(), CLIENTS as u64);
    // And then they are live.
    db.publish(org, "calls", "live").await;
    for (n, client) in clients.iter_mut().enumerate() {
        client.expect_only(if n % 2 == 0 { "calls" } else { "org" }, "live").await;
    }
    drop(clients);
    eventually("nothing is held", async || second.metrics().replay_bytes.get() == 0).await;
    first.stop().await;
    second.stop().await;
}

/// One reads at a time here, and the first organisation's clients miss too much for one read, so that it is
/// parted again and again.
#[tokio::test]
async fn an_organisation_with_many_turns_to_take_gives_way_to_another() {
    const CLIENTS: usize = 16;
    let db = TestDb::create().await;
    let (large, small) = (db.create_org().await, db.create_org().await);
    let gateway = forgetful(&db, |config| {
        config.limits.replay.concurrent_reads_max = 1;
        config.limits.replay.events_max = 20;
    })
    .await;
    let of_small = seen_one(&gateway, &db, small).await;
    let mut follower = connect(&gateway, large).await;
    follower.join("calls").await;
    let mut cursors = Vec::new();
    for _ in 0..CLIENTS {
        db.insert_call(large).await;
        cursors.push(follower.expect_event("calls", "call.created").await.cursor().to_owned());
    }
    insert_calls(&db, large, 12).await;
    let missed = db.insert_call(small).await;
    eventually("it is read", async || gateway.metrics().events.get() >= CLIENTS as u64 + 14).await;

    let logs = LogCapture::begin();
    let mut connection = own_connection(&db).await;
    let held = hold_log(&mut connection).await;
    let mut clients = Vec::new();
    for since in &cursors {
        clients.push(resuming(&gateway, large, "calls", since).await);
    }
    let mut single = resuming(&gateway, small, "calls", &of_small).await;
    held.commit().await.expect("ends");
    assert_eq!(single.expect_event("calls", "call.created").await.row_id(), missed.to_string());
    // Those that missed what fits are served, whoever they waited with; the others are told.
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
    let turns: Vec<Uuid> = text
        .lines()
        .filter(|line| line.contains("replay read done") || line.contains("replay read split"))
        .filter_map(|line| [large, small].into_iter().find(|org| line.contains(&org.to_string())))
        .collect();
    assert!(turns.len() > 4, "the large organisation took several turns: {turns:?}");
    assert!(turns[..2].contains(&small), "the small one's came after at most one: {turns:?}");
    gateway.stop().await;
}

/// What is read and not yet sent stays in memory: not for ever, and the client is told.
#[tokio::test]
async fn who_takes_too_long_over_what_it_missed_is_told() {
    const EVENTS: usize = 300;
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = forgetful(&db, |config| {
        config.limits.replay.send_timeout = std::time::Duration::from_millis(300);
    })
    .await;
    let since = seen_one(&gateway, &db, org).await;
    db.run(format!(
        "select warden.publish('{org}', 'calls', 'large', jsonb_build_object('x', repeat('x', 30000)))
         from generate_series(1, {EVENTS})"
    ))
    .await;
    eventually("it is read", async || gateway.metrics().events.get() > EVENTS as u64).await;
    let mut slow = connect(&gateway, org).await;
    let socket = socket2::SockRef::from(slow.socket.get_ref());
    socket.set_recv_buffer_size(64 * 1024).expect("a smaller buffer");
    slow.join_with("calls", json!({"since": since})).await;
    eventually("its events are held", async || gateway.metrics().replay_bytes.get() > 1_000_000).await;
    eventually("it is given up", async || gateway.metrics().resyncs.get() == 1).await;
    eventually("nothing is held", async || gateway.metrics().replay_bytes.get() == 0).await;
    let mut came = 0;
    let resync = loop {
        let event = slow.next_event().await;
        if event.name == "warden.resync" {
            break event;
        }
        assert_eq!(event.name, "large");
        came += 1;
    };
    assert!(came < EVENTS, "{came}");
    assert_eq!(resync.payload["reason"], "too_many");
    let live = db.insert_call(org).await;
    assert_eq!(slow.expect_event("calls", "call.created").await.row_id(), live.to_string());
    gateway.stop().await;
}

/// Memory for one read at a time: resumes wait for it, and none is forgotten.
#[tokio::test]
async fn resumes_wait_for_memory() {
    const ORGS: usize = 6;
    let db = TestDb::create().await;
    let gateway = forgetful(&db, |config| {
        config.limits.replay.concurrent_reads_max = 4;
        config.limits.replay.bytes_max = 200_000;
        config.limits.replay.memory_bytes_max = 400_000;
    })
    .await;
    let mut orgs = Vec::new();
    for _ in 0..ORGS {
        let org = db.create_org().await;
        orgs.push((org, seen_one(&gateway, &db, org).await));
    }
    for (org, _) in &orgs {
        insert_calls(&db, *org, 200).await;
    }
    eventually("it is read", async || gateway.metrics().events.get() >= 201 * ORGS as u64).await;
    let mut connection = own_connection(&db).await;
    let held = hold_log(&mut connection).await;
    let mut clients = Vec::new();
    for (org, since) in &orgs {
        clients.push(resuming(&gateway, *org, "calls", since).await);
    }
    assert_eq!(gateway.metrics().replay_bytes.get(), 400_000);
    held.commit().await.expect("ends");
    for client in &mut clients {
        expect_calls(client, "calls", 200).await;
    }
    assert_eq!(gateway.metrics().resyncs.get(), 0);
    // More than a read may bring, for somebody who shares it with nobody.
    let (org, since) = &orgs[0];
    insert_calls(&db, *org, 1000).await;
    eventually("it is read", async || gateway.metrics().events.get() >= 201 * ORGS as u64 + 1000).await;
    let mut client = connect(&gateway, *org).await;
    client.join_with("calls", json!({"since": since})).await;
    assert_eq!(client.expect_event("calls", "warden.resync").await.payload["reason"], "too_many");
    eventually("nothing is held", async || gateway.metrics().replay_bytes.get() == 0).await;
    gateway.stop().await;
}

/// The slot is emptied while the replay waits to read it: nothing is found there, and that is not taken for
/// nothing having happened.
#[tokio::test]
async fn a_slot_that_is_emptied_under_a_replay_is_noticed() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = forgetful(&db, |_| {}).await;
    let since = seen_one(&gateway, &db, org).await;
    db.insert_call(org).await;
    eventually("it is read", async || gateway.metrics().events.get() >= 2).await;
    let rotate = "select warden.rotate_events('0', 0)";
    for _ in 0..7 {
        let done: String = sqlx::query_scalar(rotate).fetch_one(&db.pool).await.expect("rotates");
        assert_eq!(done, "rotated");
    }
    let mut connection = own_connection(&db).await;
    let mut tx = connection.begin().await.expect("begins");
    let done: String = sqlx::query_scalar(rotate).fetch_one(&mut *tx).await.expect("rotates");
    assert_eq!(done, "rotated");
    let mut client = resuming(&gateway, org, "calls", &since).await;
    eventually("the replay waits for the slot", async || {
        sqlx::query_scalar(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%org_id is null%'",
        )
        .fetch_one(&db.pool)
        .await
        .expect("asks")
    })
    .await;
    tx.commit().await.expect("commits");
    let resync = client.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "too_old");
    gateway.stop().await;
}

/// After a bulk of one organisation: clients of others, and its own, come back, and nobody's live events wait.
#[tokio::test]
async fn a_bulk_of_one_holds_up_no_resume_of_another() {
    const BULK: usize = 100_000;
    let db = TestDb::create().await;
    let gateway = forgetful(&db, |config| config.limits.outbox.queue_bytes_max = 1024 * 1024 * 1024).await;
    let bulky = db.create_org().await;
    let of_bulky = seen_one(&gateway, &db, bulky).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let org = db.create_org().await;
        others.push((org, seen_one(&gateway, &db, org).await));
    }
    let mut live = connect(&gateway, others[0].0).await;
    live.join("recordings").await;
    insert_calls(&db, bulky, BULK).await;
    for (org, _) in &others {
        insert_calls(&db, *org, 3).await;
    }
    // Page by page, each with a deadline of its own: together they may take long on a busy machine.
    let all = BULK as u64 + 17;
    for part in (0..all).step_by(5_000).chain([all]) {
        eventually("a page is read", async || gateway.metrics().events.get() >= part).await;
    }

    let mut clients = Vec::new();
    for n in 0..4 {
        let mut of_bulk = connect(&gateway, bulky).await;
        of_bulk.join_with(["calls", "recordings"][n % 2], json!({"since": of_bulky})).await;
        clients.push(of_bulk);
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
            // Too much for the topic of the bulk, and nothing on another, which is no reason to resync.
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

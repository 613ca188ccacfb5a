//! Resuming with a cursor: the client receives every missed event once, then live events, or an explicit
//! resync.

mod cost;
mod forged;
mod incarnation;
mod limits;
mod log;
mod pages;
mod rotation;
mod seam;
mod shares;
mod visibility;

use std::time::Duration;

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;
use warden::app::Gateway;
use warden::config::Config;
use warden::cursor::{Cursor, Point};

use crate::harness::{Client, TestDb, TestGateway, eventually, token};

/// Short, because sockets of these tests may still be open when their gateway stops.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(50);

async fn gateway_on(db: &TestDb) -> Gateway {
    TestGateway::gateway(db, |config| config.limits.session.close_timeout = CLOSE_TIMEOUT).await
}

/// Starts a gateway without recent events in memory, so every resume is served from the log.
async fn gateway_without_recent(db: &TestDb, change: impl FnOnce(&mut Config)) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.limits.recent.bytes_max = 0;
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
        change(config);
    })
    .await
}

async fn connect(gateway: &Gateway, org: Uuid) -> Client {
    Client::connect(gateway.public_addr(), &token(org, &json!({}))).await
}

/// Inserts one call, and returns the cursor of a socket that has seen it.
async fn cursor_after_one_call(gateway: &Gateway, db: &TestDb, org: Uuid) -> String {
    let mut client = connect(gateway, org).await;
    client.join("calls").await;
    db.insert_call(org).await;
    client.expect_event("calls", "call.created").await.cursor().to_owned()
}

/// Resumes, and expects exactly the missed calls in order, and then a new live call.
async fn expect_replay_then_live(client: &mut Client, since: &str, missed: &[Uuid], db: &TestDb, org: Uuid) {
    let response = client.join_with("calls", json!({"since": since})).await;
    assert_eq!(response, json!({"cursor": since}));
    for call in missed {
        assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    }
    let live = db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), live.to_string());
}

#[tokio::test]
async fn missed_events_are_replayed_once_from_memory_and_from_the_log() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    let first = gateway_on(&db).await;
    let since = cursor_after_one_call(&first, &db, org).await;
    let mut missed = Vec::new();
    for _ in 0..5 {
        missed.push(db.insert_call(org).await);
        db.insert_call(other).await;
    }

    let mut client = connect(&first, org).await;
    expect_replay_then_live(&mut client, &since, &missed, &db, org).await;
    assert_eq!(first.metrics().replays_from_memory.get(), 1);
    assert_eq!(first.metrics().replay_queries.get(), 0);
    missed.push(last_call(&db, org).await);

    // A second node has no recent events in memory.
    let second = gateway_without_recent(&db, |_| {}).await;
    let mut client = connect(&second, org).await;
    expect_replay_then_live(&mut client, &since, &missed, &db, org).await;
    assert_eq!(second.metrics().replays_from_log.get(), 1);
    first.stop().await;
    second.stop().await;
}

/// Many clients lose their node by a restart and reconnect at once. The warm-up has read their missed events
/// into memory already, so no replay queries the database.
#[tokio::test]
async fn a_reconnect_storm_to_a_restarted_node_causes_no_queries() {
    const ORGS: usize = 3;
    const CLIENTS: usize = 20;
    let db = TestDb::create().await;
    let first = gateway_on(&db).await;
    let mut cursors = Vec::new();
    for _ in 0..ORGS {
        let org = db.create_org().await;
        cursors.push((org, cursor_after_one_call(&first, &db, org).await));
    }
    // This transaction is in progress when the clients disconnect, and still when the node starts again.
    let mut late = PgConnection::connect(db.url()).await.expect("connects");
    let mut tx = late.begin().await.expect("begins");
    let insert = "insert into calls (org_id) values ($1) returning id";
    let early: Uuid =
        sqlx::query_scalar(insert).bind(cursors[0].0).fetch_one(&mut *tx).await.expect("inserts");
    let mut missed = Vec::new();
    for n in 0..5 * ORGS {
        missed.push(db.insert_call(cursors[n % ORGS].0).await);
    }
    first.stop().await;

    let second = gateway_on(&db).await;
    tx.commit().await.expect("commits");
    eventually("the tailer has read the event", async || second.metrics().events.get() >= 1).await;
    let mut clients = Vec::new();
    for n in 0..CLIENTS * ORGS {
        let (org, since) = &cursors[n % ORGS];
        let mut client = connect(&second, *org).await;
        assert_eq!(client.join_with("calls", json!({"since": since})).await, json!({"cursor": since}));
        clients.push(client);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let early = (n % ORGS == 0).then_some(early);
        for call in early.iter().chain(missed.iter().skip(n % ORGS).step_by(ORGS)) {
            assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
        }
    }
    assert_eq!(second.metrics().replays_from_memory.get(), clients.len() as u64);
    assert_eq!(second.metrics().replay_queries.get(), 0);

    // A node that warms up only the last rows serves older cursors from the log.
    let third = TestGateway::gateway(&db, |config| {
        config.limits.tailer.warm_rows_max = 3;
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    let (org, since) = &cursors[1];
    let missed: Vec<Uuid> = missed.iter().skip(1).step_by(ORGS).copied().collect();
    let mut client = connect(&third, *org).await;
    expect_replay_then_live(&mut client, since, &missed, &db, *org).await;
    assert_eq!(third.metrics().replays_from_log.get(), 1);
    second.stop().await;
    third.stop().await;
}

/// A restarted node has the last events in memory, but not those that a late commit added with older ids.
#[tokio::test]
async fn a_restarted_node_does_not_lose_a_late_commit() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let first = gateway_on(&db).await;
    let mut late = PgConnection::connect(db.url()).await.expect("connects");
    let mut tx = late.begin().await.expect("begins");
    let insert = "insert into calls (org_id) values ($1) returning id";
    let early: Uuid = sqlx::query_scalar(insert).bind(org).fetch_one(&mut *tx).await.expect("inserts");
    let mut follower = connect(&first, org).await;
    follower.join("calls").await;
    let mut since = String::new();
    for _ in 0..5 {
        db.insert_call(org).await;
        since = follower.expect_event("calls", "call.created").await.cursor().to_owned();
    }
    tx.commit().await.expect("commits");
    let missed = [early, db.insert_call(org).await];
    let second = TestGateway::gateway(&db, |config| {
        config.limits.tailer.warm_rows_max = 3;
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    let mut client = connect(&second, org).await;
    expect_replay_then_live(&mut client, &since, &missed, &db, org).await;
    first.stop().await;
    second.stop().await;
}

async fn last_call(db: &TestDb, org: Uuid) -> Uuid {
    sqlx::query_scalar("select id from calls where org_id = $1 order by created_at desc limit 1")
        .bind(org)
        .fetch_one(&db.pool)
        .await
        .expect("reads")
}

/// A transaction was open when the cursor was issued, and committed while the client was disconnected.
#[tokio::test]
async fn a_replay_includes_a_late_commit() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_on(&db).await;
    let mut late = PgConnection::connect(db.url()).await.expect("connects");
    let mut tx = late.begin().await.expect("begins");
    let insert = "insert into calls (org_id) values ($1) returning id";
    let early: Uuid = sqlx::query_scalar(insert).bind(org).fetch_one(&mut *tx).await.expect("inserts");
    let since = cursor_after_one_call(&gateway, &db, org).await;
    tx.commit().await.expect("commits");

    let mut client = connect(&gateway, org).await;
    expect_replay_then_live(&mut client, &since, &[early], &db, org).await;
    // Now the replay comes from the log.
    let missed = [early, last_call(&db, org).await];
    let another = gateway_without_recent(&db, |_| {}).await;
    let mut client = connect(&another, org).await;
    expect_replay_then_live(&mut client, &since, &missed, &db, org).await;
    gateway.stop().await;
    another.stop().await;
}

#[tokio::test]
async fn the_cursor_of_a_join_reply_resumes() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_on(&db).await;
    let mut client = connect(&gateway, org).await;
    let since = client.join("calls").await["cursor"].as_str().expect("a cursor").to_owned();
    drop(client);
    let missed = [db.insert_call(org).await, db.insert_call(org).await];
    let mut client = connect(&gateway, org).await;
    expect_replay_then_live(&mut client, &since, &missed, &db, org).await;
    gateway.stop().await;
}

/// One transaction reads the tables and takes a cursor. Together these are a state and the position from
/// which its changes follow.
#[tokio::test]
async fn a_snapshot_and_its_cursor_leave_no_gap_and_no_overlap() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_on(&db).await;
    for _ in 0..3 {
        db.insert_call(org).await;
    }
    let mut open = PgConnection::connect(db.url()).await.expect("connects");
    let mut open = open.begin().await.expect("begins");
    let insert = "insert into calls (org_id) values ($1) returning id";
    let uncommitted: Uuid =
        sqlx::query_scalar(insert).bind(org).fetch_one(&mut *open).await.expect("inserts");
    db.insert_call(org).await;

    let mut snapshot_connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut tx =
        snapshot_connection.begin_with("begin isolation level repeatable read").await.expect("begins");
    let mut state: Vec<Uuid> = sqlx::query_scalar("select id from calls where org_id = $1")
        .bind(org)
        .fetch_all(&mut *tx)
        .await
        .expect("reads");
    // This call is committed after the snapshot was taken and before the cursor is taken.
    let between = db.insert_call(org).await;
    let row = sqlx::query(
        "select warden.epoch(), pg_current_snapshot()::text, (select coalesce(max(id), 0) from warden.events)",
    )
    .fetch_one(&mut *tx)
    .await
    .expect("reads");
    let snapshot = row.get::<String, _>(1).parse().expect("a snapshot");
    let point = Point { snapshot, max_id: row.get(2) };
    let cursor = Cursor::at(row.get::<String, _>(0).parse().expect("an epoch"), point.into());
    tx.commit().await.expect("ends");
    assert!(!state.contains(&uncommitted) && !state.contains(&between));

    open.commit().await.expect("commits");
    let mut client = connect(&gateway, org).await;
    let since = db.seal_cursor(org, &cursor).await;
    client.join_with("calls", json!({"since": since})).await;
    let live = db.insert_call(org).await;
    loop {
        let event = client.expect_event("calls", "call.created").await;
        let id: Uuid = event.row_id().parse().expect("a UUID");
        assert!(!state.contains(&id), "{id} was in the state already");
        state.push(id);
        if id == live {
            break;
        }
    }
    let mut all: Vec<Uuid> = sqlx::query_scalar("select id from calls where org_id = $1")
        .bind(org)
        .fetch_all(&db.pool)
        .await
        .expect("reads");
    state.sort_unstable();
    all.sort_unstable();
    assert_eq!(state, all);
    gateway.stop().await;
}

#[tokio::test]
async fn a_replay_above_the_event_limit_resyncs() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.replay.events_max = 10;
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    db.run(format!("insert into calls (org_id) select '{org}' from generate_series(1, 11)")).await;
    // Only events that the node has read count as missed. Later events are live.
    eventually("the tailer has read the events", async || gateway.metrics().events.get() >= 12).await;
    let mut client = connect(&gateway, org).await;
    client.join_with("calls", json!({"since": since})).await;
    let resync = client.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "too_many");
    // From the resync on no event is missing.
    let since = resync.cursor().to_owned();
    let call = db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    let mut again = connect(&gateway, org).await;
    expect_replay_then_live(&mut again, &since, &[call], &db, org).await;
    gateway.stop().await;
}

/// A client joins again while a replay is under way. One subscription remains, not two.
#[tokio::test]
async fn rejoining_during_a_resume_leaves_one_subscription() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_on(&db).await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    db.run(format!("insert into calls (org_id) select '{org}' from generate_series(1, 500)")).await;
    let mut client = connect(&gateway, org).await;
    // All three joins are sent at once, so the second and third arrive while the first resumes.
    client.send(&json!(["a", "a", "calls", "phx_join", {"since": since}]).to_string()).await;
    client.send(&json!(["b", "b", "calls", "phx_join", {"since": since}]).to_string()).await;
    client.send(&json!(["c", "c", "calls", "phx_join", {}]).to_string()).await;
    loop {
        let event = client.next_event().await;
        if event.name == "phx_reply" && event.payload["response"]["cursor"] != json!(since) {
            break;
        }
    }
    let call = db.insert_call(org).await;
    db.publish(org, "calls", "sentinel").await;
    let mut seen = 0;
    loop {
        let event = client.next_event().await;
        match event.name.as_str() {
            "sentinel" => break,
            "call.created" if event.row_id() == call.to_string() => seen += 1,
            _ => {}
        }
    }
    assert_eq!(seen, 1);
    gateway.stop().await;
}

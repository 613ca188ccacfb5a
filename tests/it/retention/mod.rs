//! Retention: the log rotates, truncated events cause a resync, and rotation delays nobody.

mod share;
mod share_limits;
mod strangers;
mod tailer;

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;
use warden::app::Gateway;

use crate::harness::{
    Answer, Client, TestDb, TestGateway, Upgrade, eventually, rotate_log, rotate_once, token,
};

/// Short, because sockets of these tests may still be open when their gateway stops.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(50);

/// Starts a gateway without recent events in memory, so every resume reads the log.
async fn gateway_without_recent(db: &TestDb) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.limits.recent.bytes_max = 0;
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await
}

async fn client(gateway: &Gateway, org: Uuid) -> Client {
    Client::connect(gateway.public_addr(), &token(org, &json!({}))).await
}

/// A connection as the gateway's own role.
async fn gateway_connection(db: &TestDb) -> PgConnection {
    PgConnection::connect(db.gateway_url()).await.expect("connects")
}

/// Rotates the log once, as the gateway's own role.
async fn rotate(db: &TestDb) {
    rotate_log(&mut gateway_connection(db).await, 1).await;
}

async fn logged(db: &TestDb) -> i64 {
    sqlx::query_scalar("select count(*) from warden.events where event = 'call.created'")
        .fetch_one(&db.pool)
        .await
        .expect("counts")
}

#[tokio::test]
async fn a_cursor_older_than_the_log_resyncs() {
    let (cluster, db) = TestDb::create_alone().await;
    let org = db.create_org().await;
    let gateway = gateway_without_recent(&db).await;
    let mut follower = client(&gateway, org).await;
    let old = follower.join("calls").await["cursor"].as_str().expect("a cursor").to_owned();
    db.insert_call(org).await;
    follower.expect_event("calls", "call.created").await;

    // Seven rotations keep the event. The eighth truncates its slot.
    for _ in 0..7 {
        rotate(&db).await;
        assert_eq!(logged(&db).await, 1);
    }
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": old})).await;
    back.expect_event("calls", "call.created").await;

    rotate(&db).await;
    assert_eq!(logged(&db).await, 0);
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": old})).await;
    let resync = back.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "too_old");

    // A node that starts now has the whole log in memory. It must not conclude that there never was more.
    let fresh = TestGateway::gateway(&db, |config| config.limits.session.close_timeout = CLOSE_TIMEOUT).await;
    let mut elsewhere = client(&fresh, org).await;
    elsewhere.join_with("calls", json!({"since": old})).await;
    let resync_elsewhere = elsewhere.expect_event("calls", "warden.resync").await;
    assert_eq!(resync_elsewhere.payload["reason"], "too_old");
    fresh.stop().await;

    // Later events are still replayed, and the client that stayed connected lost nothing.
    let recent = resync.cursor().to_owned();
    let call = db.insert_call(org).await;
    assert_eq!(follower.expect_event("calls", "call.created").await.row_id(), call.to_string());
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": recent})).await;
    assert_eq!(back.expect_event("calls", "call.created").await.row_id(), call.to_string());
    gateway.stop().await;
    cluster.close().await.expect("ends");
}

#[tokio::test]
async fn an_open_writer_blocks_rotation_and_nothing_else() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_without_recent(&db).await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;

    let mut writer = PgConnection::connect(db.url()).await.expect("connects");
    let mut open = writer.begin().await.expect("begins");
    let insert = format!("insert into calls (org_id, from_number) values ('{org}', 'late')");
    open.execute(sqlx::AssertSqlSafe(insert)).await.expect("inserts");
    for _ in 0..7 {
        rotate(&db).await;
    }
    // The next slot is the one to which the open transaction has written.
    assert_eq!(rotate_once(&mut gateway_connection(&db).await, "'0', 0").await, "blocked");
    let call = db.insert_call(org).await;
    assert_eq!(follower.expect_event("calls", "call.created").await.row_id(), call.to_string());
    open.commit().await.expect("commits");
    assert_eq!(follower.expect_event("calls", "call.created").await.data("from_number"), "late");
    rotate(&db).await;
    gateway.stop().await;
}

#[tokio::test]
async fn nodes_rotate_one_at_a_time_and_delivery_continues() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let often = |config: &mut warden::config::Config| {
        config.limits.retention.bytes_max = 0;
        config.limits.retention.interval = Duration::from_millis(20);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    };
    let gateways = [TestGateway::gateway(&db, often).await, TestGateway::gateway(&db, often).await];
    let rotations = || gateways.iter().map(|g| g.metrics().rotations.get()).sum::<u64>();
    let first = db.insert_call(org).await.to_string();
    // One rotation may have been under way.
    let enough = rotations() + 9;
    eventually("every slot was truncated", async || rotations() >= enough).await;
    assert_eq!(logged(&db).await, 0);
    // Events keep arriving while the log rotates. Between two reads of a slow tailer the log may rotate so
    // often that the event is gone: then the client receives a resync.
    let mut follower = client(&gateways[0], org).await;
    follower.join("calls").await;
    // A slow tailer may have read the first call before it was removed, and dispatch it now.
    let mut calls = HashSet::from([first]);
    for _ in 0..50 {
        let call = db.insert_call(org).await.to_string();
        calls.insert(call.clone());
        loop {
            let event = follower.next_event().await;
            if event.name == "warden.resync" || event.row_id() == call {
                break;
            }
            assert!(calls.contains(event.row_id()), "{event:?}");
        }
    }
    for gateway in gateways {
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_topic_without_events_sends_current_cursors() {
    let (cluster, db) = TestDb::create_alone().await;
    let org = db.create_org().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.recent.bytes_max = 0;
        config.limits.tailer.poll_interval = Duration::from_millis(20);
        config.limits.tailer.cursor_interval = Duration::from_millis(50);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    let mut idle = client(&gateway, org).await;
    idle.join("recordings").await;
    for _ in 0..8 {
        db.insert_call(org).await;
        rotate(&db).await;
    }
    // The cursor of the join is too old by now. A cursor that was sent later is not.
    let last = db.insert_call(org).await;
    eventually("the tailer has read the events", async || gateway.metrics().events.get() >= 9).await;
    idle.expect_event("recordings", "warden.cursor").await;
    let mut recent = String::new();
    eventually("a cursor is recent enough", async || {
        recent = idle.expect_event("recordings", "warden.cursor").await.cursor().to_owned();
        let xmin = db.open_cursor(org, &recent).await.from.snapshot.xmin.to_string();
        let is_old: bool = sqlx::query_scalar("select warden.is_truncated($1::text::xid8)")
            .bind(xmin)
            .fetch_one(&db.pool)
            .await
            .expect("queries");
        !is_old
    })
    .await;
    let mut back = client(&gateway, org).await;
    back.join_with("recordings", json!({"since": recent})).await;
    db.run(format!("insert into recordings (org_id, call_id) values ('{org}', '{last}')")).await;
    loop {
        let event = back.next_event().await;
        assert_ne!(event.name, "warden.resync");
        if event.name == "recording.created" {
            break;
        }
    }
    gateway.stop().await;
    cluster.close().await.expect("ends");
}

async fn readyz(gateway: &Gateway) -> Answer {
    Upgrade::new().to("/readyz").without("Upgrade").without("Connection").send(gateway.admin_addr()).await
}

/// Whether readyz warns of late retention. The node must stay ready, because no other node could serve
/// better.
async fn warns_of_retention(gateway: &Gateway) -> bool {
    let answer = readyz(gateway).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with("ok\n"), "{answer:?}");
    let warns = answer.body.contains("warning: retention of the event log is late");
    assert_eq!(warns, answer.body != "ok\n", "{answer:?}");
    warns
}

#[tokio::test]
async fn readyz_warns_of_late_retention_and_stays_ready() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.retention.bytes_max = 0;
        config.limits.retention.interval = Duration::from_millis(20);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    assert!(!warns_of_retention(&gateway).await);

    // A writer stays open until rotation reaches its slot and is blocked there.
    let mut writer = PgConnection::connect(db.url()).await.expect("connects");
    let mut open = writer.begin().await.expect("begins");
    let insert = format!("insert into calls (org_id, from_number) values ('{org}', 'late')");
    open.execute(sqlx::AssertSqlSafe(insert)).await.expect("inserts");
    eventually("readyz warns", async || warns_of_retention(&gateway).await).await;
    assert_eq!(gateway.metrics().retention_late.get(), 1);
    open.rollback().await.expect("ends");
    eventually("readyz no longer warns", async || !warns_of_retention(&gateway).await).await;
    assert_eq!(gateway.metrics().retention_late.get(), 0);

    // The gateway's role loses its right to rotate.
    db.run("revoke execute on function warden.rotate_events from warden_gateway").await;
    eventually("readyz warns", async || warns_of_retention(&gateway).await).await;
    db.run("grant execute on function warden.rotate_events to warden_gateway").await;
    eventually("readyz no longer warns", async || !warns_of_retention(&gateway).await).await;
    gateway.stop().await;
}

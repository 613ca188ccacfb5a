//! The ring of the log moves on, what is gone is said to be gone, and nobody waits for it.

mod reader;

use std::time::Duration;

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;
use warden::app::Gateway;
use warden::log::cursor::Cursor;

use crate::harness::{Answer, Client, TestDb, TestGateway, Upgrade, eventually, token};

/// Sockets here may still be open when their gateway stops.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(50);

/// A gateway that remembers nothing, so that every resume reads the log.
async fn forgetful(db: &TestDb) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.limits.recent.bytes_max = 0;
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await
}

async fn client(gateway: &Gateway, org: Uuid) -> Client {
    Client::connect(gateway.public_addr(), &token(org, &json!({}))).await
}

/// As the gateway's own role.
async fn rotate(db: &TestDb) -> String {
    let mut gateway = PgConnection::connect(db.gateway_url()).await.expect("connects");
    sqlx::query_scalar("select warden.rotate_events('0', 0)").fetch_one(&mut gateway).await.expect("rotates")
}

/// The next step, once nobody who reads the log just now is in its way any more.
async fn step(db: &TestDb) {
    eventually("a step", async || match rotate(db).await.as_str() {
        "rotated" => true,
        "blocked" => false,
        other => panic!("{other}"),
    })
    .await;
}

async fn logged(db: &TestDb) -> i64 {
    sqlx::query_scalar("select count(*) from warden.events where event = 'call.created'")
        .fetch_one(&db.pool)
        .await
        .expect("counts")
}

#[tokio::test]
async fn the_oldest_goes_and_who_needs_it_is_told() {
    let (cluster, db) = TestDb::create_alone().await;
    let org = db.create_org().await;
    let gateway = forgetful(&db).await;
    let mut follower = client(&gateway, org).await;
    let old = follower.join("calls").await["cursor"].as_str().expect("a cursor").to_owned();
    db.insert_call(org).await;
    follower.expect_event("calls", "call.created").await;

    // Seven steps keep it: the eighth comes to its slot again.
    for _ in 0..7 {
        step(&db).await;
        assert_eq!(logged(&db).await, 1);
    }
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": old})).await;
    back.expect_event("calls", "call.created").await;

    step(&db).await;
    assert_eq!(logged(&db).await, 0);
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": old})).await;
    let resync = back.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "too_old");

    // A node that begins now has all of the log in memory, and must not take it for all that there was.
    let fresh = TestGateway::gateway(&db, |config| config.limits.session.close_timeout = CLOSE_TIMEOUT).await;
    let mut elsewhere = client(&fresh, org).await;
    elsewhere.join_with("calls", json!({"since": old})).await;
    let told = elsewhere.expect_event("calls", "warden.resync").await;
    assert_eq!(told.payload["reason"], "too_old");
    fresh.stop().await;

    // What came after is still served, and who was there all the time lost nothing.
    let young = resync.cursor().to_owned();
    let call = db.insert_call(org).await;
    assert_eq!(follower.expect_event("calls", "call.created").await.row_id(), call.to_string());
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": young})).await;
    assert_eq!(back.expect_event("calls", "call.created").await.row_id(), call.to_string());
    gateway.stop().await;
    cluster.close().await.expect("ends");
}

#[tokio::test]
async fn an_open_writer_blocks_the_job_and_nobody_else() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = forgetful(&db).await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;

    let mut writer = PgConnection::connect(db.url()).await.expect("connects");
    let mut open = writer.begin().await.expect("begins");
    let insert = format!("insert into calls (org_id, from_number) values ('{org}', 'late')");
    open.execute(sqlx::AssertSqlSafe(insert)).await.expect("inserts");
    for _ in 0..7 {
        step(&db).await;
    }
    // The slot that comes next is the one that the open transaction has written to.
    assert_eq!(rotate(&db).await, "blocked");
    let call = db.insert_call(org).await;
    assert_eq!(follower.expect_event("calls", "call.created").await.row_id(), call.to_string());
    open.commit().await.expect("commits");
    assert_eq!(follower.expect_event("calls", "call.created").await.data("from_number"), "late");
    step(&db).await;
    gateway.stop().await;
}

#[tokio::test]
async fn every_node_looks_and_one_does_it() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let soon = |config: &mut warden::config::Config| {
        config.limits.retention.bytes_max = 0;
        config.limits.retention.interval = Duration::from_millis(20);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    };
    let gateways = [TestGateway::gateway(&db, soon).await, TestGateway::gateway(&db, soon).await];
    let rotations = || gateways.iter().map(|g| g.metrics().rotations.get()).sum::<u64>();
    db.insert_call(org).await;
    // One may have been under way.
    let enough = rotations() + 9;
    eventually("the ring has come round", async || rotations() >= enough).await;
    assert_eq!(logged(&db).await, 0);
    // Events go on arriving while the ring turns.
    let mut follower = client(&gateways[0], org).await;
    follower.join("calls").await;
    for _ in 0..50 {
        let call = db.insert_call(org).await;
        assert_eq!(follower.expect_event("calls", "call.created").await.row_id(), call.to_string());
    }
    for gateway in gateways {
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_topic_without_events_hands_out_young_cursors() {
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
        step(&db).await;
    }
    // The cursor of the join is too old by now; one that was handed out since is not.
    let last = db.insert_call(org).await;
    eventually("the node has read it", async || gateway.metrics().events.get() >= 9).await;
    idle.expect_event("recordings", "warden.cursor").await;
    let mut young = String::new();
    eventually("a cursor is young enough", async || {
        young = idle.expect_event("recordings", "warden.cursor").await.cursor().to_owned();
        let xmin = young.parse::<Cursor>().expect("a cursor").from.snapshot.xmin.to_string();
        let is_old: bool = sqlx::query_scalar("select warden.is_truncated($1::text::xid8)")
            .bind(xmin)
            .fetch_one(&db.pool)
            .await
            .expect("asks");
        !is_old
    })
    .await;
    let mut back = client(&gateway, org).await;
    back.join_with("recordings", json!({"since": young})).await;
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

/// Whether it warns; it is ready in any case, because it could serve no better elsewhere.
async fn warns_of_retention(gateway: &Gateway) -> bool {
    let answer = readyz(gateway).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.body.starts_with("ok\n"), "{answer:?}");
    let warns = answer.body.contains("warning: retention of the event log is late");
    assert_eq!(warns, answer.body != "ok\n", "{answer:?}");
    warns
}

#[tokio::test]
async fn readyz_tells_that_the_log_grows_and_stays_ready() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.retention.bytes_max = 0;
        config.limits.retention.interval = Duration::from_millis(20);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    assert!(!warns_of_retention(&gateway).await);

    // A writer that stays open: the ring comes round to its slot, and waits there.
    let mut writer = PgConnection::connect(db.url()).await.expect("connects");
    let mut open = writer.begin().await.expect("begins");
    let insert = format!("insert into calls (org_id, from_number) values ('{org}', 'late')");
    open.execute(sqlx::AssertSqlSafe(insert)).await.expect("inserts");
    eventually("readyz warns", async || warns_of_retention(&gateway).await).await;
    assert_eq!(gateway.metrics().retention_late.get(), 1);
    open.rollback().await.expect("ends");
    eventually("readyz warns no more", async || !warns_of_retention(&gateway).await).await;
    assert_eq!(gateway.metrics().retention_late.get(), 0);

    // A right that was taken away.
    db.run("revoke execute on function warden.rotate_events from warden_gateway").await;
    eventually("readyz warns", async || warns_of_retention(&gateway).await).await;
    db.run("grant execute on function warden.rotate_events to warden_gateway").await;
    eventually("readyz warns no more", async || !warns_of_retention(&gateway).await).await;
    gateway.stop().await;
}

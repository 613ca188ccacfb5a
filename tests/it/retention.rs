//! The ring of the log moves on, what is gone is said to be gone, and nobody waits for it.

use std::time::Duration;

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;
use warden::app::Gateway;
use warden::events::cursor::Cursor;

use crate::harness::{Client, TestDb, TestGateway, eventually, token};

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

async fn logged(db: &TestDb) -> i64 {
    sqlx::query_scalar("select count(*) from warden.events where event = 'call.created'")
        .fetch_one(&db.pool)
        .await
        .expect("counts")
}

#[tokio::test]
async fn the_oldest_goes_and_who_needs_it_is_told() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = forgetful(&db).await;
    let mut follower = client(&gateway, org).await;
    let old = follower.join("calls").await["cursor"].as_str().expect("a cursor").to_owned();
    db.insert_call(org).await;
    follower.expect_event("calls", "call.created").await;

    // Seven steps keep it: the eighth comes to its slot again.
    for _ in 0..7 {
        assert_eq!(rotate(&db).await, "rotated");
        assert_eq!(logged(&db).await, 1);
    }
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": old})).await;
    back.expect_event("calls", "call.created").await;

    assert_eq!(rotate(&db).await, "rotated");
    assert_eq!(logged(&db).await, 0);
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": old})).await;
    let resync = back.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "too_old");

    // What came after is still served, and who was there all the time lost nothing.
    let young = resync.cursor().to_owned();
    let call = db.insert_call(org).await;
    assert_eq!(follower.expect_event("calls", "call.created").await.row_id(), call.to_string());
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": young})).await;
    assert_eq!(back.expect_event("calls", "call.created").await.row_id(), call.to_string());
    gateway.stop().await;
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
        assert_eq!(rotate(&db).await, "rotated");
    }
    // The slot that comes next is the one that the open transaction has written to.
    assert_eq!(rotate(&db).await, "blocked");
    let call = db.insert_call(org).await;
    assert_eq!(follower.expect_event("calls", "call.created").await.row_id(), call.to_string());
    open.commit().await.expect("commits");
    assert_eq!(follower.expect_event("calls", "call.created").await.data("from_number"), "late");
    assert_eq!(rotate(&db).await, "rotated");
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
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.recent.bytes_max = 0;
        config.limits.reader.poll_interval = Duration::from_millis(20);
        config.limits.reader.cursor_interval = Duration::from_millis(50);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    let mut idle = client(&gateway, org).await;
    idle.join("recordings").await;
    for _ in 0..8 {
        db.insert_call(org).await;
        assert_eq!(rotate(&db).await, "rotated");
    }
    // The cursor of the join is too old by now; one that was handed out since is not.
    let last = db.insert_call(org).await;
    eventually("the node has read it", async || gateway.metrics().events.get() >= 9).await;
    idle.expect_event("recordings", "warden.cursor").await;
    let mut young = String::new();
    eventually("a cursor is young enough", async || {
        young = idle.expect_event("recordings", "warden.cursor").await.cursor().to_owned();
        // Transactions of other tests are in progress in the same cluster, and may be older than the slots.
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
}

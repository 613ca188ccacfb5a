//! Rotation of the keys of cursors: clients resume across it on any node, and cursors of deleted keys resync.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use uuid::Uuid;
use warden::app::Gateway;

use super::log::own_connection;
use super::{connect, cursor_after_one_call};
use crate::harness::{TestDb, TestGateway, eventually, rotate_log};

async fn gateway(db: &TestDb) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.limits.cursor_keys.interval = Duration::from_millis(20);
        config.limits.session.close_timeout = super::CLOSE_TIMEOUT;
    })
    .await
}

/// Makes every key older, as if this time had passed.
async fn age_keys(db: &TestDb, by: &str) {
    db.run(format!("update warden.cursor_keys set created_at = created_at - interval '{by}'")).await;
}

/// Waits until the gateways seal with this key.
async fn expect_current_key(gateways: &[Gateway; 2], org: Uuid, id: u8) {
    for gateway in gateways {
        eventually("the key is in use", async || {
            let response = connect(gateway, org).await.join("calls").await;
            first_byte(response["cursor"].as_str().expect("a cursor")) == id
        })
        .await;
    }
}

/// The low byte of the key's id.
fn first_byte(cursor: &str) -> u8 {
    URL_SAFE_NO_PAD.decode(cursor).expect("base64")[0]
}

#[tokio::test]
async fn clients_resume_across_rotations_on_any_node() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateways = [gateway(&db).await, gateway(&db).await];
    let oldest = cursor_after_one_call(&gateways[0], &db, org).await;
    let mut since = oldest.clone();
    let mut expected: Vec<String> = Vec::new();
    let mut received = Vec::new();
    // A new key is created after a day, used 10 minutes later, and retires its predecessor after 20 minutes.
    let ages = ["0 s", "25 hours", "11 minutes", "11 minutes", "25 hours", "11 minutes", "11 minutes"];
    for (step, age) in ages.into_iter().enumerate() {
        age_keys(&db, age).await;
        let current = [1, 1, 2, 2, 2, 3, 3][step];
        expect_current_key(&gateways, org, current).await;
        for gateway in &gateways {
            // One event is missed and one is live.
            let missed = db.insert_call(org).await.to_string();
            let mut client = connect(gateway, org).await;
            let reply = client.join_with("calls", json!({"since": since})).await;
            assert_eq!(reply, json!({"cursor": since}), "no resync");
            let live = db.insert_call(org).await.to_string();
            for id in [missed, live] {
                let event = client.expect_event("calls", "call.created").await;
                received.push(event.row_id().to_owned());
                since = event.cursor().to_owned();
                expected.push(id);
            }
            assert_eq!(first_byte(&since), current);
        }
    }
    assert_eq!(received, expected, "each event once and in order");

    // The first key was retired. When the log no longer has events from its time, it is deleted.
    db.run("update warden.log_state set truncated_xid = (select retired_xid from warden.cursor_keys where id = 1)")
        .await;
    let mut ids: Vec<i64> = Vec::new();
    eventually("the first key is deleted", async || {
        ids = sqlx::query_scalar("select id from warden.cursor_keys order by id")
            .fetch_all(&db.pool)
            .await
            .expect("queries");
        !ids.contains(&1)
    })
    .await;
    assert_eq!(ids, [2, 3]);
    for gateway in &gateways {
        eventually("a cursor of the first key resyncs", async || {
            let mut client = connect(gateway, org).await;
            client.join_with("calls", json!({"since": oldest})).await["resync"] == true
        })
        .await;
        let mut client = connect(gateway, org).await;
        assert_eq!(client.join_with("calls", json!({"since": since})).await, json!({"cursor": since}));
    }
    for gateway in gateways {
        gateway.stop().await;
    }
}

/// No event is written while the keys are rotated, so rotations of the log remove none, and every cursor can
/// be served. Nodes that did nothing meanwhile agree about each cursor.
#[tokio::test]
async fn in_an_idle_database_cursors_remain_valid_on_every_node_until_events_are_truncated() {
    let (cluster, db) = TestDb::create_alone().await;
    let org = db.create_org().await;
    let gateways = [gateway(&db).await, gateway(&db).await];
    cursor_after_one_call(&gateways[0], &db, org).await;
    // Removes the event, so that later rotations of the log find nothing.
    rotate_log(&mut own_connection(&db).await, 8).await;
    let oldest = connect(&gateways[1], org).await.join("calls").await["cursor"].as_str().map(str::to_owned);
    let oldest = oldest.expect("a cursor");
    let resumes = async |since: &str| {
        let mut answers = Vec::new();
        for gateway in &gateways {
            let mut client = connect(gateway, org).await;
            answers
                .push(client.join_with("calls", json!({"since": since})).await == json!({"cursor": since}));
        }
        answers
    };
    for (age, current) in
        [("25 hours", 1), ("11 minutes", 2), ("11 minutes", 2), ("25 hours", 2), ("11 minutes", 3)]
    {
        age_keys(&db, age).await;
        expect_current_key(&gateways, org, current).await;
        assert_eq!(resumes(&oldest).await, [true, true], "after {age}");
        rotate_log(&mut own_connection(&db).await, 8).await;
        assert_eq!(resumes(&oldest).await, [true, true], "after {age} and a rotation of the whole log");
    }
    eventually("the first key is retired", async || {
        keys_where(&db, "id = 1 and retired_xid is not null").await == 1
    })
    .await;
    // The first event that is removed ends it.
    db.insert_call(org).await;
    rotate_log(&mut own_connection(&db).await, 8).await;
    eventually("the cursor is older than the log", async || resumes(&oldest).await == [false, false]).await;
    assert_eq!(keys_where(&db, "id = 1").await, 0);
    for gateway in gateways {
        gateway.stop().await;
    }
    cluster.close().await.expect("ends");
}

async fn keys_where(db: &TestDb, condition: &str) -> i64 {
    let sql = format!("select count(*) from warden.cursor_keys where {condition}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&db.pool).await.expect("counts")
}

/// Both nodes connect to a database without keys at the same time, and use the same key.
#[tokio::test]
async fn nodes_that_start_together_agree_on_the_first_key() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let (first, second) = tokio::join!(gateway(&db), gateway(&db));
    let since = cursor_after_one_call(&first, &db, org).await;
    let missed = db.insert_call(org).await;
    let mut client = connect(&second, org).await;
    assert_eq!(client.join_with("calls", json!({"since": since})).await, json!({"cursor": since}));
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), missed.to_string());
    first.stop().await;
    second.stop().await;
}

/// A client may present a cursor of a key that its node does not have yet.
#[tokio::test]
async fn an_unknown_key_makes_the_node_load_the_keys() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    // This node does not load the keys by itself again.
    let gateway = super::gateway_on(&db).await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    let cursor = db.open_cursor(org, &since).await;
    age_keys(&db, "25 hours").await;
    db.seal(org).await;
    age_keys(&db, "11 minutes").await;
    let since = db.seal_cursor(org, &cursor).await;
    assert_eq!(first_byte(&since), 2);
    eventually("the cursor of the new key is accepted", async || {
        let mut client = connect(&gateway, org).await;
        client.join_with("calls", json!({"since": since})).await == json!({"cursor": since})
    })
    .await;
    gateway.stop().await;
}

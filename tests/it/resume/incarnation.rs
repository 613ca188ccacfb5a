//! Organisations that are deleted and created again with the same id: a new tenant, who gets nothing of the
//! former one, neither live nor from memory nor from the log.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use uuid::Uuid;
use warden::app::Gateway;

use super::log::insert_calls;
use super::{CLOSE_TIMEOUT, connect, cursor_after_one_call, gateway_on, gateway_without_recent};
use crate::harness::{TestDb, TestGateway, Upgrade, eventually, token};

/// Two gateways: one with recent events in memory, and one that reads the log.
async fn gateways(db: &TestDb) -> [Gateway; 2] {
    [gateway_on(db).await, gateway_without_recent(db, |_| {}).await]
}

async fn create(db: &TestDb, org: Uuid) {
    db.run(format!("insert into organizations (id, name) values ('{org}', 'new tenant')")).await;
}

/// Joins with the former tenant's cursor and without one. Each client may receive one later call, but no
/// event from before the deletion.
async fn expect_nothing_of_the_former(db: &TestDb, gateway: &Gateway, org: Uuid, since: &str) {
    let mut clients = Vec::new();
    for topic in ["calls", "org"] {
        for payload in [json!({}), json!({"since": since})] {
            let mut client = connect(gateway, org).await;
            let reply = client.join_with(topic, payload.clone()).await;
            assert_eq!(reply.get("resync").is_some(), payload.get("since").is_some(), "{reply}");
            clients.push((topic, client, reply["cursor"].as_str().expect("a cursor").to_owned()));
        }
    }
    let call = db.insert_call(org).await.to_string();
    for (topic, client, _) in &mut clients {
        assert_eq!(client.expect_event(topic, "call.created").await.row_id(), call);
    }
    // The new tenant's own cursors replay that call alone.
    for (topic, _, since) in clients {
        let mut client = connect(gateway, org).await;
        assert_eq!(client.join_with(topic, json!({"since": since})).await, json!({"cursor": since}));
        assert_eq!(client.expect_event(topic, "call.created").await.row_id(), call);
    }
}

#[tokio::test]
async fn a_recreated_organisation_gets_nothing_of_the_former_one() {
    let db = TestDb::create().await;
    let gateways = gateways(&db).await;
    for _ in 0..3 {
        let org = db.create_org().await;
        let since = cursor_after_one_call(&gateways[0], &db, org).await;
        let mut former = connect(&gateways[0], org).await;
        former.join("recordings").await;
        insert_calls(&db, org, 20).await;
        db.run(format!("delete from organizations where id = '{org}'")).await;
        create(&db, org).await;
        // The second node has not seen this organisation before. It may not have read the deletion yet.
        expect_nothing_of_the_former(&db, &gateways[1], org, &since).await;
        former.expect_close(4404).await;
        expect_nothing_of_the_former(&db, &gateways[0], org, &since).await;
    }
    for gateway in gateways {
        gateway.stop().await;
    }
}

/// Stops the server's sessions that read the log for a gateway, or lets them continue.
async fn signal_readers(db: &TestDb, signal: Signal) {
    let pids: Vec<i32> = sqlx::query_scalar(
        "select pid from pg_stat_activity
         where datname = current_database() and usename = 'warden_gateway' and query like '%warden.events%'",
    )
    .fetch_all(&db.pool)
    .await
    .expect("reads");
    assert!(!pids.is_empty(), "no session reads the log");
    for pid in pids {
        kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("signals");
    }
}

#[tokio::test]
async fn a_node_that_has_not_read_the_deletion_accepts_no_session_of_the_new_organisation() {
    let db = TestDb::create().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
        config.limits.replay.tailer_timeout = Duration::from_millis(100);
    })
    .await;
    let org = db.create_org().await;
    eventually("the tailer reads", async || {
        let query = "select count(*) from pg_stat_activity
                     where datname = current_database() and usename = 'warden_gateway' and query like '%warden.events%'";
        sqlx::query_scalar::<_, i64>(query).fetch_one(&db.pool).await.expect("reads") > 0
    })
    .await;
    signal_readers(&db, Signal::STOP).await;
    insert_calls(&db, org, 20).await;
    db.run(format!("delete from organizations where id = '{org}'")).await;
    create(&db, org).await;
    let answer = Upgrade::bearer(&token(org, &json!({}))).send(gateway.public_addr()).await;
    signal_readers(&db, Signal::CONT).await;
    assert_eq!(answer.code(), "unavailable", "{answer:?}");
    let mut client = connect(&gateway, org).await;
    client.join("calls").await;
    let call = db.insert_call(org).await.to_string();
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call);
    drop(client);
    gateway.stop().await;
}

/// The log does not name the organisations that a TRUNCATE deletes.
#[tokio::test]
async fn after_a_truncate_every_organisation_is_a_new_one() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateways = gateways(&db).await;
    let since = cursor_after_one_call(&gateways[0], &db, org).await;
    insert_calls(&db, org, 20).await;
    let mut former = connect(&gateways[0], org).await;
    db.run(format!(
        "begin; truncate organizations cascade;
         insert into organizations (id, name) values ('{org}', 'new tenant'); commit"
    ))
    .await;
    former.expect_close(4404).await;
    for gateway in &gateways {
        expect_nothing_of_the_former(&db, gateway, org, &since).await;
    }
    for gateway in gateways {
        gateway.stop().await;
    }
}

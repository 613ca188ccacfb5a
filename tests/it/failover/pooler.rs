//! A pooler between gateway and database. In transaction mode the gateway polls, logs a warning, and leaves
//! no state in backend sessions that it shares. In session mode it behaves as without a pooler.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::{client, expect_calls, expect_following, gateway_at};
use crate::harness::{Client, LogCapture, Pooler, TestDb, eventually, token};

const POLLING: &str = "no LISTEN through a pooler";

async fn db_with_org() -> (TestDb, Uuid) {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    (db, org)
}

#[tokio::test]
async fn a_transaction_pooler_makes_the_tailer_poll() {
    let logs = LogCapture::begin();
    let warnings = || logs.text().matches(POLLING).count();
    let (db, org) = db_with_org().await;
    let pooler = Pooler::start(&db, "transaction").await;
    // This login may become other roles. The gateway drops to its own role, which must not persist for other
    // clients.
    let url = pooler.url(&db.name, "postgres");
    let gateway = gateway_at(&db, &url, |limits| {
        limits.recent.bytes_max = 0;
        limits.tailer.poll_interval = Duration::from_millis(200);
    })
    .await;
    let mut session = client(&gateway, org).await;
    let since = session.join("calls").await;
    eventually("the warning is logged", async || warnings() == 1).await;
    expect_following(&gateway).await;

    let mut calls = Vec::new();
    for _ in 0..20 {
        calls.push(db.insert_call(org).await);
    }
    expect_calls(&mut session, &calls).await;
    // More than a page, under load. With a dedicated backend the tailer would silence the doorbell here,
    // which takes a session lock.
    let rows = 6_000;
    db.run(format!(
        "select warden.publish('{org}', 'recordings', 'test.row') from generate_series(1, {rows})"
    ))
    .await;
    for _ in 0..50 {
        let call = db.insert_call(org).await;
        calls.push(call);
        expect_calls(&mut session, &[call]).await;
    }
    // Look-ups and replays go through the pool.
    let mut look_ups = Vec::new();
    for _ in 0..8 {
        let other = token(db.create_org().await, &json!({}));
        let addr = gateway.public_addr();
        look_ups.push(tokio::spawn(async move { Client::connect(addr, &other).await }));
    }
    for look_up in look_ups {
        look_up.await.expect("is accepted");
    }
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": since["cursor"]})).await;
    expect_calls(&mut back, &calls).await;
    pooler.expect_clean_sessions(&db.name).await;

    // First the pooler's backend sessions end, then its clients' connections. The gateway reconnects each
    // time.
    db.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'warden'").await;
    let call = db.insert_call(org).await;
    expect_calls(&mut session, &[call]).await;
    let reads = gateway.metrics().reads.get();
    pooler.kill(&db.name).await;
    let call = db.insert_call(org).await;
    expect_calls(&mut session, &[call]).await;
    eventually("the tailer reads again", async || gateway.metrics().reads.get() > reads + 1).await;
    expect_following(&gateway).await;
    assert_eq!(warnings(), 1, "the warning is logged once");

    // A pooler may route the database name to another server from one transaction to the next.
    let other = TestDb::create().await;
    other.run(format!("insert into organizations (id, name) values ('{org}', 'the same')")).await;
    pooler.redirect(&db.name, &other.name).await;
    assert_eq!(session.expect_event("calls", "warden.resync").await.payload["reason"], "epoch");
    let call = other.insert_call(org).await;
    expect_calls(&mut session, &[call]).await;

    let error =
        format!("{:#}", warden::postgres::migrate(&url).await.expect_err("migrate needs its own session"));
    assert!(error.contains("use the address of the database itself"), "{error}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_session_pooler_keeps_the_doorbell() {
    let (db, org) = db_with_org().await;
    let pooler = Pooler::start(&db, "session").await;
    let gateway = gateway_at(&db, &pooler.url(&db.name, "warden_gateway"), |limits| {
        limits.tailer.poll_interval = Duration::from_secs(3600);
    })
    .await;
    eventually("the doorbell listens", async || {
        let listening = "select exists (select from pg_stat_activity
                         where datname = current_database() and query = 'LISTEN \"warden\"')";
        sqlx::query_scalar(listening).fetch_one(&db.pool).await.expect("reads")
    })
    .await;
    let mut session = client(&gateway, org).await;
    session.join("calls").await;
    for _ in 0..3 {
        let call = db.insert_call(org).await;
        expect_calls(&mut session, &[call]).await;
    }
    gateway.stop().await;
}

//! A pooler between gateway and database: in transaction mode the gateway polls, leaves nothing behind in
//! sessions that are others' too, and says so; in session mode nothing is different.

use std::time::Duration;

use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use uuid::Uuid;

use super::{client, expect_calls, expect_following, gateway_at};
use crate::harness::{LogCapture, Pooler, TestDb, connect_raw, eventually, token};

const POLLING: &str = "where LISTEN is not possible";

async fn db_with_org() -> (TestDb, Uuid) {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    (db, org)
}

/// As another client of the pooler, which speaks the simple protocol as such clients must.
async fn stranger(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().expect("a URL");
    options.extra_float_digits(None).connect().await.expect("connects")
}

/// Everything that one could leave behind in a session, as its next client finds it.
async fn expect_clean_sessions(url: &str) {
    let mut stranger = stranger(url).await;
    let mut seen = std::collections::HashSet::new();
    // The pooler takes its sessions in turn.
    for _ in 0..20 {
        let row = sqlx::raw_sql(
            "select pg_backend_pid()::text, concat_ws(' ', current_setting('role'), current_setting('plan_cache_mode'),
                    current_setting('enable_seqscan'), current_setting('lock_timeout'),
                    (select count(*) from pg_prepared_statements),
                    (select count(*) from pg_listening_channels() c where c = 'warden'),
                    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()))",
        )
        .fetch_one(&mut stranger)
        .await
        .expect("reads");
        seen.insert(row.get::<String, _>(0));
        assert_eq!(row.get::<String, _>(1), "none auto on 0 0 0 0");
    }
    assert!(seen.len() > 1, "only {seen:?} was looked at");
    stranger.close().await.expect("closes");
}

#[tokio::test]
async fn through_a_transaction_pooler_the_log_is_polled() {
    let logs = LogCapture::begin();
    let warnings = || logs.text().matches(POLLING).count();
    let (db, org) = db_with_org().await;
    let pooler = Pooler::start(&db, "transaction").await;
    // A login that is more than the gateway may be: what it gives up must not stay given up for others.
    let url = pooler.url(&db.name, "postgres");
    let gateway = gateway_at(&db, &url, |limits| {
        limits.recent.bytes_max = 0;
        limits.tailer.poll_interval = Duration::from_millis(200);
    })
    .await;
    let mut session = client(&gateway, org).await;
    let since = session.join("calls").await;
    eventually("it says so", async || warnings() == 1).await;
    expect_following(&gateway).await;

    let mut calls = Vec::new();
    for _ in 0..20 {
        calls.push(db.insert_call(org).await);
    }
    expect_calls(&mut session, &calls).await;
    // Beyond a page, and under load: the reader would silence the bell here, with a lock of its session.
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
        look_ups.push(tokio::spawn(async move { connect_raw(addr, &other).await }));
    }
    for look_up in look_ups {
        look_up.await.expect("is let in");
    }
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": since["cursor"]})).await;
    expect_calls(&mut back, &calls).await;
    expect_clean_sessions(&url).await;

    // Sessions of the pooler's end, then its clients' connections: the gateway finds its way back.
    db.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'warden'").await;
    let call = db.insert_call(org).await;
    expect_calls(&mut session, &[call]).await;
    let reads = gateway.metrics().reads.get();
    pooler.kill(&db.name).await;
    let call = db.insert_call(org).await;
    expect_calls(&mut session, &[call]).await;
    eventually("it reads", async || gateway.metrics().reads.get() > reads + 1).await;
    expect_following(&gateway).await;
    assert_eq!(warnings(), 1, "it says so once");

    // Behind the pooler the name may lead elsewhere from one transaction to the next.
    let other = TestDb::create().await;
    other.run(format!("insert into organizations (id, name) values ('{org}', 'the same')")).await;
    pooler.redirect(&db.name, &other.name).await;
    assert_eq!(session.expect_event("calls", "warden.resync").await.payload["reason"], "epoch");
    let call = other.insert_call(org).await;
    expect_calls(&mut session, &[call]).await;

    let refused =
        format!("{:#}", warden::postgres::migrate(&url).await.expect_err("migrate needs its own session"));
    assert!(refused.contains("name the database's own address"), "{refused}");
    gateway.stop().await;
}

#[tokio::test]
async fn through_a_session_pooler_the_bell_rings() {
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

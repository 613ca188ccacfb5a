//! Connections to the database that publish, and the notification queue of the server.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::task::JoinSet;

use super::publication;
use crate::harness::{TestDb, TestGateway, Witness, eventually};

/// Callers with idempotency keys wait for a lock.
#[tokio::test]
async fn waiting_publications_of_one_organisation_leave_connections_to_others() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.publish.timeout = Duration::from_secs(60);
    })
    .await;
    let witness = t.witness().await;
    let (greedy, other) = (t.db.create_org().await, t.db.create_org().await);
    t.db.run("select warden.declare_topic('invoices')").await;
    let addr = t.gateway.public_addr();
    let event = json!({"topic": "invoices", "event": "invoice.paid", "data": {}});
    let keyed = || publication(greedy, &event).with("Idempotency-Key", "one");
    assert_eq!(keyed().send(addr).await.status, 202);
    let mut lock = t.db.pool.begin().await.expect("begins");
    lock.execute("lock table warden.idempotency_keys").await.expect("locks");
    let mut sent = JoinSet::new();
    for _ in 0..20 {
        let request = keyed();
        sent.spawn(async move { request.send(addr).await.status });
    }
    let waiting = async || -> i64 {
        sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%publish%'",
        )
        .fetch_one(&t.db.pool)
        .await
        .expect("queries")
    };
    eventually("the organisation has its connections", async || waiting().await == 4).await;
    witness.expect_served().await;
    assert_eq!(publication(other, &event).send(addr).await.status, 202);
    assert_eq!(waiting().await, 4, "half of the connections");
    lock.rollback().await.expect("ends");
    while let Some(status) = sent.join_next().await {
        assert_eq!(status.expect("ends"), 202);
    }
    t.gateway.stop().await;
}

/// A role listens in a transaction that stays open, and another one notifies until the queue is full. The
/// size of the queue can be set from PostgreSQL 17 on; before, it takes 8 GiB.
#[tokio::test]
async fn a_full_notification_queue_delays_events_and_stops_nothing() {
    if !TestDb::create().await.has_version(17).await {
        return;
    }
    let (cluster, db) = TestDb::create_alone_with(&[("max_notify_queue_pages", "64")]).await;
    let gateway = TestGateway::gateway(&db, |_| {}).await;
    let witness = Witness::begin(&db, &gateway).await;
    let mut listener = PgConnection::connect(db.url()).await.expect("connects");
    listener.execute("listen flood").await.expect("listens");
    let open = listener.begin().await.expect("begins");
    let mut flood = PgConnection::connect(db.url()).await.expect("connects");
    let error = loop {
        if let Err(error) = flood.execute("select pg_notify('flood', repeat('x', 7900))").await {
            break error;
        }
    };
    assert!(error.to_string().contains("NOTIFY queue"), "{error}");
    for _ in 0..3 {
        witness.expect_served().await;
    }
    // Its notifications arrive when the transaction ends, so no statement can be awaited.
    drop(open);
    listener.close_hard().await.expect("closes");
    gateway.stop().await;
    cluster.close().await.expect("ends");
}

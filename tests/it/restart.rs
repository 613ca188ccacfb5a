//! The database restarts: the gateway continues from its position, and no event is lost or duplicated.

use sqlx::postgres::{PgConnection, PgPoolOptions};
use sqlx::{Connection as _, Executor as _};
use warden_devkit::cluster::{Cluster, SUPERUSER};

use crate::harness::{Client, TestDb, TestGateway, cluster_options, eventually, within};

/// Starts a cluster for one test, because the test kills it.
async fn own_cluster() -> (Cluster, TestDb) {
    let mut options = cluster_options();
    // Each commit flushes its own record. Only the WAL writer flushes everything else, and it now rarely
    // runs.
    options.settings.push(("wal_writer_delay".into(), "10s".into()));
    let cluster = Cluster::start(options).await.expect("PostgreSQL starts");
    warden::postgres::migrate_platform(&cluster.url("postgres", SUPERUSER)).await.expect("migrates");
    let url = cluster.url("postgres", SUPERUSER);
    let db = TestDb::at("postgres", &url, &cluster.url("postgres", "warden_gateway")).await;
    db.run("alter role warden_gateway login").await;
    (cluster, db)
}

async fn next_xid(db: &TestDb) -> i64 {
    sqlx::query_scalar("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
        .fetch_one(&db.pool)
        .await
        .expect("reads")
}

/// Inserts a call as soon as the database accepts it. Connections from before the crash are dead, so attempts
/// may fail.
async fn insert_when_back(db: &TestDb, org: uuid::Uuid) -> uuid::Uuid {
    let mut inserted = None;
    eventually("the database is back", async || {
        let row = sqlx::query_scalar("insert into calls (org_id) values ($1) returning id").bind(org);
        inserted = row.fetch_one(&db.pool).await.ok();
        inserted.is_some()
    })
    .await;
    inserted.expect("inserted")
}

/// After a crash PostgreSQL assigns transaction ids again that it assigned but never flushed. They are below
/// the tailer's xmax and not in its list, so only the event id reveals their events (`id > m`).
#[tokio::test]
async fn reused_transaction_ids_lose_no_event() {
    let (mut cluster, db) = own_cluster().await;
    let t = TestGateway::start_with(db, |_| {}).await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    client.join("calls").await;
    t.db.insert_call(org).await;
    client.expect_event("calls", "call.created").await;

    let mut reuses = 0;
    for _ in 0..5 {
        let flushed = next_xid(&t.db).await;
        // Aborted transactions end without a flush, and raise the xmax of every later snapshot.
        let mut burner = PgConnection::connect(t.db.url()).await.expect("connects");
        for _ in 0..100 {
            let mut tx = burner.begin().await.expect("begins");
            tx.execute("select pg_current_xact_id()").await.expect("gets an id");
            tx.rollback().await.expect("rolls back");
        }
        let burned = next_xid(&t.db).await;
        assert!(burned >= flushed + 100, "{flushed} to {burned}");
        // Two more reads prove that the tailer has taken a snapshot since.
        let reads = t.gateway.metrics().reads.get();
        eventually("the tailer polls", async || t.gateway.metrics().reads.get() >= reads + 2).await;

        cluster.kill9().await.expect("kills");
        cluster.start_again().await.expect("starts");
        let call = insert_when_back(&t.db, org).await;
        if next_xid(&t.db).await < burned {
            reuses += 1;
        }
        let event = client.expect_event("calls", "call.created").await;
        assert_eq!(event.row_id(), call.to_string());
    }
    assert!(reuses >= 1, "no crash made PostgreSQL reuse transaction ids: the test shows nothing");
    t.gateway.stop().await;
    cluster.close().await.expect("ends");
}

/// Sessions stay open while the database restarts, and the tailer's state shows the loss. Events that are
/// committed right after the restart, before the tailer reconnects, arrive once.
#[tokio::test]
async fn sessions_survive_a_database_restart() {
    let (mut cluster, db) = own_cluster().await;
    let t = TestGateway::start_with(db, |_| {}).await;
    let org = t.db.create_org().await;
    let mut client: Client = t.connect(org).await;
    client.join("calls").await;

    cluster.stop().await.expect("stops");
    let mut state = t.gateway.reader();
    let lost = |s: &warden::log::TailerState| matches!(s, warden::log::TailerState::Lost(_));
    within("the tailer reports the loss", state.wait_for(lost)).await.expect("runs");
    cluster.start_again().await.expect("starts");
    let pool = PgPoolOptions::new().max_connections(1).connect(t.db.url()).await.expect("connects");
    let mut expected = Vec::new();
    for _ in 0..20 {
        let row = sqlx::query_scalar("insert into calls (org_id) values ($1) returning id").bind(org);
        let call: uuid::Uuid = row.fetch_one(&pool).await.expect("inserts");
        expected.push(call.to_string());
    }
    for call in expected {
        assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call);
    }
    t.gateway.stop().await;
    cluster.close().await.expect("ends");
}

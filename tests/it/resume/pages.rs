//! The tailer reads a bulk statement page by page, and between two pages the node is between two points.
//! Clients of any organisation can resume there, and no event is lost or duplicated.

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;
use warden::app::Gateway;

use super::{CLOSE_TIMEOUT, connect, cursor_after_one_call};
use crate::harness::{Client, TestDb, TestGateway, eventually};

/// Rows in a page, few enough for many pages.
const PAGE_ROWS: u32 = 20;
const BULK_ROWS: u64 = 1_000;

async fn gateway_with_pages(db: &TestDb, recent_bytes: usize) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.limits.tailer.page_rows_max = PAGE_ROWS;
        config.limits.recent.bytes_max = recent_bytes;
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await
}

/// Inserts rows of two organisations alternately in one statement, so that every page has events of both.
async fn insert_bulk(db: &TestDb, orgs: [Uuid; 2]) {
    let [even, odd] = orgs;
    db.run(format!(
        "insert into calls (org_id, metadata)
         select case n % 2 when 0 then '{even}'::uuid else '{odd}'::uuid end, jsonb_build_object('n', n)
         from generate_series(1, {BULK_ROWS}) n"
    ))
    .await;
}

/// Expects the bulk's rows with these numbers, in order.
async fn expect_bulk(client: &mut Client, numbers: impl Iterator<Item = u64>) {
    for n in numbers {
        let event = client.expect_event("calls", "call.created").await;
        assert_eq!(event.data("metadata")["n"], n);
    }
}

/// A lock on the log stops the tailer between two pages.
#[tokio::test]
async fn joins_between_two_pages_lose_and_duplicate_nothing() {
    let db = TestDb::create().await;
    let (org, other, third) = (db.create_org().await, db.create_org().await, db.create_org().await);
    let gateway = gateway_with_pages(&db, 64 * 1024 * 1024).await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    let since_other = cursor_after_one_call(&gateway, &db, other).await;
    let since_third = cursor_after_one_call(&gateway, &db, third).await;
    let missed = db.insert_call(third).await;
    let mut follower = connect(&gateway, org).await;
    follower.join("calls").await;

    insert_bulk(&db, [org, other]).await;
    // A client that was connected before the bulk has seen part of it.
    let mut inside = String::new();
    for _ in 0..PAGE_ROWS {
        inside = follower.expect_event("calls", "call.created").await.cursor().to_owned();
    }
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut lock = connection.begin().await.expect("begins");
    sqlx::query("lock table warden.events in access exclusive mode")
        .execute(&mut *lock)
        .await
        .expect("locks");
    // By then the tailer has dispatched everything that it read before.
    eventually("the tailer waits for the log", async || {
        sqlx::query_scalar(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and usename = 'warden_gateway'",
        )
        .fetch_one(&db.pool)
        .await
        .expect("queries")
    })
    .await;
    let read = gateway.metrics().events.get();
    assert!(read < BULK_ROWS, "the tailer has read the whole bulk: the test shows nothing");

    let mut clients = Vec::new();
    for (of, since, first) in
        [(org, &since, 2), (other, &since_other, 1), (org, &inside, 2 * u64::from(PAGE_ROWS) + 2)]
    {
        let mut client = connect(&gateway, of).await;
        assert_eq!(client.join_with("calls", json!({"since": since})).await, json!({"cursor": since}));
        clients.push((client, first));
    }
    let mut third_client = connect(&gateway, third).await;
    third_client.join_with("calls", json!({"since": since_third})).await;
    assert_eq!(third_client.expect_event("calls", "call.created").await.row_id(), missed.to_string());
    // The missed events of the other clients arrive too, before the tailer continues.
    for (client, first) in &mut clients {
        let event = client.expect_event("calls", "call.created").await;
        assert_eq!(event.data("metadata")["n"], *first);
    }
    eventually("all resumes are served", async || gateway.metrics().replays_from_memory.get() >= 4).await;
    assert_eq!(gateway.metrics().events.get(), read, "the tailer has continued: the test shows nothing");

    lock.commit().await.expect("ends");
    for (client, first) in &mut clients {
        expect_bulk(client, (*first + 2..=BULK_ROWS).step_by(2)).await;
    }
    for of in [org, other, third] {
        db.publish(of, "calls", "last").await;
    }
    for (client, _) in &mut clients {
        client.expect_only("calls", "last").await;
    }
    third_client.expect_only("calls", "last").await;
    assert_eq!(gateway.metrics().resyncs.get(), 0);
    gateway.stop().await;
}

/// Rows of more bytes than a page may have are read in smaller pages.
#[tokio::test]
async fn pages_are_limited_in_bytes_and_lose_nothing() {
    const PAGE_BYTES: usize = 4_000;
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    let gateway = TestGateway::gateway(&db, |config| config.limits.tailer.page_bytes_max = PAGE_BYTES).await;
    let mut clients = [connect(&gateway, org).await, connect(&gateway, other).await];
    for client in &mut clients {
        client.join("calls").await;
    }
    let reads = gateway.metrics().reads.get();
    insert_bulk(&db, [other, org]).await;
    for (client, first) in clients.iter_mut().zip([1, 2]) {
        expect_bulk(client, (first..=BULK_ROWS).step_by(2)).await;
    }
    // A row takes more than 256 bytes.
    let pages = gateway.metrics().reads.get() - reads;
    assert!(pages >= BULK_ROWS * 256 / PAGE_BYTES as u64, "{pages} pages");
    db.publish(org, "calls", "last").await;
    clients[0].expect_only("calls", "last").await;
    gateway.stop().await;
}

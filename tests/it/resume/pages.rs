//! A bulk is read page by page, and between two pages a node stands at no point: clients come back all the
//! same, of any organisation, and nothing is lost or doubled for them.

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;
use warden::app::Gateway;

use super::{CLOSE_TIMEOUT, connect, seen_one};
use crate::harness::{Client, TestDb, TestGateway, eventually};

/// So many rows in a page, where a test wants many pages.
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

/// One statement for two organisations in turn, so that every page has events of both.
async fn insert_bulk(db: &TestDb, orgs: [Uuid; 2]) {
    let [even, odd] = orgs;
    db.run(format!(
        "insert into calls (org_id, metadata)
         select case n % 2 when 0 then '{even}'::uuid else '{odd}'::uuid end, jsonb_build_object('n', n)
         from generate_series(1, {BULK_ROWS}) n"
    ))
    .await;
}

/// The numbers of the bulk's rows that came, up to the last.
async fn expect_bulk(client: &mut Client, numbers: impl Iterator<Item = u64>) {
    for n in numbers {
        let event = client.expect_event("calls", "call.created").await;
        assert_eq!(event.data("metadata")["n"], n);
    }
}

/// The reader is stopped between two pages, by a lock on the log.
#[tokio::test]
async fn joins_between_two_pages_are_answered_and_neither_lose_nor_double() {
    let db = TestDb::create().await;
    let (org, other, third) = (db.create_org().await, db.create_org().await, db.create_org().await);
    let gateway = gateway_with_pages(&db, 64 * 1024 * 1024).await;
    let since = seen_one(&gateway, &db, org).await;
    let since_other = seen_one(&gateway, &db, other).await;
    let since_third = seen_one(&gateway, &db, third).await;
    let missed = db.insert_call(third).await;
    let mut follower = connect(&gateway, org).await;
    follower.join("calls").await;

    insert_bulk(&db, [org, other]).await;
    // In the midst of the pages, a client that came before them has seen some.
    let mut within = String::new();
    for _ in 0..PAGE_ROWS {
        within = follower.expect_event("calls", "call.created").await.cursor().to_owned();
    }
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut held = connection.begin().await.expect("begins");
    sqlx::query("lock table warden.events in access exclusive mode")
        .execute(&mut *held)
        .await
        .expect("locks");
    // What it read before is passed on by then.
    eventually("the reader waits for the log", async || {
        sqlx::query_scalar(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and usename = 'warden_gateway'",
        )
        .fetch_one(&db.pool)
        .await
        .expect("asks")
    })
    .await;
    let read = gateway.metrics().events.get();
    assert!(read < BULK_ROWS, "the reader is through: nothing is shown");

    let mut clients = Vec::new();
    for (of, since, first) in
        [(org, &since, 2), (other, &since_other, 1), (org, &within, 2 * u64::from(PAGE_ROWS) + 2)]
    {
        let mut client = connect(&gateway, of).await;
        assert_eq!(client.join_with("calls", json!({"since": since})).await, json!({"cursor": since}));
        clients.push((client, first));
    }
    let mut of_third = connect(&gateway, third).await;
    of_third.join_with("calls", json!({"since": since_third})).await;
    assert_eq!(of_third.expect_event("calls", "call.created").await.row_id(), missed.to_string());
    // What they missed comes too, before the reader goes on.
    for (client, first) in &mut clients {
        let event = client.expect_event("calls", "call.created").await;
        assert_eq!(event.data("metadata")["n"], *first);
    }
    eventually("all are served", async || gateway.metrics().replays_from_memory.get() >= 4).await;
    assert_eq!(gateway.metrics().events.get(), read, "the reader goes on: nothing is shown");

    held.commit().await.expect("ends");
    for (client, first) in &mut clients {
        expect_bulk(client, (*first + 2..=BULK_ROWS).step_by(2)).await;
    }
    for of in [org, other, third] {
        db.publish(of, "calls", "last").await;
    }
    for (client, _) in &mut clients {
        client.expect_only("calls", "last").await;
    }
    of_third.expect_only("calls", "last").await;
    assert_eq!(gateway.metrics().resyncs.get(), 0);
    gateway.stop().await;
}

//! The seam between replay and live events, as a property. Clients disconnect and resume at random on two
//! nodes while writers never stop, and each client receives every event once.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::connect;
use crate::harness::{TestDb, TestGateway};

const ORGS: usize = 2;
const WRITERS: usize = 6;
const CLIENTS_PER_ORG: usize = 8;
/// Number of transactions of one writer.
const TRANSACTIONS: usize = 60;
/// Size of a large event's payload.
const FILLER_BYTES: i32 = 20_000;
const LAST: &str = "the.last";

/// Publishes in transactions of random length, one after the other, some of which are rolled back. Clients
/// must see the events of one writer in the order of their numbers.
async fn write(db: Arc<TestDb>, orgs: Vec<Uuid>, writer: usize, mut random: fastrand::Rng) {
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    for _ in 0..TRANSACTIONS {
        let mut tx = connection.begin().await.expect("begins");
        for _ in 0..random.usize(1..4) {
            let org = orgs[random.usize(..orgs.len())];
            // Some events are large, so that a replay takes many buffers and live events arrive meanwhile.
            sqlx::query(
                "select warden.publish($1, 'calls', 'seam.test', jsonb_build_object(
                    'n', nextval('seam'), 'writer', $2::bigint, 'filler', repeat('x', $3)))",
            )
            .bind(org)
            .bind(i64::try_from(writer).expect("small"))
            .bind(if random.bool() { FILLER_BYTES } else { 0 })
            .execute(&mut *tx)
            .await
            .expect("publishes");
            // Long enough for other writers to commit in between, and for tailers to poll.
            for _ in 0..random.usize(..6) {
                tokio::task::yield_now().await;
                sqlx::query("select 1").execute(&mut *tx).await.expect("waits");
            }
        }
        if random.usize(..5) == 0 {
            tx.rollback().await.expect("rolls back");
        } else {
            tx.commit().await.expect("commits");
        }
    }
}

/// Follows `calls` until the last event, on random nodes, and disconnects at random.
async fn follow(
    gateways: [std::net::SocketAddr; 2],
    org: Uuid,
    mut random: fastrand::Rng,
    first: String,
) -> Vec<i64> {
    let token = crate::harness::token(org, &json!({}));
    let mut since = first;
    let mut seen = Vec::new();
    let mut of_writer = HashMap::new();
    loop {
        let node = gateways[random.usize(..2)];
        let mut client = crate::harness::Client::connect(node, &token).await;
        let response = client.join_with("calls", json!({"since": since})).await;
        assert_eq!(response, json!({"cursor": since}), "no resync");
        for _ in 0..random.usize(1..40) {
            let event = client.next_event().await;
            since = event.cursor().to_owned();
            if event.name == LAST {
                return seen;
            }
            let n = event.data("n").as_i64().expect("a number");
            if let Some(writer) = event.data("writer").as_i64() {
                let before = of_writer.insert(writer, n);
                assert!(before.is_none_or(|before| before < n), "writer {writer}: {n} after {before:?}");
            }
            seen.push(n);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnecting_clients_receive_every_event_once() {
    follow_on_two_nodes(5_000).await;
}

/// Nearly every read takes several pages, so that clients disconnect and resume between two of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_reconnect_between_pages_receive_every_event_once() {
    follow_on_two_nodes(2).await;
}

/// The numbers of all logged events, by organisation.
async fn logged_numbers(db: &TestDb) -> HashMap<Uuid, Vec<i64>> {
    let mut numbers: HashMap<Uuid, Vec<i64>> = HashMap::new();
    let logged: Vec<(Uuid, i64)> =
        sqlx::query_as("select org_id, (data->>'n')::bigint from warden.events where event = 'seam.test'")
            .fetch_all(&db.pool)
            .await
            .expect("reads");
    for (org, n) in logged {
        numbers.entry(org).or_default().push(n);
    }
    numbers
}

async fn follow_on_two_nodes(page_rows: u32) {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("WARDEN_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let db = Arc::new(TestDb::create().await);
    db.run("create sequence seam; grant usage on sequence seam to public").await;
    let mut orgs = Vec::new();
    for _ in 0..ORGS {
        orgs.push(db.create_org().await);
    }
    // The second node keeps almost no recent events, and replays from the log.
    let without_recent = TestGateway::gateway(&db, |config| {
        config.limits.recent.bytes_max = 1_000;
        config.limits.tailer.page_rows_max = page_rows;
        config.limits.session.close_timeout = super::CLOSE_TIMEOUT;
    });
    let first = TestGateway::gateway(&db, |config| {
        config.limits.tailer.page_rows_max = page_rows;
        config.limits.session.close_timeout = super::CLOSE_TIMEOUT;
    });
    let gateways = [first.await, without_recent.await];
    let nodes = [gateways[0].public_addr(), gateways[1].public_addr()];

    let mut open = PgConnection::connect(db.url()).await.expect("connects");
    let mut open = open.begin().await.expect("begins");
    let mut followers = Vec::new();
    for org in &orgs {
        let mut client = connect(&gateways[0], *org).await;
        let first = client.join("calls").await["cursor"].as_str().expect("a cursor").to_owned();
        for _ in 0..CLIENTS_PER_ORG {
            let follower = follow(nodes, *org, random.fork(), first.clone());
            followers.push((*org, tokio::spawn(follower)));
        }
    }
    sqlx::query("select warden.publish($1, 'calls', 'seam.test', '{\"n\": 0}')")
        .bind(orgs[0])
        .execute(&mut *open)
        .await
        .expect("publishes");
    let writers: Vec<_> =
        (0..WRITERS).map(|w| tokio::spawn(write(Arc::clone(&db), orgs.clone(), w, random.fork()))).collect();
    for writer in writers {
        writer.await.expect("writes");
    }
    open.commit().await.expect("commits");
    for org in &orgs {
        db.publish(*org, "calls", LAST).await;
    }

    let mut expected = logged_numbers(&db).await;
    for (org, follower) in followers {
        let mut seen = follower.await.expect("follows");
        let expected = expected.get_mut(&org).expect("events");
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(&seen, expected, "WARDEN_SEED={seed}");
    }
    // The test shows something only if replays came from memory and from the log.
    assert!(gateways[0].metrics().replays_from_memory.get() > 0);
    assert!(gateways[1].metrics().replays_from_log.get() > 0);
    for gateway in gateways {
        gateway.stop().await;
    }
}

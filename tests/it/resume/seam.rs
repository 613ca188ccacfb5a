//! The seam between replay and live, as a property: clients that come and go at random, on two nodes, while
//! writers never stop, see every event once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::{connect, gateway_on};
use crate::harness::TestDb;

const ORGS: usize = 2;
const WRITERS: usize = 6;
const CLIENTS_PER_ORG: usize = 8;
/// Transactions of one writer.
const TRANSACTIONS: usize = 60;
const LAST: &str = "the.last";

/// Each writer updates its calls in transactions of random length, some held open for a while, some
/// rolled back; every committed update counts its call's version up.
async fn write(db: Arc<TestDb>, orgs: Vec<Uuid>, mut random: fastrand::Rng) {
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    for _ in 0..TRANSACTIONS {
        let mut tx = connection.begin().await.expect("begins");
        for _ in 0..random.usize(1..4) {
            let org = orgs[random.usize(..orgs.len())];
            sqlx::query(
                "select warden.publish($1, 'calls', 'seam.test', jsonb_build_object('n', nextval('seam')))",
            )
            .bind(org)
            .execute(&mut *tx)
            .await
            .expect("publishes");
            // Long enough for others to commit in between, and for readers to look.
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

/// Follows `calls`, on one node and then the other, and goes away at random, until the last event.
async fn follow(
    gateways: [std::net::SocketAddr; 2],
    org: Uuid,
    mut random: fastrand::Rng,
    first: String,
) -> Vec<i64> {
    let token = crate::harness::token(org, &json!({}));
    let mut since = first;
    let mut seen = Vec::new();
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
            seen.push(event.data("n").as_i64().expect("a number"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_and_go_see_every_event_once() {
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
    let gateways = [gateway_on(&db).await, gateway_on(&db).await];
    let nodes = [gateways[0].public_addr(), gateways[1].public_addr()];

    let mut held = PgConnection::connect(db.url()).await.expect("connects");
    let mut held = held.begin().await.expect("begins");
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
        .execute(&mut *held)
        .await
        .expect("publishes");
    let is_done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..WRITERS).map(|_| tokio::spawn(write(Arc::clone(&db), orgs.clone(), random.fork()))).collect();
    for writer in writers {
        writer.await.expect("writes");
    }
    held.commit().await.expect("commits");
    is_done.store(true, Ordering::Relaxed);
    for org in &orgs {
        db.publish(*org, "calls", LAST).await;
    }

    let mut expected: HashMap<Uuid, Vec<i64>> = HashMap::new();
    let logged: Vec<(Uuid, i64)> =
        sqlx::query_as("select org_id, (data->>'n')::bigint from warden.events where event = 'seam.test'")
            .fetch_all(&db.pool)
            .await
            .expect("reads");
    for (org, n) in logged {
        expected.entry(org).or_default().push(n);
    }
    for (org, follower) in followers {
        let mut seen = follower.await.expect("follows");
        let expected = expected.get_mut(&org).expect("events");
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(&seen, expected, "WARDEN_SEED={seed}");
    }
    for gateway in gateways {
        gateway.stop().await;
    }
}

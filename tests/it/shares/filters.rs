//! Memory of filters, filters that most events are compared with, and the time to evaluate them.

use serde_json::json;
use uuid::Uuid;

use super::connect_user;
use crate::harness::{Client, TestDb, TestGateway};

/// Topics that one socket may join with a filter.
const TOPICS: usize = 32;
/// Sockets after which a limit must be reached.
const SOCKETS_MAX: usize = 60;

async fn start() -> TestGateway {
    let db = TestDb::create().await;
    db.run(format!(
        "do $$ begin for n in 1..{TOPICS} loop
           execute format('create table t%s (id int primary key, org_id uuid not null, n int, note text)', n);
           execute format('grant select on t%s to authenticated', n);
           perform warden.watch(format('t%s', n)::regclass, 't' || n, 'row', visibility => 'organisation');
         end loop; end $$"
    ))
    .await;
    TestGateway::start_with(db, |_| {}).await
}

/// Sockets of an organisation join with distinct filters until one is rejected with this reason.
async fn join_until(t: &TestGateway, org: Uuid, reason: &str, filter: fn(usize) -> String) -> Vec<Client> {
    let mut sockets = Vec::new();
    for n in 0.. {
        if n % TOPICS == 0 {
            assert!(sockets.len() < SOCKETS_MAX, "{reason}: there is no limit");
            sockets.push(connect_user(t, org, sockets.len()).await);
        }
        let client = sockets.last_mut().expect("the present one");
        let topic = format!("t{}", n % TOPICS + 1);
        let reply = client.push(&topic, "phx_join", json!({"filter": filter(n)})).await;
        if reply.status == "error" {
            assert_eq!(reply.response["reason"], reason, "{reply:?}");
            break;
        }
    }
    sockets
}

/// Writes rows of the organisation that no filter selects, and expects that others are served meanwhile, also
/// with a filter of their own.
async fn expect_others_served(t: &TestGateway, greedy: Uuid) {
    let witness = t.witness().await;
    let other = t.db.create_org().await;
    let mut client = t.connect(other).await;
    client.join_with("t1", json!({"filter": "n=gt.5&note=like.*wanted*"})).await;
    let rows = format!("select n, '{greedy}', 0, repeat('y', 1000) from generate_series(1, 500) n");
    let writes = async {
        for topic in 1..=2 {
            t.db.run(format!("insert into t{topic} {rows}")).await;
        }
    };
    let served = async {
        for _ in 0..3 {
            witness.expect_served().await;
        }
    };
    tokio::join!(writes, served);
    t.db.run(format!("insert into t1 values (1001, '{other}', 5, 'wanted'), (1002, '{other}', 6, 'wanted')"))
        .await;
    assert_eq!(client.expect_event("t1", "row.created").await.data("id"), 1002);
    t.db.run("delete from t1; delete from t2").await;
}

#[tokio::test]
async fn an_organisation_with_all_its_filters_leaves_filters_to_others() {
    let t = start().await;
    // Each organisation keeps its share while the next one fills its own.
    let mut held = Vec::new();
    let long = |n| format!("note=in.({n},{})", "x".repeat(3900));
    let scanned = |n| format!("n=gt.0&or=(n.eq.{n},note.like.*y{n}*,id.gt.10{n})");
    for (reason, filter) in
        [("filters_per_org", long as fn(usize) -> String), ("scanned_filters_per_org", scanned)]
    {
        let greedy = t.db.create_org().await;
        held.push(join_until(&t, greedy, reason, filter).await);
        expect_others_served(&t, greedy).await;
    }
    drop(held);
    t.gateway.stop().await;
}

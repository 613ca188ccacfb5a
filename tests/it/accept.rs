//! Accepted upgrades: the answer, and how the gateway learns which organisations exist.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use crate::harness::{Answer, Client, TestDb, TestGateway, Upgrade, eventually, handshake, token};

const PROTOCOL: &str = "sec-websocket-protocol";

/// Sends an upgrade for a new session of the organisation.
async fn upgrade(t: &TestGateway, org: Uuid) -> Answer {
    Upgrade::bearer(&token(org, &json!({}))).send(t.gateway.public_addr()).await
}

fn assert_unknown(answer: &Answer) {
    assert_eq!((answer.status, answer.code().as_str()), (403, "unknown_organisation"), "{answer:?}");
}

fn org_queries(t: &TestGateway) -> u64 {
    t.gateway.metrics().directory_org_queries.get()
}

/// Waits until the tailer has read everything that was committed before.
async fn settle(t: &TestGateway, org: Uuid) {
    let mut client = t.connect(org).await;
    client.join("org").await;
    t.db.publish(org, "org", "settled").await;
    while client.next_event().await.name != "settled" {}
}

#[tokio::test]
async fn a_header_token_is_answered_without_a_subprotocol() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let answer = upgrade(&t, org).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert_eq!(answer.headers(PROTOCOL), Vec::<&str>::new());
    assert_eq!(answer.headers("upgrade"), ["websocket"]);
    // Example of RFC 6455, section 1.3.
    assert_eq!(answer.headers("sec-websocket-accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
    assert_eq!(answer.headers("sec-websocket-extensions"), Vec::<&str>::new());
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_answer_names_the_phoenix_subprotocol_and_never_the_token() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    let jwt = token(org, &json!({}));
    // A JWT never contains the two characters in which the alphabets differ. The tests in `upgrade` use
    // tokens that do.
    let encoded = [
        STANDARD_NO_PAD.encode(&jwt),
        URL_SAFE_NO_PAD.encode(&jwt),
        base64::engine::general_purpose::STANDARD.encode(&jwt),
    ];
    for encoded in &encoded {
        let entry = format!("base64url.bearer.phx.{encoded}");
        for offer in [format!("phoenix, {entry}"), format!("{entry},phoenix"), format!("x, phoenix, {entry}")]
        {
            let answer = Upgrade::new().with("Sec-WebSocket-Protocol", &offer).send(addr).await;
            assert_eq!((answer.status, answer.headers(PROTOCOL)), (101, vec!["phoenix"]), "{answer:?}");
            assert!(!answer.head.contains(encoded.as_str()) && !answer.head.contains("bearer"), "{answer:?}");
        }
        let split =
            Upgrade::new().with("Sec-WebSocket-Protocol", "phoenix").with("Sec-WebSocket-Protocol", &entry);
        let answer = split.send(addr).await;
        assert_eq!((answer.status, answer.headers(PROTOCOL)), (101, vec!["phoenix"]), "{answer:?}");
    }
    let both = Upgrade::bearer(&jwt).with("Sec-WebSocket-Protocol", "phoenix").send(addr).await;
    assert_eq!((both.status, both.headers(PROTOCOL)), (101, vec!["phoenix"]), "{both:?}");

    // A client library accepts the answer, and the session works.
    let offer = format!("phoenix, base64url.bearer.phx.{}", encoded[0]);
    let path = "/socket/websocket?vsn=2.0.0";
    let (socket, response) = handshake(addr, path, &[(PROTOCOL, &offer)]).await.expect("is accepted");
    assert_eq!(response.headers()[PROTOCOL], "phoenix");
    drop(socket);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_new_organisation_can_connect_at_once() {
    let t = TestGateway::start().await;
    for _ in 0..20 {
        let org = t.db.create_org().await;
        let answer = upgrade(&t, org).await;
        assert_eq!(answer.status, 101, "{answer:?}");
    }
    // An organisation that was looked up before it existed is found too, because the log announces it.
    let late = Uuid::new_v4();
    assert_unknown(&upgrade(&t, late).await);
    t.db.run(format!("insert into organizations (id, name) values ('{late}', 'late')")).await;
    eventually("the new org is known", async || upgrade(&t, late).await.status == 101).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_deleted_organisation_is_closed_and_rejected() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        // The interval is long, so nothing here depends on the periodic check.
        config.limits.reconciler.interval = Duration::from_hours(1);
    })
    .await;
    let (gone, stays) = (t.db.create_org().await, t.db.create_org().await);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(t.connect(gone).await);
    }
    open[0].join("org").await;
    let mut witness = t.connect(stays).await;
    witness.join("calls").await;

    t.db.run(format!("delete from organizations where id = '{gone}'")).await;
    // The tailer may not have read the creation yet when the topic was joined.
    while open[0].next_event().await.name != "org.deleted" {}
    for client in &mut open {
        client.expect_close(4404).await;
        // Once a client receives the close, no node answer is stale any more.
        assert_unknown(&upgrade(&t, gone).await);
    }
    t.db.insert_call(stays).await;
    witness.expect_only("calls", "call.created").await;

    // An organisation that is cached and has no session on this node.
    let quiet = t.db.create_org().await;
    assert_eq!(upgrade(&t, quiet).await.status, 101);
    eventually("the session has ended", async || t.gateway.hub().org_count() == 1).await;
    t.db.run(format!("delete from organizations where id = '{quiet}'")).await;
    settle(&t, stays).await;
    assert_unknown(&upgrade(&t, quiet).await);

    // All organisations at once, including a cached one.
    assert_eq!(upgrade(&t, stays).await.status, 101);
    t.db.run("truncate organizations cascade").await;
    eventually("truncated orgs are unknown", async || upgrade(&t, stays).await.status == 403).await;
    witness.expect_close(4404).await;
    drop((open, witness));
    t.gateway.stop().await;
}

/// A restore or a replication role deletes rows without firing triggers.
#[tokio::test]
async fn the_reconciler_finds_organisations_deleted_without_a_log_event() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.reconciler.interval = Duration::from_millis(100);
    })
    .await;
    let (gone, quiet, stays) = (t.db.create_org().await, t.db.create_org().await, t.db.create_org().await);
    let mut open = t.connect(gone).await;
    let mut witness = t.connect(stays).await;
    witness.join("calls").await;
    // Cached, without a session on this node.
    assert_eq!(upgrade(&t, quiet).await.status, 101);
    eventually("the session has ended", async || t.gateway.hub().org_count() == 2).await;
    settle(&t, stays).await;

    t.db.run(format!(
        "set session_replication_role = replica; delete from organizations where id in ('{gone}', '{quiet}');
         set session_replication_role = origin"
    ))
    .await;
    open.expect_close(4404).await;
    assert_unknown(&upgrade(&t, gone).await);
    eventually("the cached organisation is rejected", async || upgrade(&t, quiet).await.status == 403).await;
    eventually("both are counted", async || t.gateway.metrics().orgs_swept.get() == 2).await;
    let call = t.db.insert_call(stays).await.to_string();
    while witness.next_event().await.data("id") != call.as_str() {}
    drop((open, witness));
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_cached_organisation_costs_no_query() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    settle(&t, org).await;
    assert_eq!(upgrade(&t, org).await.status, 101);
    let before = org_queries(&t);
    for answer in join_all((0..20).map(|_| upgrade(&t, org))).await {
        assert_eq!(answer.status, 101, "{answer:?}");
    }
    assert_eq!(org_queries(&t), before);

    // Changes of other organisations, and of this one's rows, do not invalidate the cache entry.
    t.db.run(format!("update organizations set name = 'renamed' where id = '{other}'")).await;
    t.db.insert_call(org).await;
    settle(&t, org).await;
    assert_eq!(org_queries(&t), before);
    t.gateway.stop().await;
}

#[tokio::test]
async fn concurrent_look_ups_share_one_query() {
    let t = TestGateway::start().await;
    let unknown = Uuid::new_v4();
    let before = org_queries(&t);
    for answer in join_all((0..50).map(|_| upgrade(&t, unknown))).await {
        assert_unknown(&answer);
    }
    assert_eq!(org_queries(&t) - before, 1);

    let org = t.db.create_org().await;
    settle(&t, t.db.create_org().await).await;
    let before = org_queries(&t);
    for answer in join_all((0..50).map(|_| upgrade(&t, org))).await {
        assert_eq!(answer.status, 101, "{answer:?}");
    }
    assert_eq!(org_queries(&t) - before, 1);
    t.gateway.stop().await;
}

#[tokio::test]
async fn without_the_database_only_cached_organisations_connect() {
    let t = TestGateway::start().await;
    let known = t.db.create_org().await;
    settle(&t, known).await;
    assert_eq!(upgrade(&t, known).await.status, 101);
    let (name, unknown) = (t.db.name.clone(), Uuid::new_v4());
    let admin = crate::harness::TestDb::at(
        "postgres",
        &crate::harness::shared_cluster_url("postgres", "postgres"),
        &crate::harness::shared_cluster_url("postgres", "postgres"),
    )
    .await;
    admin.run(format!("alter database {name} allow_connections false")).await;
    admin
        .run(format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"))
        .await;
    let answer = upgrade(&t, unknown).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"), "{answer:?}");
    assert_eq!(answer.headers("retry-after"), ["1"]);
    assert_eq!(upgrade(&t, known).await.status, 101, "a cached organisation needs no database");

    admin.run(format!("alter database {name} allow_connections true")).await;
    eventually("the gateway queries again", async || upgrade(&t, unknown).await.status == 403).await;
    let still_works = Client::connect(t.gateway.public_addr(), &token(known, &json!({}))).await;
    drop(still_works);
    t.gateway.stop().await;
}

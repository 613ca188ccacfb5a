//! Events that a back end publishes, and topics that are declared while the gateway runs.

use serde_json::json;
use sqlx::Executor as _;
use uuid::Uuid;

use super::{joined, with_orgs};
use crate::harness::eventually;

#[tokio::test]
async fn a_published_event_reaches_its_topic_and_org() {
    let (t, [org, other]) = with_orgs("").await;
    let call = Uuid::new_v4();
    let of_call = format!("call:{call}");
    let mut ours = joined(&t, org, &["recordings", "calls", &of_call, "org"]).await;
    let mut theirs = joined(&t, other, &["recordings", &of_call, "org"]).await;
    for topic in ["recordings", of_call.as_str()] {
        let id: i64 = sqlx::query_scalar("select warden.publish($1, $2, 'invoice.paid', $3)")
            .bind(org)
            .bind(topic)
            .bind(json!({"cents": 950, "by": "Zoë"}))
            .fetch_one(&t.db.pool)
            .await
            .expect("publishes");
        for reached in [topic, "org"] {
            let event = ours.expect_event(reached, "invoice.paid").await;
            assert_eq!(event.payload["data"], json!({"cents": 950, "by": "Zoë"}));
            assert_eq!(event.payload["id"], id);
            assert!(event.payload.get("old").is_none() && event.payload.get("truncated").is_none());
            assert!(!event.cursor().is_empty());
        }
    }
    t.db.publish(org, "org", "test.last").await;
    ours.expect_only("org", "test.last").await;
    t.db.publish(other, "org", "test.theirs").await;
    theirs.expect_only("org", "test.theirs").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_published_event_is_delivered_when_its_transaction_commits() {
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["org"]).await;
    let mut transaction = t.db.pool.begin().await.expect("begins");
    sqlx::query("select warden.publish($1, 'org', 'test.first')")
        .bind(org)
        .execute(&mut *transaction)
        .await
        .expect("publishes");
    t.db.publish(org, "org", "test.meanwhile").await;
    client.expect_event("org", "test.meanwhile").await;
    transaction.execute("select 1").await.expect("the transaction is still open");
    transaction.commit().await.expect("commits");
    let event = client.expect_event("org", "test.first").await;
    assert_eq!(event.payload["data"], json!({}), "the default data");
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_bulk_reaches_its_topics_in_order() {
    let (t, [org, other]) = with_orgs("select warden.declare_topic('invoices')").await;
    let mut ours = joined(&t, org, &["org"]).await;
    let mut of_topic = joined(&t, org, &["invoices"]).await;
    let mut theirs = joined(&t, other, &["org", "invoices"]).await;
    let topics = ["invoices", "calls"];
    let events: Vec<_> =
        (0..100).map(|n| json!({"topic": topics[n % 2], "event": "test.bulk", "data": {"n": n}})).collect();
    sqlx::query("select warden.publish_all($1, $2)")
        .bind(org)
        .bind(json!(events))
        .execute(&t.db.pool)
        .await
        .expect("publishes");
    for n in 0..100 {
        assert_eq!(ours.expect_event("org", "test.bulk").await.payload["data"]["n"], n);
        if n % 2 == 0 {
            assert_eq!(of_topic.expect_event("invoices", "test.bulk").await.payload["data"]["n"], n);
        }
    }
    t.db.publish(other, "org", "test.theirs").await;
    theirs.expect_only("org", "test.theirs").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_topic_can_be_joined_after_it_was_declared() {
    let (t, [org]) = with_orgs("").await;
    let mut client = t.connect(org).await;
    let reply = client.push("invoices", "phx_join", json!({})).await;
    assert_eq!((reply.status.as_str(), &reply.response["reason"]), ("error", &json!("unmatched topic")));
    t.db.run("select warden.declare_topic('invoices'); select warden.declare_topic('invoices')").await;
    eventually("the topic can be joined", async || {
        client.push("invoices", "phx_join", json!({})).await.status == "ok"
    })
    .await;
    t.db.publish(org, "invoices", "invoice.paid").await;
    client.expect_event("invoices", "invoice.paid").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_table_watched_while_the_gateway_runs_delivers_events() {
    let (t, [org]) = with_orgs("create table tasks (id bigint primary key, org_id uuid not null)").await;
    let mut client = t.connect(org).await;
    t.db.run("select warden.watch('tasks', 'tasks', 'task')").await;
    eventually("the topic can be joined", async || {
        client.push("tasks", "phx_join", json!({})).await.status == "ok"
    })
    .await;
    t.db.run(format!("insert into tasks values (7, '{org}')")).await;
    let event = client.expect_event("tasks", "task.created").await;
    assert_eq!(event.payload["data"], json!({"id": 7, "org_id": org}));
    t.gateway.stop().await;
}

//! Back ends that publish through `POST /v1/events`.

mod callers;
mod cloudevents;
mod idempotency;
mod invalid;
mod kills;
mod limits;
mod sdks;
mod tracing;

use std::net::SocketAddr;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Answer, Post, TestDb, TestGateway, token};

const PATH: &str = "/v1/events";

/// Token of a back end.
fn service(org: Uuid) -> String {
    token(org, &json!({"sub": "billing", "role": "service_role"}))
}

/// Starts a gateway on a database with a topic, and with organisations that were created before.
async fn with_orgs<const N: usize>() -> (TestGateway, [Uuid; N]) {
    let db = TestDb::create().await;
    let mut orgs = [Uuid::nil(); N];
    for org in &mut orgs {
        *org = db.create_org().await;
    }
    db.run("select warden.declare_topic('invoices'), warden.declare_entity_topic('invoice', 'integer')")
        .await;
    (TestGateway::start_with(db, |_| {}).await, orgs)
}

fn post(token: &str, body: &Value) -> Post {
    Post::json(PATH, token, body)
}

/// A valid event with this number.
fn paid(n: usize) -> Value {
    json!({"topic": "invoices", "event": "invoice.paid", "data": {"n": n}})
}

/// Publishes with success. Returns the body of the answer.
async fn publish(addr: SocketAddr, request: Post) -> Value {
    let answer = request.send(addr).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    serde_json::from_str(&answer.body).expect("JSON")
}

fn ids(answer: &Value) -> Vec<i64> {
    let events = answer["events"].as_array().expect("events");
    events.iter().map(|event| event["id"].as_i64().expect("an id")).collect()
}

/// Status and code of an answer.
fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

/// Number of published events, of all organisations.
async fn published(db: &TestDb) -> i64 {
    sqlx::query_scalar("select count(*) from warden.events where event = 'invoice.paid'")
        .fetch_one(&db.pool)
        .await
        .expect("counts")
}

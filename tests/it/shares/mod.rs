//! Each resource that organisations share is loaded to its limit by one of them, while another connects,
//! joins, resumes, receives and reads ([isolation](../../../docs/design/isolation.md)). Resources whose load
//! other modules know how to cause are tested there.

mod database;
mod filters;
mod log;
mod reading;
mod sessions;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::harness::{Answer, Client, Post, TestGateway, Upgrade, token};

/// Token of another user of the organisation, because the sessions of one user are limited too.
fn user(org: Uuid, n: usize) -> String {
    token(org, &json!({"sub": format!("user-{n}")}))
}

async fn connect_user(t: &TestGateway, org: Uuid, n: usize) -> Client {
    Client::connect(t.gateway.public_addr(), &user(org, n)).await
}

/// A request for rows.
fn rows(org: Uuid, path: &str) -> Upgrade {
    Upgrade::bearer(&token(org, &json!({}))).without("Upgrade").without("Connection").to(path)
}

/// Sends requests for the same rows at the same time.
fn many(t: &TestGateway, org: Uuid, path: &str, count: usize) -> JoinSet<Answer> {
    let (addr, mut sent) = (t.gateway.public_addr(), JoinSet::new());
    for _ in 0..count {
        let request = rows(org, path);
        sent.spawn(async move { request.send(addr).await });
    }
    sent
}

/// A request of a back end that publishes an event.
fn publication(org: Uuid, body: &Value) -> Post {
    Post::json("/v1/events", &token(org, &json!({"role": "service_role"})), body)
}

//! Database failures of every kind. Sessions stay open, `readyz` reports the state, and events committed
//! meanwhile arrive once. On another timeline every topic resyncs instead.

mod breaks;
mod pooler;
mod standby;

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;
use warden::app::Gateway;
use warden::log::TailerState;

use crate::harness::{Client, PostgresProxy, TestDb, TestGateway, Upgrade, eventually, token, within};

/// Short, because sockets are still open when the gateway stops and no client reads the Close frame any more.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(50);

/// A URL with several addresses, in libpq's form.
fn through(proxies: &[&PostgresProxy], database: &str, user: &str) -> String {
    let hosts: Vec<String> = proxies.iter().map(|proxy| proxy.host()).collect();
    format!(
        "postgres://{user}@{}/{database}?sslmode=disable&target_session_attrs=read-write",
        hosts.join(",")
    )
}

/// Starts a gateway that connects to its database through this URL.
async fn gateway_at(db: &TestDb, url: &str, change: impl FnOnce(&mut warden::config::Limits)) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.database = warden::postgres::options(url).expect("a URL");
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
        config.limits.tailer.reconnect_max = Duration::from_millis(200);
        change(&mut config.limits);
    })
    .await
}

async fn client(gateway: &Gateway, org: Uuid) -> Client {
    Client::connect(gateway.public_addr(), &token(org, &json!({}))).await
}

/// Status and body of `readyz` on the admin listener.
async fn readyz(gateway: &Gateway) -> (u16, String) {
    let request = Upgrade::new().to("/readyz").without("Upgrade").without("Connection");
    let operators = request.send(gateway.admin_addr()).await;
    (operators.status, operators.body)
}

/// Waits until `readyz` reports that the node does not follow the log, for these reasons.
async fn expect_lost(gateway: &Gateway, because: &[&str]) {
    let mut last = (0, String::new());
    eventually(&format!("readyz says {because:?}"), async || {
        last = readyz(gateway).await;
        last.0 == 503 && because.iter().all(|words| last.1.contains(words))
    })
    .await;
    let public = Upgrade::new().to("/readyz").without("Upgrade").without("Connection");
    let public = public.send(gateway.public_addr()).await;
    // The public listener's answer has the same status and names no address.
    assert_eq!(public.status, 503);
    assert!(!public.body.contains("127.0.0.1"), "{}", public.body);
}

async fn expect_following(gateway: &Gateway) {
    let mut reader = gateway.reader();
    within("follows", reader.wait_for(|s| *s == TailerState::Following)).await.expect("runs");
    assert_eq!(readyz(gateway).await.0, 200);
}

/// The session answers, whatever the database does.
async fn expect_open(client: &mut Client) {
    assert_eq!(client.push("phoenix", "heartbeat", json!({})).await.status, "ok");
}

/// Asserts that the next events create these calls, in this order.
async fn expect_calls(client: &mut Client, calls: &[Uuid]) {
    for call in calls {
        assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    }
}

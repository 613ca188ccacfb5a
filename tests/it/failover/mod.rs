//! Whatever a database can do: sessions stay open, readiness tells the truth, and what was committed
//! meanwhile arrives once; or, on another timeline, every topic is told.

mod breaks;
mod pooler;
mod standby;

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;
use warden::app::Gateway;
use warden::log::TailerState;

use crate::harness::{Client, Proxy, TestDb, TestGateway, Upgrade, connect_raw, eventually, token, within};

/// Sockets here are still open when their gateway stops, and nobody reads its Close any more.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(50);

/// A URL of several addresses, in libpq's form.
fn through(proxies: &[&Proxy], database: &str, user: &str) -> String {
    let hosts: Vec<String> = proxies.iter().map(|proxy| proxy.host()).collect();
    format!(
        "postgres://{user}@{}/{database}?sslmode=disable&target_session_attrs=read-write",
        hosts.join(",")
    )
}

/// A gateway that reaches its database by this URL.
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

/// Status and text of the operators' `readyz`, which agrees with the public one.
async fn readyz(gateway: &Gateway) -> (u16, String) {
    let request = Upgrade::new().to("/readyz").without("Upgrade").without("Connection");
    let operators = request.send(gateway.admin_addr()).await;
    (operators.status, operators.body)
}

/// Waits until the node says that it doesn't follow the log, and why.
async fn expect_lost(gateway: &Gateway, because: &[&str]) {
    let mut last = (0, String::new());
    eventually(&format!("readyz says {because:?}"), async || {
        last = readyz(gateway).await;
        last.0 == 503 && because.iter().all(|words| last.1.contains(words))
    })
    .await;
    let public = Upgrade::new().to("/readyz").without("Upgrade").without("Connection");
    let public = public.send(gateway.public_addr()).await;
    // To the public it names no address.
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

/// The next events must be these calls, in this order, and nothing else.
async fn expect_calls(client: &mut Client, calls: &[Uuid]) {
    for call in calls {
        assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    }
}

//! The edge of the public listener: each limit is reached, reported, counted and released. Also proxies,
//! cookies, TLS and the audit trail.

mod admin;
mod audit;
mod connections;
mod cookies;
mod descriptors;
mod handshakes;
mod messages;
mod origins;
mod proxies;
mod shares;
mod sizes;
mod tls;

use serde_json::json;
use uuid::Uuid;
use warden::config::Config;
use warden::http::parse_network;
use warden::metrics::LimitLabels;

use crate::harness::{Answer, TestDb, TestGateway, Upgrade, token};

/// Number of times a limit was exceeded.
fn reached(t: &TestGateway, limit: &'static str) -> u64 {
    t.gateway.metrics().limits_reached.get_or_create(&LimitLabels { limit }).get()
}

/// A gateway that trusts the test as a proxy, so that requests can claim any address.
pub(super) async fn behind_a_proxy(change: impl FnOnce(&mut Config)) -> TestGateway {
    TestGateway::start_with(TestDb::create().await, |config| {
        config.edge.proxies.trusted = vec![parse_network("127.0.0.1").expect("an address")];
        change(config);
    })
    .await
}

/// A valid upgrade of one of the organisation's users.
fn good(org: Uuid) -> Upgrade {
    Upgrade::bearer(&token(org, &json!({})))
}

/// A valid upgrade that a proxy forwards for this address.
fn from(org: Uuid, address: &str) -> Upgrade {
    good(org).with("X-Forwarded-For", address)
}

/// Asserts that the answer reports this exceeded limit, and that the metric counted it.
fn assert_reached(t: &TestGateway, answer: &Answer, limit: &'static str) {
    assert_eq!((answer.status, answer.code().as_str()), (429, limit), "{answer:?}");
    let retry_after = answer.headers("retry-after");
    let seconds: u64 = retry_after.first().and_then(|s| s.parse().ok()).expect("Retry-After in seconds");
    assert!((1..=60).contains(&seconds), "{answer:?}");
    assert!(!answer.message().is_empty(), "{answer:?}");
    assert!(reached(t, limit) > 0, "{limit} was not counted");
    assert!(t.gateway.metrics().encode().contains(&format!("warden_limit{{limit=\"{limit}\"}} ")), "{limit}");
}

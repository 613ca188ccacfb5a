//! Client addresses behind proxies. The tests find out which requests share an address by its handshake
//! limit.

use serde_json::json;
use uuid::Uuid;
use warden::config::Config;
use warden::http::{ForwardedHeader, parse_network};
use warden::rate::Rate;

use super::good;
use super::handshakes::until_limited;
use crate::harness::{TestDb, TestGateway, Upgrade, token};

const FEW: Rate = Rate::new(1, 4);

async fn start(change: impl FnOnce(&mut Config)) -> (TestGateway, Uuid) {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.admission.handshakes_per_address = FEW;
        change(config);
    })
    .await;
    let org = t.db.create_org().await;
    (t, org)
}

fn trusting(header: ForwardedHeader) -> impl FnOnce(&mut Config) {
    move |config| {
        config.edge.proxies.trusted = vec![parse_network("127.0.0.0/8").expect("a network")];
        config.edge.proxies.header = header;
    }
}

/// Asserts that these requests count as one address, and that `other` does not.
async fn assert_one_address(
    t: &TestGateway,
    name: &str,
    value: impl Fn(usize) -> String,
    org: Uuid,
    other: Option<&str>,
) {
    let bearer = token(org, &json!({}));
    let (n, answer) = until_limited(t, |n| Upgrade::bearer(&bearer).with(name, &value(n))).await;
    assert!(n >= 4 && answer.code() == "handshakes_per_address", "{n}: {answer:?}");
    if let Some(other) = other {
        let answer = good(org).with(name, other).send(t.gateway.public_addr()).await;
        assert_eq!(answer.status, 101, "{other}: {answer:?}");
    }
}

#[tokio::test]
async fn forwarded_addresses_of_untrusted_peers_are_ignored() {
    for name in ["X-Forwarded-For", "Forwarded", "X-Real-IP"] {
        let (t, org) = start(|_| {}).await;
        let value =
            |n| if name == "Forwarded" { format!("for=198.51.100.{n}") } else { format!("198.51.100.{n}") };
        assert_one_address(&t, name, value, org, None).await;
        t.gateway.stop().await;
    }
}

#[tokio::test]
async fn the_rightmost_untrusted_hop_is_the_client() {
    let (t, org) = start(trusting(ForwardedHeader::XForwardedFor)).await;
    let name = "X-Forwarded-For";
    // Values that a client sends stand to the left of those that the proxies add.
    assert_one_address(
        &t,
        name,
        |n| format!("203.0.113.{n}, 198.51.100.1, 127.0.0.9"),
        org,
        Some("198.51.100.2"),
    )
    .await;
    // All addresses of one /64.
    assert_one_address(&t, name, |n| format!("2001:db8:0:1::{n}"), org, Some("2001:db8:0:2::1")).await;
    // Without a readable address the request counts for the proxy itself.
    assert_one_address(&t, name, |n| format!("198.51.100.{n}, nonsense-{n}"), org, Some("198.51.100.3"))
        .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_forwarded_header_is_read_if_configured() {
    let (t, org) = start(trusting(ForwardedHeader::Forwarded)).await;
    let name = "Forwarded";
    let other = "for=\"[2001:db8::1]:4711\"";
    assert_one_address(&t, name, |n| format!("for=203.0.113.{n}, for=198.51.100.1;by=_p"), org, Some(other))
        .await;
    assert_one_address(&t, name, |n| format!("for=_hidden{n}"), org, Some("for=198.51.100.2")).await;
    // Only the client can have set the other header.
    let (n, _) = until_limited(&t, |n| {
        good(org).with(name, "for=198.51.100.7").with("X-Forwarded-For", &format!("203.0.113.{n}"))
    })
    .await;
    assert!(n >= 4, "{n}");
    t.gateway.stop().await;
}

//! Whose handshakes are counted together: shown by who is refused when an address has had its few.

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

/// These, all different, are one address: the limit is reached, and this other one is not concerned.
async fn are_one(
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
async fn nobody_is_believed_who_is_not_configured() {
    for name in ["X-Forwarded-For", "Forwarded", "X-Real-IP"] {
        let (t, org) = start(|_| {}).await;
        let value =
            |n| if name == "Forwarded" { format!("for=198.51.100.{n}") } else { format!("198.51.100.{n}") };
        are_one(&t, name, value, org, None).await;
        t.gateway.stop().await;
    }
}

#[tokio::test]
async fn the_rightmost_hop_that_is_no_proxy_counts() {
    let (t, org) = start(trusting(ForwardedHeader::XForwardedFor)).await;
    let name = "X-Forwarded-For";
    // Whatever a client writes stands to the left of what the proxies add.
    are_one(&t, name, |n| format!("203.0.113.{n}, 198.51.100.1, 127.0.0.9"), org, Some("198.51.100.2")).await;
    // All in one /64.
    are_one(&t, name, |n| format!("2001:db8:0:1::{n}"), org, Some("2001:db8:0:2::1")).await;
    // What can't be read is the proxy's own.
    are_one(&t, name, |n| format!("198.51.100.{n}, nonsense-{n}"), org, Some("198.51.100.3")).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn forwarded_is_read_where_that_is_what_the_proxies_write() {
    let (t, org) = start(trusting(ForwardedHeader::Forwarded)).await;
    let name = "Forwarded";
    let other = "for=\"[2001:db8::1]:4711\"";
    are_one(&t, name, |n| format!("for=203.0.113.{n}, for=198.51.100.1;by=_p"), org, Some(other)).await;
    are_one(&t, name, |n| format!("for=_hidden{n}"), org, Some("for=198.51.100.2")).await;
    // The other header is the client's own word.
    let (n, _) = until_limited(&t, |n| {
        good(org).with(name, "for=198.51.100.7").with("X-Forwarded-For", &format!("203.0.113.{n}"))
    })
    .await;
    assert!(n >= 4, "{n}");
    t.gateway.stop().await;
}

//! Limits on connections that are not upgraded, and on the sessions of a user, an organisation and a node.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;
use warden::config::Config;

use super::{assert_reached, behind_a_proxy, good, reached};
use crate::harness::{Answer, Client, TestDb, TestGateway, Upgrade, eventually, token, within};

async fn start(change: impl FnOnce(&mut Config)) -> TestGateway {
    TestGateway::start_with(TestDb::create().await, change).await
}

/// Opens connections that send nothing, and waits until the gateway has accepted them.
async fn silent(t: &TestGateway, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(t.gateway.public_addr()).await.expect("connects"));
    }
    streams
}

/// Answer to a request, or none if the connection ends without one.
async fn answer(t: &TestGateway, request: &Upgrade) -> Option<Answer> {
    let mut stream = TcpStream::connect(t.gateway.public_addr()).await.ok()?;
    stream.write_all(request.text().as_bytes()).await.ok()?;
    let mut first = [0];
    // Peeks, so that the answer's first byte stays readable.
    match within("an answer", stream.peek(&mut first)).await {
        Ok(1) => Some(within("an answer", Answer::read(&mut stream)).await),
        _ => None,
    }
}

async fn expect_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    within("the end of the connection", stream.read_to_end(&mut rest)).await.expect("ends");
}

#[tokio::test]
async fn half_open_connections_are_limited_per_address() {
    let t = start(|config| config.limits.admission.pending_per_address_max = 3).await;
    let org = t.db.create_org().await;
    // Sessions do not count as half-open connections.
    let sessions = [t.connect(org).await, t.connect(org).await, t.connect(org).await, t.connect(org).await];
    let held = silent(&t, 3).await;
    // The gateway accepts this connection after them.
    let refused = answer(&t, &good(org)).await.expect("an answer");
    assert_reached(&t, &refused, "pending_per_address");
    drop(held);
    eventually("there is room again", async || {
        answer(&t, &good(org)).await.is_some_and(|answer| answer.status == 101)
    })
    .await;
    drop(sessions);
    t.gateway.stop().await;
}

#[tokio::test]
async fn half_open_connections_are_limited_in_total_and_trusted_proxies_are_exempt_per_address() {
    let t = behind_a_proxy(|config| {
        config.limits.admission.pending_per_address_max = 1;
        config.limits.admission.pending_max = 3;
    })
    .await;
    let org = t.db.create_org().await;
    let held = silent(&t, 3).await;
    assert_reached(&t, &answer(&t, &good(org)).await.expect("an answer"), "pending");
    assert_eq!(reached(&t, "pending_per_address"), 0);
    drop(held);
    eventually("there is room again", async || {
        answer(&t, &good(org)).await.is_some_and(|answer| answer.status == 101)
    })
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn connections_without_a_timely_request_are_dropped() {
    let t = start(|config| config.limits.serve.header_timeout = Duration::from_millis(500)).await;
    let addr = t.gateway.public_addr();
    let mut says_nothing = TcpStream::connect(addr).await.expect("connects");
    let mut says_half = TcpStream::connect(addr).await.expect("connects");
    says_half.write_all(b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: x\r\n").await.expect("writes");
    let mut rests = TcpStream::connect(addr).await.expect("connects");
    rests.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("writes");
    assert_eq!(within("an answer", Answer::read(&mut rests)).await.status, 200);
    for stream in [&mut says_nothing, &mut says_half, &mut rests] {
        expect_end(stream).await;
    }
    // Single bytes now and then do not extend the deadline.
    let mut drips = TcpStream::connect(addr).await.expect("connects");
    within("the end of a slow request", async {
        while drips.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    t.gateway.stop().await;
}

/// Asserts that two of the `same` sessions are accepted and a third is rejected, while `others` are accepted.
async fn assert_two_sessions_at_most(
    t: &TestGateway,
    same: impl Fn(u32) -> String,
    others: &[String],
    limit: &'static str,
) {
    let addr = t.gateway.public_addr();
    let mut held = vec![Client::connect(addr, &same(0)).await, Client::connect(addr, &same(1)).await];
    for _ in 0..3 {
        assert_reached(t, &Upgrade::bearer(&same(2)).send(addr).await, limit);
    }
    assert_eq!(reached(t, limit), 3);
    for other in others {
        drop(Client::connect(addr, other).await);
    }
    // Open sessions are unaffected.
    held[0].join("calls").await;
    held.pop();
    eventually("there is room again", async || Upgrade::bearer(&same(2)).send(addr).await.status == 101)
        .await;
}

fn user(org: Uuid, n: u32) -> String {
    token(org, &json!({"sub": format!("user-{n}")}))
}

#[tokio::test]
async fn sessions_of_a_user_are_limited() {
    let t = start(|config| config.limits.admission.user_sessions_max = 2).await;
    let (org, elsewhere) = (t.db.create_org().await, t.db.create_org().await);
    // Users belong to an organisation: the same `sub` in another organisation is another user.
    let others = [user(org, 2), user(elsewhere, 1)];
    assert_two_sessions_at_most(&t, |_| user(org, 1), &others, "user_connections").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn sessions_of_an_organisation_are_limited() {
    let t = start(|config| config.limits.admission.org_sessions_max = 2).await;
    let (org, elsewhere) = (t.db.create_org().await, t.db.create_org().await);
    assert_two_sessions_at_most(&t, |n| user(org, n), &[user(elsewhere, 0)], "org_connections").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn sessions_of_a_node_are_limited() {
    let t = start(|config| config.limits.admission.sessions_max = 2).await;
    let (org, elsewhere) = (t.db.create_org().await, t.db.create_org().await);
    assert_two_sessions_at_most(
        &t,
        |n| user(if n == 2 { elsewhere } else { org }, n),
        &[],
        "node_connections",
    )
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_handshake_that_fails_late_releases_its_session_permits() {
    let t = start(|config| {
        config.limits.admission.user_sessions_max = 1;
        config.limits.admission.sessions_max = 1;
    })
    .await;
    let org = t.db.create_org().await;
    for _ in 0..3 {
        let answer = good(Uuid::new_v4()).send(t.gateway.public_addr()).await;
        assert_eq!(answer.code(), "unknown_organisation", "{answer:?}");
    }
    drop(t.connect(org).await);
    t.gateway.stop().await;
}

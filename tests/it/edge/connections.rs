//! Connections: those that are not upgraded, and the sessions of a user, an organisation, a node.

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

/// Connections that say nothing, and are accepted before this returns.
async fn silent(t: &TestGateway, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(t.gateway.public_addr()).await.expect("connects"));
    }
    streams
}

/// The answer to a request; none where the connection ends without one.
async fn answer(t: &TestGateway, request: &Upgrade) -> Option<Answer> {
    let mut stream = TcpStream::connect(t.gateway.public_addr()).await.ok()?;
    stream.write_all(request.text().as_bytes()).await.ok()?;
    let mut first = [0];
    // Peeked at, so that nothing is lost.
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
async fn half_open_connections_of_an_address_are_few() {
    let t = start(|config| config.limits.admission.pending_per_address_max = 3).await;
    let org = t.db.create_org().await;
    // Sessions are no half-open connections.
    let sessions = [t.connect(org).await, t.connect(org).await, t.connect(org).await, t.connect(org).await];
    let held = silent(&t, 3).await;
    // It is accepted behind them.
    let refused = answer(&t, &good(org)).await.expect("is told");
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
async fn half_open_connections_are_few_in_total_and_a_proxy_counts_as_many() {
    let t = behind_a_proxy(|config| {
        config.limits.admission.pending_per_address_max = 1;
        config.limits.admission.pending_max = 3;
    })
    .await;
    let org = t.db.create_org().await;
    let held = silent(&t, 3).await;
    assert_reached(&t, &answer(&t, &good(org)).await.expect("is told"), "pending");
    assert_eq!(reached(&t, "pending_per_address"), 0);
    drop(held);
    eventually("there is room again", async || {
        answer(&t, &good(org)).await.is_some_and(|answer| answer.status == 101)
    })
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn who_takes_too_long_before_the_upgrade_is_dropped() {
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
    // One byte now and then is no reason for patience.
    let mut drips = TcpStream::connect(addr).await.expect("connects");
    within("the end of a slow request", async {
        while drips.write_all(b"G").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    t.gateway.stop().await;
}

/// With a maximum of two in a way that `same` shares and `other` does not.
async fn of_sessions(t: &TestGateway, same: impl Fn(u32) -> String, others: &[String], limit: &'static str) {
    let addr = t.gateway.public_addr();
    let mut held = vec![Client::connect(addr, &same(0)).await, Client::connect(addr, &same(1)).await];
    for _ in 0..3 {
        assert_reached(t, &Upgrade::bearer(&same(2)).send(addr).await, limit);
    }
    assert_eq!(reached(t, limit), 3);
    for other in others {
        drop(Client::connect(addr, other).await);
    }
    // Who is in is not concerned.
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
    // A user is one of an organisation: the same name elsewhere is somebody else.
    let others = [user(org, 2), user(elsewhere, 1)];
    of_sessions(&t, |_| user(org, 1), &others, "user_connections").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn sessions_of_an_organisation_are_limited() {
    let t = start(|config| config.limits.admission.org_sessions_max = 2).await;
    let (org, elsewhere) = (t.db.create_org().await, t.db.create_org().await);
    of_sessions(&t, |n| user(org, n), &[user(elsewhere, 0)], "org_connections").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn sessions_of_a_node_are_limited() {
    let t = start(|config| config.limits.admission.sessions_max = 2).await;
    let (org, elsewhere) = (t.db.create_org().await, t.db.create_org().await);
    of_sessions(&t, |n| user(if n == 2 { elsewhere } else { org }, n), &[], "node_connections").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_handshake_that_fails_late_takes_no_seat() {
    let t = start(|config| {
        config.limits.admission.user_sessions_max = 1;
        config.limits.admission.sessions_max = 1;
    })
    .await;
    let org = t.db.create_org().await;
    for _ in 0..3 {
        let answer = good(Uuid::nil()).send(t.gateway.public_addr()).await;
        assert_eq!(answer.code(), "unknown_organisation", "{answer:?}");
    }
    drop(t.connect(org).await);
    t.gateway.stop().await;
}

//! Sessions, questions, and the requests of strangers.

use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use warden::metrics::LimitLabels;
use warden::rate::Rate;

use super::{connect_user, user};
use crate::harness::{Client, TestDb, TestGateway, Upgrade, eventually, within};
use crate::transactions::current_tx;

fn reached(t: &TestGateway, limit: &'static str) -> u64 {
    t.gateway.metrics().limits_reached.get_or_create(&LimitLabels { limit }).get()
}

#[tokio::test]
async fn an_organisation_with_all_its_sessions_leaves_sessions_to_others() {
    const SESSIONS: usize = 8;
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.admission.org_sessions_max = SESSIONS;
    })
    .await;
    let witness = t.witness().await;
    let greedy = t.db.create_org().await;
    let mut held = Vec::new();
    for n in 0..SESSIONS {
        held.push(connect_user(&t, greedy, n).await);
    }
    let answer = Upgrade::bearer(&user(greedy, SESSIONS)).send(t.gateway.public_addr()).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "org_connections"), "{answer:?}");
    witness.expect_served().await;
    drop(held);
    t.gateway.stop().await;
}

/// Questions about an open transaction wait until it ends. One organisation asks until none is taken.
#[tokio::test]
async fn questions_of_one_organisation_leave_places_to_others() {
    const SOCKETS_MAX: usize = 40;
    let t = TestGateway::start().await;
    let witness = t.witness().await;
    let (greedy, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut open = t.db.pool.begin().await.expect("begins");
    let tx = current_tx(&mut open, greedy).await;
    let mut sockets = Vec::new();
    let mut is_full = false;
    while !is_full {
        assert!(sockets.len() < SOCKETS_MAX, "the questions have no share");
        let mut client = connect_user(&t, greedy, sockets.len()).await;
        client.join("calls").await;
        for n in 0..8 {
            client
                .send(&json!([null, n.to_string(), "calls", "warden.covers", {"tx": tx}]).to_string())
                .await;
        }
        client.send(&json!([null, "end", "phoenix", "heartbeat", {}]).to_string()).await;
        // Rejected questions are answered at once, and the others wait.
        loop {
            let reply = client.next_reply().await;
            is_full |= reply.status == "error";
            if reply.reference == "end" {
                break;
            }
        }
        sockets.push(client);
    }
    witness.expect_served().await;
    let mut client = Client::connect(t.gateway.public_addr(), &user(other, 0)).await;
    client.join("calls").await;
    let theirs = current_tx(&mut t.db.pool.begin().await.expect("begins"), other).await;
    assert_eq!(
        client.push("calls", "warden.covers", json!({"tx": theirs})).await.response,
        json!({"covered": true})
    );
    open.rollback().await.expect("ends");
    assert_eq!(sockets[0].next_reply().await.response, json!({"covered": true}));
    drop(sockets);
    t.gateway.stop().await;
}

/// A connection of another machine, as far as the gateway can tell.
async fn stranger(t: &TestGateway) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 2], 0).into()).expect("binds");
    within("connects", socket.connect(t.gateway.public_addr())).await.expect("connects")
}

/// Half-open connections of one address reach its limit.
#[tokio::test]
async fn strangers_with_half_open_connections_leave_room_to_others() {
    const PENDING: usize = 20;
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.admission.pending_per_address_max = PENDING;
    })
    .await;
    let witness = t.witness().await;
    let mut held = Vec::new();
    eventually("the limit is reached", async || {
        held.push(stranger(&t).await);
        reached(&t, "pending_per_address") > 0
    })
    .await;
    witness.expect_served().await;
    drop(held);
    t.gateway.stop().await;
}

/// A stranger sends handshakes that fail until its address is rejected.
#[tokio::test]
async fn strangers_with_failing_handshakes_leave_handshakes_to_others() {
    let t = crate::edge::behind_a_proxy(|config| {
        config.limits.admission.handshakes_per_address = Rate::new(1, 20);
    })
    .await;
    let witness = t.witness().await;
    let bad = Upgrade::bearer("x.y.z").with("X-Forwarded-For", "198.51.100.1");
    eventually("the address is limited", async || bad.send(t.gateway.public_addr()).await.status == 429)
        .await;
    witness.expect_served().await;
    t.gateway.stop().await;
}

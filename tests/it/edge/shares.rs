//! The share of an organisation in the threads that serve sockets: its sockets are read more slowly, and
//! those of others are not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::SinkExt as _;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;
use warden::config::Config;
use warden::rate::Rate;

use super::reached;
use crate::harness::{Client, TestDb, TestGateway, eventually, token};

const SOCKETS: usize = 20;
const MESSAGES: usize = 30;
/// Messages that are free, of all sockets together.
const BURST: u32 = 100;

async fn start(rate: Rate, change: impl FnOnce(&mut Config)) -> TestGateway {
    TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.session.messages_per_org = rate;
        change(config);
    })
    .await
}

/// Sends heartbeats on many sockets without waiting for answers, and counts the answers.
async fn flood(t: &TestGateway, org: Uuid) -> (JoinSet<Client>, Arc<AtomicUsize>) {
    let answered = Arc::new(AtomicUsize::new(0));
    let mut sockets = JoinSet::new();
    for _ in 0..SOCKETS {
        let (mut client, answered) = (t.connect(org).await, Arc::clone(&answered));
        sockets.spawn(async move {
            for n in 0..MESSAGES {
                let heartbeat = json!([null, n.to_string(), "phoenix", "heartbeat", {}]);
                client.socket.send(Message::text(heartbeat.to_string())).await.expect("sends");
            }
            for _ in 0..MESSAGES {
                assert_eq!(client.next_reply().await.status, "ok");
                answered.fetch_add(1, Ordering::Relaxed);
            }
            client
        });
    }
    (sockets, answered)
}

/// While nothing more of the flood is read, another organisation connects, joins, resumes and receives.
#[tokio::test]
async fn a_flood_of_one_organisation_is_read_slowly_and_delays_no_other() {
    // So slow that the messages beyond the burst are not read within this test.
    let t = start(Rate::new(1, BURST), |_| {}).await;
    let (attacker, other) = (t.db.create_org().await, t.db.create_org().await);
    let (sockets, answered) = flood(&t, attacker).await;
    eventually("every socket of the flood pauses", async || reached(&t, "messages_per_org") >= 20).await;
    let mut client = t.connect(other).await;
    let since = client.join("calls").await["cursor"].clone();
    t.db.insert_call(other).await;
    client.expect_event("calls", "call.created").await;
    let mut back = t.connect(other).await;
    back.join_with("calls", json!({"since": since})).await;
    back.expect_event("calls", "call.created").await;
    for _ in 0..MESSAGES {
        assert_eq!(back.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    }
    let burst = usize::try_from(BURST).expect("few");
    let answered = answered.load(Ordering::Relaxed);
    assert!(answered <= burst + 2 * SOCKETS, "{answered} messages of the flood were read");
    // Paused sockets still receive.
    let mut paused = t.connect(attacker).await;
    assert_eq!(paused.push("calls", "phx_join", json!({})).await.status, "ok");
    t.db.insert_call(attacker).await;
    paused.expect_event("calls", "call.created").await;
    drop(sockets);
    t.gateway.stop().await;
}

#[tokio::test]
async fn messages_beyond_the_share_are_answered_later() {
    let t = start(Rate::new(400, BURST), |_| {}).await;
    let (mut sockets, answered) = flood(&t, t.db.create_org().await).await;
    while let Some(client) = sockets.join_next().await {
        client.expect("every message was answered");
    }
    assert_eq!(answered.load(Ordering::Relaxed), SOCKETS * MESSAGES);
    assert!(reached(&t, "messages_per_org") > 0);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_paused_session_is_not_idle() {
    // A fresh token costs more than three seconds.
    let t = start(Rate::new(6, 1), |config| {
        config.limits.session.idle_timeout = Duration::from_secs(2);
    })
    .await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    for _ in 0..2 {
        let fresh = json!({"access_token": token(org, &json!({}))});
        assert_eq!(client.push("phoenix", "access_token", fresh).await.status, "ok");
    }
    t.gateway.stop().await;
}

/// Bytes without a whole message count, and fresh tokens count more, because their signature is verified.
#[tokio::test]
async fn endless_messages_and_fresh_tokens_count() {
    let t = start(Rate::new(1, 25), |_| {}).await;
    let [first, second] = [t.db.create_org().await, t.db.create_org().await];
    let mut endless = t.connect(first).await;
    let stream = endless.socket.get_mut();
    stream.write_all(&[0x01, 0x81, 0, 0, 0, 0, b'[']).await.expect("writes");
    stream.write_all(&[0x00, 0x80, 0, 0, 0, 0].repeat(16 * 1024)).await.expect("writes");
    eventually("the endless message pauses", async || reached(&t, "messages_per_org") > 0).await;
    let before = reached(&t, "messages_per_org");
    let mut refreshing = t.connect(second).await;
    for _ in 0..2 {
        let fresh = token(second, &json!({}));
        let reply = refreshing.push("phoenix", "access_token", json!({"access_token": fresh})).await;
        assert_eq!(reply.status, "ok");
    }
    assert!(reached(&t, "messages_per_org") > before);
    t.gateway.stop().await;
}

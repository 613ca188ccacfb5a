//! Limits on the messages of a connected client.

use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::{Bytes, Message};
use warden::config::Config;
use warden::rate::Rate;

use super::reached;
use crate::harness::{TestDb, TestGateway};

/// Far more messages than any limit in this module.
const FLOOD: usize = 500;

async fn start(change: impl FnOnce(&mut Config)) -> TestGateway {
    TestGateway::start_with(TestDb::create().await, change).await
}

fn few_messages(config: &mut Config) {
    config.limits.session.messages = Rate::new(1, 5);
    config.limits.session.rejected_messages = Rate::new(1, 3);
}

#[tokio::test]
async fn excess_messages_get_an_error_reply_and_then_close_the_session() {
    let t = start(few_messages).await;
    let org = t.db.create_org().await;
    let (mut flood, mut modest) = (t.connect(org).await, t.connect(org).await);
    modest.join("calls").await;
    let mut statuses = Vec::new();
    loop {
        let reply = flood.push("phoenix", "heartbeat", json!({})).await;
        if reply.status == "error" {
            assert_eq!(reply.response["reason"], "too many messages", "{reply:?}");
            assert!(reply.response["message"].is_string(), "{reply:?}");
        }
        statuses.push(reply.status);
        if statuses.iter().filter(|status| *status == "error").count() == 3 {
            break;
        }
        assert!(statuses.len() < FLOOD, "the session is never closed");
    }
    assert!(statuses[..5].iter().all(|status| status == "ok"), "{statuses:?}");
    for n in 0..FLOOD {
        let heartbeat: Value = json!([null, n.to_string(), "phoenix", "heartbeat", {}]);
        if flood.socket.send(Message::text(heartbeat.to_string())).await.is_err() {
            break;
        }
    }
    flood.expect_close(4428).await;
    assert!(reached(&t, "messages") >= 4);
    // Other sessions are unaffected.
    t.db.insert_call(org).await;
    modest.expect_event("calls", "call.created").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn pings_count_as_messages() {
    for control in [Message::Ping(Bytes::new()), Message::Pong(Bytes::from_static(b"x"))] {
        let t = start(few_messages).await;
        let org = t.db.create_org().await;
        let mut client = t.connect(org).await;
        for _ in 0..FLOOD {
            if client.socket.send(control.clone()).await.is_err() {
                break;
            }
        }
        client.expect_close(4428).await;
        t.gateway.stop().await;
    }
}

#[tokio::test]
async fn an_endless_fragmented_message_is_limited_by_its_bytes() {
    let t = start(|config| config.limits.session.received_bytes = Rate::new(1, 4096)).await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    // An endless text message in empty fragments with a zero mask.
    let stream = client.socket.get_mut();
    stream.write_all(&[0x01, 0x81, 0, 0, 0, 0, b'[']).await.expect("writes");
    for _ in 0..FLOOD {
        let fragments = [0x00, 0x80, 0, 0, 0, 0].repeat(4);
        if stream.write_all(&fragments).await.is_err() {
            break;
        }
    }
    client.expect_close(4428).await;
    assert_eq!(reached(&t, "received_bytes"), 1);
    t.gateway.stop().await;
}

#[tokio::test]
async fn message_size_and_join_limits_are_counted() {
    let t = start(|config| {
        config.limits.session.joins_max = 2;
        config.limits.session.message_bytes_max = 2048;
    })
    .await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    client.join("calls").await;
    client.join("org").await;
    assert_eq!(client.push("recordings", "phx_join", json!({})).await.status, "error");
    assert_eq!(reached(&t, "joins"), 1);
    client.push("org", "phx_leave", json!({})).await;
    assert_eq!(client.next_event().await.name, "phx_close");
    client.join("recordings").await;
    client.send(&"x".repeat(2049)).await;
    client.expect_close(1009).await;
    assert_eq!(reached(&t, "message_bytes"), 1);
    t.gateway.stop().await;
}

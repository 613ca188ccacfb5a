//! Idle sessions and slow sessions are closed, and no other session is affected.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use warden::config::Limits;

use crate::harness::{TestDb, TestGateway, within};

#[tokio::test]
async fn an_idle_session_is_closed_and_a_heartbeat_keeps_it_open() {
    // A heartbeat once a minute has the same slack in proportion.
    const IDLE: Duration = Duration::from_secs(3);
    const HEARTBEAT: Duration = Duration::from_secs(2);
    let default = Limits::default().session.idle_timeout;
    assert!(
        default >= Duration::from_mins(1) * 3 / 2,
        "a heartbeat once a minute has too little slack: {default:?}"
    );
    let t = TestGateway::start_with(TestDb::create().await, |c| c.limits.session.idle_timeout = IDLE).await;
    let org = t.db.create_org().await;
    let (mut silent, mut heard) = (t.connect(org).await, t.connect(org).await);
    // Taken before the idle client's last message, which the gateway receives later.
    let started = tokio::time::Instant::now();
    silent.join("calls").await;
    let mut interval = tokio::time::interval(HEARTBEAT);
    let (closed, ()) = tokio::join!(
        async {
            silent.expect_close(4408).await;
            started.elapsed()
        },
        async {
            while started.elapsed() < 2 * IDLE {
                interval.tick().await;
                let reply = heard.push("phoenix", "heartbeat", json!({})).await;
                assert_eq!((reply.status.as_str(), reply.response), ("ok", json!({})));
            }
        }
    );
    assert!(closed >= IDLE, "closed after {closed:?}");
    heard.expect_close(4408).await;
    drop((silent, heard));
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_without_delaying_others() {
    const EVENTS: usize = 300;
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.outbox.queue_bytes_max = 256 * 1024;
        // How long the Close waits for the client to read what precedes it.
        config.limits.session.close_timeout = Duration::from_secs(60);
    })
    .await;
    let org = t.db.create_org().await;
    let (mut slow, mut quick) = (t.connect(org).await, t.connect(org).await);
    // Without this the kernel buffers up to 6 MiB for a client that reads nothing.
    let socket = socket2::SockRef::from(slow.socket.get_ref());
    socket.set_recv_buffer_size(64 * 1024).expect("a smaller buffer");
    slow.join("calls").await;
    quick.join("calls").await;
    for n in 0..EVENTS {
        let publish = "select warden.publish($1, 'calls', 'large', jsonb_build_object('n', $2, 'x', repeat('x', 30000)))";
        sqlx::query(publish)
            .bind(org)
            .bind(i32::try_from(n).expect("small"))
            .execute(&t.db.pool)
            .await
            .expect("publishes");
        let event = quick.expect_event("calls", "large").await;
        assert_eq!(event.data("n"), &json!(n));
    }
    let mut received = 0;
    let code = within("a close", async {
        loop {
            match slow.socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
                Some(Ok(Message::Text(text))) => {
                    let event: Value = serde_json::from_str(&text).expect("whole messages only");
                    assert_eq!(event[4]["data"]["n"], json!(received), "in order, without a gap");
                    received += 1;
                }
                other => panic!("instead of a close: {other:?}"),
            }
        }
    })
    .await;
    assert_eq!(code, 4429);
    assert!(received < EVENTS, "the slow client received everything, so the test proves nothing");
    drop((slow, quick));
    t.gateway.stop().await;
}

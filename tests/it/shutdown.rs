//! Shutdown: readiness turns to 503, new connections are rejected, and sessions are closed one after the
//! other behind their queued frames.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;
use warden::app::Gateway;

use crate::harness::{Client, TestDb, TestGateway, eventually, status, token, within};

const SESSIONS: usize = 30;

/// Reads to the end. Returns the names of the events before the Close, and its code.
async fn to_the_end(client: &mut Client) -> (Vec<String>, u16) {
    let mut events = Vec::new();
    loop {
        match within("a message or a Close", client.socket.next()).await {
            Some(Ok(Message::Text(text))) => {
                let message: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                events.push(message[3].as_str().expect("a name").to_owned());
            }
            Some(Ok(Message::Close(Some(frame)))) => return (events, frame.code.into()),
            other => panic!("instead of a Close: {other:?}"),
        }
    }
}

#[tokio::test]
async fn sessions_are_closed_evenly_over_the_drain_window() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.drain.window = Duration::from_secs(2);
        config.limits.drain.sessions_per_second_min = 1;
    })
    .await;
    let (public, admin) = (gateway.public_addr(), gateway.admin_addr());
    let token = token(org, &json!({}));
    let mut ends = Vec::new();
    let (first_end, mut first_ended) = tokio::sync::mpsc::channel(SESSIONS);
    for _ in 0..SESSIONS {
        let mut client = Client::connect(public, &token).await;
        client.join("calls").await;
        let first_end = first_end.clone();
        ends.push(tokio::spawn(async move {
            let end = to_the_end(&mut client).await;
            let _ = first_end.send(()).await;
            end
        }));
    }
    assert_eq!(status(admin, "/readyz").await, Some(200));

    let stopping = tokio::spawn(gateway.stop());
    within("the first session is closed", first_ended.recv()).await;
    // Most sessions are still open, and receive events until they are closed.
    db.publish(org, "calls", "while.draining").await;
    assert_eq!(status(admin, "/readyz").await, Some(503));
    eventually("new connections are rejected", async || status(public, "/livez").await.is_none()).await;

    let mut reached = 0;
    for end in ends {
        let (events, code) = end.await.expect("ends");
        assert_eq!(code, 1012);
        reached += usize::from(events == ["while.draining"]);
    }
    assert!(
        (1..SESSIONS).contains(&reached),
        "{reached} of {SESSIONS} were there after the first was closed"
    );
    within("the gateway is down", stopping).await.expect("stops");
}

/// The client reads nothing until the gateway shuts down, and then everything.
#[tokio::test]
async fn queued_frames_are_sent_before_the_close() {
    const EVENTS: usize = 60;
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = TestGateway::gateway(&db, |config| {
        // Limits are generous, because this test is about what is sent, not when.
        config.limits.session.send_buffer_bytes = 16 * 1024;
        config.limits.session.close_timeout = Duration::from_secs(60);
    })
    .await;
    let mut client = slow_client(&gateway, org).await;
    for _ in 0..EVENTS {
        publish_large(&db, org).await;
    }
    eventually("all frames were offered, and most are queued", async || {
        let counts = gateway.metrics();
        counts.deliveries.get() == EVENTS as u64 && counts.queued_writes.get() > EVENTS as u64 / 2
    })
    .await;
    let stopping = tokio::spawn(gateway.stop());
    let (events, code) = to_the_end(&mut client).await;
    assert_eq!((events, code), (vec!["large".to_owned(); EVENTS], 1012));
    drop(client);
    within("the gateway is down", stopping).await.expect("stops");
}

#[tokio::test]
async fn the_drain_deadline_drops_clients_that_do_not_read() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.session.send_buffer_bytes = 16 * 1024;
        config.limits.session.close_timeout = Duration::from_secs(3600);
        config.limits.drain_timeout = Duration::from_secs(1);
    })
    .await;
    let client = slow_client(&gateway, org).await;
    for _ in 0..60 {
        publish_large(&db, org).await;
    }
    eventually("some frames are queued", async || gateway.metrics().queued_writes.get() > 0).await;
    within("the gateway is down", gateway.stop()).await;
    drop(client);
}

/// A client of `calls` with a small kernel buffer.
async fn slow_client(gateway: &Gateway, org: Uuid) -> Client {
    let mut client = Client::connect(gateway.public_addr(), &token(org, &json!({}))).await;
    let socket = socket2::SockRef::from(client.socket.get_ref());
    socket.set_recv_buffer_size(16 * 1024).expect("a smaller buffer");
    client.join("calls").await;
    client
}

async fn publish_large(db: &TestDb, org: Uuid) {
    let publish = "select warden.publish($1, 'calls', 'large', jsonb_build_object('x', repeat('x', 30000)))";
    sqlx::query(publish).bind(org).execute(&db.pool).await.expect("publishes");
}

#[tokio::test]
async fn a_client_resumes_on_another_node_without_loss() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let old = TestGateway::gateway(&db, |_| {}).await;
    let token = token(org, &json!({}));
    let mut client = Client::connect(old.public_addr(), &token).await;
    client.join("calls").await;
    let first = db.insert_call(org).await;
    let event = client.expect_event("calls", "call.created").await;
    assert_eq!(event.row_id(), first.to_string());
    let since = event.cursor().to_owned();

    let stopping = tokio::spawn(old.stop());
    client.expect_close(1012).await;
    drop(client);
    let missed = db.insert_call(org).await;
    within("the gateway is down", stopping).await.expect("stops");
    let new = TestGateway::gateway(&db, |_| {}).await;
    let mut client = Client::connect(new.public_addr(), &token).await;
    client.join_with("calls", json!({"since": since})).await;
    let live = db.insert_call(org).await;
    for call in [missed, live] {
        assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    }
    drop(client);
    new.stop().await;
}

#[tokio::test]
async fn half_a_request_does_not_delay_the_shutdown() {
    let db = TestDb::create().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.serve.header_timeout = Duration::from_secs(3600);
        config.limits.drain_timeout = Duration::from_secs(3600);
    })
    .await;
    let mut half = TcpStream::connect(gateway.public_addr()).await.expect("connects");
    half.write_all(b"GET /livez HTTP/1.1\r\nhost").await.expect("writes");
    within("the gateway is down", gateway.stop()).await;
}

/// As after a failing test. The runtime waits for the gateway's threads, so they must end by themselves.
#[test]
fn a_dropped_gateway_ends_with_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let db = TestDb::create().await;
        drop(TestGateway::gateway(&db, |_| {}).await);
    });
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(runtime);
        ended.send(()).expect("the test waits");
    });
    end.recv_timeout(Duration::from_secs(20)).expect("the runtime ends");
}

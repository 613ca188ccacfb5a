//! Clients that read slowly or vanish. Their sessions end with the documented close code, and other sessions
//! are unaffected.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Interval;
use uuid::Uuid;
use warden::config::Config;
use warden::metrics::{CloseLabels, LimitLabels};
use warden_testkit::phoenix::{self, Received};
use warden_testkit::{Gate, TcpProxy};

use crate::harness::{Client, TestDb, TestGateway, eventually, token, within};

/// Kernel buffers of slow clients and of their sessions, in bytes. They are small so that the outbox's queue
/// fills.
const BUFFER_BYTES: u32 = 4 * 1024;

/// A socket that is read at one byte a second until `is_fast` is set.
struct Trickle {
    stream: TcpStream,
    pace: Interval,
    is_fast: watch::Receiver<bool>,
}

impl AsyncRead for Trickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if *self.is_fast.borrow() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        ready!(self.pace.poll_tick(cx));
        let mut byte = [0];
        let read = self.stream.try_read(&mut byte);
        buffer.put_slice(&byte[..read.unwrap_or_default()]);
        if buffer.filled().is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connects and joins `calls` at full speed, then reads slowly.
async fn trickle(t: &TestGateway, org: Uuid, is_fast: watch::Receiver<bool>) -> Client<Trickle> {
    let addr = t.gateway.public_addr();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(BUFFER_BYTES).expect("a small buffer");
    let stream = within("a connection", socket.connect(addr)).await.expect("connects");
    let pace = tokio::time::interval(Duration::from_secs(1));
    let stream = Trickle { stream, pace, is_fast };
    let token = token(org, &json!({}));
    let socket = within("the handshake", phoenix::connect_over(stream, &token, None)).await;
    let mut client = Client::new(socket.expect("is accepted"));
    client.join("calls").await;
    client
}

async fn publish(t: &TestGateway, org: Uuid, n: usize, bytes: i32) {
    let publish = "select warden.publish($1, 'calls', 'numbered',
                          jsonb_build_object('n', $2, 'x', repeat('x', $3)))";
    let query = sqlx::query(publish).bind(org).bind(i32::try_from(n).expect("small")).bind(bytes);
    query.execute(&t.db.pool).await.expect("publishes");
}

fn closed(t: &TestGateway, code: u16) -> u64 {
    t.gateway.metrics().closed.get_or_create(&CloseLabels { code }).get()
}

fn small_buffers(config: &mut Config) {
    config.limits.session.send_buffer_bytes = BUFFER_BYTES as usize;
    // How long the Close waits for the client to read what precedes it.
    config.limits.session.close_timeout = Duration::from_secs(60);
}

/// Each event reaches the other clients before the next is written. The slow session is closed once its queue
/// is full, and resumes without a gap.
#[tokio::test]
async fn a_slow_client_is_closed_and_does_not_delay_others() {
    const EVENTS: usize = 120;
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        small_buffers(config);
        config.limits.outbox.queue_bytes_max = 256 * 1024;
    })
    .await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let (fast, is_fast) = watch::channel(true);
    let mut slow = trickle(&t, org, is_fast).await;
    let (mut near, mut far) = (t.connect(org).await, t.connect(other).await);
    near.join("calls").await;
    far.join("calls").await;
    fast.send_replace(false);
    // Received events, the last cursor, and the close code.
    let slow = tokio::spawn(async move {
        let (mut received, mut cursor) = (Vec::new(), String::new());
        loop {
            match phoenix::receive(&mut slow.socket).await {
                Received::Closed(code) => return (received, cursor, code),
                Received::Message(event) => {
                    received.push(event.payload["data"]["n"].as_u64().expect("a number"));
                    cursor = event.cursor().expect("a cursor").to_owned();
                }
                end => panic!("instead of a Close: {end:?}"),
            }
        }
    });
    for n in 0..EVENTS {
        for (whose, client) in [(org, &mut near), (other, &mut far)] {
            publish(&t, whose, n, 10_000).await;
            assert_eq!(client.expect_event("calls", "numbered").await.data("n"), &json!(n));
        }
    }
    assert!(!slow.is_finished(), "the slow client cannot have read everything yet");
    fast.send_replace(true);
    let (received, cursor, code) = within("the end", slow).await.expect("ends");
    assert_eq!(code, 4429);
    assert_eq!(received, (0..received.len() as u64).collect::<Vec<_>>(), "in order, without a gap");
    assert!((1..EVENTS).contains(&received.len()), "{} events arrived", received.len());
    let mut back = t.connect(org).await;
    assert_eq!(back.join_with("calls", json!({"since": cursor})).await, json!({"cursor": cursor}));
    for n in received.len()..EVENTS {
        assert_eq!(back.expect_event("calls", "numbered").await.data("n"), &json!(n));
    }
    t.db.publish(org, "calls", "end").await;
    back.expect_only("calls", "end").await;
    assert_eq!(closed(&t, 4429), 1);
    eventually("the slow session is gone", async || t.gateway.hub().session_count() == 3).await;
    drop((near, far, back));
    t.gateway.stop().await;
}

/// Publishes events of `bytes` bytes until the session of a client that reads nothing is closed as too slow.
/// Returns the number of events.
async fn until_too_slow(bytes: i32, events_max: usize, change: impl FnOnce(&mut Config)) -> usize {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        small_buffers(config);
        config.limits.session.close_timeout = Duration::from_millis(50);
        change(config);
    })
    .await;
    let org = t.db.create_org().await;
    let (fast, is_fast) = watch::channel(true);
    let stuck = trickle(&t, org, is_fast).await;
    let mut quick = t.connect(org).await;
    quick.join("calls").await;
    let mut n = 0;
    // When the quick client has an event, the hub has offered it to both, or will before the next event.
    while t.gateway.hub().session_count() == 2 {
        assert!(n < events_max, "{n} events of {bytes} bytes did not fill the queue");
        publish(&t, org, n, bytes).await;
        assert_eq!(quick.expect_event("calls", "numbered").await.data("n"), &json!(n));
        n += 1;
        if n >= events_max {
            eventually("the session ends", async || t.gateway.hub().session_count() == 1).await;
        }
    }
    assert_eq!(closed(&t, 4429), 1);
    drop((stuck, quick, fast));
    t.gateway.stop().await;
    n
}

#[tokio::test]
async fn an_outbox_is_bounded_in_chunks() {
    const CHUNKS: usize = 16;
    // The byte limit alone would admit all events.
    let n = until_too_slow(2_000, 200, |config| config.limits.outbox.queue_chunks_max = CHUNKS).await;
    assert!(n > CHUNKS, "closed after {n} events, before its queue was full");
}

#[tokio::test]
async fn an_outbox_is_bounded_in_bytes() {
    const BYTES: usize = 128 * 1024;
    // The chunk limit alone would admit all events.
    let n = until_too_slow(10_000, 200, |config| config.limits.outbox.queue_bytes_max = BYTES).await;
    assert!(n * 10_000 > BYTES, "closed after {n} events, before its queue was full");
}

/// An organisation may hold as much as it leaves free. Each of its clients alone is within its own limit.
/// Those that read stay, also the same organisation's, and can join with a snapshot, connect and resume.
#[tokio::test]
async fn outboxes_of_an_organisation_have_a_share_and_others_are_served() {
    const CLIENTS: usize = 4;
    const EVENTS: usize = 60;
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        small_buffers(config);
        config.limits.session.close_timeout = Duration::from_millis(50);
        config.limits.outbox.memory_bytes_max = 1024 * 1024;
    })
    .await;
    let (hostile, other) = (t.db.create_org().await, t.db.create_org().await);
    let (fast, is_fast) = watch::channel(true);
    let mut stuck = Vec::new();
    for _ in 0..CLIENTS {
        stuck.push(trickle(&t, hostile, is_fast.clone()).await);
    }
    let slow = trickle(&t, other, is_fast).await;
    let (mut near, mut reading) = (t.connect(other).await, t.connect(hostile).await);
    let mut position = near.join("calls").await["cursor"].clone();
    reading.join("calls").await;
    fast.send_replace(false);
    publish(&t, other, 0, 60_000).await;
    near.expect_event("calls", "numbered").await;
    for n in 0..EVENTS {
        publish(&t, hostile, n, 60_000).await;
        assert_eq!(reading.expect_event("calls", "numbered").await.data("n"), &json!(n));
        if n % 10 == 0 {
            publish(&t, other, n, 10).await;
            let event = near.expect_event("calls", "numbered").await;
            assert_eq!(event.data("n"), &json!(n));
            let mut resumed = t.connect(other).await;
            resumed.join_with("calls", json!({"since": position})).await;
            let missed = if n == 0 { 2 } else { 1 };
            for _ in 0..missed {
                resumed.expect_event("calls", "numbered").await;
            }
            position = json!(event.cursor());
            let mut joined = t.connect(hostile).await;
            joined.join_with("calls", json!({"snapshot": {}})).await;
            assert_eq!(joined.expect_event("calls", "warden.snapshot").await.payload["last"], true);
        }
    }
    eventually("the clients of one organisation are closed", async || closed(&t, 4429) == CLIENTS as u64)
        .await;
    eventually("no other session ends", async || t.gateway.hub().session_count() == 3).await;
    let limit = LimitLabels { limit: "outboxes_per_org" };
    assert!(t.gateway.metrics().limits_reached.get_or_create(&limit).get() > 0);
    drop((stuck, slow, near, reading));
    t.gateway.stop().await;
}

/// The client sends heartbeats, but reads so slowly that its queue is never empty.
#[tokio::test]
async fn a_client_that_never_accepts_all_is_closed_after_a_time() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        small_buffers(config);
        config.limits.session.close_timeout = Duration::from_millis(50);
        config.limits.session.idle_timeout = Duration::from_secs(3);
        config.limits.session.backlog_timeout = Duration::from_millis(200);
    })
    .await;
    let org = t.db.create_org().await;
    let (fast, is_fast) = watch::channel(true);
    let mut stuck = trickle(&t, org, is_fast).await;
    let mut near = t.connect(org).await;
    near.join("calls").await;
    fast.send_replace(false);
    for n in 0..2 {
        publish(&t, org, n, 60_000).await;
        near.expect_event("calls", "numbered").await;
    }
    eventually("the session ends as too slow", async || {
        near.push("phoenix", "heartbeat", json!({})).await;
        let _ = phoenix::send_heartbeat(&mut stuck.socket).await;
        closed(&t, 4429) == 1
    })
    .await;
    assert_eq!((closed(&t, 4408), t.gateway.hub().session_count()), (0, 1));
    drop((stuck, near));
    t.gateway.stop().await;
}

/// The client's host is gone, and the gateway receives neither a FIN nor a reset.
#[tokio::test]
async fn a_half_open_client_is_closed_as_idle() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.session.idle_timeout = Duration::from_secs(3);
        config.limits.session.close_timeout = Duration::from_millis(50);
    })
    .await;
    let (org, gone) = (t.db.create_org().await, t.db.create_org().await);
    let proxy = TcpProxy::start(vec![t.gateway.public_addr()]).await;
    let mut vanished = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(proxy.addr(), &token(gone, &json!({}))).await;
        client.join("calls").await;
        vanished.push(client);
    }
    let mut there = t.connect(org).await;
    there.join("calls").await;
    assert_eq!((t.gateway.hub().session_count(), t.gateway.hub().org_count()), (6, 2));
    for gate in proxy.gates() {
        gate.send_replace(Gate::Stalled);
    }
    eventually("only one session is left", async || {
        there.push("phoenix", "heartbeat", json!({})).await;
        t.gateway.hub().session_count() == 1
    })
    .await;
    assert_eq!((closed(&t, 4408), t.gateway.hub().org_count()), (5, 1));
    eventually("the gauge counts one session", async || t.gateway.metrics().sessions.get() == 1).await;
    // No close frame reached the vanished clients.
    for client in &mut vanished {
        let mut byte = [0];
        let read = client.socket.get_mut().read(&mut byte);
        assert!(futures_util::FutureExt::now_or_never(read).is_none(), "a frame arrived");
    }
    drop((there, vanished));
    t.gateway.stop().await;
}

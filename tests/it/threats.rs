//! Rows of the threat table (docs/security.md) that no other test covers: ambiguous requests, oversized
//! heads, and features that are not offered.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use warden::metrics::RejectionLabels;

use crate::harness::{Answer, TestGateway, Upgrade, token, within};

/// The gateway's limits for a request head.
const HEADERS_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Sends a raw request and returns the status of its answer.
async fn status(t: &TestGateway, text: &str) -> u16 {
    answer(t, text).await.status
}

/// Sends a raw request.
async fn answer(t: &TestGateway, text: &str) -> Answer {
    let mut stream = TcpStream::connect(t.gateway.public_addr()).await.expect("connects");
    stream.write_all(text.as_bytes()).await.expect("writes");
    within("an answer", Answer::read(&mut stream)).await
}

#[tokio::test]
async fn ambiguous_requests_are_rejected() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let good = || Upgrade::bearer(&token(org, &json!({})));
    let addr = t.gateway.public_addr();
    let cases = [
        ("a body", good().with("Content-Length", "5")),
        ("a chunked body", good().with("Transfer-Encoding", "chunked")),
        ("two Hosts", good().with("Host", "other.example")),
        ("no Host", good().without("Host")),
        ("two keys", good().with("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==")),
        ("two versions", good().with("Sec-WebSocket-Version", "8")),
    ];
    for (name, request) in cases {
        let answer = request.send(addr).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "ambiguous_request"), "{name}: {answer:?}");
    }
    let old = good().text().replacen("HTTP/1.1", "HTTP/1.0", 1);
    assert_eq!(status(&t, &old).await, 400);
    // Requests that hyper rejects by itself.
    for line in [
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding : chunked",
        " folded: x",
        "Content-Length: +5",
    ] {
        let request =
            good().text().replacen("Upgrade: websocket", &format!("Upgrade: websocket\r\n{line}"), 1);
        let answer = answer(&t, &request).await;
        assert_eq!((answer.status, answer.body.as_str()), (400, ""), "{line}");
    }
    assert_eq!(good().with("Content-Length", "0").send(addr).await.status, 101);
    // A line may end with a line feed alone (RFC 9112, section 2.2). A carriage return alone ends none.
    assert_eq!(status(&t, &good().text().replace("\r\n", "\n")).await, 101);
    assert_eq!(status(&t, &good().text().replace("\r\n", "\r")[..]).await, 400);
    // The Host decides nothing: a request in absolute form is treated alike.
    assert_eq!(good().to("http://evil.example/socket/websocket?vsn=2.0.0").send(addr).await.status, 101);
    t.gateway.stop().await;
}

#[tokio::test]
async fn request_heads_are_bounded_in_bytes_and_headers() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let good = || Upgrade::bearer(&token(org, &json!({})));
    let filler = |bytes: usize| "x".repeat(bytes);
    // Sent in one piece, and short enough for hyper's own buffer.
    for bytes in [HEAD_BYTES_MAX, HEAD_BYTES_MAX * 3 / 2, HEAD_BYTES_MAX * 4] {
        assert_eq!(status(&t, &good().with("x-long", &filler(bytes)).text()).await, 431, "{bytes}");
        assert_eq!(status(&t, &good().with(&filler(bytes), "x").text()).await, 431, "{bytes}");
    }
    let long_query = good().to(&format!("/socket/websocket?vsn=2.0.0&x={}", filler(HEAD_BYTES_MAX)));
    assert_eq!(status(&t, &long_query.text()).await, 431);
    // A head that is a little too long, and one that hyper does not read to its end, count alike.
    let answer = good().with("x-long", &filler(HEAD_BYTES_MAX)).send(t.gateway.public_addr()).await;
    assert_eq!((answer.status, answer.code().as_str()), (431, "head_too_long"), "{answer:?}");
    assert!(answer.message().contains("WARDEN_HEAD_BYTES"), "{answer:?}");
    let counted =
        t.gateway.metrics().rejected.get_or_create(&RejectionLabels { code: "head_too_long" }).get();
    assert_eq!(counted, 8);
    let many = |count: usize| (0..count).fold(good(), |request, n| request.with(&format!("x-{n}"), "y"));
    assert_eq!(status(&t, &many(HEADERS_MAX).text()).await, 431);
    assert_eq!(status(&t, &many(HEADERS_MAX / 2).text()).await, 101);
    // The longest possible list of subprotocols is parsed once.
    let list = |entry: &str| entry.repeat(HEAD_BYTES_MAX / 2 / entry.len());
    for entry in [",", " ", "a,", "a ,\t"] {
        let request = good().with("Sec-WebSocket-Protocol", &format!("{}x", list(entry)));
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!(answer.code(), "unknown_subprotocol", "{entry:?}");
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn no_websocket_extension_is_negotiated() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let offer = "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame";
    let answer = Upgrade::bearer(&token(org, &json!({})))
        .with("Sec-WebSocket-Extensions", offer)
        .send(t.gateway.public_addr())
        .await;
    assert_eq!(answer.status, 101, "{answer:?}");
    assert!(answer.headers("sec-websocket-extensions").is_empty(), "{answer:?}");
    t.gateway.stop().await;
}

#[tokio::test]
async fn only_documented_routes_exist() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    // No long polling, and no route of the admin listener.
    for target in ["/socket/longpoll?vsn=2.0.0", "/socket", "/metrics", "/socket/websocket/../longpoll"] {
        let answer = Upgrade::bearer(&token(org, &json!({}))).to(target).send(t.gateway.public_addr()).await;
        assert_eq!(answer.status, 404, "{target}: {answer:?}");
    }
    t.gateway.stop().await;
}

//! No log line, at any level, contains a token or a secret, whichever way it arrived.
//!
//! `harness/logs.rs` checks every log line of every test of this binary, and one violation ends the run. This
//! module checks the output of the real binary, and sends credentials in every way that a client could.

mod configuration;
mod key_server;

use std::net::SocketAddr;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use uuid::Uuid;

use crate::harness::{
    Client, LogCapture, Post, SECRET, TestDb, TestGateway, Upgrade, capture_logs, claims, eventually,
    keep_secret, sign, token, urls_with, within,
};

/// Marker within opaque credentials and malformed tokens.
const MARKER: &str = "m4rkerm4rkerm4rker";
const OTHER_SECRET: &str = "another secret of more than 32 bytes";

/// Sends valid and invalid tokens in every way. Returns all strings that no log may contain.
async fn send_everything(addr: SocketAddr, org: Uuid) -> Vec<String> {
    let mut sent = Vec::new();
    let mut keep = |jwt: String| {
        sent.push(jwt.clone());
        jwt
    };
    let unique = |n: u32| json!({"jti": format!("{MARKER}-{n}")});
    let mut tokens = vec![
        keep(token(org, &unique(1))),
        keep(token(Uuid::new_v4(), &unique(2))),
        keep(token(org, &json!({"exp": 1, "jti": MARKER}))),
        keep(token(org, &json!({"sub": 7, "jti": MARKER}))),
        keep(token(org, &json!({"app_metadata": {"org_id": MARKER}}))),
        keep(token(org, &json!({"aud": MARKER}))),
        keep(sign(&claims(org), Algorithm::HS256, OTHER_SECRET)),
        keep(sign(&claims(org), Algorithm::HS384, SECRET)),
    ];
    tokens.extend([format!("{MARKER}.{MARKER}.{MARKER}"), MARKER.to_owned()]);
    for jwt in &tokens {
        let entry = format!("phoenix, base64url.bearer.phx.{}", STANDARD_NO_PAD.encode(jwt));
        for request in [
            Upgrade::bearer(jwt),
            Upgrade::new().with("Authorization", jwt),
            Upgrade::new().with("Authorization", &format!("Basic {jwt}")),
            Upgrade::bearer(jwt).with("Authorization", &format!("Bearer {jwt}")),
            Upgrade::bearer(jwt).with("Origin", "http://evil.example"),
            Upgrade::bearer(jwt).without("Upgrade"),
            Upgrade::new().with("Sec-WebSocket-Protocol", &entry),
            Upgrade::new().with("Sec-WebSocket-Protocol", &entry.replace("phoenix, ", "")),
            Upgrade::new().with("Sec-WebSocket-Protocol", &format!("{entry}*")),
            Upgrade::bearer(jwt).with("Sec-WebSocket-Protocol", &entry),
            Upgrade::new().with("Cookie", &format!("token={jwt}")),
        ] {
            request.send(addr).await;
        }
    }
    for target in urls_with(&tokens[0], MARKER) {
        Upgrade::bearer(&tokens[0]).to(&target).send(addr).await;
    }
    let mut client = Client::connect(addr, &tokens[0]).await;
    client.join("calls").await;
    // All tokens but the other user's, which would close the session before the rest is sent.
    for (n, jwt) in tokens.iter().enumerate().filter(|(n, _)| *n != 1) {
        let reply = client.push("calls", "access_token", json!({"access_token": jwt})).await;
        assert_eq!(reply.status == "ok", n == 0, "{reply:?}");
    }
    client.push("calls", "access_token", json!({"access_token": {"token": tokens[0]}})).await;
    client.push("calls", MARKER, json!({"access_token": tokens[0]})).await;
    client.push(&format!("calls:{MARKER}"), "phx_join", json!({"access_token": tokens[0]})).await;
    client.join_with("recordings", json!({"access_token": tokens[0]})).await;
    client.send(&json!([null, "x", "calls", "access_token", {"access_token": tokens[1]}]).to_string()).await;
    client.expect_close(4403).await;
    let mut malformed = Client::connect(addr, &tokens[0]).await;
    malformed.send(&format!("{{\"access_token\": \"{}\"", tokens[0])).await;
    malformed.expect_close(4400).await;
    let back_end = token(org, &json!({"role": "service_role", "jti": format!("{MARKER}-3")}));
    sent.push(back_end.clone());
    for jwt in tokens.iter().chain([&back_end]) {
        send_to_routes(addr, jwt, &tokens[0]).await;
    }
    sent
}

/// Sends a token to every HTTP route, and with it a second one in every place that is none for tokens.
/// Answers do not repeat a token, except that of a row's filter, which the caller wrote.
async fn send_to_routes(addr: SocketAddr, jwt: &str, misplaced: &str) {
    let signature = misplaced.rsplit('.').next().expect("a part");
    let bodies = [
        json!({"topic": misplaced, "event": "a.b", "data": misplaced}),
        json!({"topic": "calls", "event": misplaced, "token": misplaced}),
        json!({"user_id": misplaced, "reason": misplaced}),
        json!({"session_id": [misplaced], "issuer": misplaced}),
        json!({"cursor": misplaced, "tx": misplaced}),
        json!({"cursor": misplaced, "page": misplaced}),
        json!(misplaced),
    ];
    for path in ["/v1/events", "/v1/revocations", "/v1/covers", "/v1/calls"] {
        for body in &bodies {
            let post = Post::json(path, jwt, body);
            post.send(addr).await;
        }
        let post = Post::json(path, jwt, &bodies[0]).with("Idempotency-Key", misplaced);
        post.with("traceparent", misplaced).send(addr).await;
    }
    let get = |target: &str| {
        Upgrade::bearer(jwt)
            .without("Upgrade")
            .without("Connection")
            .to(target)
            .with("Accept-Encoding", "identity")
    };
    for target in [
        format!("/v1/calls?status=eq.{misplaced}"),
        format!("/v1/calls?access_token={misplaced}"),
        format!("/v1/calls/{misplaced}"),
        format!("/v1/{misplaced}"),
        format!("/v1/calls?after={signature}"),
        format!("/v1/calls?select={signature}&order={signature}"),
        format!("/v1/openapi.json?key={signature}"),
    ] {
        let answer = get(&target).with("If-None-Match", misplaced).with("Prefer", misplaced).send(addr).await;
        let is_own_parameter = target.contains("select=");
        assert!(is_own_parameter || !answer.body.contains(signature), "{target}: {answer:?}");
    }
}

/// Encodings in which a secret could appear in a log.
fn traces_of(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    vec![secret.to_owned(), hex, STANDARD_NO_PAD.encode(secret), URL_SAFE_NO_PAD.encode(secret)]
}

/// Asserts that the log contains no sent token, claim, signature or secret.
fn assert_discreet(log: &str, sent: &[String]) {
    let mut secrets = vec![SECRET.to_owned(), MARKER.to_owned()];
    for jwt in sent {
        secrets.push(jwt.clone());
        secrets.extend(jwt.split('.').skip(1).map(str::to_owned));
    }
    for secret in &secrets {
        for found in traces_of(secret) {
            if let Some(line) = log.lines().find(|line| line.to_lowercase().contains(&found.to_lowercase())) {
                panic!("the log repeats {secret:?}: {line}");
            }
        }
    }
}

/// Runs one test of this binary in its own process. Returns its exit code and output.
fn run_alone(test: &str) -> (Option<i32>, String) {
    let output = std::process::Command::new(std::env::current_exe().expect("is known"))
        .args(["--exact", "--ignored", test])
        .output()
        .expect("runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_log_line_with_a_token_ends_the_run() {
    for way in [
        "secrecy::logs_a_token",
        "secrecy::logs_part_of_a_token",
        "secrecy::logs_the_secret_in_hex",
        "secrecy::logs_another_token",
    ] {
        let (code, said) = run_alone(way);
        assert!(code == Some(70) && said.contains("CONTAINS A SECRET"), "{way}: {code:?}: {said}");
    }
    let (code, said) = run_alone("secrecy::logs_what_may_be_logged");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
#[ignore = "ends its process: a_log_line_with_a_token_ends_the_run runs it"]
fn logs_a_token() {
    capture_logs();
    let jwt = token(Uuid::nil(), &json!({}));
    // In a detached task, like most of the gateway's.
    let thread = std::thread::spawn(move || tracing::trace!(%jwt, "on purpose"));
    drop(thread.join());
}

#[test]
#[ignore = "ends its process: a_log_line_with_a_token_ends_the_run runs it"]
fn logs_part_of_a_token() {
    capture_logs();
    let jwt = token(Uuid::nil(), &json!({}));
    tracing::trace!("on purpose: ...{}", &jwt[jwt.len() - 24..]);
}

#[test]
#[ignore = "ends its process: a_log_line_with_a_token_ends_the_run runs it"]
fn logs_the_secret_in_hex() {
    capture_logs();
    keep_secret(SECRET);
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02X}")).collect();
    tracing::trace!(hex, "on purpose");
}

#[test]
#[ignore = "ends its process: a_log_line_with_a_token_ends_the_run runs it"]
fn logs_another_token() {
    capture_logs();
    let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzb21lYm9keSJ9.";
    tracing::trace!("on purpose: Bearer {jwt}");
}

#[test]
#[ignore = "a_log_line_with_a_token_ends_the_run runs it"]
fn logs_what_may_be_logged() {
    capture_logs();
    let jwt = token(Uuid::nil(), &json!({}));
    let hash = warden::audit_trail::TokenHash::of(&jwt);
    tracing::info!(token.hash = %hash, org.id = %Uuid::nil(), "not a secret");
}

#[tokio::test]
async fn no_log_line_of_the_gateway_contains_a_token_or_the_secret() {
    let logs = LogCapture::begin();
    tracing::trace!("the capture is on");
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let sent = send_everything(t.gateway.public_addr(), org).await;
    t.gateway.stop().await;
    let text = logs.text();
    for shown in [
        "TRACE",
        "the capture is on",
        "upgrade accepted",
        "upgrade rejected",
        "credential_in_url",
        "session ended",
    ] {
        assert!(text.contains(shown), "the capture lacks {shown:?}");
    }
    assert_discreet(&text, &sent);
}

#[tokio::test]
async fn no_log_line_of_the_binary_contains_a_token_at_trace_level() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut server = tokio::process::Command::new(env!("CARGO_BIN_EXE_warden"))
        .arg("serve")
        .env_clear()
        .env("DATABASE_URL", db.gateway_url())
        .env("WARDEN_JWT_SECRET", SECRET)
        .env("WARDEN_LISTEN", "127.0.0.1:0")
        .env("WARDEN_ADMIN_LISTEN", "127.0.0.1:0")
        .env("WARDEN_REFUSAL_DELAY_MS", "0")
        .env("WARDEN_LOG", "trace,tungstenite=trace,tungstenite::protocol=trace")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let mut stderr = server.stderr.take().expect("is piped");
    let mut log = Vec::new();
    let addr = within("the address", async {
        loop {
            assert_ne!(
                stderr.read_buf(&mut log).await.expect("reads"),
                0,
                "{}",
                String::from_utf8_lossy(&log)
            );
            if let Some(addr) = listen_address(&String::from_utf8_lossy(&log)) {
                break addr;
            }
        }
    })
    .await;
    // Keep reading so that the pipe never fills.
    let reader = tokio::spawn(async move {
        stderr.read_to_end(&mut log).await.expect("reads");
        String::from_utf8_lossy(&log).into_owned()
    });
    eventually("readiness", async || {
        Upgrade::new().to("/readyz").without("Upgrade").without("Connection").send(addr).await.status == 200
    })
    .await;
    let sent = send_everything(addr, org).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.id().expect("runs")).expect("a pid"));
    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::TERM).expect("signals");
    assert!(within("the end", server.wait()).await.expect("ends").success());
    let text = reader.await.expect("reads");
    // The log contains everything that it may contain.
    for shown in ["DEBUG", "upgrade rejected", "session ended", "the gateway is down"] {
        assert!(text.contains(shown), "the log lacks {shown:?}");
    }
    assert_discreet(&text, &sent);
}

/// Public address from the line that the gateway logs when it is up.
fn listen_address(log: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains("the gateway is up"))?;
    let plain: String = strip_ansi(line);
    plain.split("listen=").nth(1)?.split_whitespace().next()?.parse().ok()
}

/// Removes terminal colours.
fn strip_ansi(line: &str) -> String {
    line.split('\u{1b}')
        .enumerate()
        .map(|(n, part)| if n == 0 { part } else { part.split_once('m').map_or("", |p| p.1) })
        .collect()
}

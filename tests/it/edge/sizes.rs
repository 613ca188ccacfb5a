//! Sizes of tokens and of request heads.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use clap::Parser as _;
use serde_json::json;
use uuid::Uuid;
use warden::config::ServeArgs;

use crate::harness::{Client, TestDb, TestGateway, Upgrade, token};

/// Flags of `warden serve`.
#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Token of at most this many bytes, and of at least one less, because base64 has no string of some lengths.
fn token_of(org: Uuid, bytes: usize) -> String {
    let with_groups = |count: usize| token(org, &json!({"groups": "g".repeat(count)}));
    // Three bytes of claims are four of the token.
    let estimate = (bytes - with_groups(0).len()) / 4 * 3;
    let count = (estimate..estimate + 8).rev().find(|count| with_groups(*count).len() <= bytes);
    with_groups(count.expect("a token of this length"))
}

#[tokio::test]
async fn a_token_of_the_configured_size_fits_wherever_it_is_sent() {
    const TOKEN_BYTES: usize = 32 * 1024;
    let flags = [
        "warden",
        "--database-url=postgres://localhost/app",
        "--jwt-secret=a secret of more than 32 bytes...",
        "--token-bytes=32768",
    ];
    let line = Line::try_parse_from(flags).expect("parses").serve.into_config().expect("is valid").limits;
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.token_bytes_max = line.token_bytes_max;
        config.limits.serve = line.serve;
        config.limits.session = line.session;
    })
    .await;
    let org = t.db.create_org().await;
    let long = token_of(org, TOKEN_BYTES);
    assert!(long.len() >= TOKEN_BYTES - 1, "{}", long.len());
    let offer = |token: &str| {
        let entry = STANDARD_NO_PAD.encode(token);
        Upgrade::new().with("Sec-WebSocket-Protocol", &format!("phoenix, base64url.bearer.phx.{entry}"))
    };
    let cookie = "c".repeat(6 * 1024);
    for request in [Upgrade::bearer(&long), offer(&long), offer(&long).with("Cookie", &cookie)] {
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!(answer.status, 101, "{answer:?}");
    }
    let longer = token_of(org, TOKEN_BYTES + 2);
    let rejected = [Upgrade::bearer(&longer), offer(&longer)];
    for request in rejected {
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "token_too_long"), "{answer:?}");
        assert!(answer.message().contains("32768") && answer.message().contains("WARDEN_TOKEN_BYTES"));
    }
    let mut client = Client::connect(t.gateway.public_addr(), &token(org, &json!({}))).await;
    client.join("calls").await;
    let reply = client.push("calls", "access_token", json!({"access_token": longer})).await;
    assert_eq!((reply.status.as_str(), &reply.response["reason"]), ("error", &json!("invalid token")));
    assert!(reply.response["message"].as_str().is_some_and(|m| m.contains("WARDEN_TOKEN_BYTES")));
    let reply = client.push("calls", "access_token", json!({"access_token": long})).await;
    assert_eq!(reply.status, "ok", "{reply:?}");
    drop(client);
    t.gateway.stop().await;
}

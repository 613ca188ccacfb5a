//! Expiry of tokens, and fresh tokens that replace the current one while the session stays open.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use uuid::Uuid;
use warden::auth::VerifierConfig;

use crate::harness::{
    Client, IssuerExt as _, IssuerKey, KeyAnswer, SECRET, TestDb, TestGateway, TestKeyServer, Upgrade,
    claims, eventually, sign, token, within,
};

/// Validity of short-lived tokens: long enough to connect on a busy machine, and short enough to wait for.
const SHORT_SECONDS: u64 = 3;

fn in_seconds(seconds: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() + seconds
}

/// Waits until this time has passed on the clock that tokens are compared with.
async fn sleep_until(exp: u64) {
    let end = UNIX_EPOCH + Duration::from_secs(exp);
    while let Ok(rest) = end.duration_since(SystemTime::now()) {
        tokio::time::sleep(rest + Duration::from_millis(1)).await;
    }
}

async fn short_lived(t: &TestGateway, org: Uuid) -> (Client, u64) {
    let exp = in_seconds(SHORT_SECONDS);
    let client = Client::connect(t.gateway.public_addr(), &token(org, &json!({"exp": exp}))).await;
    (client, exp)
}

fn payload(jwt: &str) -> Value {
    json!({"access_token": jwt})
}

#[tokio::test]
async fn a_session_ends_when_its_token_expires() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let (mut client, exp) = short_lived(&t, org).await;
    client.join("calls").await;
    client.expect_close(4401).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    assert!(now >= Duration::from_secs(exp), "closed too early: {now:?} < {exp}");
    assert!(now < Duration::from_secs(exp + 10), "closed too late: {now:?} > {exp}");
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_fresh_token_extends_the_session() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let (mut client, exp) = short_lived(&t, org).await;
    client.join("calls").await;
    for (topic, changes) in [("calls", json!({})), ("phoenix", json!({"role": "other", "jti": "2"}))] {
        let reply = client.push(topic, "access_token", payload(&token(org, &changes))).await;
        assert_eq!((reply.status.as_str(), &reply.response), ("ok", &json!({})), "{reply:?}");
        assert_eq!(reply.topic, topic);
    }
    sleep_until(exp + 1).await;
    assert_eq!(client.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_token_that_expires_sooner_ends_the_session_sooner() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    let exp = in_seconds(SHORT_SECONDS);
    let reply = client.push("calls", "access_token", payload(&token(org, &json!({"exp": exp})))).await;
    assert_eq!(reply.status, "ok");
    client.expect_close(4401).await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_rejected_token_leaves_the_session_unchanged() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let (mut client, exp) = short_lived(&t, org).await;
    client.join("calls").await;
    let good = claims(org);
    let other_secret = "another secret of more than 32 bytes";
    let tokens = [
        ("not a token", "abc".to_owned()),
        ("empty", String::new()),
        ("wrong secret", sign(&good, Algorithm::HS256, other_secret)),
        (
            "wrong secret of another organisation",
            sign(&claims(Uuid::new_v4()), Algorithm::HS256, other_secret),
        ),
        ("wrong algorithm", sign(&good, Algorithm::HS512, SECRET)),
        ("expired", token(org, &json!({"exp": in_seconds(0) - 1}))),
        ("not yet valid", token(org, &json!({"nbf": in_seconds(60)}))),
        ("wrong audience", token(org, &json!({"aud": "anon"}))),
        ("no org", token(org, &json!({"app_metadata": {}}))),
        ("org only elsewhere", token(org, &json!({"app_metadata": {}, "user_metadata": {"org_id": org}}))),
        ("no sub", token(org, &json!({"sub": null}))),
    ];
    for (name, jwt) in &tokens {
        let reply = client.push("calls", "access_token", payload(jwt)).await;
        assert_eq!(reply.status, "error", "{name}: {reply:?}");
        assert_eq!(reply.response["reason"], "invalid token", "{name}: {reply:?}");
        let message = reply.response["message"].as_str().expect("a message");
        assert!(message.contains("token") || message.contains("claim"), "{name}: {message}");
        assert!(jwt.is_empty() || !message.contains(jwt.as_str()), "{name}: {message}");
    }
    for invalid in
        [json!({}), json!({"access_token": null}), json!({"access_token": 7}), json!("x"), Value::Null]
    {
        let reply = client.push("calls", "access_token", invalid.clone()).await;
        assert_eq!(reply.response["reason"], "invalid payload", "{invalid}: {reply:?}");
    }
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    // None of these tokens extended the session.
    client.expect_close(4401).await;
    sleep_until(exp).await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_token_of_another_user_or_organisation_ends_the_session() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut witness = t.connect(org).await;
    witness.join("calls").await;
    for (name, jwt) in [
        ("another org", token(other, &json!({}))),
        ("an org that does not exist", token(Uuid::new_v4(), &json!({}))),
        ("another user", token(org, &json!({"sub": "22222222-2222-4222-8222-222222222222"}))),
        ("another spelling of the user", token(org, &json!({"sub": "11111111-1111-4111-8111-11111111111"}))),
    ] {
        let mut client = t.connect(org).await;
        client.join("calls").await;
        client.send(&json!([null, "9", "calls", "access_token", payload(&jwt)]).to_string()).await;
        client.expect_close(4403).await;
        t.db.insert_call(other).await;
        let call = t.db.insert_call(org).await;
        let event = witness.expect_only("calls", "call.created").await;
        assert_eq!(event.row_id(), call.to_string(), "{name}");
        let rest = within("the end of the stream", futures_util::StreamExt::next(&mut client.socket)).await;
        assert!(!matches!(rest, Some(Ok(_))), "{name}: {rest:?} arrived after the Close");
    }
    drop(witness);
    t.gateway.stop().await;
}

/// A gateway with a key server and this grace. Its other limits are too long to matter.
async fn with_key_server(server: &TestKeyServer, grace: Duration) -> TestGateway {
    let issuer = server.issuer("https://a.example");
    TestGateway::start_with(TestDb::create().await, |config| {
        config.verifier = VerifierConfig { issuers: vec![issuer] };
        config.limits.keys.cooldown = Duration::ZERO;
        config.limits.keys.fetch_timeout = Duration::from_hours(1);
        config.limits.keys.wait = Duration::from_secs(20);
        config.limits.session.expiry_grace = grace;
    })
    .await
}

#[tokio::test]
async fn an_expired_token_can_be_replaced_within_the_grace() {
    let db = TestDb::create().await;
    let t = TestGateway::start_with(db, |config| {
        config.limits.session.expiry_grace = Duration::from_hours(1);
    })
    .await;
    let org = t.db.create_org().await;
    let (mut client, exp) = short_lived(&t, org).await;
    client.join("calls").await;
    sleep_until(exp).await;
    // The session keeps its topics and may not join others.
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    let reply = client.push("recordings", "phx_join", json!({})).await;
    assert_eq!(
        (reply.status.as_str(), &reply.response["reason"]),
        ("error", &json!("token expired")),
        "{reply:?}"
    );
    // The grace applies to open sessions only, not to handshakes.
    let answer = Upgrade::bearer(&token(org, &json!({"exp": exp}))).send(t.gateway.public_addr()).await;
    assert_eq!(answer.code(), "token_expired");
    let reply = client.push("calls", "access_token", payload(&token(org, &json!({"exp": exp})))).await;
    assert_eq!(reply.response["reason"], "invalid token", "an expired token was accepted");
    let reply = client.push("calls", "access_token", payload(&token(org, &json!({})))).await;
    assert_eq!(reply.status, "ok");
    client.join("recordings").await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_session_ends_after_the_grace() {
    let db = TestDb::create().await;
    let t = TestGateway::start_with(db, |config| {
        config.limits.session.expiry_grace = Duration::from_secs(2);
    })
    .await;
    let org = t.db.create_org().await;
    let (mut client, exp) = short_lived(&t, org).await;
    client.expect_close(4401).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    assert!(now >= Duration::from_secs(exp + 2), "closed within the grace: {now:?} < {exp} + 2");
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_session_stays_open_while_the_key_of_a_timely_refresh_is_fetched() {
    let (old, new) = (IssuerKey::es256(), IssuerKey::es256());
    let server = TestKeyServer::start(&[old.jwk("old")]).await;
    let t = with_key_server(&server, Duration::ZERO).await;
    let org = t.db.create_org().await;
    let mut good = claims(org);
    good["iss"] = json!("https://a.example");
    let mut short = good.clone();
    let exp = in_seconds(SHORT_SECONDS);
    short["exp"] = json!(exp);
    let mut client = Client::connect(t.gateway.public_addr(), &old.sign("old", &short)).await;
    client.join("calls").await;
    let before = server.requests();
    server.answers(KeyAnswer::Held);
    // realtime-js sends its token on every channel. The replies must arrive in the same order.
    for (reference, topic) in [("r1", "calls"), ("r2", "phoenix")] {
        let message = json!([null, reference, topic, "access_token", payload(&new.sign("new", &good))]);
        client.send(&message.to_string()).await;
    }
    eventually("the request", async || server.requests() == before + 1).await;
    // The session's loop keeps running, even after the old token has expired.
    assert_eq!(client.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    sleep_until(exp).await;
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    server.publish(&[old.jwk("old"), new.jwk("new")]);
    for reference in ["r1", "r2"] {
        let reply = client.next_reply().await;
        assert_eq!((reply.reference, reply.status.as_str()), (json!(reference), "ok"));
    }
    assert_eq!(server.requests(), before + 1);
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());

    // A token of another user also ends the session if its key had to be fetched first.
    let third = IssuerKey::eddsa();
    server.publish(&[third.jwk("third")]);
    let mut other = good.clone();
    other["sub"] = json!("another-user");
    client
        .send(
            &json!([null, "r3", "calls", "access_token", payload(&third.sign("third", &other))]).to_string(),
        )
        .await;
    client.expect_close(4403).await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_failed_refresh_neither_ends_nor_extends_the_session() {
    let (old, new) = (IssuerKey::es256(), IssuerKey::es256());
    let server = TestKeyServer::start(&[old.jwk("old")]).await;
    let t = with_key_server(&server, Duration::ZERO).await;
    let org = t.db.create_org().await;
    let mut good = claims(org);
    good["iss"] = json!("https://a.example");
    let mut short = good.clone();
    short["exp"] = json!(in_seconds(SHORT_SECONDS));
    let mut client = Client::connect(t.gateway.public_addr(), &old.sign("old", &short)).await;
    client.join("calls").await;
    server.answers(KeyAnswer::Status(500));
    let reply = client.push("calls", "access_token", payload(&new.sign("new", &good))).await;
    assert_eq!(
        (reply.status.as_str(), &reply.response["reason"]),
        ("error", &json!("unavailable")),
        "{reply:?}"
    );
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    client.expect_close(4401).await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_same_sub_of_another_issuer_is_another_user() {
    let key = IssuerKey::eddsa();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    let issuers = vec![server.issuer("https://a.example"), server.issuer("https://b.example")];
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.verifier = VerifierConfig { issuers };
    })
    .await;
    let org = t.db.create_org().await;
    let token = |issuer: &str| {
        let mut claims = claims(org);
        claims["iss"] = json!(issuer);
        key.sign("1", &claims)
    };
    let mut client = Client::connect(t.gateway.public_addr(), &token("https://a.example")).await;
    let reply = client.push("phoenix", "access_token", payload(&token("https://a.example"))).await;
    assert_eq!(reply.status, "ok");
    let message = json!([null, "9", "phoenix", "access_token", payload(&token("https://b.example"))]);
    client.send(&message.to_string()).await;
    client.expect_close(4403).await;
    drop(client);
    t.gateway.stop().await;
}

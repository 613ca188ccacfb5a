//! Key servers that rotate their keys, and key servers that are down, slow or faulty. None of it affects open
//! sessions.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use warden::config::Config;
use warden::metrics::IssuerLabels;

use super::{ISSUER, OTHER_ISSUER, accepts, claims_of, issuers, outcome, quick, ready, readyz, rejects};
use crate::harness::{
    Client, IssuerExt as _, IssuerKey, KeyAnswer, TestDb, TestGateway, TestKeyServer, Upgrade, eventually,
    token,
};

fn unavailable() -> (u16, String) {
    (503, "keys_unavailable".to_owned())
}

/// A gateway with one issuer, which publishes its keys at this server.
async fn start(server: &TestKeyServer, change: impl FnOnce(&mut Config)) -> TestGateway {
    let issuer = server.issuer(ISSUER);
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        issuers(vec![issuer])(config);
        change(config);
    })
    .await;
    ready(&t).await;
    t
}

/// Expects that the session is open and receives its organisation's events.
async fn expect_open(t: &TestGateway, client: &mut Client, org: uuid::Uuid) {
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
}

#[tokio::test]
async fn keys_are_rotated_while_sessions_stay_open() {
    let (old, new) = (IssuerKey::es256(), IssuerKey::es256());
    let server = TestKeyServer::start(&[old.jwk("old")]).await;
    let t = start(&server, quick).await;
    let org = t.db.create_org().await;
    let claims = claims_of(ISSUER, org);
    let mut client = Client::connect(t.gateway.public_addr(), &old.sign("old", &claims)).await;
    client.join("calls").await;

    // The first token that names the new key causes a fetch, and the old key remains valid.
    server.publish(&[old.jwk("old"), new.jwk("new")]);
    accepts(&t, "new", &new.sign("new", &claims)).await;
    accepts(&t, "old", &old.sign("old", &claims)).await;
    assert_eq!(server.requests(), 2);

    // A withdrawn key opens no more sessions. Open sessions stay, and can refresh with the new key.
    server.publish(&[new.jwk("new")]);
    rejects(&t, &[("unknown", new.sign("unknown", &claims))]).await;
    rejects(&t, &[("withdrawn", old.sign("old", &claims))]).await;
    expect_open(&t, &mut client, org).await;
    let payload = json!({"access_token": new.sign("new", &claims)});
    assert_eq!(client.push("calls", "access_token", payload).await.status, "ok");

    // The issuer publishes another key under the same name: only tokens of that key are accepted.
    server.publish(&[old.jwk("new")]);
    rejects(&t, &[("unknown", new.sign("unknown", &claims)), ("former", new.sign("new", &claims))]).await;
    accepts(&t, "present", &old.sign("new", &claims)).await;
    expect_open(&t, &mut client, org).await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn keys_are_refreshed_at_the_interval() {
    let (old, new) = (IssuerKey::es256(), IssuerKey::es256());
    let server = TestKeyServer::start(&[old.jwk("old")]).await;
    let t = start(&server, |config| config.limits.keys.interval = Duration::from_millis(50)).await;
    let org = t.db.create_org().await;
    server.publish(&[new.jwk("new")]);
    let token = old.sign("old", &claims_of(ISSUER, org));
    eventually("a withdrawn key is forgotten", async || outcome(&t, &token).await.0 == 401).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn many_unknown_keys_cause_one_request() {
    let key = IssuerKey::eddsa();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    // Within the cooldown unknown keys cause no request at all.
    let t = start(&server, |config| config.limits.keys.cooldown = Duration::from_hours(1)).await;
    let org = t.db.create_org().await;
    let claims = claims_of(ISSUER, org);
    let unknown: Vec<_> = (0..50).map(|n| key.sign(&format!("unknown {n}"), &claims)).collect();
    for answer in join_all(unknown.iter().map(|token| outcome(&t, token))).await {
        assert_eq!(answer, (401, "invalid_token".to_owned()));
    }
    assert_eq!(server.requests(), 1);
    t.gateway.stop().await;

    let t = start(&server, |config| {
        quick(config);
        config.limits.keys.fetch_timeout = Duration::from_secs(20);
        config.limits.keys.wait = Duration::from_secs(20);
        config.limits.keys.waiting_max = 50;
    })
    .await;
    t.db.run(format!("insert into organizations (id, name) values ('{org}', 'x')")).await;
    let before = server.requests();
    server.answers(KeyAnswer::Held);
    let gauge = &t.gateway.metrics().keys_waiting;
    let labels = IssuerLabels { issuer: ISSUER.into() };
    let waiting = || gauge.get_or_create(&labels).get();
    let meanwhile = async {
        eventually("all tokens wait", async || waiting() == 50).await;
        accepts(&t, "a known key, while others wait", &key.sign("1", &claims)).await;
        assert_eq!(outcome(&t, &key.sign("one too many", &claims)).await, unavailable());
        server.publish(&[key.jwk("1"), key.jwk("unknown 0")]);
    };
    let (answers, ()) = tokio::join!(join_all(unknown.iter().map(|token| outcome(&t, token))), meanwhile);
    assert_eq!(answers[0], (101, String::new()), "its key was published");
    for answer in &answers[1..] {
        assert_eq!(*answer, (401, "invalid_token".to_owned()));
    }
    assert_eq!((server.requests(), waiting()), (before + 1, 0), "one request for all");
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_gateway_starts_while_its_key_server_is_down() {
    let key = IssuerKey::rs256();
    let server = TestKeyServer::start(&[]).await;
    let (addr, issuer) = (server.addr(), server.issuer(ISSUER));
    drop(server);
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        issuers(vec![issuer])(config);
        quick(config);
    })
    .await;
    let org = t.db.create_org().await;
    let good = key.sign("1", &claims_of(ISSUER, org));
    eventually("readyz names the failure", async || readyz(&t).await.1.contains("keys")).await;
    assert_eq!(readyz(&t).await.0, 503);
    let answer = Upgrade::bearer(&good).send(t.gateway.public_addr()).await;
    assert_eq!((answer.status, answer.code()), unavailable(), "{answer:?}");
    assert_eq!(answer.headers("retry-after"), ["1"]);
    // A token of an unknown issuer is rejected immediately, because no key could make it valid.
    rejects(&t, &[("an unknown issuer", key.sign("1", &claims_of(OTHER_ISSUER, org)))]).await;

    let server = TestKeyServer::start_at(addr, &[key.jwk("1")]).await;
    ready(&t).await;
    accepts(&t, "the key server is up", &good).await;
    drop(server);
    t.gateway.stop().await;

    // A gateway with a secret needs no key server.
    let t = TestGateway::start().await;
    ready(&t).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_faulty_key_server_affects_neither_open_sessions_nor_known_keys() {
    let key = IssuerKey::es256();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    let elsewhere = TestKeyServer::start(&[key.jwk("1"), key.jwk("2")]).await;
    let t = start(&server, |config| {
        quick(config);
        config.limits.keys.interval = Duration::from_millis(20);
        config.limits.keys.fetch_timeout = Duration::from_millis(300);
    })
    .await;
    let org = t.db.create_org().await;
    let claims = claims_of(ISSUER, org);
    let mut client = Client::connect(t.gateway.public_addr(), &key.sign("1", &claims)).await;
    client.join("calls").await;
    let too_many: Vec<_> = (0..65).map(|n| key.jwk(&n.to_string())).collect();
    let body = |value: Value| KeyAnswer::Body(value.to_string());
    let mut private = key.jwk("2");
    private["d"] = json!("AQAB");
    for fault in [
        KeyAnswer::Status(500),
        KeyAnswer::Status(404),
        KeyAnswer::Status(204),
        KeyAnswer::Redirect(elsewhere.url()),
        KeyAnswer::Huge,
        KeyAnswer::Silence,
        KeyAnswer::TornBody,
        KeyAnswer::HangUp,
        KeyAnswer::Raw("220 mail.example ESMTP\r\n".into()),
        KeyAnswer::Body("<html>sign in</html>".into()),
        body(json!([])),
        body(json!({"keys": []})),
        body(json!({"keys": too_many})),
        body(json!({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "2"}, private]})),
    ] {
        server.answers(fault.clone());
        let degraded = (
            200,
            "ok\nwarning: a key server fails, and its last known keys are used: see the gateway's log\n"
                .to_owned(),
        );
        eventually("readyz names the failure", async || readyz(&t).await == degraded).await;
        // Open sessions stay, known keys are accepted, and an unknown key cannot be judged.
        expect_open(&t, &mut client, org).await;
        accepts(&t, "a known key", &key.sign("1", &claims)).await;
        assert_eq!(outcome(&t, &key.sign("2", &claims)).await, unavailable(), "{fault:?}");
        let payload = json!({"access_token": key.sign("2", &claims)});
        let reply = client.push("calls", "access_token", payload).await;
        assert_eq!(
            (reply.status.as_str(), &reply.response["reason"]),
            ("error", &json!("unavailable")),
            "{reply:?}"
        );
        let payload = json!({"access_token": key.sign("1", &claims)});
        assert_eq!(client.push("calls", "access_token", payload).await.status, "ok", "{fault:?}");
        server.publish(&[key.jwk("1")]);
        ready(&t).await;
    }
    assert_eq!(elsewhere.requests(), 0, "a redirect was followed");
    rejects(&t, &[("unknown to the recovered server", key.sign("2", &claims))]).await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_endless_response_is_cut_at_the_size_limit() {
    let key = IssuerKey::es256();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    let t = start(&server, |config| {
        quick(config);
        config.limits.keys.interval = Duration::from_millis(20);
        config.limits.keys.fetch_timeout = Duration::from_hours(1);
    })
    .await;
    server.answers(KeyAnswer::Huge);
    // The time limit alone would end the request only after an hour.
    eventually("readyz names the failure", async || readyz(&t).await.1.contains("fails")).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn stale_keys_reject_handshakes_and_keep_sessions_open() {
    let key = IssuerKey::es256();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    let t = start(&server, |config| {
        quick(config);
        config.limits.keys.interval = Duration::from_millis(20);
        config.limits.keys.stale_max = Duration::from_secs(2);
    })
    .await;
    let org = t.db.create_org().await;
    let good = key.sign("1", &claims_of(ISSUER, org));
    let mut client = Client::connect(t.gateway.public_addr(), &good).await;
    client.join("calls").await;
    server.answers(KeyAnswer::Status(500));
    eventually("the keys are too old", async || readyz(&t).await.0 == 503).await;
    assert_eq!(outcome(&t, &good).await, unavailable());
    expect_open(&t, &mut client, org).await;
    server.publish(&[key.jwk("1")]);
    ready(&t).await;
    accepts(&t, "fresh again", &good).await;
    expect_open(&t, &mut client, org).await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_failing_key_server_does_not_affect_other_issuers() {
    let (a, b) = (IssuerKey::es256(), IssuerKey::eddsa());
    let (of_a, of_b) = (TestKeyServer::start(&[a.jwk("1")]).await, TestKeyServer::start(&[]).await);
    let list = vec![of_a.issuer(ISSUER), of_b.issuer(OTHER_ISSUER)];
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        issuers(list)(config);
        quick(config);
    })
    .await;
    let org = t.db.create_org().await;
    eventually("a's keys are fetched", async || readyz(&t).await.1.contains("a key server fails")).await;
    accepts(&t, "a", &a.sign("1", &claims_of(ISSUER, org))).await;
    assert_eq!(outcome(&t, &b.sign("1", &claims_of(OTHER_ISSUER, org))).await, unavailable());
    // A token of one issuer causes no request to the other's key server.
    let before = of_a.requests();
    of_b.publish(&[b.jwk("1")]);
    ready(&t).await;
    accepts(&t, "b", &b.sign("1", &claims_of(OTHER_ISSUER, org))).await;
    assert_eq!(of_a.requests(), before);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_handshake_waits_for_keys_within_a_limit() {
    let key = IssuerKey::es256();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    let t = start(&server, |config| {
        quick(config);
        config.limits.keys.fetch_timeout = Duration::from_hours(1);
        config.limits.keys.wait = Duration::from_millis(100);
    })
    .await;
    let org = t.db.create_org().await;
    let claims = claims_of(ISSUER, org);
    server.answers(KeyAnswer::Silence);
    // The key server never responds and its request does not time out, but each handshake ends within its own
    // limit.
    for n in 0..3 {
        assert_eq!(outcome(&t, &key.sign(&format!("unknown {n}"), &claims)).await, unavailable());
    }
    assert_eq!(server.requests(), 2);
    accepts(&t, "a known key", &key.sign("1", &claims)).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_hs256_token_causes_no_request_to_a_key_server() {
    let key = IssuerKey::es256();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    let t = start(&server, quick).await;
    let org = t.db.create_org().await;
    rejects(&t, &[("HS256", token(org, &json!({"iss": ISSUER})))]).await;
    assert_eq!(server.requests(), 1, "a request was sent for an HS256 token");
    t.gateway.stop().await;
}

//! Rules of issuers: each has its own audience, type, claims and organisations.

use serde_json::json;
use uuid::Uuid;

use super::{ISSUER, OTHER_ISSUER, accepts, claims_of, gateway, outcome, rejects};
use crate::harness::{IssuerExt as _, IssuerKey, Post, TestKeyServer};

#[tokio::test]
async fn each_issuer_has_its_own_audience_and_rules() {
    let key = IssuerKey::eddsa();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    let mut strict = server.issuer(ISSUER);
    strict.audience = "calls".into();
    strict.rules.typ = Some("at+jwt".into());
    strict.rules.claims.insert("role".into(), vec!["agent".into(), "lead".into()]);
    strict.rules.claims.insert("https://example.com/tier".into(), vec!["gold".into()]);
    let t = gateway(vec![strict, server.issuer(OTHER_ISSUER)]).await;
    let org = t.db.create_org().await;
    let mut good = claims_of(ISSUER, org);
    good["aud"] = json!("calls");
    good["role"] = json!("lead");
    good["https://example.com/tier"] = json!("gold");
    let header = |typ: &str| json!({"alg": "EdDSA", "kid": "1", "typ": typ});
    accepts(&t, "all rules met", &key.sign_with(&header("at+jwt"), &good)).await;
    let changed = |name: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[name] = value;
        key.sign_with(&header("at+jwt"), &claims)
    };
    let mut without = good.clone();
    without.as_object_mut().expect("an object").remove("role");
    rejects(
        &t,
        &[
            ("the other issuer's audience", changed("aud", json!("authenticated"))),
            ("the other issuer's type", key.sign_with(&header("JWT"), &good)),
            ("no type", key.sign_with(&json!({"alg": "EdDSA", "kid": "1"}), &good)),
            ("another role", changed("role", json!("authenticated"))),
            ("a list of roles", changed("role", json!(["lead"]))),
            ("role null", changed("role", json!(null))),
            ("no role", key.sign_with(&header("at+jwt"), &without)),
            ("another tier", changed("https://example.com/tier", json!("Gold"))),
        ],
    )
    .await;
    // Neither issuer's rules apply to the other.
    accepts(&t, "the other issuer", &key.sign("1", &claims_of(OTHER_ISSUER, org))).await;
    let mut of_other = good.clone();
    of_other["iss"] = json!(OTHER_ISSUER);
    rejects(&t, &[("the strict issuer's audience", key.sign_with(&header("at+jwt"), &of_other))]).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_issuer_can_be_limited_to_some_organisations() {
    let key = IssuerKey::eddsa();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    let (org, foreign) = (Uuid::new_v4(), Uuid::new_v4());
    let mut limited = server.issuer(ISSUER);
    limited.rules.orgs = Some(vec![org]);
    let t = gateway(vec![limited, server.issuer(OTHER_ISSUER)]).await;
    for id in [org, foreign] {
        t.db.run(format!("insert into organizations (id, name) values ('{id}', 'x')")).await;
    }
    accepts(&t, "its own organisation", &key.sign("1", &claims_of(ISSUER, org))).await;
    let answer = outcome(&t, &key.sign("1", &claims_of(ISSUER, foreign))).await;
    assert_eq!(answer, (403, "organisation_of_another_issuer".to_owned()));
    accepts(&t, "an issuer without a limit", &key.sign("1", &claims_of(OTHER_ISSUER, foreign))).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn tokens_of_an_issuer_for_back_ends_open_no_sockets() {
    let key = IssuerKey::eddsa();
    let server = TestKeyServer::start(&[key.jwk("1")]).await;
    let mut backends = server.issuer(ISSUER);
    backends.rules.backends_only = true;
    let t = gateway(vec![backends, server.issuer(OTHER_ISSUER)]).await;
    let org = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    let revoke = async |token: &str| {
        let answer = Post::json("/v1/revocations", token, &json!({"user_id": "nobody"})).send(addr).await;
        (answer.status, answer.code())
    };
    for role in [json!(null), json!("authenticated"), json!("service_role")] {
        let mut claims = claims_of(ISSUER, org);
        claims["role"] = role;
        let token = key.sign("1", &claims);
        assert_eq!(outcome(&t, &token).await, (403, "backend_token".to_owned()), "{claims}");
        assert_eq!(revoke(&token).await.0, 201, "{claims}");
    }
    // The other issuer's tokens are as before.
    let mut claims = claims_of(OTHER_ISSUER, org);
    accepts(&t, "a user of the other issuer", &key.sign("1", &claims)).await;
    assert_eq!(revoke(&key.sign("1", &claims)).await, (403, "not_a_backend".to_owned()));
    claims["role"] = json!("service_role");
    accepts(&t, "a back end of the other issuer", &key.sign("1", &claims)).await;
    assert_eq!(revoke(&key.sign("1", &claims)).await.0, 201);
    t.gateway.stop().await;
}

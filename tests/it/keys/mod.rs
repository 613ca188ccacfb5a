//! Whose keys verify a token: each issuer's own, by algorithm and name, and nobody else's.

mod https;
mod rules;
mod server;

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use uuid::Uuid;
use warden::auth::{IssuerConfig, VerifierConfig};
use warden::config::Config;

use crate::harness::{
    AUDIENCE, Client, IssuerExt as _, IssuerKey, SECRET, TestDb, TestGateway, TestKeyServer, Upgrade, claims,
    eventually, sign,
};

const ISSUER: &str = "https://a.example/auth/v1";
const OTHER_ISSUER: &str = "https://b.example/auth/v1";

/// Good claims of this issuer.
fn claims_of(issuer: &str, org: Uuid) -> Value {
    let mut claims = claims(org);
    claims["iss"] = issuer.into();
    claims
}

/// A configuration with these issuers.
fn issuers(issuers: Vec<IssuerConfig>) -> impl FnOnce(&mut Config) {
    move |config| config.verifier = VerifierConfig { issuers }
}

/// A gateway that has its keys.
async fn gateway(list: Vec<IssuerConfig>) -> TestGateway {
    let t = TestGateway::start_with(TestDb::create().await, issuers(list)).await;
    ready(&t).await;
    t
}

async fn readyz(t: &TestGateway) -> (u16, String) {
    let request = Upgrade::new().to("/readyz").without("Upgrade").without("Connection");
    let answer = request.send(t.gateway.public_addr()).await;
    (answer.status, answer.body)
}

async fn ready(t: &TestGateway) {
    eventually("readiness", async || readyz(t).await == (200, "ok\n".to_owned())).await;
}

/// Status and code of an upgrade with this token.
async fn outcome(t: &TestGateway, token: &str) -> (u16, String) {
    let answer = Upgrade::bearer(token).send(t.gateway.public_addr()).await;
    (answer.status, answer.code())
}

async fn accepts(t: &TestGateway, name: &str, token: &str) {
    assert_eq!(outcome(t, token).await, (101, String::new()), "{name}");
}

async fn refuses(t: &TestGateway, cases: &[(&str, String)]) {
    for (name, token) in cases {
        assert_eq!(outcome(t, token).await, (401, "invalid_token".to_owned()), "{name}");
    }
}

#[tokio::test]
async fn tokens_of_every_algorithm_open_a_session() {
    let keys = [IssuerKey::rs256(), IssuerKey::es256(), IssuerKey::eddsa()];
    let server = TestKeyServer::start(&keys.each_ref().map(|key| key.jwk("1"))).await;
    let t = gateway(vec![server.issuer(ISSUER)]).await;
    let org = t.db.create_org().await;
    for key in &keys {
        // The name alone does not tell the key: it is the name among those of the algorithm.
        let token = key.sign("1", &claims_of(ISSUER, org));
        let mut client = Client::connect(t.gateway.public_addr(), &token).await;
        client.join("calls").await;
        let call = t.db.insert_call(org).await;
        assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
        // The only one of its algorithm need not be named.
        let unnamed = key.sign_with(&json!({"alg": key.alg()}), &claims_of(ISSUER, org));
        accepts(&t, key.alg(), &unnamed).await;
    }
    assert_eq!(server.requests(), 1, "keys are kept");
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_secret_can_be_changed_without_cutting_anybody() {
    let former = "the former secret, of more than 32 bytes";
    let both = |config: &mut Config| {
        config.verifier = VerifierConfig::hs256(SECRET, AUDIENCE, None);
        config.verifier.issuers[0].secrets.push(former.to_owned());
    };
    let t = TestGateway::start_with(TestDb::create().await, both).await;
    let org = t.db.create_org().await;
    for secret in [SECRET, former] {
        accepts(&t, secret, &sign(&claims(org), Algorithm::HS256, secret)).await;
        let mut expired = claims(org);
        expired["exp"] = json!(1_000_000_000);
        let answer = outcome(&t, &sign(&expired, Algorithm::HS256, secret)).await;
        assert_eq!(answer, (401, "token_expired".to_owned()));
    }
    refuses(&t, &[("a third", sign(&claims(org), Algorithm::HS256, "a third secret of at least 32 bytes"))])
        .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_key_verifies_its_own_algorithm_under_its_own_name() {
    let (rsa, ec, ed) = (IssuerKey::rs256(), IssuerKey::es256(), IssuerKey::eddsa());
    let second = IssuerKey::es256();
    let published = [rsa.jwk("rsa"), ec.jwk("ec"), second.jwk("ec2"), ed.jwk("ed")];
    let server = TestKeyServer::start(&published).await;
    let t = gateway(vec![server.issuer(ISSUER)]).await;
    let org = t.db.create_org().await;
    let good = claims_of(ISSUER, org);
    let (stranger, strange_rsa) = (IssuerKey::es256(), IssuerKey::eddsa());
    let mut cases = vec![
        ("signed by a stranger", stranger.sign("ec", &good)),
        ("signed by another key of the issuer", second.sign("ec", &good)),
        ("the name of a key of another algorithm", ec.sign("rsa", &good)),
        ("another algorithm, its name", ec.sign_with(&json!({"alg": "RS256", "kid": "rsa"}), &good)),
        ("another algorithm, own name", ec.sign_with(&json!({"alg": "RS256", "kid": "ec"}), &good)),
        ("an algorithm of the same key", rsa.sign_with(&json!({"alg": "PS256", "kid": "rsa"}), &good)),
        ("a longer hash", rsa.sign_with(&json!({"alg": "RS512", "kid": "rsa"}), &good)),
        ("none", rsa.sign_with(&json!({"alg": "none", "kid": "rsa"}), &good)),
        ("not named, of two", ec.sign_with(&json!({"alg": "ES256"}), &good)),
        ("a name that is none", ec.sign_with(&json!({"alg": "ES256", "kid": 7}), &good)),
        ("a long name", ec.sign(&"x".repeat(257), &good)),
        ("an empty name", ec.sign("", &good)),
        ("a name that almost fits", ec.sign("EC", &good)),
        ("another curve's name", strange_rsa.sign("ed", &good)),
    ];
    // What stands in the header decides nothing, and nobody is asked for it.
    let own = stranger.jwk("ec");
    let elsewhere = TestKeyServer::start(std::slice::from_ref(&own)).await;
    for (name, value) in [
        ("jwk", own.clone()),
        ("jku", elsewhere.url().into()),
        ("x5u", elsewhere.url().into()),
        ("x5c", json!(["MII"])),
    ] {
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": "ec", name: value});
        cases.push((name, stranger.sign_with(&header, &good)));
    }
    cases.push(("kid as an address", stranger.sign(&elsewhere.url(), &good)));
    for (name, crit) in [
        ("crit", json!(["exp"])),
        ("crit of nothing", json!([])),
        ("crit null", Value::Null),
        ("crit b64", json!(["b64"])),
    ] {
        cases.push((
            name,
            ec.sign_with(&json!({"alg": "ES256", "kid": "ec", "crit": crit, "b64": true}), &good),
        ));
    }
    for (name, typ) in
        [("typ of a logout token", json!("logout+jwt")), ("typ dpop", json!("dpop+jwt")), ("typ 7", json!(7))]
    {
        cases.push((name, ec.sign_with(&json!({"alg": "ES256", "kid": "ec", "typ": typ}), &good)));
    }
    refuses(&t, &cases).await;
    assert_eq!(elsewhere.requests(), 0, "an address in a token was asked");
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let header = json!({"alg": "ES256", "kid": "ec", "typ": typ, "jku": elsewhere.url()});
        accepts(&t, typ, &ec.sign_with(&header, &good)).await;
    }
    assert_eq!(elsewhere.requests(), 0);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let keys = [IssuerKey::rs256(), IssuerKey::es256(), IssuerKey::eddsa()];
    let server = TestKeyServer::start(&keys.each_ref().map(|key| key.jwk("1"))).await;
    let mut with_secret = server.issuer(ISSUER);
    for secrets in [vec![], vec![SECRET.to_owned()]] {
        with_secret.secrets = secrets;
        let t = gateway(vec![with_secret.clone()]).await;
        let org = t.db.create_org().await;
        let good = claims_of(ISSUER, org);
        for key in &keys {
            for form in key.public_forms() {
                let secret = EncodingKey::from_secret(&form);
                for kid in [None, Some("1".to_owned())] {
                    let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
                    header.kid = kid;
                    let token = jsonwebtoken::encode(&header, &good, &secret).expect("signs");
                    refuses(&t, &[(key.alg(), token)]).await;
                }
            }
        }
        t.gateway.stop().await;
    }
}

#[tokio::test]
async fn issuers_share_nothing_not_even_a_kid() {
    let (a, b) = (IssuerKey::es256(), IssuerKey::es256());
    let (of_a, of_b) = (TestKeyServer::start(&[a.jwk("1")]).await, TestKeyServer::start(&[b.jwk("1")]).await);
    let secret = IssuerConfig {
        issuer: Some("https://c.example".into()),
        audience: AUDIENCE.into(),
        secrets: vec![SECRET.into()],
        ..IssuerConfig::default()
    };
    let t = gateway(vec![of_a.issuer(ISSUER), of_b.issuer(OTHER_ISSUER), secret]).await;
    let org = t.db.create_org().await;
    let hs256 = |issuer: &str| sign(&claims_of(issuer, org), Algorithm::HS256, SECRET);
    // Twice, so that what one issuer's token left in memory could serve the other's.
    for _ in 0..2 {
        accepts(&t, "a", &a.sign("1", &claims_of(ISSUER, org))).await;
        accepts(&t, "b", &b.sign("1", &claims_of(OTHER_ISSUER, org))).await;
        accepts(&t, "c", &hs256("https://c.example")).await;
        refuses(
            &t,
            &[
                ("a's key, b's name", a.sign("1", &claims_of(OTHER_ISSUER, org))),
                ("b's key, a's name", b.sign("1", &claims_of(ISSUER, org))),
                ("c's secret, a's name", hs256(ISSUER)),
                ("a's key, c's name", a.sign("1", &claims_of("https://c.example", org))),
            ],
        )
        .await;
    }
    let spelled = |issuer: Value| {
        let mut claims = claims(org);
        claims["iss"] = issuer;
        a.sign("1", &claims)
    };
    refuses(
        &t,
        &[
            ("no issuer", a.sign("1", &claims(org))),
            ("null", spelled(Value::Null)),
            ("a slash more", spelled(json!(format!("{ISSUER}/")))),
            ("in capitals", spelled(json!(ISSUER.to_uppercase()))),
            ("a space more", spelled(json!(format!("{ISSUER} ")))),
            ("both", spelled(json!([ISSUER, OTHER_ISSUER]))),
            ("in a list", spelled(json!([ISSUER]))),
            ("a prefix", spelled(json!("https://a.example"))),
            ("empty", spelled(json!(""))),
            ("its key server", spelled(json!(of_a.url()))),
            ("an attacker's", spelled(json!("https://evil.example"))),
        ],
    )
    .await;
    // The first `iss` for the choice and the last for the check would be two issuers in one token.
    let text = claims_of(OTHER_ISSUER, org).to_string().replacen('{', &format!("{{\"iss\":\"{ISSUER}\","), 1);
    let payload = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &text);
    let parts: Vec<_> = a.sign("1", &claims_of(ISSUER, org)).split('.').map(str::to_owned).collect();
    refuses(&t, &[("two issuers", format!("{}.{payload}.{}", parts[0], parts[2]))]).await;
    assert_eq!((of_a.requests(), of_b.requests()), (1, 1));
    t.gateway.stop().await;
}

/// Short times, so that tests need not wait: a request whenever one is asked for.
fn quick(config: &mut Config) {
    config.limits.keys.cooldown = Duration::ZERO;
    config.limits.keys.retry_first = Duration::from_millis(20);
    config.limits.keys.retry_max = Duration::from_millis(50);
}

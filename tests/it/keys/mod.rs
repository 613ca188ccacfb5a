//! Keys of issuers: a token is verified only with its own issuer's keys, selected by algorithm and name.

mod clock;
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

/// Valid claims of this issuer.
fn claims_of(issuer: &str, org: Uuid) -> Value {
    let mut claims = claims(org);
    claims["iss"] = issuer.into();
    claims
}

/// A configuration with these issuers.
fn issuers(issuers: Vec<IssuerConfig>) -> impl FnOnce(&mut Config) {
    move |config| config.verifier = VerifierConfig { issuers }
}

/// A gateway that has fetched its keys.
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

/// Expects that the token opens a session.
async fn accepts(t: &TestGateway, name: &str, token: &str) {
    assert_eq!(outcome(t, token).await, (101, String::new()), "{name}");
}

/// Expects that each token is rejected as invalid.
async fn rejects(t: &TestGateway, cases: &[(&str, String)]) {
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
        // All three keys have the same name. Name and algorithm together select the key.
        let token = key.sign("1", &claims_of(ISSUER, org));
        let mut client = Client::connect(t.gateway.public_addr(), &token).await;
        client.join("calls").await;
        let call = t.db.insert_call(org).await;
        assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
        // A token may omit the name if the issuer has only one key for its algorithm.
        let unnamed = key.sign_with(&json!({"alg": key.alg()}), &claims_of(ISSUER, org));
        accepts(&t, key.alg(), &unnamed).await;
    }
    assert_eq!(server.requests(), 1, "keys stay in memory");
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_secret_can_be_rotated_without_rejecting_valid_tokens() {
    // Unlike prose, so that no logged SQL comment contains a piece of it.
    let former = "former-secret-5f0c7e19-a83b-46d2-more-than-32-bytes";
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
    rejects(
        &t,
        &[("an unknown secret", sign(&claims(org), Algorithm::HS256, "a third secret of at least 32 bytes"))],
    )
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_key_verifies_only_its_own_algorithm_and_kid() {
    let (rsa, ec, ed) = (IssuerKey::rs256(), IssuerKey::es256(), IssuerKey::eddsa());
    let second = IssuerKey::es256();
    let published = [rsa.jwk("rsa"), ec.jwk("ec"), second.jwk("ec2"), ed.jwk("ed")];
    let server = TestKeyServer::start(&published).await;
    let t = gateway(vec![server.issuer(ISSUER)]).await;
    let org = t.db.create_org().await;
    let good = claims_of(ISSUER, org);
    let (stranger, strange_rsa) = (IssuerKey::es256(), IssuerKey::eddsa());
    let mut cases = vec![
        ("signed by an unknown key", stranger.sign("ec", &good)),
        ("signed by another key of the issuer", second.sign("ec", &good)),
        ("the kid of a key for another algorithm", ec.sign("rsa", &good)),
        ("another algorithm, and its kid", ec.sign_with(&json!({"alg": "RS256", "kid": "rsa"}), &good)),
        ("another algorithm, and the own kid", ec.sign_with(&json!({"alg": "RS256", "kid": "ec"}), &good)),
        (
            "another algorithm of the same key type",
            rsa.sign_with(&json!({"alg": "PS256", "kid": "rsa"}), &good),
        ),
        ("a longer hash", rsa.sign_with(&json!({"alg": "RS512", "kid": "rsa"}), &good)),
        ("alg none", rsa.sign_with(&json!({"alg": "none", "kid": "rsa"}), &good)),
        ("no kid, and two keys of the algorithm", ec.sign_with(&json!({"alg": "ES256"}), &good)),
        ("a kid that is not a string", ec.sign_with(&json!({"alg": "ES256", "kid": 7}), &good)),
        ("a long kid", ec.sign(&"x".repeat(257), &good)),
        ("an empty kid", ec.sign("", &good)),
        ("a kid in another case", ec.sign("EC", &good)),
        ("a kid of another curve", strange_rsa.sign("ed", &good)),
    ];
    // Keys and addresses in the header are ignored, and no request is sent to them.
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
        ("crit with an empty list", json!([])),
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
    rejects(&t, &cases).await;
    assert_eq!(elsewhere.requests(), 0, "a request was sent to an address in a token");
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let header = json!({"alg": "ES256", "kid": "ec", "typ": typ, "jku": elsewhere.url()});
        accepts(&t, typ, &ec.sign_with(&header, &good)).await;
    }
    assert_eq!(elsewhere.requests(), 0);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_public_key_is_not_accepted_as_a_secret() {
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
                    rejects(&t, &[(key.alg(), token)]).await;
                }
            }
        }
        t.gateway.stop().await;
    }
}

#[tokio::test]
async fn keys_of_one_issuer_never_verify_tokens_of_another() {
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
    // The second round shows that the first left nothing in memory that another issuer's token could use.
    for _ in 0..2 {
        accepts(&t, "a", &a.sign("1", &claims_of(ISSUER, org))).await;
        accepts(&t, "b", &b.sign("1", &claims_of(OTHER_ISSUER, org))).await;
        accepts(&t, "c", &hs256("https://c.example")).await;
        rejects(
            &t,
            &[
                ("a's key, b's issuer", a.sign("1", &claims_of(OTHER_ISSUER, org))),
                ("b's key, a's issuer", b.sign("1", &claims_of(ISSUER, org))),
                ("c's secret, a's issuer", hs256(ISSUER)),
                ("a's key, c's issuer", a.sign("1", &claims_of("https://c.example", org))),
            ],
        )
        .await;
    }
    let spelled = |issuer: Value| {
        let mut claims = claims(org);
        claims["iss"] = issuer;
        a.sign("1", &claims)
    };
    rejects(
        &t,
        &[
            ("no issuer", a.sign("1", &claims(org))),
            ("null", spelled(Value::Null)),
            ("a trailing slash", spelled(json!(format!("{ISSUER}/")))),
            ("in upper case", spelled(json!(ISSUER.to_uppercase()))),
            ("a trailing space", spelled(json!(format!("{ISSUER} ")))),
            ("a list of both", spelled(json!([ISSUER, OTHER_ISSUER]))),
            ("a list of one", spelled(json!([ISSUER]))),
            ("a prefix", spelled(json!("https://a.example"))),
            ("empty", spelled(json!(""))),
            ("the address of its key server", spelled(json!(of_a.url()))),
            ("an unknown issuer", spelled(json!("https://evil.example"))),
        ],
    )
    .await;
    // A parser that selects by the first `iss` and checks the last one would accept a token with two issuers.
    let claims =
        claims_of(OTHER_ISSUER, org).to_string().replacen('{', &format!("{{\"iss\":\"{ISSUER}\","), 1);
    let payload = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &claims);
    let parts: Vec<_> = a.sign("1", &claims_of(ISSUER, org)).split('.').map(str::to_owned).collect();
    rejects(&t, &[("two issuers", format!("{}.{payload}.{}", parts[0], parts[2]))]).await;
    assert_eq!((of_a.requests(), of_b.requests()), (1, 1));
    t.gateway.stop().await;
}

/// Limits under which an unknown key causes a request immediately, so that tests need not wait.
fn quick(config: &mut Config) {
    config.limits.keys.cooldown = Duration::ZERO;
    config.limits.keys.retry_first = Duration::from_millis(20);
    config.limits.keys.retry_max = Duration::from_millis(50);
}

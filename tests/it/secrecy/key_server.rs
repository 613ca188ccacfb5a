//! No log line, response or metric contains what a key server sends, or the credentials in its address.

use std::time::Duration;

use serde_json::{Value, json};
use warden::auth::{KeyServerUrl, VerifierConfig};

use super::MARKER;
use crate::harness::{
    IssuerExt as _, IssuerKey, KeyAnswer, LogCapture, TestDb, TestGateway, TestKeyServer, Upgrade, claims,
    eventually, keep_secret,
};

const ISSUER: &str = "https://a.example/auth/v1";

/// Documents with secrets in the place of public values, and values of the wrong type.
fn documents(key: &Value) -> Vec<Value> {
    let marked = json!({MARKER: MARKER});
    let mut documents = vec![
        json!(MARKER),
        json!([MARKER]),
        marked.clone(),
        json!({"keys": MARKER}),
        json!({"keys": marked}),
        json!({"keys": [MARKER, [MARKER], 7]}),
        json!({"keys": [{"kty": "oct", "k": MARKER, "kid": "1"}]}),
        json!({"keys": [{"kty": "oct", "k": {"k": MARKER}}]}),
        json!({"error": "unauthorized", "api_key": MARKER}),
    ];
    let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
    let public = ["kty", "alg", "use", "key_ops", "crv", "x", "y", "n", "e", "kid"];
    for member in private.into_iter().chain(public) {
        for value in [json!(MARKER), json!([MARKER]), marked.clone()] {
            // The name of a key is public.
            if member == "kid" && value.is_string() {
                continue;
            }
            let mut key = key.clone();
            key[member] = value;
            documents.push(json!({"keys": [key]}));
        }
    }
    documents
}

/// Everything that a key server may answer, with a secret in each.
fn answers(server: &TestKeyServer, key: &Value) -> Vec<KeyAnswer> {
    let documents = documents(key);
    let bodies = documents.iter().map(Value::to_string);
    // A document that ends early is not JSON.
    let cut = documents.iter().map(Value::to_string).map(|text| text[..text.len() - 1].to_owned());
    let mut answers: Vec<KeyAnswer> = bodies.chain(cut).map(KeyAnswer::Body).collect();
    let addr = server.addr();
    for target in [
        format!("http://user:{MARKER}@{addr}/{MARKER}?key={MARKER}#{MARKER}"),
        format!("//{MARKER}@{addr}"),
        format!("{MARKER}://{MARKER}"),
        MARKER.to_owned(),
    ] {
        answers.push(KeyAnswer::Redirect(target));
    }
    let body = format!("content-length: 18\r\n\r\n{MARKER}");
    answers.extend(
        [
            format!("220 {MARKER} ESMTP\r\n"),
            format!("HTTP/1.1 500 {MARKER}\r\n{body}"),
            format!("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic realm=\"{MARKER}\"\r\n{body}"),
            format!("HTTP/1.1 200 OK\r\nset-cookie: {MARKER}\r\nx-{MARKER}: {MARKER}\r\n{body}"),
            format!("HTTP/1.1 200 OK\r\n{MARKER}\r\n{body}"),
            format!("HTTP/1.1 200 OK\r\ncontent-length: {MARKER}\r\n\r\n{MARKER}"),
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{MARKER}\r\n{MARKER}"),
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: {MARKER}\r\n\r\n{MARKER}"),
        ]
        .map(KeyAnswer::Raw),
    );
    answers
}

/// Status page and metrics of the admin listener, and the answer to a token that needs a key.
async fn responses(t: &TestGateway, token: &str) -> String {
    let get = async |path| {
        let request = Upgrade::new().to(path).without("Upgrade").without("Connection");
        let answer = request.send(t.gateway.admin_addr()).await;
        answer.head + &answer.body
    };
    let rejected = Upgrade::bearer(token).send(t.gateway.public_addr()).await;
    [get("/readyz").await, get("/metrics").await, rejected.head, rejected.body].concat()
}

#[tokio::test]
async fn nothing_shows_what_a_key_server_sends_or_the_credentials_in_its_address() {
    let logs = LogCapture::begin();
    keep_secret(MARKER);
    let key = IssuerKey::es256();
    let server = TestKeyServer::start(&[]).await;
    let mut issuer = server.issuer(ISSUER);
    let url = format!("{}?key={MARKER}", server.url());
    issuer.jwks_url = Some(KeyServerUrl::parse(&url, false).expect("a URL"));
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.verifier = VerifierConfig { issuers: vec![issuer] };
        config.limits.keys.interval = Duration::from_millis(10);
        config.limits.keys.retry_first = Duration::from_millis(1);
        config.limits.keys.retry_max = Duration::from_millis(1);
        config.limits.keys.fetch_timeout = Duration::from_millis(300);
        config.limits.keys.wait = Duration::from_millis(1);
    })
    .await;
    let org = t.db.create_org().await;
    let token = key.sign("unknown", &{
        let mut claims = claims(org);
        claims["iss"] = ISSUER.into();
        claims
    });
    for answer in answers(&server, &key.jwk("1")) {
        let before = server.requests();
        server.answers(answer.clone());
        // The second request after the change begins when the first one has been judged.
        eventually("the answer is read", async || server.requests() >= before + 3).await;
        let shown = responses(&t, &token).await;
        assert!(!shown.contains(MARKER), "{answer:?}: {shown}");
    }
    let addr = server.addr();
    drop(server);
    eventually("the failure is logged", async || {
        !logs.lines_with(&["unreachable", &addr.to_string()]).is_empty()
    })
    .await;
    t.gateway.stop().await;
    let text = logs.text();
    assert!(text.contains("jwks.json?***"), "the address is logged without its query");
    let line = text.lines().find(|line| line.contains(MARKER));
    assert!(line.is_none(), "{line:?}");
}

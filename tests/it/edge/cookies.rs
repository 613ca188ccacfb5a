//! Tokens in cookies: ignored unless a cookie name is configured, and then valid only with an allowed Origin.

use serde_json::json;

use crate::harness::{TestDb, TestGateway, Upgrade, token};

const NAME: &str = "__Host-warden";
const ORIGIN: &str = "http://app.example";

async fn expect(t: &TestGateway, cases: &[(&str, Upgrade, u16, &str)]) {
    for (name, request, status, code) in cases {
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!((answer.status, answer.code().as_str()), (*status, *code), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn cookies_are_ignored_unless_configured() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let cookie = format!("{NAME}={}", token(org, &json!({})));
    let alone = Upgrade::new().with("Cookie", &cookie).with("Origin", ORIGIN);
    let beside = Upgrade::bearer(&token(org, &json!({}))).with("Cookie", &cookie);
    expect(&t, &[("alone", alone, 401, "no_token"), ("beside a token", beside, 101, "")]).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_cookie_is_rejected_without_an_allowed_origin_or_beside_another_credential() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.edge.auth_cookie = Some(NAME.parse().expect("a name"));
    })
    .await;
    let org = t.db.create_org().await;
    let jwt = token(org, &json!({}));
    let with_cookie = |cookie: &str| Upgrade::new().with("Cookie", cookie).with("Origin", ORIGIN);
    let good = with_cookie(&format!("theme=dark; {NAME}={jwt}; x=y"));
    let twice = with_cookie(&format!("{NAME}={jwt}; {NAME}={jwt}"));
    let expired = token(org, &json!({"exp": 1_000_000_000}));
    expect(
        &t,
        &[
            ("with its Origin", good.clone(), 101, ""),
            ("without one", good.clone().without("Origin"), 403, "origin_required"),
            ("another Origin", good.clone().set("Origin", "http://evil.example"), 403, "origin_not_allowed"),
            ("null", good.clone().set("Origin", "null"), 403, "origin_not_allowed"),
            ("two Origins", good.clone().with("Origin", "http://evil.example"), 403, "origin_not_allowed"),
            (
                "and a header",
                good.clone().with("Authorization", &format!("Bearer {jwt}")),
                400,
                "several_tokens",
            ),
            ("twice", twice, 400, "several_tokens"),
            ("in two lines", good.clone().with("Cookie", &format!("{NAME}={jwt}")), 400, "several_tokens"),
            ("of another name", with_cookie(&format!("warden={jwt}")), 401, "no_token"),
            ("empty", with_cookie(&format!("{NAME}=")), 401, "malformed_credential"),
            ("expired", with_cookie(&format!("{NAME}={expired}")), 401, "token_expired"),
            // A request without a cookie needs no Origin, as before.
            ("a header alone", Upgrade::bearer(&jwt), 101, ""),
            ("a header and other cookies", Upgrade::bearer(&jwt).with("Cookie", "theme=dark"), 101, ""),
            // A credential in the URL is rejected in every case.
            (
                "in the URL too",
                good.to(&format!("/socket/websocket?vsn=2.0.0&token={jwt}")),
                400,
                "credential_in_url",
            ),
        ],
    )
    .await;
    t.gateway.stop().await;
}

//! Rejected upgrades, each with its status and code, beside the requests that are accepted.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{AUDIENCE, Client, SECRET, TestGateway, Upgrade, claims, sign, token, urls_with};

/// Subprotocol list that phoenix sends for `authToken`.
fn subprotocols(token: &str) -> String {
    format!("phoenix, base64url.bearer.phx.{}", STANDARD_NO_PAD.encode(token))
}

/// Token with an arbitrary header and a valid HS256 signature.
fn with_header(header: &Value, claims: &Value) -> String {
    with_bytes(header.to_string().as_bytes(), claims.to_string().as_bytes())
}

/// Token from arbitrary header and claims bytes, with a valid HS256 signature.
fn with_bytes(header: &[u8], claims: &[u8]) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("signs");
    format!("{message}.{signature}")
}

/// Token with valid claims, one of which is replaced (`null` is a value too).
fn with_claim(org: Uuid, name: &str, value: Value) -> String {
    let mut claims = claims(org);
    claims[name] = value;
    sign(&claims, Algorithm::HS256, SECRET)
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

/// Sends each request and asserts its status and code.
async fn assert_rejected(t: &TestGateway, cases: &[(&str, Upgrade, u16, &str)]) {
    for (name, request, status, code) in cases {
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!((answer.status, answer.code().as_str()), (*status, *code), "{name}: {answer:?}");
        assert!(!answer.message().is_empty(), "{name}: has no message for people: {answer:?}");
        let wants_login = answer.headers("www-authenticate") == ["Bearer"];
        assert_eq!(wants_login, *status == 401, "{name}: {answer:?}");
    }
    assert_eq!(t.gateway.hub().session_count(), 0, "a rejected request became a session");
}

/// Sends each request and asserts that the upgrade is accepted.
async fn assert_accepted(t: &TestGateway, cases: &[(&str, Upgrade)]) {
    for (name, request) in cases {
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!(answer.status, 101, "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn missing_and_malformed_tokens_are_rejected() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let parts: Vec<String> = token(org, &json!({})).split('.').map(str::to_owned).collect();
    assert_rejected(
        &t,
        &[
            ("missing", Upgrade::new(), 401, "no_token"),
            ("malformed", Upgrade::bearer("abc"), 401, "invalid_token"),
            ("two parts", Upgrade::bearer(&parts[..2].join(".")), 401, "invalid_token"),
            ("four parts", Upgrade::bearer(&format!("{}.x", parts.join("."))), 401, "invalid_token"),
            ("no base64", Upgrade::bearer("e*J.e*J.x"), 401, "invalid_token"),
            ("not Bearer", Upgrade::new().with("Authorization", "Basic eDp5"), 401, "malformed_credential"),
            ("bare", Upgrade::new().with("Authorization", &parts.join(".")), 401, "malformed_credential"),
            ("far too long", Upgrade::bearer(&"a".repeat(8193)), 401, "token_too_long"),
        ],
    )
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn tokens_need_a_configured_key_and_a_current_validity_period() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let good = claims(org);
    let signed = |algorithm, secret| Upgrade::bearer(&sign(&good, algorithm, secret));
    let claim = |name: &str, value: Value| Upgrade::bearer(&with_claim(org, name, value));
    let headed = |header: Value| Upgrade::bearer(&with_header(&header, &good));
    let bytes = |header: &[u8], claims: &[u8]| Upgrade::bearer(&with_bytes(header, claims));
    let not_utf8 = [&good.to_string().as_bytes()[..good.to_string().len() - 1], b",\"x\":\"\xff\"}"].concat();
    let none = format!("{}.", with_header(&json!({"alg": "none"}), &good).rsplit_once('.').expect("dots").0);
    let parts: Vec<String> = token(org, &json!({})).split('.').map(str::to_owned).collect();
    let stranger = token(Uuid::new_v4(), &json!({}));
    let swapped = format!("{}.{}.{}", parts[0], stranger.split('.').nth(1).expect("claims"), parts[2]);
    assert_rejected(
        &t,
        &[
            (
                "wrong secret",
                signed(Algorithm::HS256, "another secret of more than 32 bytes"),
                401,
                "invalid_token",
            ),
            ("HS384", signed(Algorithm::HS384, SECRET), 401, "invalid_token"),
            ("HS512", signed(Algorithm::HS512, SECRET), 401, "invalid_token"),
            ("claims of another token", Upgrade::bearer(&swapped), 401, "invalid_token"),
            ("alg none, no signature", Upgrade::bearer(&none), 401, "invalid_token"),
            ("alg none, signed", headed(json!({"alg": "none"})), 401, "invalid_token"),
            ("alg NONE, signed", headed(json!({"alg": "NONE"})), 401, "invalid_token"),
            ("alg RS256, HMAC", headed(json!({"alg": "RS256", "typ": "JWT"})), 401, "invalid_token"),
            ("alg ES256, HMAC", headed(json!({"alg": "ES256"})), 401, "invalid_token"),
            ("alg HS384, signed HS256", headed(json!({"alg": "HS384"})), 401, "invalid_token"),
            ("no alg", headed(json!({"typ": "JWT"})), 401, "invalid_token"),
            ("alg lower case", headed(json!({"alg": "hs256"})), 401, "invalid_token"),
            (
                "a list for a header",
                bytes(br#"["HS256",null,"JWT"]"#, good.to_string().as_bytes()),
                401,
                "invalid_token",
            ),
            ("claims in no UTF-8", bytes(br#"{"alg":"HS256"}"#, &not_utf8), 401, "invalid_token"),
            (
                "a header in no UTF-8",
                bytes(b"{\"alg\":\"HS256\",\"x\":\"\xff\"}", good.to_string().as_bytes()),
                401,
                "invalid_token",
            ),
            ("expired", claim("exp", json!(now() - 60)), 401, "token_expired"),
            ("expired just now", claim("exp", json!(now() - 1)), 401, "token_expired"),
            ("expired half a second ago", claim("exp", json!(now() as f64 - 0.5)), 401, "token_expired"),
            ("expired long ago", claim("exp", json!(1)), 401, "token_expired"),
            ("expired at the beginning", claim("exp", json!(0)), 401, "token_expired"),
            ("not yet valid", claim("nbf", json!(now() + 60)), 401, "invalid_token"),
            ("issued in the future", claim("iat", json!(now() + 60)), 401, "token_from_future"),
        ],
    )
    .await;
    let header = json!({"alg": "HS256"});
    assert_accepted(
        &t,
        &[
            ("good", signed(Algorithm::HS256, SECRET)),
            ("without typ", Upgrade::bearer(&with_header(&header, &good))),
            ("valid since now", claim("nbf", json!(now()))),
            ("clocks differ a little", claim("nbf", json!(now() + 2))),
        ],
    )
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn registered_claims_are_required_and_strictly_typed() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let exp = now() + 3600;
    let mut cases = Vec::new();
    let wrong_numbers = [
        json!(exp.to_string()),
        json!(-1),
        json!(-0.5),
        Value::Null,
        json!(true),
        json!([exp]),
        json!({"exp": exp}),
        json!(1e300),
        json!(253_402_300_800_u64),
    ];
    for name in ["exp", "nbf", "iat"] {
        for value in &wrong_numbers {
            cases.push((format!("{name}: {value}"), with_claim(org, name, value.clone())));
        }
    }
    cases.push(("exp beyond all reason".into(), with_claim(org, "exp", json!(u64::MAX))));
    let wrong_audiences = [
        json!("anon"),
        json!(""),
        json!([]),
        json!(["anon"]),
        json!(7),
        Value::Null,
        json!({"aud": AUDIENCE}),
    ];
    for value in wrong_audiences {
        cases.push((format!("aud: {value}"), with_claim(org, "aud", value)));
    }
    for value in [json!(""), json!(7), Value::Null, json!(["x"]), json!({}), json!("x".repeat(257))] {
        cases.push((format!("sub: {value}"), with_claim(org, "sub", value)));
    }
    for name in ["exp", "aud", "sub"] {
        cases.push((format!("{name} missing"), token(org, &json!({name: null}))));
    }
    let cases: Vec<_> =
        cases.iter().map(|(name, jwt)| (name.as_str(), Upgrade::bearer(jwt), 401, "invalid_token")).collect();
    assert_rejected(&t, &cases).await;

    let with = |name: &str, value: Value| Upgrade::bearer(&with_claim(org, name, value));
    assert_accepted(
        &t,
        &[
            ("a list of audiences", with("aud", json!(["other", AUDIENCE]))),
            ("iat a little ahead", with("iat", json!(now() + 3))),
            ("a fraction in exp", with("exp", json!(4_000_000_000.5))),
            ("a fraction in nbf", with("nbf", json!(1_700_000_000.123_456))),
            ("a fraction in iat", with("iat", json!(1_700_000_000.75))),
            ("an exponent in exp", with("exp", json!(4e9))),
            ("no iat", Upgrade::bearer(&token(org, &json!({"iat": null})))),
            ("a sub that is no UUID", with("sub", json!("auth0|42"))),
        ],
    )
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_organisation_comes_only_from_app_metadata_as_a_uuid() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let metadata = |value: Value| Upgrade::bearer(&with_claim(org, "app_metadata", value));
    let text = org.to_string();
    let spellings = [
        json!(""),
        json!("null"),
        Value::Null,
        json!(7),
        json!([text]),
        json!({"org_id": text}),
        json!(true),
        json!("not-a-uuid"),
        json!(format!("{{{text}}}")),
        json!(format!("urn:uuid:{text}")),
        json!(text.replace('-', "")),
        json!(format!(" {text}")),
        json!(format!("{text}\n")),
        json!(format!("{text}{text}")),
    ];
    let mut cases = Vec::new();
    for org_id in &spellings {
        cases.push((format!("org_id: {org_id}"), metadata(json!({"org_id": org_id}))));
    }
    for whole in [json!(text), json!([{"org_id": text}]), json!([text]), json!({}), Value::Null, json!(7)] {
        cases.push((format!("app_metadata: {whole}"), metadata(whole)));
    }
    cases.push(("other spelling".into(), metadata(json!({"orgId": text, "ORG_ID": text, "org": text}))));
    cases.push(("nested".into(), metadata(json!({"app_metadata": {"org_id": text}}))));
    let elsewhere = json!({"app_metadata": {}, "user_metadata": {"org_id": text}, "org_id": text, "raw_app_meta_data": {"org_id": text}});
    cases.push(("only elsewhere".into(), Upgrade::bearer(&token(org, &elsewhere))));
    cases.push(("missing".into(), Upgrade::bearer(&token(org, &json!({"app_metadata": null})))));
    let cases: Vec<_> =
        cases.into_iter().map(|(name, request)| (name, request, 403, "no_organisation")).collect();
    let cases: Vec<_> = cases.iter().map(|(n, r, s, c)| (n.as_str(), r.clone(), *s, *c)).collect();
    assert_rejected(&t, &cases).await;
    let stranger = metadata(json!({"org_id": Uuid::new_v4()}));
    let nil = metadata(json!({"org_id": Uuid::nil()}));
    assert_rejected(
        &t,
        &[("no such org", stranger, 403, "unknown_organisation"), ("nil", nil, 403, "no_organisation")],
    )
    .await;

    // Another organisation in any other place changes nothing: the claim decides.
    let other = t.db.create_org().await;
    let decoys = json!({"user_metadata": {"org_id": other}, "org_id": other});
    let mut client = Client::connect(t.gateway.public_addr(), &token(org, &decoys)).await;
    client.join("calls").await;
    t.db.insert_call(other).await;
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_only("calls", "call.created").await.row_id(), call.to_string());
    assert_accepted(&t, &[("upper case", metadata(json!({"org_id": text.to_uppercase()})))]).await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_request_carries_exactly_one_credential() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let (one, two) = (token(org, &json!({})), token(org, &json!({"role": "x"})));
    let bearer = format!("Bearer {one}");
    let offer = |text: &str| Upgrade::new().with("Sec-WebSocket-Protocol", text);
    let entry = subprotocols(&one).split_off("phoenix, ".len());
    let both = Upgrade::bearer(&one).with("Sec-WebSocket-Protocol", &subprotocols(&two));
    let same = Upgrade::bearer(&one).with("Sec-WebSocket-Protocol", &subprotocols(&one));
    let in_two_headers = offer(&subprotocols(&one)).with("Sec-WebSocket-Protocol", &entry);
    // Both alphabets are decoded; the tokens are then rejected for their contents.
    let standard = subprotocols("??>>~~");
    let url_safe = format!("phoenix, base64url.bearer.phx.{}", URL_SAFE_NO_PAD.encode("??>>~~"));
    assert!(standard.contains(['+', '/']), "{standard}");
    let unknown_and_good = Upgrade::bearer(&one).with("Sec-WebSocket-Protocol", "graphql-ws, mqtt");
    assert_rejected(
        &t,
        &[
            ("header and subprotocol", both, 400, "several_tokens"),
            ("header and subprotocol, the same", same, 400, "several_tokens"),
            ("two entries", offer(&format!("{}, {entry}", subprotocols(&two))), 400, "several_tokens"),
            ("two headers of entries", in_two_headers, 400, "several_tokens"),
            ("two headers", Upgrade::bearer(&one).with("Authorization", &bearer), 400, "several_tokens"),
            ("phoenix without a token", offer("phoenix"), 401, "no_token"),
            ("no base64", offer("phoenix, base64url.bearer.phx.***"), 401, "malformed_credential"),
            ("standard alphabet", offer(&standard), 401, "invalid_token"),
            ("URL alphabet", offer(&url_safe), 401, "invalid_token"),
            ("both alphabets", offer(&format!("{standard}_")), 401, "malformed_credential"),
            (
                "a bare token beside the subprotocol",
                offer(&subprotocols(&one)).with("Authorization", &two),
                401,
                "malformed_credential",
            ),
            ("base64 of nothing", offer("phoenix, base64url.bearer.phx."), 401, "invalid_token"),
            ("base64 of bytes", offer("phoenix, base64url.bearer.phx./w"), 401, "malformed_credential"),
            ("the entry without phoenix", offer(&entry), 400, "unknown_subprotocol"),
            ("unknown subprotocols only", unknown_and_good, 400, "unknown_subprotocol"),
            ("phoenix in capitals", offer(&format!("PHOENIX, {entry}")), 400, "unknown_subprotocol"),
        ],
    )
    .await;
    let of_proxy = |value: &str| offer(&subprotocols(&one)).with("Authorization", value);
    assert_accepted(
        &t,
        &[
            ("Basic of a proxy", of_proxy("Basic eDp5")),
            ("Negotiate of a proxy", of_proxy("Negotiate YIIJvwYGKwYBBQUC")),
            ("Basic beside Bearer", Upgrade::bearer(&one).with("Authorization", "Basic eDp5")),
        ],
    )
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn malformed_upgrade_requests_are_rejected() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let good = || Upgrade::bearer(&token(org, &json!({})));
    let at = |query: &str| good().to(&format!("/socket/websocket{query}"));
    let cases = [
        ("no vsn", at(""), 400, "protocol_version"),
        ("version 1", at("?vsn=1.0.0"), 400, "protocol_version"),
        ("version 20", at("?vsn=20.0.0"), 400, "protocol_version"),
        ("an empty version", at("?vsn="), 400, "protocol_version"),
        ("plain HTTP", good().without("Connection").without("Upgrade"), 400, "not_a_websocket"),
        ("no Connection", good().without("Connection"), 400, "not_a_websocket"),
        ("another Upgrade", good().set("Upgrade", "h2c"), 400, "not_a_websocket"),
        ("no key", good().without("Sec-WebSocket-Key"), 400, "not_a_websocket"),
        ("a short key", good().set("Sec-WebSocket-Key", "c2hvcnQ="), 400, "not_a_websocket"),
        (
            "a key that is no base64",
            good().set("Sec-WebSocket-Key", "************************"),
            400,
            "not_a_websocket",
        ),
        ("version 8", good().set("Sec-WebSocket-Version", "8"), 426, "websocket_version"),
        ("no WebSocket version", good().without("Sec-WebSocket-Version"), 426, "websocket_version"),
        ("another path", good().to("/socket?vsn=2.0.0"), 404, "not_found"),
    ];
    assert_rejected(&t, &cases).await;
    let answer = good().set("Sec-WebSocket-Version", "8").send(t.gateway.public_addr()).await;
    assert_eq!(answer.headers("sec-websocket-version"), ["13"], "{answer:?}");
    for path in ["/socket/websocket?vsn=2.0.0", "/livez", "/readyz"] {
        let answer = good().to(path).method("POST").send(t.gateway.public_addr()).await;
        assert_eq!(
            (answer.status, answer.code().as_str(), answer.headers("allow")),
            (405, "method_not_allowed", vec!["GET,HEAD"]),
            "{path}: {answer:?}"
        );
    }
    assert_accepted(
        &t,
        &[
            ("vsn not first", at("?app=web&vsn=2.0.0")),
            (
                "words among others",
                good().set("Connection", "keep-alive, Upgrade").set("Upgrade", "WebSocket"),
            ),
        ],
    )
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_credential_in_the_url_is_rejected_first_and_never_repeated() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let jwt = token(org, &json!({}));
    for target in urls_with(&jwt, "opaque7marker") {
        let good = Upgrade::bearer(&jwt).to(&target);
        let nothing_right =
            Upgrade::new().to(&target).without("Upgrade").with("Origin", "http://evil.example");
        for request in [good, nothing_right] {
            let answer = request.send(t.gateway.public_addr()).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "credential_in_url"),
                "{target}: {answer:?}"
            );
            assert!(
                answer.message().contains("URL") && answer.message().contains("Authorization"),
                "{answer:?}"
            );
            let all = format!("{}{}", answer.head, answer.body);
            let repeats =
                all.contains("opaque7marker") || all.contains(jwt.split('.').next_back().expect("a part"));
            assert!(!repeats, "{target}: {answer:?}");
        }
    }
    let harmless =
        "/socket/websocket?vsn=2.0.0&app=1.2.3&business_id=1&class_id=2&os_id=3&hotkey=x&they=a.b.c";
    assert_accepted(&t, &[("harmless parameters", Upgrade::bearer(&jwt).to(harmless))]).await;
    t.gateway.stop().await;
}

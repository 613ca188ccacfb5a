//! Which pages of other origins may read answers, and what of them.

use serde_json::json;
use warden::rate::Rate;

use super::PATH;
use crate::harness::{Answer, Post, TestDb, TestGateway, Upgrade, eventually, token};

const ALLOWED: &str = "http://app.example";
const EVIL: &str = "http://evil.example";
/// Routes that pages may read.
const ROUTES: [&str; 5] = [PATH, "/v1/calls", "/v1/calls?select=id", "/v1/calls/1", "/v1/covers"];

/// Headers of CORS in an answer, as one string for each.
fn cors(answer: &Answer) -> Vec<String> {
    let is_cors = |line: &&str| line.to_lowercase().starts_with("access-control-");
    let mut lines: Vec<String> = answer.head.lines().filter(is_cors).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The request that a browser sends before a request with a token.
fn preflight(path: &str, origin: &str) -> Upgrade {
    Upgrade::plain(path)
        .method("OPTIONS")
        .with("Origin", origin)
        .with("Access-Control-Request-Method", "GET")
        .with("Access-Control-Request-Headers", "authorization,if-none-match,prefer")
}

#[tokio::test]
async fn only_pages_of_allowed_origins_may_read_answers_and_errors() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    for path in ROUTES {
        let answer = preflight(path, ALLOWED).send(addr).await;
        assert_eq!((answer.status, answer.body.as_str()), (204, ""), "{path}: {answer:?}");
        assert_eq!(
            cors(&answer),
            [
                "access-control-allow-headers: authorization, content-type, if-none-match, prefer",
                "access-control-allow-methods: GET, HEAD, POST",
                "access-control-allow-origin: http://app.example",
                "access-control-expose-headers: etag, link, preference-applied, retry-after, warden-cursor",
                "access-control-max-age: 7200",
            ],
            "{path}"
        );
        assert_eq!(answer.headers("vary"), ["origin"], "{path}");

        // An error can be read as well as an answer, by the same pages alone.
        let method = if path == "/v1/covers" { "POST" } else { "GET" };
        let with = |origin: &str| Upgrade::plain(path).method(method).with("Origin", origin);
        let valid = with(ALLOWED).with("Authorization", &format!("Bearer {}", token(org, &json!({}))));
        for request in [valid, with(ALLOWED), with(ALLOWED).method("DELETE")] {
            let answer = request.send(addr).await;
            assert_eq!(
                cors(&answer),
                [
                    "access-control-allow-origin: http://app.example",
                    "access-control-expose-headers: etag, link, preference-applied, retry-after, warden-cursor"
                ],
                "{path}: {answer:?}"
            );
            assert!(answer.headers("vary").iter().any(|vary| vary.contains("origin")), "{path}: {answer:?}");
        }
        for request in [with(EVIL), with("null"), with(ALLOWED).with("Origin", EVIL), preflight(path, EVIL)] {
            let answer = request.send(addr).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (403, "origin_not_allowed"),
                "{path}: {answer:?}"
            );
            assert_eq!(cors(&answer), [""; 0], "{path}: {answer:?}");
        }
        // A request that is no preflight gets the methods of the path, as a 405 does.
        let answer = Upgrade::plain(path).method("OPTIONS").send(addr).await;
        let other = Upgrade::plain(path).method("DELETE").send(addr).await;
        assert_eq!((answer.status, other.status), (204, 405), "{path}: {answer:?} {other:?}");
        assert_eq!(answer.headers("allow"), other.headers("allow"), "{path}: {answer:?}");
        assert_eq!(answer.headers("allow").len(), 1, "{path}: {answer:?}");
        assert_eq!(cors(&answer), [""; 0], "{path}: {answer:?}");
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn preflight_requests_count_as_handshakes_and_carry_no_credential_in_the_url() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.admission.handshakes_per_address = Rate::new(1, 3);
    })
    .await;
    let addr = t.gateway.public_addr();
    let answer = preflight("/v1/calls?access_token=x", ALLOWED).send(addr).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "credential_in_url"), "{answer:?}");
    let limited =
        async || preflight("/v1/covers", ALLOWED).send(addr).await.code() == "handshakes_per_address";
    eventually("the rate is exceeded", limited).await;
    t.gateway.stop().await;
}

/// A page must not publish or revoke: the tokens of back ends do not belong in browsers.
#[tokio::test]
async fn routes_of_back_ends_allow_no_page() {
    let t = TestGateway::start().await;
    let addr = t.gateway.public_addr();
    for path in ["/v1/events", "/v1/revocations"] {
        let answer = preflight(path, ALLOWED).send(addr).await;
        assert_eq!((answer.status, answer.headers("allow")), (405, vec!["POST"]), "{path}: {answer:?}");
        let post = Post::bare(path, "{}").with("Origin", ALLOWED).send(addr).await;
        assert_eq!((cors(&answer), cors(&post)), (vec![], vec![]), "{path}: {answer:?} {post:?}");
    }
    t.gateway.stop().await;
}

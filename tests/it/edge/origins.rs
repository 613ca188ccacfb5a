//! The `Origin` of an upgrade, compared with the allowed origins of the harness.

use serde_json::json;

use crate::harness::{TestGateway, Upgrade, token};

#[tokio::test]
async fn every_origin_must_be_exactly_an_allowed_one() {
    const ALLOWED: &str = "http://app.example";
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let good = || Upgrade::bearer(&token(org, &json!({})));
    let origin = |text: &str| good().with("Origin", text);
    for request in [good(), origin(ALLOWED), origin("capacitor://localhost")] {
        assert_eq!(request.send(t.gateway.public_addr()).await.status, 101, "{request:?}");
    }
    let mut rejected = vec![
        origin(ALLOWED).with("Origin", "http://evil.example"),
        // The Origin is checked before the token.
        Upgrade::new().with("Origin", "http://evil.example"),
    ];
    rejected.extend(
        [
            "http://evil.example",
            "https://app.example",
            "http://app.example:80",
            "http://app.example.evil.example",
            "http://sub.app.example",
            "http://APP.example",
            "http://app.example/",
            "capacitor://localhost/",
            "capacitor://localhost:80",
            "Capacitor://localhost",
            "tauri://localhost",
            "file://",
            "null",
            "",
        ]
        .map(origin),
    );
    for request in rejected {
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "origin_not_allowed"), "{answer:?}");
        assert!(answer.message().contains("WARDEN_ALLOWED_ORIGINS"), "{answer:?}");
    }
    t.gateway.stop().await;
}

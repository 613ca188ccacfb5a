//! Clocks of issuers: a wrong clock is named as the cause, and no token outlives a revocation by its `iat`.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use warden::metrics::IssuerLabels;

use crate::harness::{Client, LogCapture, TestGateway, Upgrade, eventually, token};

const MONTH: i64 = 30 * 24 * 3600;

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("fits")
}

#[tokio::test]
async fn a_clock_that_is_a_month_wrong_is_named() {
    let logs = LogCapture::begin();
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let labels = IssuerLabels { issuer: String::new() };
    let offset = || t.gateway.metrics().issuer_clock_offset.get_or_create(&labels).get();
    let answer = async |iat: i64| {
        let jwt = token(org, &json!({"iat": iat, "exp": iat + 3600}));
        Upgrade::bearer(&jwt).send(t.gateway.public_addr()).await
    };

    assert_eq!(answer(now() - 10).await.status, 101);
    assert!((-15..=-9).contains(&offset()), "{}", offset());

    let ahead = answer(now() + MONTH).await;
    assert_eq!((ahead.status, ahead.code().as_str()), (401, "token_from_future"));
    assert!(
        ahead.message().contains("29 days in the future") || ahead.message().contains("30 days"),
        "{ahead:?}"
    );
    assert!(ahead.message().contains("clock"), "{ahead:?}");
    assert!((MONTH - 5..=MONTH).contains(&offset()), "{}", offset());
    assert_eq!(t.gateway.metrics().issued_in_future.get_or_create(&labels).get(), 1);
    assert!(logs.text().contains("issuer clock ahead"));
    t.gateway.stop().await;

    // Each token of an issuer whose clock is behind is younger than all before it, and has expired all the
    // same.
    let t = TestGateway::start_with(t.db, |_| {}).await;
    for iat in [now() - MONTH, now() - MONTH + 1] {
        let jwt = token(org, &json!({"iat": iat, "exp": iat + 3600}));
        let behind = Upgrade::bearer(&jwt).send(t.gateway.public_addr()).await;
        assert_eq!((behind.status, behind.code().as_str()), (401, "token_expired"));
        assert!(behind.message().contains("29 days") && behind.message().contains("clock"), "{behind:?}");
    }
    assert!(logs.text().contains("issuer clock behind"));
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_token_from_the_future_outlives_no_revocation() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    let of = |user: &str, iat: i64| token(org, &json!({"sub": user, "iat": iat}));
    let mut open = Client::connect(addr, &of("bob", now() - 60)).await;
    t.db.run("select warden.revoke(user_id => 'alice')").await;
    eventually("the node has loaded the revocation", async || t.gateway.metrics().revocations.get() == 1)
        .await;
    for ahead in [10, 3600, MONTH, 100 * 12 * MONTH] {
        let answer = Upgrade::bearer(&of("alice", now() + ahead)).send(addr).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "token_from_future"), "{ahead}");
        // A refresh with such a token changes nothing.
        let refresh = json!({"access_token": of("bob", now() + ahead)});
        let reply = open.push("phoenix", "access_token", refresh).await;
        assert_eq!(reply.status, "error", "{reply:?}");
    }
    assert_eq!(open.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    t.db.run("select warden.revoke(user_id => 'bob')").await;
    open.expect_close(4410).await;
    drop(open);
    t.gateway.stop().await;
}

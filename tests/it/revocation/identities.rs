//! Whatever identity a handshake accepts, `warden.revoke` accepts too.

use serde_json::{Value, json};

use super::{REVOKED, answer, now};
use crate::harness::{Client, TestGateway, token};

/// Strings at the limits of length, and of what PostgreSQL stores.
fn identities() -> Vec<String> {
    let mut all: Vec<String> = [
        "a",
        " ",
        "\0",
        "a\0b",
        "\u{1}\u{7f}\u{80}",
        "\u{feff}",
        "\u{fffe}\u{10ffff}",
        "'; drop --",
        "%s\\",
        "\n\r\t",
    ]
    .map(str::to_owned)
    .to_vec();
    for length in [1, 255, 256, 257, 300] {
        all.push("x".repeat(length));
        all.push("é".repeat(length / 2) + &"x".repeat(length % 2));
        all.push("\u{10348}".repeat(length / 4));
    }
    all.push(String::new());
    all.sort();
    all.dedup();
    all
}

#[tokio::test]
async fn every_accepted_user_and_login_can_be_revoked() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    let mut accepted = 0;
    for identity in identities() {
        for (claim, argument) in [("sub", "user_id"), ("session_id", "session_id")] {
            let mut claims = json!({"sub": "someone", "iat": now() - 60});
            claims[claim] = Value::from(identity.as_str());
            let (status, code) = answer(addr, org, &claims).await;
            if status != 101 {
                assert_eq!((status, code.as_str()), (401, "invalid_token"), "{claim} {identity:?}");
                continue;
            }
            accepted += 1;
            let mut client = Client::connect(addr, &token(org, &claims)).await;
            let statement = format!("select warden.revoke({argument} => $1)");
            let revoked =
                sqlx::query(sqlx::AssertSqlSafe(statement)).bind(&identity).execute(&t.db.pool).await;
            assert!(revoked.is_ok(), "{claim} {identity:?}: {revoked:?}");
            client.expect_close(REVOKED).await;
        }
    }
    assert!(accepted >= 25, "{accepted}");
    t.gateway.stop().await;
}

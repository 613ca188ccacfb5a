//! Token shapes of other identity providers, with the gateway's own verification. `docs/claims.md` describes
//! the configuration of each provider.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{TestGateway, Upgrade, token};

/// Claims that each provider writes beside the registered ones, for this organisation.
fn shapes(org: Uuid) -> [(&'static str, Value, Value); 3] {
    [
        (
            "Auth0",
            json!({"sub": "auth0|65a1b2c3d4e5f6", "azp": "client", "scope": "openid", "role": null,
                   "app_metadata": {"org_id": org}}),
            json!({"app_metadata": null, "https://example.com/org_id": org,
                   "https://example.com/app_metadata": {"org_id": org}}),
        ),
        (
            "Keycloak",
            json!({"sub": "f:1:alice", "typ": "Bearer", "azp": "web", "sid": "s", "acr": "1", "scope": "openid",
                   "realm_access": {"roles": ["offline_access"]}, "role": null, "app_metadata": {"org_id": org}}),
            // The mapper's option for several values writes a list.
            json!({"app_metadata": {"org_id": [org]}}),
        ),
        (
            "Clerk",
            json!({"sub": "user_2abcDEF", "azp": "https://app.example.com", "sid": "sess_1", "fva": [0, -1],
                   "role": null, "app_metadata": {"org_id": org}}),
            // An id of Clerk's own organisations.
            json!({"app_metadata": {"org_id": "org_2abcDEF"}}),
        ),
    ]
}

#[tokio::test]
async fn documented_token_shapes_of_other_providers_are_accepted() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    for (provider, accepted, rejected) in shapes(org) {
        let answer = Upgrade::bearer(&token(org, &accepted)).send(addr).await;
        assert_eq!(answer.status, 101, "{provider}: {answer:?}");
        let answer = Upgrade::bearer(&token(org, &rejected)).send(addr).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "no_organisation"),
            "{provider}: {answer:?}"
        );
    }
    t.gateway.stop().await;
}

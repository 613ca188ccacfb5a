//! Signs JSON Web Tokens for development, tests and benchmarks. Production tokens come from an issuer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

/// Claims of a development token.
#[derive(Clone, Copy, Debug)]
pub struct TokenClaims<'a> {
    /// Organisation, for `app_metadata.org_id`.
    pub org: Uuid,
    /// User, for `sub`.
    pub sub: &'a str,
    /// Role, for `role`.
    pub role: &'a str,
    /// Time from now to `exp`.
    pub ttl: Duration,
    /// Audience, for `aud`.
    pub audience: &'a str,
    /// Issuer, for `iss`; no such claim if `None`.
    pub issuer: Option<&'a str>,
    /// Topics for `app_metadata.warden_topics`, which limit the token; no such claim if `None`.
    pub topics: Option<&'a [String]>,
    /// Filters for `app_metadata.warden_filters`, which limit the token to some rows; no such claim if
    /// `None`.
    pub filters: Option<&'a serde_json::Value>,
}

/// Signs claims with HS256.
///
/// # Errors
/// If the secret cannot be used as a key.
pub fn sign(claims: &TokenClaims<'_>, secret: &str) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Payload<'a> {
        sub: &'a str,
        aud: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        iss: Option<&'a str>,
        role: &'a str,
        iat: u64,
        exp: u64,
        app_metadata: serde_json::Value,
    }
    let mut app_metadata = json!({"org_id": claims.org});
    if let Some(topics) = claims.topics {
        app_metadata["warden_topics"] = json!(topics);
    }
    if let Some(filters) = claims.filters {
        app_metadata["warden_filters"] = filters.clone();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let payload = Payload {
        sub: claims.sub,
        aud: claims.audience,
        iss: claims.issuer,
        role: claims.role,
        iat: now,
        exp: now + claims.ttl.as_secs(),
        app_metadata,
    };
    Ok(encode(&Header::default(), &payload, &EncodingKey::from_secret(secret.as_bytes()))?)
}

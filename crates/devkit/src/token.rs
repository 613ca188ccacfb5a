//! Signs JSON Web Tokens for development, tests and benchmarks. It must never sign anything in production.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

/// What goes into a development token.
#[derive(Clone, Copy, Debug)]
pub struct TokenClaims<'a> {
    /// `app_metadata.org_id`.
    pub org: Uuid,
    /// `sub`.
    pub sub: &'a str,
    /// `role`.
    pub role: &'a str,
    /// From now to `exp`.
    pub ttl: Duration,
    /// `aud`.
    pub audience: &'a str,
    /// `iss`, where required.
    pub issuer: Option<&'a str>,
    /// `app_metadata.warden_topics`, where the token is to be limited.
    pub topics: Option<&'a [String]>,
}

/// Signs with HS256.
///
/// # Errors
/// When the secret can't be used as a key.
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

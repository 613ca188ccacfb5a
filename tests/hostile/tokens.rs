//! Valid and invalid tokens, signed by hand, because a JWT library rejects the input that attackers need.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::gateway::SECRET;

/// Lifetime of tokens, longer than any run.
const LIFETIME_SECONDS: u64 = 4 * 3600;

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

pub(crate) fn header() -> Value {
    json!({"alg": "HS256", "typ": "JWT"})
}

/// Valid claims of a new user.
pub(crate) fn claims(org: Uuid) -> Value {
    json!({
        "sub": Uuid::from_u128(fastrand::u128(..)),
        "aud": "authenticated",
        "exp": now() + LIFETIME_SECONDS,
        "app_metadata": {"org_id": org},
    })
}

/// Token signed with the valid secret, whatever its header names.
pub(crate) fn hs256(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("signs");
    format!("{message}.{signature}")
}

/// A valid token.
pub(crate) fn token(org: Uuid) -> String {
    hs256(&header(), &claims(org))
}

//! Detection of credentials in a URL.

use axum::http::Uri;
use percent_encoding::percent_decode_str;

use super::error::CredentialError;
use super::subprotocol::TOKEN_SUBPROTOCOL_PREFIX;

/// Names of query parameters that carry a credential. Case, `_` and `-` are ignored, and a name that ends in
/// one of these matches too: `access_token`, `x-api-key`.
const CREDENTIAL_NAMES: &[&str] = &[
    "token",
    "jwt",
    "apikey",
    "auth",
    "authorization",
    "bearer",
    "credential",
    "credentials",
    "password",
    "secret",
    "session",
    "sessionid",
    "sid",
    "jid",
    "key",
];

/// Shortest encoded header or payload of a token, in bytes.
const JWT_PART_BYTES_MIN: usize = 8;

/// Fails if the URL contains a credential, or something that looks like one.
pub(super) fn reject_credential_in_url(uri: &Uri) -> Result<(), CredentialError> {
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(CredentialError::InUrl("a user before the host".to_owned()));
    }
    if is_jwt_like(&decode_twice(uri.path())) {
        return Err(CredentialError::InUrl("a token in the path".to_owned()));
    }
    for pair in uri.query().unwrap_or_default().split(['&', ';']) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode_twice(name), decode_twice(value));
        let plain: String =
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        if let Some(forbidden) = CREDENTIAL_NAMES.iter().find(|forbidden| plain.ends_with(*forbidden)) {
            // The error shows the entry of the list, because the sent name could itself be a secret.
            return Err(CredentialError::InUrl(format!("a parameter named {forbidden:?} or similar")));
        }
        if is_jwt_like(&name) || is_jwt_like(&value) {
            return Err(CredentialError::InUrl("a value shaped like a token".to_owned()));
        }
    }
    Ok(())
}

/// Percent-decodes twice, because a proxy may decode once more than the client expects.
fn decode_twice(text: &str) -> String {
    let once = percent_decode_str(text).decode_utf8_lossy().into_owned();
    percent_decode_str(&once).decode_utf8_lossy().into_owned()
}

/// Whether a string contains a JWT: three base64url parts, the first of which is a JSON object. A token in
/// the form of `phoenix`'s subprotocol matches too.
pub(super) fn is_jwt_like(text: &str) -> bool {
    if text.contains(TOKEN_SUBPROTOCOL_PREFIX) {
        return true;
    }
    let is_jwt_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // Each run of these characters is scanned only once, so the cost is linear: anyone may send a long URL.
    text.split(|c| !is_jwt_char(c)).any(|run| {
        let mut parts = run.split('.');
        let mut first = parts.next().unwrap_or_default();
        // The third part may be empty (`alg: none`), but its dot must be present.
        parts.clone().zip(parts.skip(1)).any(|(second, _)| {
            let is_header = first.find("ey").is_some_and(|at| first.len() - at >= JWT_PART_BYTES_MIN);
            let found = is_header && second.len() >= JWT_PART_BYTES_MIN;
            first = second;
            found
        })
    })
}

//! Credentials in a URL, which are always refused.

use axum::http::Uri;
use percent_encoding::percent_decode_str;

use super::error::CredentialError;
use super::subprotocol::TOKEN_SUBPROTOCOL_PREFIX;

/// Names of query parameters that carry a credential, compared without case, `_` and `-`. A name that
/// ends in one of them counts too: `access_token`, `x-api-key`.
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

/// Shortest header or payload of a token, encoded.
const JWT_PART_BYTES_MIN: usize = 8;

pub(super) fn refuse_in_url(uri: &Uri) -> Result<(), CredentialError> {
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(CredentialError::InUrl("a user before the host".to_owned()));
    }
    if is_jwt_like(&decoded(uri.path())) {
        return Err(CredentialError::InUrl("a token in the path".to_owned()));
    }
    for pair in uri.query().unwrap_or_default().split(['&', ';']) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name), decoded(value));
        let plain: String =
            name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
        if let Some(forbidden) = CREDENTIAL_NAMES.iter().find(|forbidden| plain.ends_with(*forbidden)) {
            // What was sent is not shown, not even as a name: it could itself be a secret.
            return Err(CredentialError::InUrl(format!("a parameter named {forbidden:?} or like it")));
        }
        if is_jwt_like(&name) || is_jwt_like(&value) {
            return Err(CredentialError::InUrl("a value shaped like a token".to_owned()));
        }
    }
    Ok(())
}

/// Percent-decoding, twice, because a proxy may decode once more than the author of a URL thought.
fn decoded(text: &str) -> String {
    let once = percent_decode_str(text).decode_utf8_lossy().into_owned();
    percent_decode_str(&once).decode_utf8_lossy().into_owned()
}

/// Whether a text contains three base64url parts of which the first is a JSON object: a JWT. One that is
/// wrapped as `phoenix` wraps it counts too.
pub(super) fn is_jwt_like(text: &str) -> bool {
    if text.contains(TOKEN_SUBPROTOCOL_PREFIX) {
        return true;
    }
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // Each run of such characters is looked at once, however long it is: this is done for anybody.
    text.split(|c| !is_of_token(c)).any(|run| {
        let mut parts = run.split('.');
        let mut first = parts.next().unwrap_or_default();
        // The third part may be empty (`alg: none`), but its dot is there.
        parts.clone().zip(parts.skip(1)).any(|(second, _)| {
            let is_header = first.find("ey").is_some_and(|at| first.len() - at >= JWT_PART_BYTES_MIN);
            let found = is_header && second.len() >= JWT_PART_BYTES_MIN;
            first = second;
            found
        })
    })
}

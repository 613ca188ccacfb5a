//! A token in `Authorization: Bearer`.

use axum::http::{HeaderMap, header};

use super::error::CredentialError;
use super::shape::is_jwt_like;

/// Error for a header that holds no bearer token.
pub(super) const NOT_BEARER: CredentialError =
    CredentialError::Malformed("Authorization header must be `Bearer <token>`");

/// The `Authorization` headers of a request.
pub(super) struct Authorization {
    pub(super) tokens: Vec<String>,
    /// Whether a header has another scheme, such as `Basic`. It belongs to a proxy in front, so it is not a
    /// token beside the one of the subprotocol or of the cookie.
    pub(super) has_other_scheme: bool,
}

impl Authorization {
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, CredentialError> {
        let mut found = Self { tokens: Vec::new(), has_other_scheme: false };
        for value in headers.get_all(header::AUTHORIZATION) {
            // Parameters of other schemes may contain any bytes, so the value is not converted to a string.
            let value = value.as_bytes().trim_ascii();
            let end = value.iter().position(|byte| !is_scheme_byte(*byte)).unwrap_or(value.len());
            let (scheme, rest) = value.split_at(end);
            if scheme.eq_ignore_ascii_case(b"bearer") {
                found.tokens.push(bearer_token(rest)?);
            } else if is_other_scheme(scheme, rest) && !is_jwt_like(&String::from_utf8_lossy(value)) {
                found.has_other_scheme = true;
            } else if !value.is_empty() {
                // Another server might take it for a second token.
                return Err(NOT_BEARER);
            }
        }
        Ok(found)
    }
}

/// Reads the token behind the scheme `Bearer`.
fn bearer_token(rest: &[u8]) -> Result<String, CredentialError> {
    let token = rest.trim_ascii_start();
    let is_token = rest.starts_with(b" ") && token.iter().all(u8::is_ascii_graphic);
    match str::from_utf8(token) {
        Ok(token) if is_token && !token.is_empty() => Ok(token.to_owned()),
        _ => Err(NOT_BEARER),
    }
}

/// Whether this is a scheme, alone or with a space before its parameters (RFC 9110, section 11.4).
fn is_other_scheme(scheme: &[u8], rest: &[u8]) -> bool {
    !scheme.is_empty() && (rest.is_empty() || rest.starts_with(b" "))
}

/// Whether a byte may be part of a scheme's name (a token of RFC 9110, section 5.6.2).
fn is_scheme_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

//! A token in a cookie.

use std::str::FromStr;

use axum::http::{HeaderMap, header};

use super::error::CredentialError;

/// Name of the cookie that carries the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(String);

impl FromStr for CookieName {
    type Err = &'static str;

    /// Parses a name, which must be a token of RFC 9110.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Err("a cookie name consists of letters, digits and !#$%&'*+-.^_`|~");
        }
        Ok(Self(name.to_owned()))
    }
}

/// The values of all cookies of this name (RFC 6265, section 4.2.1). The caller rejects several values,
/// because a neighbouring subdomain can plant a second cookie.
pub(super) fn cookie_tokens(headers: &HeaderMap, name: &CookieName) -> Result<Vec<String>, CredentialError> {
    const UNREADABLE: CredentialError = CredentialError::Malformed("cookie with the token is not readable");
    let mut values = Vec::new();
    for line in headers.get_all(header::COOKIE) {
        // Other cookies may contain any bytes, so the line is not converted to a string.
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            if pair[..at].trim_ascii() != name.0.as_bytes() {
                continue;
            }
            let value = pair.get(at + 1..).unwrap_or_default().trim_ascii();
            let unquoted = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            let value = std::str::from_utf8(unquoted.unwrap_or(value)).map_err(|_| UNREADABLE)?;
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
                return Err(UNREADABLE);
            }
            values.push(value.to_owned());
        }
    }
    Ok(values)
}

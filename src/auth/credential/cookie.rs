//! A token in a cookie.

use std::str::FromStr;

use axum::http::{HeaderMap, header};

use super::error::CredentialError;

/// The name of the cookie that carries a token, where cookies may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieName(String);

impl FromStr for CookieName {
    type Err = &'static str;

    /// A token of RFC 9110.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Err("a cookie's name is letters, digits and !#$%&'*+-.^_`|~");
        }
        Ok(Self(name.to_owned()))
    }
}

/// The values of all cookies of this name (RFC 6265, section 4.2.1). Two of one name are none to choose from:
/// a neighbouring subdomain can plant the second.
pub(super) fn cookies(headers: &HeaderMap, name: &CookieName) -> Result<Vec<String>, CredentialError> {
    const UNREADABLE: CredentialError = CredentialError::Malformed("the cookie with the token can't be read");
    let mut values = Vec::new();
    for line in headers.get_all(header::COOKIE) {
        // Other cookies may hold any bytes.
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            if pair[..at].trim_ascii() != name.0.as_bytes() {
                continue;
            }
            let value = pair.get(at + 1..).unwrap_or_default().trim_ascii();
            let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
            let value = std::str::from_utf8(inner.unwrap_or(value)).map_err(|_| UNREADABLE)?;
            if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic() && b != b'"') {
                return Err(UNREADABLE);
            }
            values.push(value.to_owned());
        }
    }
    Ok(values)
}

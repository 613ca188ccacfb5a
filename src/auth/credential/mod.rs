//! Where a token may stand in a request, and where none may.
//!
//! It comes from `Authorization: Bearer`, from the subprotocols as `phoenix` on npm sends it, or, where one
//! is configured, from a cookie: exactly one. Never from the URL, which ends in logs, histories and referrers: a request whose URL carries
//! anything like a credential is refused whatever else it holds, and the value is never repeated.

mod cookie;
mod error;
mod subprotocol;
#[cfg(test)]
mod tests;
mod url;

pub use cookie::CookieName;
pub use error::CredentialError;
pub use subprotocol::{PHOENIX_SUBPROTOCOL, TOKEN_SUBPROTOCOL_PREFIX};

use axum::http::{HeaderMap, Uri, header};

use cookie::cookies;
use subprotocol::decode_entry;
use url::refuse_in_url;

use super::token::{TOKEN_BYTES_MAX, Token};

/// What a request presents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The one token.
    pub token: Token,
    /// Whether to answer `Sec-WebSocket-Protocol: phoenix`.
    pub wants_phoenix: bool,
    /// Whether the token is a cookie, which browsers send whoever asks them to: it counts only together
    /// with an allowed Origin.
    pub is_cookie: bool,
}

/// Finds the one token of a request. Cookies are looked at only where one is named.
///
/// # Errors
/// When there is none, more than one, one that can't be read, or anything like one in the URL.
pub fn find(
    uri: &Uri,
    headers: &HeaderMap,
    cookie: Option<&CookieName>,
) -> Result<Presented, CredentialError> {
    refuse_in_url(uri)?;
    let mut tokens = Vec::new();
    for value in headers.get_all(header::AUTHORIZATION) {
        let text = value
            .to_str()
            .map_err(|_| CredentialError::Malformed("the Authorization header is not plain text"))?;
        let (scheme, token) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if !scheme.eq_ignore_ascii_case("bearer") || token.trim().is_empty() {
            return Err(CredentialError::Malformed("the Authorization header is not `Bearer <token>`"));
        }
        tokens.push(token.trim().to_owned());
    }
    let mut offered_any = false;
    let mut wants_phoenix = false;
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        let text = value
            .to_str()
            .map_err(|_| CredentialError::Malformed("the Sec-WebSocket-Protocol header is not plain text"))?;
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            offered_any = true;
            if let Some(encoded) = entry.strip_prefix(TOKEN_SUBPROTOCOL_PREFIX) {
                tokens.push(decode_entry(encoded)?);
            } else if entry == PHOENIX_SUBPROTOCOL {
                wants_phoenix = true;
            }
        }
    }
    if offered_any && !wants_phoenix {
        return Err(CredentialError::Subprotocol);
    }
    let cookies = cookie.map_or(Ok(Vec::new()), |name| cookies(headers, name))?;
    let is_cookie = !cookies.is_empty();
    tokens.extend(cookies);
    let token = tokens.pop().ok_or(CredentialError::Missing)?;
    if !tokens.is_empty() {
        return Err(CredentialError::Several);
    }
    if token.len() > TOKEN_BYTES_MAX {
        return Err(CredentialError::Malformed("the token is too long"));
    }
    Ok(Presented { token: Token::new(token), wants_phoenix, is_cookie })
}

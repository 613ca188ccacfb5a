//! The credential of a request: where a token may be, and where it must not be.
//!
//! A request has exactly one token. It is in `Authorization: Bearer`, among the subprotocols (as `phoenix` on
//! npm sends it) or, if a cookie is configured, in that cookie. It is never in the URL, because URLs end up
//! in logs, histories and referrers. A URL that contains anything like a credential is rejected whatever else
//! the request holds, and no error repeats the value.
//!
//! Credentials of other schemes in `Authorization` are for a proxy in front, and are not read.

mod authorization;
mod cookie;
mod error;
mod shape;
mod subprotocol;
#[cfg(test)]
mod tests;
mod url;

pub use cookie::CookieName;
pub use error::CredentialError;
pub use subprotocol::{PHOENIX_SUBPROTOCOL, TOKEN_SUBPROTOCOL_PREFIX};

use axum::http::{HeaderMap, Uri};

use super::token::Token;
use authorization::{Authorization, NOT_BEARER};
use cookie::cookie_tokens;
use subprotocol::Offer;
use url::reject_credential_in_url;

/// Credential of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// The only token of the request.
    pub token: Token,
    /// Whether the answer must contain `Sec-WebSocket-Protocol: phoenix`.
    pub wants_phoenix: bool,
    /// Whether the token came in a cookie. Any page can make a browser send its cookies, so the caller must
    /// then require an allowed Origin.
    pub is_cookie: bool,
}

/// Finds the only token of a request. Cookies are read only if `cookie` names one.
///
/// # Errors
/// Fails if the request has no token, several tokens or an unreadable one, or if its URL contains a
/// credential.
pub fn find(
    uri: &Uri,
    headers: &HeaderMap,
    cookie: Option<&CookieName>,
) -> Result<Presented, CredentialError> {
    reject_credential_in_url(uri)?;
    let Authorization { mut tokens, has_other_scheme } = Authorization::parse(headers)?;
    let offer = Offer::parse(headers)?;
    tokens.extend(offer.tokens);
    let cookies = cookie.map_or(Ok(Vec::new()), |name| cookie_tokens(headers, name))?;
    let is_cookie = !cookies.is_empty();
    tokens.extend(cookies);
    let token = match tokens.pop() {
        Some(token) => token,
        None if has_other_scheme => return Err(NOT_BEARER),
        None => return Err(CredentialError::Missing),
    };
    if !tokens.is_empty() {
        return Err(CredentialError::Several);
    }
    Ok(Presented { token: Token::new(token), wants_phoenix: offer.wants_phoenix, is_cookie })
}

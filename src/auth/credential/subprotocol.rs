//! A token among the offered subprotocols, as `phoenix` on npm sends it.

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::error::CredentialError;

/// The only subprotocol that the gateway supports.
pub const PHOENIX_SUBPROTOCOL: &str = "phoenix";

/// Prefix of the entry that contains the token. Despite this name, `phoenix` encodes with the standard
/// alphabet and without padding. Both alphabets are accepted.
pub const TOKEN_SUBPROTOCOL_PREFIX: &str = "base64url.bearer.phx.";

/// Subprotocols that a client offers.
pub(super) struct Offer {
    pub(super) tokens: Vec<String>,
    pub(super) wants_phoenix: bool,
}

impl Offer {
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, CredentialError> {
        let mut offer = Self { tokens: Vec::new(), wants_phoenix: false };
        let mut is_empty = true;
        for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
            let value = value
                .to_str()
                .map_err(|_| CredentialError::Malformed("Sec-WebSocket-Protocol header is not ASCII"))?;
            for entry in value.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
                is_empty = false;
                if let Some(encoded) = entry.strip_prefix(TOKEN_SUBPROTOCOL_PREFIX) {
                    offer.tokens.push(decode_token(encoded)?);
                } else if entry == PHOENIX_SUBPROTOCOL {
                    offer.wants_phoenix = true;
                }
            }
        }
        if is_empty || offer.wants_phoenix { Ok(offer) } else { Err(CredentialError::Subprotocol) }
    }
}

fn decode_token(encoded: &str) -> Result<String, CredentialError> {
    let trimmed = encoded.trim_end_matches('=');
    STANDARD_NO_PAD
        .decode(trimmed)
        .or_else(|_| URL_SAFE_NO_PAD.decode(trimmed))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(CredentialError::Malformed("token among the subprotocols is not base64"))
}

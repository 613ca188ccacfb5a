//! A token among the subprotocols, as `phoenix` on npm sends it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::error::CredentialError;

/// The subprotocol that is answered.
pub const PHOENIX_SUBPROTOCOL: &str = "phoenix";

/// What precedes the token among the subprotocols. Despite the name `phoenix` encodes with the
/// standard alphabet, without padding; both alphabets are taken.
pub const TOKEN_SUBPROTOCOL_PREFIX: &str = "base64url.bearer.phx.";

pub(super) fn decode_entry(encoded: &str) -> Result<String, CredentialError> {
    let trimmed = encoded.trim_end_matches('=');
    STANDARD_NO_PAD
        .decode(trimmed)
        .or_else(|_| URL_SAFE_NO_PAD.decode(trimmed))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or(CredentialError::Malformed("the token among the subprotocols is not base64"))
}

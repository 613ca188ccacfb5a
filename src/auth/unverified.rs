//! What is read of a token before anything of it is believed: enough to choose the issuer and the key.
//!
//! None of it selects more than one of the configured issuers and one of that issuer's keys; addresses
//! and keys within a header (`jku`, `x5u`, `x5c`, `jwk`) are not looked at.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::alg::{Alg, KID_BYTES_MAX};
use super::error::AuthError;
use super::json::is_object;
use super::token::TOKEN_BYTES_MAX;

/// The types (`typ`) of tokens that are taken where an issuer's rules name none: an ID token of another
/// kind, or a logout token, must not pass for an access token.
const TYPES: &[&str] = &["JWT", "at+jwt"];

/// See the module's documentation.
pub(super) struct UnverifiedToken {
    pub(super) alg: Alg,
    pub(super) kid: Option<String>,
    pub(super) typ: Option<String>,
    /// Unverified.
    pub(super) issuer: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// Extensions that must be understood, of which none is. An empty or `null` one is no less wrong.
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

#[derive(Deserialize)]
struct Payload {
    iss: Option<String>,
}

fn is_present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

impl UnverifiedToken {
    pub(super) fn read(token: &str) -> Result<Self, AuthError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(AuthError::Malformed("it is too long"));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AuthError::Malformed("not a signed JSON Web Token"));
        };
        let header: Header = decoded(header)?;
        if header.crit {
            return Err(AuthError::Malformed(
                "it has critical extensions (crit), of which none is understood",
            ));
        }
        if header.kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err(AuthError::Malformed("its kid is too long"));
        }
        let alg = Alg::of_token(&header.alg).ok_or(AuthError::Signature)?;
        let payload: Payload = decoded(payload)?;
        Ok(Self { alg, kid: header.kid, typ: header.typ, issuer: payload.iss })
    }

    /// Whether the token says that it is of the kind that is expected: without a word on that only where
    /// no rule wants one.
    pub(super) fn has_type(&self, wanted: Option<&str>) -> bool {
        // RFC 7515, section 4.1.9: `application/` may be left out, and case does not matter.
        let typ = self.typ.as_deref().map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
        match (wanted, typ) {
            (Some(wanted), Some(typ)) => typ.eq_ignore_ascii_case(wanted),
            (Some(_), None) => false,
            (None, Some(typ)) => TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known)),
            (None, None) => true,
        }
    }
}

/// A part of a token, as JSON.
pub(super) fn decoded<T: DeserializeOwned>(part: &str) -> Result<T, AuthError> {
    let bytes =
        URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed("not a signed JSON Web Token"))?;
    // RFC 8725, section 3.7. serde does not look into what it passes over, so it would take other bytes there.
    let text = std::str::from_utf8(&bytes).map_err(|_| AuthError::Malformed("it is not UTF-8"))?;
    if !is_object(text) {
        return Err(AuthError::Malformed("it is not a JSON object"));
    }
    serde_json::from_str(text)
        .map_err(|_| AuthError::Malformed("a field of its header, or its issuer, has the wrong type"))
}

//! The parts of a token that are read before its signature is verified: only enough to select issuer and key.
//!
//! They select one of the configured issuers and one of that issuer's keys, and nothing else. Addresses and
//! keys in the header (`jku`, `x5u`, `x5c`, `jwk`) are never read.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::alg::{Alg, KID_BYTES_MAX};
use super::error::AuthError;
use super::json::is_object;

/// Types (`typ`) that are accepted if the issuer's rules name none. An ID token of another kind or a logout
/// token must not pass as an access token.
const TYPES: &[&str] = &["JWT", "at+jwt"];

/// Header and issuer of a token whose signature is not verified yet.
pub(super) struct UnverifiedToken {
    pub(super) alg: Alg,
    pub(super) kid: Option<String>,
    pub(super) typ: Option<String>,
    pub(super) issuer: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// Whether `crit` is present. It lists extensions that a recipient must understand, and the gateway
    /// understands none. An empty or `null` list is invalid too.
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
    pub(super) fn parse(token: &str) -> Result<Self, AuthError> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AuthError::Malformed("it is not a signed JSON Web Token with three parts"));
        };
        let header: Header = decode_part(header)?;
        if header.crit {
            return Err(AuthError::Malformed(
                "its header has critical extensions (crit), and none is supported",
            ));
        }
        if header.kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
            return Err(AuthError::Malformed("its kid is longer than 256 bytes"));
        }
        let alg = Alg::from_header(&header.alg).ok_or(AuthError::Signature)?;
        let payload: Payload = decode_part(payload)?;
        Ok(Self { alg, kid: header.kid, typ: header.typ, issuer: payload.iss })
    }

    /// Whether the header has the expected type. A token without a type is accepted only if no type is
    /// required.
    pub(super) fn has_type(&self, required: Option<&str>) -> bool {
        // RFC 7515, section 4.1.9: `application/` may be omitted, and case does not matter.
        let typ = self.typ.as_deref().map(|typ| typ.strip_prefix("application/").unwrap_or(typ));
        match (required, typ) {
            (Some(required), Some(typ)) => typ.eq_ignore_ascii_case(required),
            (Some(_), None) => false,
            (None, Some(typ)) => TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known)),
            (None, None) => true,
        }
    }
}

/// Decodes the header or the payload of a token.
pub(super) fn decode_part<T: DeserializeOwned>(part: &str) -> Result<T, AuthError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| AuthError::Malformed("its header or payload is not base64url"))?;
    // RFC 8725, section 3.7 requires UTF-8. serde skips unknown fields without checking their bytes.
    let json = std::str::from_utf8(&bytes)
        .map_err(|_| AuthError::Malformed("its header or payload is not UTF-8"))?;
    if !is_object(json) {
        return Err(AuthError::Malformed("its header or payload is not a JSON object"));
    }
    serde_json::from_str(json)
        .map_err(|_| AuthError::Malformed("its issuer or a field of its header has the wrong type"))
}

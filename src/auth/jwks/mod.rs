//! A JSON Web Key Set, and the keys of it that the gateway accepts.
//!
//! Every entry that is not a public key for RS256, ES256 or EdDSA is skipped with a reason and never affects
//! the others. This module does no I/O and ignores addresses in the document (`x5u`, `jku`).

mod key;
#[cfg(test)]
mod tests;
mod weak;

pub use key::{KeyError, PublicKey};
pub(crate) use key::{RSA_BITS_MAX, RSA_BITS_MIN};

use serde::Deserialize;
use serde_json::value::RawValue;

use self::weak::CheckBudget;
use super::json::is_object;

/// Most keys in one document. A document with more is rejected as a whole.
pub const JWKS_KEYS_MAX: usize = 64;

/// Contents of a document.
#[derive(Debug, Default)]
pub struct Jwks {
    /// Accepted keys. No two of them have the same algorithm and `kid`.
    pub keys: Vec<PublicKey>,
    /// Positions of the other keys in the document, each with the reason why it was skipped.
    pub skipped: Vec<(usize, KeyError)>,
}

/// Reason for which a document is rejected as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// The document is not `{"keys": [...]}`.
    #[error("not a JSON Web Key Set ({{\"keys\": [...]}}): check the configured address")]
    NotAKeySet,
    /// The document has more than [`JWKS_KEYS_MAX`] keys.
    #[error("the key set has {0} keys, and at most {JWKS_KEYS_MAX} are allowed")]
    TooMany(usize),
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

impl Jwks {
    /// Parses a document.
    ///
    /// # Errors
    /// Fails if the document is not a key set or has too many keys. An invalid key is skipped and is no
    /// error.
    pub fn parse(document: &[u8]) -> Result<Self, JwksError> {
        let text = std::str::from_utf8(document).map_err(|_| JwksError::NotAKeySet)?;
        if !is_object(text) {
            return Err(JwksError::NotAKeySet);
        }
        let document: Document<'_> = serde_json::from_str(text).map_err(|_| JwksError::NotAKeySet)?;
        if document.keys.len() > JWKS_KEYS_MAX {
            return Err(JwksError::TooMany(document.keys.len()));
        }
        let mut jwks = Self::default();
        let mut budget = CheckBudget::default();
        for (n, raw) in document.keys.into_iter().enumerate() {
            match PublicKey::parse(raw, &mut budget) {
                Ok(key)
                    if jwks.keys.iter().any(|k| (k.alg, &k.kid) == (key.alg, &key.kid))
                        && key.kid.is_some() =>
                {
                    jwks.skipped.push((n, KeyError::Duplicate));
                }
                Ok(key) => jwks.keys.push(key),
                Err(error) => jwks.skipped.push((n, error)),
            }
        }
        Ok(jwks)
    }
}

//! A JWKS document, and which of its keys are taken.
//!
//! What is not a public key for one of the three algorithms is passed over with a reason, and never stops the others.
//! Nothing here does I/O, and no address within a document (`x5u`, `jku`) is looked at.

mod key;
#[cfg(test)]
mod tests;

pub use key::{KeyError, PublicKey};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::is_object;

/// Keys in one document; one with more is refused.
pub const JWKS_KEYS_MAX: usize = 64;

/// What a document holds.
#[derive(Debug, Default)]
pub struct Jwks {
    /// The keys that are taken: no two of the same algorithm and `kid`.
    pub keys: Vec<PublicKey>,
    /// Of the others, why not, with their place in the document.
    pub passed_over: Vec<(usize, KeyError)>,
}

/// Why a document is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not `{"keys": [...]}`.
    #[error("the answer is no JSON Web Key Set ({{\"keys\": [...]}})")]
    NotAKeySet,
    /// More than [`JWKS_KEYS_MAX`].
    #[error("the key set holds {0} keys; at most {JWKS_KEYS_MAX} are taken")]
    TooMany(usize),
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

impl Jwks {
    /// Reads a document.
    ///
    /// # Errors
    /// When it is no key set, or one beyond the limit. A single bad key is no error.
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
        for (n, raw) in document.keys.into_iter().enumerate() {
            match PublicKey::parse(raw) {
                Ok(key)
                    if jwks.keys.iter().any(|k| (k.alg, &k.kid) == (key.alg, &key.kid))
                        && key.kid.is_some() =>
                {
                    jwks.passed_over.push((n, KeyError::Duplicate));
                }
                Ok(key) => jwks.keys.push(key),
                Err(error) => jwks.passed_over.push((n, error)),
            }
        }
        Ok(jwks)
    }
}

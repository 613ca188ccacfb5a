//! The position of a page: the values of the columns in the order, of the last row before it.
//!
//! A position is not sealed. It selects rows of the caller's own organisation that the caller may see, and
//! a client that changes it selects other rows of the same kind.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::QueryError;

/// Longest position in a URL, in bytes.
pub(crate) const POSITION_BYTES_MAX: usize = 8 * 1024;

/// Values of a row in the columns of the order, as text. None stands for null.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(pub Vec<Option<String>>);

impl Position {
    /// Encodes the position for a URL.
    ///
    /// # Errors
    /// If it is too long.
    pub fn encode(&self) -> Result<String, QueryError> {
        let json = serde_json::to_vec(&self.0).unwrap_or_default();
        let encoded = URL_SAFE_NO_PAD.encode(json);
        if encoded.len() > POSITION_BYTES_MAX { Err(QueryError::PositionTooLong) } else { Ok(encoded) }
    }

    /// Decodes a position.
    ///
    /// # Errors
    /// If it is not one.
    pub fn decode(text: &str) -> Result<Self, QueryError> {
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| QueryError::After)?;
        let values: Vec<Option<String>> = serde_json::from_slice(&json).map_err(|_| QueryError::After)?;
        let has_nul = values.iter().flatten().any(|value| value.contains('\0'));
        if has_nul { Err(QueryError::After) } else { Ok(Self(values)) }
    }
}

//! Idempotency keys. The database stores hashes, so that a key has one size and is not shown.

use sha2::{Digest as _, Sha256};

/// Longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// SHA-256 of an idempotency key, with its kind. A key of one kind never equals one of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdempotencyKey(pub(super) [u8; 32]);

/// Error for a value that is not an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key has 1 to 255 printable ASCII characters")]
pub struct InvalidKey;

impl IdempotencyKey {
    /// The key of a whole request, as its header names it.
    ///
    /// # Errors
    /// When it is empty, too long, or has other characters than printable ASCII.
    pub fn of_request(key: &[u8]) -> Result<Self, InvalidKey> {
        let is_printable = key.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !is_printable {
            return Err(InvalidKey);
        }
        Ok(Self::hash(&[b"request", key]))
    }

    /// Hashes parts with their lengths, so that no two lists of parts have the same input.
    pub(super) fn hash(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

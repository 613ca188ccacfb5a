//! A cursor in the form in which clients keep it: an opaque string. `log::cursor` encodes and decodes it.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// An encoded cursor. Clones share the string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedCursor(Arc<str>);

impl EncodedCursor {
    /// The cursor as clients receive it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for EncodedCursor {
    fn from(cursor: String) -> Self {
        Self(cursor.into())
    }
}

impl From<&str> for EncodedCursor {
    fn from(cursor: &str) -> Self {
        Self(cursor.into())
    }
}

impl fmt::Display for EncodedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for EncodedCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

//! The key of the service role, which no message shows.

use std::fmt;

use anyhow::ensure;
use axum::http::HeaderValue;

/// Text that replaces the key in messages.
const HIDDEN: &str = "[service key]";

/// Key of the service role.
pub struct ServiceKey(String);

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl ServiceKey {
    /// A key without the white space around it.
    ///
    /// # Errors
    /// If the key is empty, or a header cannot carry it.
    pub fn new(text: &str) -> anyhow::Result<Self> {
        let key = text.trim();
        ensure!(!key.is_empty(), "the service key is empty");
        ensure!(
            key.bytes().all(|byte| byte.is_ascii_graphic()),
            "the service key contains a character that a header cannot carry"
        );
        Ok(Self(key.to_owned()))
    }

    /// Value of a header, marked so that it is not logged.
    pub(super) fn header(&self, prefix: &str) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("{prefix}{}", self.0))
            .unwrap_or_else(|_| HeaderValue::from_static(""));
        value.set_sensitive(true);
        value
    }

    /// The text without the key, which a server could repeat in an error.
    pub(super) fn hide_in(&self, text: &str) -> String {
        text.replace(&self.0, HIDDEN)
    }
}

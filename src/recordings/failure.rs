//! Why an attempt to copy a recording failed, and whether another one may succeed.

use std::time::Duration;

/// A failed attempt. The reasons contain no credentials, and of a URL the host alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A later attempt may succeed.
    #[error("{reason}")]
    Temporary {
        /// Reason, as the queue keeps it.
        reason: String,
        /// The earliest time of another attempt, if the source has named one.
        after: Option<Duration>,
    },
    /// No attempt can succeed before somebody changes something.
    #[error("{0}")]
    Permanent(String),
}

impl Failure {
    pub(super) fn temporary(reason: impl Into<String>) -> Self {
        Self::Temporary { reason: reason.into(), after: None }
    }

    pub(super) fn permanent(reason: impl Into<String>) -> Self {
        Self::Permanent(reason.into())
    }
}

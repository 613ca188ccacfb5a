//! How much a client may send: so many messages, then so many that are answered with an error, then the
//! end. It knows neither what is in them nor how they are answered.

use tokio::time::Instant;

use super::SessionLimits;
use crate::rate::Bucket;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct MessageRateLimiter {
    messages: Bucket,
    refused: Bucket,
}

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    /// Take it.
    Yes,
    /// Answer that there are too many.
    No,
    /// It was told often enough: end the session.
    Flood,
}

impl MessageRateLimiter {
    pub(super) fn new() -> Self {
        let full = Bucket::full(Instant::now());
        Self { messages: full, refused: full }
    }

    pub(super) fn take(&mut self, limits: &SessionLimits, now: Instant) -> Allowed {
        if self.messages.take(limits.messages, 1, now).is_ok() {
            Allowed::Yes
        } else if self.refused.take(limits.refused_messages, 1, now).is_ok() {
            Allowed::No
        } else {
            Allowed::Flood
        }
    }
}

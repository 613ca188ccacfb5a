//! The message rate of one client. It does not know what messages contain or how they are answered.

use tokio::time::Instant;

use super::SessionLimits;
use crate::rate::Bucket;

/// Two token buckets: messages that are accepted, and messages above that rate that are answered with an
/// error.
#[derive(Debug)]
pub(super) struct MessageRateLimiter {
    accepted: Bucket,
    rejected: Bucket,
}

/// Decision about one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RateDecision {
    /// Handles it.
    Accept,
    /// Answers it with an error.
    Reject,
    /// Ends the session, because the client kept sending after many errors.
    Close,
}

impl MessageRateLimiter {
    pub(super) fn new() -> Self {
        let full = Bucket::full(Instant::now());
        Self { accepted: full, rejected: full }
    }

    /// Counts one message.
    pub(super) fn check(&mut self, limits: &SessionLimits, now: Instant) -> RateDecision {
        if self.accepted.take(limits.messages, 1, now).is_ok() {
            RateDecision::Accept
        } else if self.rejected.take(limits.rejected_messages, 1, now).is_ok() {
            RateDecision::Reject
        } else {
            RateDecision::Close
        }
    }
}

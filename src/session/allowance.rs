//! How much a client may send: so many messages, then so many that are answered with an error, then the
//! end. It knows neither what is in them nor how they are answered.

use tokio::time::Instant;

use super::SessionLimits;
use crate::rate::{Bucket, Rate};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Allowance {
    messages: (Rate, Bucket),
    refused: (Rate, Bucket),
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

impl Allowance {
    pub(super) fn new(limits: SessionLimits) -> Self {
        let full = Bucket::full(Instant::now());
        Self { messages: (limits.messages, full), refused: (limits.refused_messages, full) }
    }

    pub(super) fn take(&mut self, now: Instant) -> Allowed {
        let take = |(rate, bucket): &mut (Rate, Bucket)| bucket.take(*rate, 1, now).is_ok();
        if take(&mut self.messages) {
            Allowed::Yes
        } else if take(&mut self.refused) {
            Allowed::No
        } else {
            Allowed::Flood
        }
    }
}

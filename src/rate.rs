//! Token buckets: a rate per second and a burst.
//!
//! A bucket has no timer: the caller passes the current time. This module must not import any other.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

/// Rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens per second, in the long run.
    pub per_second: NonZeroU32,
    /// Size of the bucket: tokens that are available at once after a pause.
    pub burst: NonZeroU32,
}

/// Error for a string that is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a rate is PER_SECOND:BURST, two whole numbers above 0, such as 50:500")]
pub struct RateError;

impl Rate {
    /// A rate. Zero is replaced by one.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        const fn at_least_one(n: u32) -> NonZeroU32 {
            match NonZeroU32::new(n) {
                Some(n) => n,
                None => NonZeroU32::MIN,
            }
        }
        Self { per_second: at_least_one(per_second), burst: at_least_one(burst) }
    }

    /// Time in which this many tokens flow into the bucket.
    fn time_of(self, count: u32) -> Duration {
        let nanos = u64::from(count) * 1_000_000_000 / u64::from(self.per_second.get());
        Duration::from_nanos(nanos)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.per_second, self.burst)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (per_second, burst) = text.split_once(':').ok_or(RateError)?;
        Ok(Self {
            per_second: per_second.parse().map_err(|_| RateError)?,
            burst: burst.parse().map_err(|_| RateError)?,
        })
    }
}

/// Token bucket, stored as the moment at which it will be full again.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Whether no token is missing.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }

    /// Takes this many tokens, or none.
    ///
    /// # Errors
    /// The time until there are enough tokens.
    pub fn take(&mut self, rate: Rate, count: u32, now: Instant) -> Result<(), Duration> {
        self.take_leaving(rate, count, 0, now)
    }

    /// Takes this many tokens, or none if fewer than `left` would remain.
    ///
    /// # Errors
    /// The time until there are enough tokens.
    pub fn take_leaving(&mut self, rate: Rate, count: u32, left: u32, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + rate.time_of(count);
        let latest = now + rate.time_of(rate.burst.get().saturating_sub(left));
        if full_at > latest {
            return Err(full_at - latest);
        }
        self.full_at = full_at;
        Ok(())
    }

    /// Takes this many tokens, even if they are missing. Returns the time until none is missing.
    #[must_use]
    pub fn take_on_credit(&mut self, rate: Rate, count: u32, now: Instant) -> Duration {
        self.full_at = self.full_at.max(now) + rate.time_of(count);
        self.full_at.saturating_duration_since(now + rate.time_of(rate.burst.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_allows_its_burst_and_then_its_rate() {
        let (rate, start) = (Rate::new(10, 3), Instant::now());
        let mut bucket = Bucket::full(start);
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, 1, start), Ok(()));
        }
        assert_eq!(bucket.take(rate, 1, start), Err(Duration::from_millis(100)));
        // A failed attempt takes no token.
        assert_eq!(bucket.take(rate, 1, start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(rate, 1, start + Duration::from_millis(100)), Ok(()));
        assert!(bucket.take(rate, 1, start + Duration::from_millis(199)).is_err());
        // A pause of any length fills the bucket up to its burst, and no further.
        let later = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(rate, 3, later), Ok(()));
        assert!(bucket.take(rate, 1, later).is_err());
        assert!(Bucket::full(later).take(rate, 4, later).is_err());
    }

    #[test]
    fn tokens_that_are_left_remain_for_others() {
        let (rate, start) = (Rate::new(10, 4), Instant::now());
        let mut bucket = Bucket::full(start);
        for _ in 0..2 {
            assert_eq!(bucket.take_leaving(rate, 1, 2, start), Ok(()));
        }
        assert_eq!(bucket.take_leaving(rate, 1, 2, start), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(rate, 2, start), Ok(()));
        assert_eq!(bucket.take_leaving(rate, 1, 2, start), Err(Duration::from_millis(300)));
        assert_eq!(bucket.take_leaving(rate, 1, 2, start + Duration::from_millis(300)), Ok(()));
    }

    #[test]
    fn tokens_on_credit_are_paid_back_before_others_are_taken() {
        let (rate, start) = (Rate::new(10, 3), Instant::now());
        let mut bucket = Bucket::full(start);
        assert_eq!(bucket.take_on_credit(rate, 3, start), Duration::ZERO);
        assert_eq!(bucket.take_on_credit(rate, 2, start), Duration::from_millis(200));
        assert!(bucket.take(rate, 1, start + Duration::from_millis(299)).is_err());
        assert_eq!(bucket.take(rate, 1, start + Duration::from_millis(300)), Ok(()));
    }

    #[test]
    fn a_rate_is_parsed_from_two_numbers_and_printed_as_such() {
        assert_eq!("50:500".parse(), Ok(Rate::new(50, 500)));
        assert_eq!(Rate::new(50, 500).to_string(), "50:500");
        for bad in ["", "50", "0:5", "5:0", "-1:5", "5:5:5", "5.5:6", "x:y"] {
            assert_eq!(bad.parse::<Rate>(), Err(RateError), "{bad}");
        }
    }
}

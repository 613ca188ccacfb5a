//! The clock that all processes of a run read: nanoseconds of CLOCK_MONOTONIC. The whole machine has one such
//! clock, so a time that the publisher notes is comparable with a time that a worker notes.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since a fixed moment before the run.
pub(crate) type Nanos = u64;

/// The current time.
pub(crate) fn now() -> Nanos {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither part is negative on this clock.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// A duration in nanoseconds, limited to some 146 years.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// Seconds in nanoseconds; 0 for a number that is not a duration.
pub(crate) fn seconds(seconds: f64) -> Nanos {
    nanos(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// The time that remains until a moment; zero if it has passed.
pub(crate) fn until(moment: Nanos) -> Duration {
    Duration::from_nanos(moment.saturating_sub(now()))
}

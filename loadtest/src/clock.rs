//! The clock that all processes of a run read: nanoseconds of CLOCK_MONOTONIC, which is one for the
//! whole machine, so that a moment noted by the publisher can be held against one noted by a holder.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment before the run.
pub(crate) type Nanos = u64;

/// The present moment.
pub(crate) fn now() -> Nanos {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative on this clock.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// A length of time as this clock counts it; what is too long for it is its longest.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// Seconds as this clock counts them; what can't be a time is none.
pub(crate) fn seconds(seconds: f64) -> Nanos {
    nanos(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// How long until a moment; nothing where it has passed.
pub(crate) fn until(moment: Nanos) -> Duration {
    Duration::from_nanos(moment.saturating_sub(now()))
}

//! Delays between attempts: exponential backoff with jitter.

use std::time::Duration;

/// Share of a backoff delay that is random.
const BACKOFF_JITTER: f64 = 0.5;

/// A random duration between `(1 - share) * max` and `max`.
///
/// Clients and nodes that failed at the same moment would otherwise all return at the same moment.
pub(crate) fn jitter(max: Duration, share: f64) -> Duration {
    max.mul_f64(1.0 - share * fastrand::f64())
}

/// Exponential backoff: each delay is twice the one before, up to a maximum.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// Delay before the next attempt: between half of the current step and all of it. The step then doubles.
    pub(crate) fn next(&mut self) -> Duration {
        let delay = jitter(self.next, BACKOFF_JITTER);
        self.next = (self.next * 2).min(self.max);
        delay
    }

    /// Starts again at the first delay, because an attempt succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, max);
        for step in [100, 200, 400, 800, 1000, 1000] {
            let step = Duration::from_millis(step);
            let delay = backoff.next();
            assert!(delay >= step / 2 && delay <= step, "{delay:?} for a step of {step:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= first);
    }

    #[test]
    fn jitter_stays_within_its_share_and_varies() {
        let max = Duration::from_secs(1);
        for share in [0.1, 0.5] {
            let mut delays: Vec<_> = (0..50).map(|_| jitter(max, share)).collect();
            let min = max.mul_f64(1.0 - share);
            assert!(delays.iter().all(|delay| (min..=max).contains(delay)), "{delays:?}");
            delays.dedup();
            assert!(delays.len() > 40, "{delays:?}");
        }
    }
}

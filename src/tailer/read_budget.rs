//! The budget of reads that find nothing.
//!
//! Any role of the database can notify the tailer, and can hold the doorbell's lock. Without a budget the
//! tailer would read the log for each notification. This is plain state. The tailer does the waiting.

use std::time::{Duration, Instant};

use crate::rate::Rate;

/// Reads per second that may find nothing in the long run, and in a row after a pause.
pub const EMPTY_READS: Rate = Rate::new(50, 100);

/// Reads that may find nothing for each read that found events. After the events of one commit the tailer
/// retries at most seven times, after 2 ms up to 100 ms, until no earlier transaction is in progress.
pub const EMPTY_READS_PER_READ_WITH_EVENTS: u32 = 8;

/// Token bucket of reads that find nothing.
#[derive(Debug)]
pub(super) struct ReadBudget {
    /// Below zero while the next read must wait.
    tokens: f64,
    refilled: Instant,
    is_exhausted: bool,
}

impl ReadBudget {
    /// A full budget.
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: f64::from(EMPTY_READS.burst.get()), refilled: now, is_exhausted: false }
    }

    /// Records a read.
    pub(super) fn record(&mut self, found_events: bool, now: Instant) {
        self.refill(now);
        if found_events {
            self.add(f64::from(EMPTY_READS_PER_READ_WITH_EVENTS));
        } else {
            self.tokens -= 1.0;
        }
    }

    /// Time until the next read is allowed.
    pub(super) fn pause(&mut self, now: Instant) -> Option<Duration> {
        self.refill(now);
        if self.tokens < 0.0 {
            self.is_exhausted = true;
            return Some(Duration::from_secs_f64(-self.tokens / f64::from(EMPTY_READS.per_second.get())));
        }
        if self.tokens >= f64::from(EMPTY_READS.burst.get()) / 2.0 {
            self.is_exhausted = false;
        }
        None
    }

    /// Whether a read had to wait, and the budget has not recovered to half its burst since then.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled);
        self.refilled = now;
        self.add(elapsed.as_secs_f64() * f64::from(EMPTY_READS.per_second.get()));
    }

    fn add(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(f64::from(EMPTY_READS.burst.get()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Empty reads within this time, if a notification requests the next read at once.
    fn flooded(budget: &mut ReadBudget, start: Instant, time: Duration) -> u32 {
        let (mut now, mut reads) = (start, 0);
        while now < start + time {
            reads += 1;
            budget.record(false, now);
            now += budget.pause(now).unwrap_or(Duration::from_micros(100));
        }
        reads
    }

    #[test]
    fn a_flood_of_notifications_causes_the_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut budget = ReadBudget::new(start);
        let reads = flooded(&mut budget, start, Duration::from_secs(10));
        let bound = EMPTY_READS.burst.get() + 10 * EMPTY_READS.per_second.get();
        assert!((bound - 5..=bound + 2).contains(&reads), "{reads} reads, the bound is {bound}");
        assert!(budget.is_exhausted());

        // The warning ends when the budget has recovered to half its burst.
        let later = start + Duration::from_secs(20);
        assert_eq!(budget.pause(later), None);
        assert!(!budget.is_exhausted());
    }

    #[test]
    fn reads_with_events_and_their_retries_never_wait() {
        let mut now = Instant::now();
        let mut budget = ReadBudget::new(now);
        for _ in 0..1000 {
            budget.record(true, now);
            for _ in 0..EMPTY_READS_PER_READ_WITH_EVENTS {
                assert_eq!(budget.pause(now), None);
                budget.record(false, now);
                now += Duration::from_micros(100);
            }
        }
    }
}

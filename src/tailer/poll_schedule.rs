//! The poll schedule: when the tailer polls next, from what it knows about the doorbell and how fast it
//! rings.
//!
//! This is plain state. The tailer does the waiting.

use std::time::{Duration, Instant};

use super::limits::TailerLimits;

/// A ring within this time after a read arrived while that read was under way.
const OVERRUN_GAP: Duration = Duration::from_micros(100);

/// Consecutive rings of that kind after which the tailer silences the doorbell.
const CONSECUTIVE_RINGS_MAX: u32 = 16;

/// Result of one poll, which may have read several pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct PollOutcome {
    pub(super) found_events: bool,
    /// Whether no transaction was in progress that may still commit without ringing.
    pub(super) is_settled: bool,
}

/// Schedule of the next poll.
#[derive(Debug)]
pub(super) struct PollSchedule {
    poll_interval: Duration,
    retry_first: Duration,
    retry_max: Duration,
    /// Delay before the next retry while transactions are in progress.
    pub(super) retry: Duration,
    last_ring: Instant,
    /// Rings in a row that arrived while the tailer still handled the previous one.
    consecutive_rings: u32,
    /// Whether the last poll was the unconditional one, and no ring had arrived for a whole poll interval
    /// before it.
    polled_without_ring: bool,
    pub(super) doorbell: DoorbellState,
}

/// State of the doorbell as far as the tailer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DoorbellState {
    /// Writers ring the doorbell.
    Rings,
    /// This tailer silences the doorbell.
    Silenced,
    /// Another tailer may silence the doorbell, so this one polls until it has checked.
    MaybeSilenced,
}

impl PollSchedule {
    pub(super) fn new(limits: &TailerLimits) -> Self {
        Self {
            poll_interval: limits.poll_interval,
            retry_first: limits.retry_first,
            retry_max: limits.retry_max,
            retry: limits.retry_first,
            last_ring: Instant::now(),
            consecutive_rings: 0,
            polled_without_ring: false,
            // Another tailer may have silenced the doorbell before this one could be notified.
            doorbell: DoorbellState::MaybeSilenced,
        }
    }

    /// Records that the doorbell rang, `after` the last read.
    pub(super) fn rang(&mut self, after: Duration) {
        self.retry = self.retry_first;
        self.last_ring = Instant::now();
        self.polled_without_ring = false;
        self.consecutive_rings = if after < OVERRUN_GAP { self.consecutive_rings + 1 } else { 0 };
    }

    /// Records that the next poll is a retry, because transactions were in progress.
    pub(super) fn retried(&mut self) {
        self.retry = (self.retry * 2).min(self.retry_max);
        self.polled_without_ring = false;
        self.consecutive_rings = 0;
    }

    /// Records that the next poll happens at the poll interval, without a ring. If the last poll was settled,
    /// any event since then should have caused a ring.
    pub(super) fn polled(&mut self, was_settled: bool) {
        self.polled_without_ring = was_settled && self.last_ring.elapsed() >= self.poll_interval;
        self.consecutive_rings = 0;
    }

    /// Records that the doorbell is no longer silenced, so it rings for new events.
    pub(super) fn restored(&mut self) {
        self.doorbell = DoorbellState::Rings;
        self.consecutive_rings = 0;
    }

    /// Whether waiting for rings no longer makes sense. Either rings arrive as fast as the tailer answers
    /// them, or events arrived without any ring. The latter happens if another tailer silenced the doorbell
    /// and its notification was lost.
    pub(super) fn should_poll_continuously(&self, found_events: bool) -> bool {
        self.consecutive_rings >= CONSECUTIVE_RINGS_MAX || (self.polled_without_ring && found_events)
    }
}

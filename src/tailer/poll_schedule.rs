//! When the reader looks next: what it knows of the doorbell, and how fast it is rung.
//!
//! Plain state: the reader does the waiting.

use std::time::{Duration, Instant};

use super::TailerLimits;

/// A ring that comes so soon after a read came while that was under way.
const RING_GAP: Duration = Duration::from_micros(100);

/// So many such rings in a row, and the reader silences the bell.
const RINGS_IN_ROW_MAX: u32 = 16;

/// When the reader looks next.
#[derive(Debug)]
pub(super) struct PollSchedule {
    limits: TailerLimits,
    /// The next look at transactions in progress.
    pub(super) retry: Duration,
    last_ring: Instant,
    /// Rings that came while the reader was still at work on the one before.
    pub(super) rings_in_row: u32,
    /// The last look was the unconditional one, and nobody had rung for as long as there is between two of them.
    was_unrung: bool,
    pub(super) bell: DoorbellState,
}

/// What the reader knows of the doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DoorbellState {
    /// Writers ring it.
    Rings,
    /// This reader silences it.
    Silenced,
    /// Another reader may: this one looks by itself until it has made sure.
    MaybeSilent,
}

impl PollSchedule {
    pub(super) fn new(limits: TailerLimits) -> Self {
        // Somebody may have silenced the bell before this reader was there to be told.
        let bell = DoorbellState::MaybeSilent;
        let last_ring = Instant::now();
        Self { limits, retry: limits.retry_first, last_ring, rings_in_row: 0, was_unrung: false, bell }
    }

    pub(super) fn rung(&mut self, after: Duration) {
        self.retry = self.limits.retry_first;
        self.last_ring = Instant::now();
        self.was_unrung = false;
        self.rings_in_row = if after < RING_GAP { self.rings_in_row + 1 } else { 0 };
    }

    /// It is time to look at transactions that were in progress.
    pub(super) fn retried(&mut self) {
        self.retry = (self.retry * 2).min(self.limits.retry_max);
        self.was_unrung = false;
        self.rings_in_row = 0;
    }

    /// It is time for a look in any case. Where the last one was settled, only a ring could have told of anything new.
    pub(super) fn polled(&mut self, was_settled: bool) {
        self.was_unrung = was_settled && self.last_ring.elapsed() >= self.limits.poll_interval;
        self.rings_in_row = 0;
    }

    /// Rings come as fast as they are answered; or events came without any ring, as when another reader
    /// silenced the bell and its word was lost.
    pub(super) fn is_overrun(&self, found: bool) -> bool {
        self.rings_in_row >= RINGS_IN_ROW_MAX || (self.was_unrung && found)
    }
}

//! Limits of the tailer.

use std::time::Duration;

use crate::log::PageLimits;

/// Delays of the tailer, and how much it reads at a time.
#[derive(Clone, Copy, Debug)]
pub struct TailerLimits {
    /// Most rows that one statement reads, at least 1. More rows are read page by page up to the same point,
    /// so that a bulk statement of any size takes bounded memory.
    pub page_rows_max: u32,
    /// Most bytes of these rows.
    pub page_bytes_max: usize,
    /// Number of the log's last rows that the tailer reads into memory when it starts, for reconnecting
    /// clients.
    pub warm_rows_max: u32,
    /// Time after which the tailer gives that warm-up up, because the node admits no session before it ends.
    pub warm_time_max: Duration,
    /// Interval of the unconditional poll.
    pub poll_interval: Duration,
    /// Delay before the first retry after a snapshot that showed transactions in progress.
    pub retry_first: Duration,
    /// Longest delay between two such retries.
    pub retry_max: Duration,
    /// Pause between reads under load, while the doorbell is silenced.
    pub busy_interval: Duration,
    /// Interval at which every topic gets a new cursor, even if it has no events.
    pub cursor_interval: Duration,
    /// Time after which a read has failed and its connection counts as broken.
    pub read_timeout: Duration,
    /// Delay before the first attempt to reconnect.
    pub reconnect_first: Duration,
    /// Longest delay between two attempts to reconnect.
    pub reconnect_max: Duration,
}

impl TailerLimits {
    /// The size of one page.
    pub(super) fn page(&self) -> PageLimits {
        PageLimits { rows_max: self.page_rows_max, bytes_max: self.page_bytes_max }
    }
}

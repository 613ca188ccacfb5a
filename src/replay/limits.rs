//! Limits of replays.

use std::time::Duration;

use super::queue::ReplayQueueLimits;

/// Limits of replays.
#[derive(Clone, Copy, Debug)]
pub struct ReplayLimits {
    /// Most reads of the log at the same time, each for another organisation. Other organisations wait in the
    /// fair queue.
    pub concurrent_reads_max: usize,
    /// Most resumes of all organisations at the same time, from the join until the missed events are sent.
    /// One organisation gets at most half of them, and less if others need them. Further resumes end with a
    /// resync.
    pub resumes_max: usize,
    /// Most bytes of the cursors of these resumes. One organisation gets at most half of them, and less if
    /// others need them.
    pub cursor_bytes_max: usize,
    /// Most events of one replay. A client that missed more must reload its state.
    pub events_max: usize,
    /// Most bytes of the events of one replay, and of one read of the log.
    pub bytes_max: usize,
    /// Most bytes of events from the log that are being read or sent. Beyond it reads wait. One organisation
    /// gets at most half of it.
    pub memory_bytes_max: usize,
    /// Time for which events stay in memory for a client that is slow to receive them, even if the memory is
    /// exhausted and an organisation that holds less of it waits.
    pub hold_min: Duration,
    /// Longest time that a resume waits for a tailer that makes no progress. As long as the tailer makes
    /// progress, the resume waits for the bulk that is being read and for one more read. The join has its
    /// reply by then.
    pub tailer_timeout: Duration,
    /// Longest time that a replay waits in the fair queue and for its read. The join has its reply by then.
    pub wait_timeout: Duration,
    /// Longest time that one read of the log may take.
    pub log_read_timeout: Duration,
    /// Longest time that a client may take to receive its missed events, because they stay in memory until
    /// then.
    pub send_timeout: Duration,
}

impl ReplayLimits {
    pub(super) fn queue(&self) -> ReplayQueueLimits {
        ReplayQueueLimits {
            places_max: self.resumes_max,
            place_bytes_max: self.cursor_bytes_max,
            hold_min: self.hold_min,
            // One read must always fit, whatever is configured.
            read_bytes: self.bytes_max.min(self.memory_bytes_max / 2),
            bytes_max: self.memory_bytes_max,
            org_bytes_max: self.memory_bytes_max / 2,
        }
    }
}

//! Position of the tailer in the log.

use crate::cursor::Epoch;
use crate::log::LogPosition;

/// Position of the tailer. It outlives connections.
#[derive(Clone)]
pub(super) struct TailerPosition {
    pub(super) epoch: Epoch,
    /// Everything that the point of this position covers was dispatched.
    pub(super) at: LogPosition,
    /// Progress within a read of several pages, if one is under way or was interrupted.
    pub(super) partial: Option<PartialRead>,
}

/// Progress within a read of several pages.
#[derive(Clone)]
pub(super) struct PartialRead {
    /// The position to which the read leads.
    pub(super) to: LogPosition,
    /// Everything that `to` covers was dispatched up to this id.
    pub(super) last_id: i64,
}

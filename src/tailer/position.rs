//! Position of the tailer in the log.

use std::sync::Arc;

use crate::log::cursor::{Epoch, Point};

/// Position of the tailer. It outlives connections.
#[derive(Clone)]
pub(super) struct TailerPosition {
    pub(super) epoch: Epoch,
    /// Everything that this point covers was dispatched.
    pub(super) point: Arc<Point>,
    /// Progress within a read of several pages, if one is under way or was interrupted.
    pub(super) partial: Option<PartialRead>,
}

/// Progress within a read of several pages.
#[derive(Clone)]
pub(super) struct PartialRead {
    /// The point to which the read leads.
    pub(super) to: Arc<Point>,
    /// Everything that `to` covers was dispatched up to this id.
    pub(super) last_id: i64,
}

//! Cursors: positions in the event log, built from PostgreSQL's own MVCC snapshots.
//!
//! A sequence number is not a cursor: numbers commit out of order, so `id > last` skips rows. A [`Point`] is
//! a snapshot with the highest event id that it covers. "New since that point" is then exact, and no open
//! transaction delays anybody. `docs/design/cursor.md` explains the design.
//!
//! This module is pure data and encoding. It does no I/O and imports no other module.

mod encoding;
mod point;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

pub use encoding::{CURSOR_BYTES_MAX, CursorPrefix, IN_PROGRESS_MAX};
pub use point::{Epoch, ParseError, Point, Snapshot};

/// Position of a client in the log, which the client presents to resume. It covers everything that `from`
/// covers, and the part of `to` with ids up to `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The epoch in which the points are valid.
    pub epoch: Epoch,
    /// The client has seen everything that this point covers.
    pub from: Arc<Point>,
    /// The client has seen the part of this point with ids up to `id`.
    pub to: Arc<Point>,
    /// Id of the last event that the client has seen.
    pub id: i64,
}

impl Cursor {
    /// The cursor of a client that has seen exactly what `point` covers.
    #[must_use]
    pub fn at(epoch: Epoch, point: Arc<Point>) -> Self {
        Self { epoch, id: point.max_id, to: Arc::clone(&point), from: point }
    }

    /// Highest event id that the cursor can cover.
    #[must_use]
    pub fn max_id(&self) -> i64 {
        self.from.max_id.max(self.to.max_id.min(self.id))
    }

    /// Bytes that the cursor takes in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let in_progress = self.from.snapshot.in_progress.capacity() + self.to.snapshot.in_progress.capacity();
        size_of::<Self>() + 2 * size_of::<Point>() + in_progress * size_of::<u64>()
    }

    /// Whether the client has seen the event.
    #[must_use]
    pub fn covers(&self, xid: u64, id: i64) -> bool {
        self.from.covers(xid, id) || (id <= self.id && self.to.covers(xid, id))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&CursorPrefix::of(self).with_id(self.id))
    }
}

/// Error for a string that is not a cursor. It gives no details, because a client could only use them to
/// forge cursors: the gateway answers with a resync.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a cursor of this gateway")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let decoded = encoding::decode(text).ok_or(InvalidCursor)?;
        Ok(Self {
            epoch: decoded.epoch,
            from: Arc::new(decoded.from),
            to: Arc::new(decoded.to),
            id: decoded.id,
        })
    }
}

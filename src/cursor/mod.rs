//! Cursors: positions in the event log, built from PostgreSQL's own MVCC snapshots.
//!
//! A sequence number is not a cursor: numbers commit out of order, so `id > last` skips rows. A [`Point`] is
//! a snapshot with the highest event id that it covers. "New since that point" is then exact, and no open
//! transaction delays anybody. `docs/design/cursor.md` explains the design.
//!
//! A cursor leaves the node only in its sealed form ([`CursorSeal`]).
//!
//! This module is pure data and encoding. It does no I/O, and imports no other module than `org`.

mod encoding;
mod point;
mod seal;
#[cfg(test)]
mod tests;
mod transaction;

use std::sync::Arc;

pub use encoding::{CURSOR_BYTES_MAX, CursorPrefix, IN_PROGRESS_MAX};
pub use point::{Epoch, ParseError, Point, Snapshot};
pub use seal::{CursorKey, CursorSeal, InvalidCursor, KeyRing};
pub use transaction::{Transaction, TransactionSealer};

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

    /// Whether the cursor covers exactly what one point covers, so that no transaction is covered in part.
    #[must_use]
    pub fn is_at_point(&self) -> bool {
        self.id >= self.to.max_id && (Arc::ptr_eq(&self.from, &self.to) || self.from == self.to)
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

    /// Whether the client has certainly seen every event of the transaction, or the transaction has none. The
    /// answer may be a false no within a batch, because the ids of the transaction's events are not known
    /// here.
    #[must_use]
    pub fn covers_transaction(&self, xid: u64) -> bool {
        let has_all_of_batch = self.id >= self.to.max_id;
        self.from.snapshot.sees(xid) || (has_all_of_batch && self.to.snapshot.sees(xid))
    }

    /// Whether the client has certainly seen everything that the point covers. The answer may be a false no,
    /// but never a false yes.
    #[must_use]
    pub fn includes(&self, point: &Point) -> bool {
        let has_all_of_batch = self.id >= self.to.max_id;
        self.from.includes(point) || (has_all_of_batch && self.to.includes(point))
    }

    /// Whether the client has seen the event.
    #[must_use]
    pub fn covers(&self, xid: u64, id: i64) -> bool {
        self.from.covers(xid, id) || (id <= self.id && self.to.covers(xid, id))
    }
}

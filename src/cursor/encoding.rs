//! The plain form of a cursor, which is sealed before a client receives it: variable-length integers, padded.
//! Each cursor has exactly one plain form.

use super::Cursor;
use super::point::{Epoch, Point, Snapshot};

/// Longest cursor of a client that is opened, in bytes.
pub const CURSOR_BYTES_MAX: usize = 32 * 1024;

/// Most transactions in progress of both points of a cursor together. A snapshot of PostgreSQL names one
/// transaction per connection, prepared transaction and worker, and only those that write. So this is enough
/// for 5,000 connections that all write at the same time.
pub const IN_PROGRESS_MAX: usize = 10_000;

/// The plain form is padded to this length, or to a multiple of [`PADDING_BYTES`] more. So the length of a
/// cursor reveals only roughly how many transactions were in progress.
const PLAIN_BYTES_MIN: usize = 4;
const PADDING_BYTES: usize = 16;

/// Approximate length of the points if no transaction is in progress.
const QUIET_BYTES: usize = 24;

/// The part that all cursors of one batch share, encoded once: the points, without the id.
#[derive(Debug)]
pub struct CursorPrefix {
    epoch: Epoch,
    plain: Vec<u8>,
    /// Highest id of the second point, from which the id is counted.
    max_id: i64,
}

impl CursorPrefix {
    /// Bytes that the id and the padding add at most.
    pub(super) const ID_BYTES_MAX: usize = 10 + PADDING_BYTES;

    /// Encodes both points. The second one is encoded as its differences from the first, because they are
    /// close to each other.
    #[must_use]
    pub fn new(epoch: Epoch, from: &Point, to: &Point) -> Self {
        let in_progress = from.snapshot.in_progress.len() + to.snapshot.in_progress.len();
        let mut plain = Vec::with_capacity(QUIET_BYTES + 2 * in_progress);
        put_point(&mut plain, from, &Point::default());
        put_point(&mut plain, to, from);
        Self { epoch, plain, max_id: to.max_id }
    }

    /// The epoch and the points of this cursor.
    #[must_use]
    pub fn of(cursor: &Cursor) -> Self {
        Self::new(cursor.epoch, &cursor.from, &cursor.to)
    }

    /// Bytes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.plain.len()
    }

    /// The epoch in which the points are valid.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Appends the plain form of the cursor after the event with this id.
    pub(super) fn append_plain(&self, id: i64, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(&self.plain);
        put_difference(into, id, self.max_id);
        into.resize(start + padded(into.len() - start), 0);
    }
}

impl Cursor {
    /// The plain form. It names its points to everybody, so it must be sealed before it leaves the node.
    #[must_use]
    pub fn to_plain(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        CursorPrefix::of(self).append_plain(self.id, &mut plain);
        plain
    }

    /// Decodes a plain form. Returns none for all bytes that [`Self::to_plain`] would not produce.
    #[must_use]
    pub fn from_plain(epoch: Epoch, plain: &[u8]) -> Option<Self> {
        let mut decoder = Decoder { bytes: plain, at: 0 };
        let from = decoder.point(&Point::default())?;
        let to = decoder.point(&from)?;
        if from.snapshot.in_progress.len() + to.snapshot.in_progress.len() > IN_PROGRESS_MAX {
            return None;
        }
        let id = decoder.difference(to.max_id)?;
        let is_padded =
            plain.len() == padded(decoder.at) && plain[decoder.at..].iter().all(|byte| *byte == 0);
        is_padded.then(|| Self { epoch, from: from.into(), to: to.into(), id })
    }
}

/// Length of a plain form with this many bytes after padding.
fn padded(bytes: usize) -> usize {
    bytes.saturating_sub(PLAIN_BYTES_MIN).next_multiple_of(PADDING_BYTES) + PLAIN_BYTES_MIN
}

fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80 after the loop")]
    into.push(value as u8);
}

/// Writes a number as its distance from another one. The lowest bit is the sign, so small distances in both
/// directions take one byte.
fn put_difference(into: &mut Vec<u8>, value: i64, base: i64) {
    let difference = value.wrapping_sub(base);
    put_varint(into, ((difference << 1) ^ (difference >> 63)).cast_unsigned());
}

/// Writes a point as differences from another one.
fn put_point(into: &mut Vec<u8>, point: &Point, base: &Point) {
    let snapshot = &point.snapshot;
    put_difference(into, snapshot.xmin.cast_signed(), base.snapshot.xmin.cast_signed());
    put_varint(into, snapshot.xmax - snapshot.xmin);
    put_varint(into, snapshot.in_progress.len() as u64);
    let mut last = snapshot.xmin;
    for xid in &snapshot.in_progress {
        put_varint(into, xid - last);
        last = *xid;
    }
    put_difference(into, point.max_id, base.max_id);
}

pub(super) struct Decoder<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl Decoder<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit. A last byte of zero would be a second encoding of the
            // number.
            if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Reads a number that is not negative, from its distance to `base`, which is not negative either.
    fn difference(&mut self, base: i64) -> Option<i64> {
        let bits = self.varint()?;
        let difference = (bits >> 1).cast_signed() ^ -(bits & 1).cast_signed();
        base.checked_add(difference).filter(|value| *value >= 0)
    }

    fn point(&mut self, base: &Point) -> Option<Point> {
        let xmin = self.difference(base.snapshot.xmin.cast_signed())?.cast_unsigned();
        let xmax = xmin.checked_add(self.varint()?)?;
        let count = usize::try_from(self.varint()?).ok()?;
        // Each transaction takes at least one byte, so a forged count cannot cause a large allocation.
        if count > self.bytes.len() - self.at || count > IN_PROGRESS_MAX {
            return None;
        }
        let mut in_progress = Vec::with_capacity(count);
        let mut last = xmin;
        for n in 0..count {
            let distance = self.varint()?;
            last = last.checked_add(distance)?;
            if last >= xmax || (n > 0 && distance == 0) {
                return None;
            }
            in_progress.push(last);
        }
        // PostgreSQL rejects larger values of xid8 and bigint, so they must not reach a query.
        i64::try_from(xmax).ok()?;
        Some(Point { snapshot: Snapshot { xmin, xmax, in_progress }, max_id: self.difference(base.max_id)? })
    }
}

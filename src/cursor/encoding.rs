//! The encoded form of a cursor: base64url over variable-length integers. Each cursor has exactly one
//! encoding.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Cursor;
use super::point::{Epoch, Point, Snapshot};

/// Longest encoded cursor that is decoded, in bytes. A thousand writing transactions in progress take about
/// 2.7 KB, so the limit is enough for ten thousand.
pub const CURSOR_BYTES_MAX: usize = 32 * 1024;

/// Most transactions in progress of both points of a decoded cursor together. A snapshot of PostgreSQL names
/// one transaction per connection, prepared transaction and worker, and only those that write. So this is
/// enough for 5,000 connections that all write at the same time.
pub const IN_PROGRESS_MAX: usize = 10_000;

/// First byte of an encoded cursor.
const VERSION: u8 = 1;

/// Approximate size of an encoded cursor, in bytes, if no transaction is in progress.
const QUIET_BYTES: usize = 80;

/// The part that all cursors of one batch share, encoded once. It fills whole groups of base64, so that the
/// encoded id can be appended.
#[derive(Debug)]
pub struct CursorPrefix(String);

impl CursorPrefix {
    /// Encodes the epoch and both points.
    #[must_use]
    pub fn new(epoch: Epoch, from: &Point, to: &Point) -> Self {
        let in_progress = from.snapshot.in_progress.len() + to.snapshot.in_progress.len();
        let mut bytes = Vec::with_capacity(QUIET_BYTES + 2 * in_progress);
        bytes.push(VERSION);
        bytes.extend_from_slice(&epoch.system.to_be_bytes());
        put_varint(&mut bytes, epoch.timeline.into());
        put_varint(&mut bytes, epoch.database.into());
        put_point(&mut bytes, from);
        put_point(&mut bytes, to);
        while !bytes.len().is_multiple_of(3) {
            bytes.push(0);
        }
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The epoch and the points of this cursor.
    #[must_use]
    pub fn of(cursor: &Cursor) -> Self {
        Self::new(cursor.epoch, &cursor.from, &cursor.to)
    }

    /// Bytes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// The cursor after the event with this id.
    #[must_use]
    pub fn with_id(&self, id: i64) -> String {
        let mut bytes = Vec::with_capacity(10);
        put_varint(&mut bytes, id.cast_unsigned());
        let mut cursor = String::with_capacity(self.0.len() + 14);
        cursor.push_str(&self.0);
        URL_SAFE_NO_PAD.encode_string(bytes, &mut cursor);
        cursor
    }
}

fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80 after the loop")]
    into.push(value as u8);
}

/// Writes a snapshot's numbers as differences, because they are close to each other.
fn put_point(into: &mut Vec<u8>, point: &Point) {
    let snapshot = &point.snapshot;
    put_varint(into, snapshot.xmin);
    put_varint(into, snapshot.xmax - snapshot.xmin);
    put_varint(into, snapshot.in_progress.len() as u64);
    let mut last = snapshot.xmin;
    for xid in &snapshot.in_progress {
        put_varint(into, xid - last);
        last = *xid;
    }
    put_varint(into, point.max_id.cast_unsigned());
}

/// The parts of a decoded cursor.
pub(super) struct DecodedCursor {
    pub(super) epoch: Epoch,
    pub(super) from: Point,
    pub(super) to: Point,
    pub(super) id: i64,
}

/// Decodes a cursor. Returns none for every string that [`CursorPrefix`] would not produce.
pub(super) fn decode(text: &str) -> Option<DecodedCursor> {
    if text.len() > CURSOR_BYTES_MAX {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Decoder { bytes: &bytes, at: 0 }.cursor()
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

    fn id(&mut self) -> Option<i64> {
        i64::try_from(self.varint()?).ok()
    }

    fn point(&mut self) -> Option<Point> {
        let xmin = self.varint()?;
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
        Some(Point { snapshot: Snapshot { xmin, xmax, in_progress }, max_id: self.id()? })
    }

    fn cursor(&mut self) -> Option<DecodedCursor> {
        if self.byte()? != VERSION {
            return None;
        }
        let system = self.bytes.get(self.at..self.at + 8)?.try_into().ok().map(u64::from_be_bytes)?;
        self.at += 8;
        let epoch = Epoch {
            system,
            timeline: self.varint()?.try_into().ok()?,
            database: self.varint()?.try_into().ok()?,
        };
        let (from, to) = (self.point()?, self.point()?);
        if from.snapshot.in_progress.len() + to.snapshot.in_progress.len() > IN_PROGRESS_MAX {
            return None;
        }
        while !self.at.is_multiple_of(3) {
            if self.byte()? != 0 {
                return None;
            }
        }
        let id = self.id()?;
        (self.at == self.bytes.len()).then_some(DecodedCursor { epoch, from, to, id })
    }
}

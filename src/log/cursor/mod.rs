//! The cursor: where a reader of the log stands, made of PostgreSQL's own MVCC snapshots.
//!
//! A sequence number is no cursor: numbers commit out of order, so `id > last` skips rows. A
//! [`Point`] is a snapshot with the highest event id that it covers; "new since" is then exact, and
//! no open transaction holds anything up. `ARCHITECTURE.md` tells why `max_id` is part of it.
//!
//! Pure data and encoding: no I/O, no other module.

#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest encoded cursor that is looked at, in bytes. A thousand writing transactions in progress
/// take some 2.7 KB; this is enough for ten thousand.
pub const CURSOR_BYTES_MAX: usize = 32 * 1024;

/// First byte of an encoded cursor.
const VERSION: u8 = 1;

/// A snapshot as `pg_current_snapshot()` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Every transaction below had ended.
    pub xmin: u64,
    /// No transaction from here on had ended.
    pub xmax: u64,
    /// Transactions between the two that were in progress, ascending.
    pub in_progress: Vec<u64>,
}

impl Snapshot {
    /// Whether what this transaction committed is visible (given that it did commit).
    #[must_use]
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }
}

/// Why a text from the database is not what was expected.
#[derive(Debug, thiserror::Error)]
#[error("not a {what}: {text:?}")]
pub struct ParseError {
    what: &'static str,
    text: String,
}

impl FromStr for Snapshot {
    type Err = ParseError;

    /// Reads the text form of `pg_snapshot`: `xmin:xmax:xip,xip,...`.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (xmin, rest) = text.split_once(':')?;
            let (xmax, list) = rest.split_once(':')?;
            let in_progress = match list {
                "" => Vec::new(),
                list => list.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?,
            };
            Some(Self { xmin: xmin.parse().ok()?, xmax: xmax.parse().ok()?, in_progress })
        };
        parse().ok_or_else(|| ParseError { what: "pg_snapshot", text: text.to_owned() })
    }
}

/// A snapshot, and the highest event id that it covers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Point {
    /// What was visible.
    pub snapshot: Snapshot,
    /// Transaction ids that were never flushed are handed out again after a crash, below `xmax`;
    /// event ids covered by a committed row are not.
    pub max_id: i64,
}

impl Point {
    /// Whether an event lies at or before this point.
    #[must_use]
    pub fn covers(&self, xid: u64, id: i64) -> bool {
        id <= self.max_id && self.snapshot.sees(xid)
    }

    /// Whether everything that `other` covers is surely covered here too. It may say no where the answer
    /// is yes, never the reverse.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        other.max_id <= self.max_id
            && other.snapshot.xmax <= self.snapshot.xmax
            && self.snapshot.in_progress.iter().all(|xid| !other.snapshot.sees(*xid))
    }

    /// A point that covers what both cover, and nothing else.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        let (a, b) = (&self.snapshot, &other.snapshot);
        let xmax = a.xmax.min(b.xmax);
        let mut in_progress: Vec<u64> =
            a.in_progress.iter().chain(&b.in_progress).copied().filter(|xid| *xid < xmax).collect();
        in_progress.sort_unstable();
        in_progress.dedup();
        let xmin = in_progress.first().map_or(xmax, |first| xmax.min(*first));
        Self { snapshot: Snapshot { xmin, xmax, in_progress }, max_id: self.max_id.min(other.max_id) }
    }
}

/// One history of one database, from `warden.epoch()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Epoch {
    /// `system_identifier` of the cluster.
    pub system: u64,
    /// Timeline; a promotion starts another.
    pub timeline: u32,
    /// Oid of the database.
    pub database: u32,
}

impl FromStr for Epoch {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let mut parts = text.split('.');
            let epoch = Self {
                system: parts.next()?.parse().ok()?,
                timeline: u32::from_str_radix(parts.next()?, 16).ok()?,
                database: parts.next()?.parse().ok()?,
            };
            parts.next().is_none().then_some(epoch)
        };
        parse().ok_or_else(|| ParseError { what: "warden.epoch()", text: text.to_owned() })
    }
}

/// What a client hands back to resume: everything covered by `from`, and what `to` covers with an
/// id up to `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The history in which the points mean something.
    pub epoch: Epoch,
    /// Wholly seen.
    pub from: Arc<Point>,
    /// Seen up to `id`.
    pub to: Arc<Point>,
    /// Within what lies between the two points.
    pub id: i64,
}

impl Cursor {
    /// The cursor of one who has seen just what `point` covers.
    #[must_use]
    pub fn at(epoch: Epoch, point: Arc<Point>) -> Self {
        Self { epoch, id: point.max_id, to: Arc::clone(&point), from: point }
    }

    /// No event beyond this id is covered.
    #[must_use]
    pub fn max_id(&self) -> i64 {
        self.from.max_id.max(self.to.max_id.min(self.id))
    }

    /// Whether its holder has seen the event.
    #[must_use]
    pub fn covers(&self, xid: u64, id: i64) -> bool {
        self.from.covers(xid, id) || (id <= self.id && self.to.covers(xid, id))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&CursorPrefix::new(self.epoch, &self.from, &self.to).with_id(self.id))
    }
}

/// The part that the cursors of one batch share, encoded once. It fills whole groups of base64, so
/// that the id can be encoded by itself and appended.
#[derive(Debug)]
pub struct CursorPrefix(String);

/// What a cursor takes, about, where no transaction is in progress.
const QUIET_BYTES: usize = 80;

impl CursorPrefix {
    /// Encodes epoch and points.
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

/// Why a text is no cursor. What is wrong with it is nobody's business but ours: to a client it is
/// just not served.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a cursor of this gateway")]
pub struct BadCursor;

impl FromStr for Cursor {
    type Err = BadCursor;

    fn from_str(text: &str) -> Result<Self, BadCursor> {
        if text.len() > CURSOR_BYTES_MAX {
            return Err(BadCursor);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadCursor)?;
        let mut input = Input { bytes: &bytes, at: 0 };
        input.cursor().ok_or(BadCursor)
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

/// A snapshot's numbers lie close together, so they are written as distances.
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

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit; and a last byte of nothing is another spelling of the
            // number without it.
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
        // Each takes a byte at least: a forged count allocates nothing.
        if count > self.bytes.len() - self.at {
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
        // PostgreSQL's xid8 and bigint: what it would refuse must not reach a query.
        i64::try_from(xmax).ok()?;
        Some(Point { snapshot: Snapshot { xmin, xmax, in_progress }, max_id: self.id()? })
    }

    fn cursor(&mut self) -> Option<Cursor> {
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
        let from = Arc::new(self.point()?);
        let to = Arc::new(self.point()?);
        while !self.at.is_multiple_of(3) {
            if self.byte()? != 0 {
                return None;
            }
        }
        let id = self.id()?;
        (self.at == self.bytes.len()).then_some(Cursor { epoch, from, to, id })
    }
}

//! Snapshots, points and epochs: the values from which a cursor is built.

use std::fmt;
use std::str::FromStr;

/// A `pg_snapshot` of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Every transaction below this id had ended.
    pub xmin: u64,
    /// No transaction with this id or a higher one had ended.
    pub xmax: u64,
    /// Transactions between the two that were in progress, in ascending order.
    pub in_progress: Vec<u64>,
}

impl Snapshot {
    /// Whether the snapshot shows the rows of this transaction, provided that the transaction committed.
    #[must_use]
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }

    /// The snapshot that shows this transaction too, and no other transaction more. Returns none if it would
    /// have to name more than `in_progress_max` transactions: those between the highest one that had ended
    /// and this one, because it is not known which of them wrote.
    #[must_use]
    pub fn with(mut self, xid: u64, in_progress_max: usize) -> Option<Self> {
        if let Ok(at) = self.in_progress.binary_search(&xid) {
            self.in_progress.remove(at);
        } else if xid >= self.xmax {
            let between = usize::try_from(xid - self.xmax).ok()?;
            if self.in_progress.len().checked_add(between)? > in_progress_max {
                return None;
            }
            self.in_progress.extend(self.xmax..xid);
            self.xmax = xid + 1;
        }
        Some(self)
    }
}

impl fmt::Display for Snapshot {
    /// The text form of `pg_snapshot`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (n, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Error for a string from the database that has an unexpected form.
#[derive(Debug, thiserror::Error)]
#[error("cannot parse {text:?} from the database as a {what}")]
pub struct ParseError {
    what: &'static str,
    text: String,
}

impl FromStr for Snapshot {
    type Err = ParseError;

    /// Parses the text form of `pg_snapshot`: `xmin:xmax:xip,xip,...`.
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
    /// The transactions that were visible.
    pub snapshot: Snapshot,
    /// Highest event id that the point covers. After a crash PostgreSQL assigns transaction ids again that
    /// were never flushed, and these are below `xmax`. It does not assign an event id again that a committed
    /// row has.
    pub max_id: i64,
}

impl Point {
    /// Whether the point covers an event.
    #[must_use]
    pub fn covers(&self, xid: u64, id: i64) -> bool {
        id <= self.max_id && self.snapshot.sees(xid)
    }

    /// Whether this point certainly covers everything that `other` covers. The answer may be a false no, but
    /// never a false yes.
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        other.max_id <= self.max_id
            && other.snapshot.xmax <= self.snapshot.xmax
            && self.snapshot.in_progress.iter().all(|xid| !other.snapshot.sees(*xid))
    }

    /// The point that covers exactly the events that both points cover.
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

/// One history of one database, as `warden.epoch()` returns it. Points of different epochs cannot be
/// compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Epoch {
    /// `system_identifier` of the cluster.
    pub system: u64,
    /// Timeline of the cluster. A promotion starts a new one.
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

//! What a client knows of one topic: events that it saw, what snapshots told it, and the rows that both add
//! up to. It checks what can be checked at once, and must not know how the client speaks.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;

use crate::record::{Key, Record};
use crate::snapshot::Snapshot;

/// A replay is refused as too long from 50,000 events or 32 MiB on; events here have less than 1,300 bytes,
/// but for a few large ones.
const TOO_MANY_AT_LEAST: usize = 25_000;

/// Replays wait for their turn for 60 s, and clients may take 60 s to read what they missed. From so long on a machine
/// that is much too busy may be to blame, a few times in a run.
const PATIENCE: Duration = Duration::from_secs(45);
/// A node is behind the database by no more, also in a bulk.
const NODE_BEHIND: Duration = Duration::from_secs(60);

/// How it is counted.
pub(crate) const PATIENCE_RAN_OUT: &str = "resyncs excused a few times: a patience of 60 s ran out";

/// Published at the very end.
pub(crate) const LAST: &str = "chaos.last";
/// The mark of the transaction that published it.
pub(crate) const LAST_MARK: Uuid = Uuid::max();
/// Published one at a time when all is over, with the number of its round.
pub(crate) const CALM: &str = "chaos.calm";

/// The mark of that round's transaction.
pub(crate) const fn mark_of_round(round: u64) -> Uuid {
    Uuid::from_u128(u128::MAX - round as u128)
}

/// A call's row, by what its metadata tell: writer and number of the last change.
pub(crate) type Rows = HashMap<Uuid, (u64, u64)>;

/// See the module's documentation.
pub(crate) struct Following {
    pub(crate) name: &'static str,
    overlap: Overlap,
    /// Those that came as events.
    pub(crate) seen: HashSet<Key>,
    /// Those that did not, because a snapshot had them already.
    skipped: HashSet<Key>,
    /// When a snapshot was put in place, and the events that it skipped.
    replaced: Vec<(Instant, Vec<Key>)>,
    last_of_writer: HashMap<u64, u64>,
    /// The initial state plus the changes since.
    pub(crate) rows: Rows,
    /// The last round of the calm that was seen.
    calm: u64,
    /// The last event was seen.
    pub(crate) is_done: bool,
}

/// Whether events that a snapshot had already may come after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// The client goes on from the snapshot's own cursor: there is none.
    None,
    /// The client went on before the snapshot was taken.
    Allowed,
}

impl Following {
    pub(crate) fn new(name: &'static str, overlap: Overlap) -> Self {
        Self {
            name,
            overlap,
            seen: HashSet::new(),
            skipped: HashSet::new(),
            replaced: Vec::new(),
            last_of_writer: HashMap::new(),
            rows: HashMap::new(),
            calm: 0,
            is_done: false,
        }
    }

    pub(crate) fn is_calls(&self) -> bool {
        self.name == "calls"
    }

    /// It saw it, or was told by a snapshot.
    pub(crate) fn knows(&self, key: &Key) -> bool {
        self.seen.contains(key) || self.skipped.contains(key)
    }

    pub(crate) fn in_snapshots(&self) -> usize {
        self.skipped.difference(&self.seen).count()
    }

    /// Takes an event; what is wrong about it.
    pub(crate) fn take(&mut self, org: Uuid, name: &str, data: &Value) -> Option<String> {
        if data["org_id"] != org.to_string().as_str() {
            return Some(format!("{name} of another organisation: {data}"));
        }
        // Of a row the numbers are in its metadata.
        let numbers = if data["writer"].is_u64() { data } else { &data["metadata"] };
        let (Some(writer), Some(n)) = (numbers["writer"].as_u64(), numbers["n"].as_u64()) else {
            return Some(format!("{name} is nobody's: {data}"));
        };
        let is_deletion = name == "call.deleted";
        if is_deletion {
            if !self.knows(&Key { is_deletion: false, writer, n }) {
                return Some(format!("the deletion of a call before its last change {writer}/{n}"));
            }
        } else {
            let before = self.last_of_writer.insert(writer, n);
            if before.is_some_and(|before| before >= n) {
                return Some(format!("{writer}/{n} after {before:?}: twice, or out of order"));
            }
        }
        if name.starts_with("call.") {
            let Some(call) = data["id"].as_str().and_then(|id| id.parse().ok()) else {
                return Some(format!("{name} without an id: {data}"));
            };
            if is_deletion {
                self.rows.remove(&call);
            } else {
                self.rows.insert(call, (writer, n));
            }
        }
        let key = Key { is_deletion, writer, n };
        if self.overlap == Overlap::None && self.skipped.contains(&key) {
            return Some(format!("{name} {writer}/{n} came although the snapshot had it"));
        }
        (!self.seen.insert(key)).then(|| format!("{name} {writer}/{n} twice"))
    }

    /// Takes an event of the calm; what is wrong about it.
    pub(crate) fn take_calm(&mut self, org: Uuid, data: &Value, record: &Record) -> Option<String> {
        if data["org_id"] != org.to_string().as_str() {
            return Some(format!("an event of another organisation: {data}"));
        }
        let round = data["n"].as_u64().unwrap_or_default();
        let before = self.calm;
        if self.overlap == Overlap::Allowed && round <= before {
            return None;
        }
        self.calm = round;
        record.saw_calm(round);
        (round != before + 1).then(|| format!("round {round} of the calm after {before}"))
    }

    /// Takes the state in place of what it has; how many events it did not see because of it.
    pub(crate) fn replace(&mut self, org: Uuid, snapshot: &Snapshot, record: &Record) -> usize {
        self.rows.clone_from(&snapshot.rows);
        self.is_done |= snapshot.marks.contains(&LAST_MARK);
        while snapshot.marks.contains(&mark_of_round(self.calm + 1)) {
            self.calm += 1;
            record.saw_calm(self.calm);
        }
        let shown = record.events_of(&snapshot.marks, org, self.is_calls());
        if self.overlap == Overlap::None {
            // So an event that comes although the snapshot had it is noticed as any that comes late.
            for key in shown.iter().filter(|key| !key.is_deletion) {
                let last = self.last_of_writer.entry(key.writer).or_default();
                *last = key.n.max(*last);
            }
        }
        let news: Vec<Key> = shown.into_iter().filter(|key| !self.knows(key)).collect();
        let count = news.len();
        self.skipped.extend(news.iter().copied());
        self.replaced.push((Instant::now(), news));
        count
    }

    /// What snapshots skipped lately and did not come as events since. A join is refused for what its cursor does not cover,
    /// and a snapshot may have told the client of that already: one that was on its way when the join was sent, or,
    /// where the client goes on from before the snapshot, one that is ahead of a node that still reads a bulk.
    pub(crate) fn skipped_about(&self, asked: Instant) -> usize {
        let lately = self.replaced.iter().filter(|(at, _)| *at + NODE_BEHIND >= asked);
        lately.flat_map(|(_, keys)| keys).filter(|key| !self.seen.contains(key)).count()
    }
}

/// Counts a resync, by its excuse; complains where there is none.
/// `skipped` is what the client did not see because of it, where it took a snapshot.
pub(crate) fn judge_resync(record: &Record, who: &str, reason: &str, asked: Instant, skipped: Option<usize>) {
    let excuse = match (reason, skipped) {
        ("too_many", Some(skipped)) if skipped >= TOO_MANY_AT_LEAST => "more than a replay brings",
        ("unavailable", _) if record.was_away_since(asked) => "the database was away",
        ("unavailable" | "too_many", _) if asked.elapsed() >= PATIENCE => {
            return record.count(PATIENCE_RAN_OUT);
        }
        _ => {
            let waited = asked.elapsed();
            record
                .complain(format!("{who}: resync: {reason}, {waited:?} after it asked; skipped {skipped:?}"));
            return;
        }
    };
    record.count(format!("resyncs excused: {reason}, {excuse}"));
}

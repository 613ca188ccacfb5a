//! State of one client on one topic: the events that it saw, the events that its snapshots contained, and the
//! resulting rows. It checks each event immediately. It must not know the protocol.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;

use crate::record::{Key, Record};
use crate::snapshot::Snapshot;

/// Fewest skipped events that excuse a resync with `too_many`. A replay is rejected from 50,000 events or 32
/// MiB; most events here have less than 1,300 bytes.
const TOO_MANY_AT_LEAST: usize = 25_000;

/// Wait after which a timeout may have expired because the machine is far too busy. Replays wait at most 60 s
/// in the replay queue, and clients may take 60 s to read their missed events.
const LONG_WAIT: Duration = Duration::from_secs(45);
/// Longest lag of a node behind the database, also during a bulk statement.
const NODE_BEHIND: Duration = Duration::from_secs(60);

/// Name of the count of resyncs after an expired timeout.
pub(crate) const TIMEOUT_EXPIRED: &str = "resyncs excused: a timeout of 60 s expired";

/// Event that is published at the very end.
pub(crate) const LAST: &str = "chaos.last";
/// Mark of the transaction that published it.
pub(crate) const LAST_MARK: Uuid = Uuid::max();
/// Event of the calm, with the number of its round.
pub(crate) const CALM: &str = "chaos.calm";

/// Mark of the transaction of a round.
pub(crate) const fn mark_of_round(round: u64) -> Uuid {
    Uuid::from_u128(u128::MAX - round as u128)
}

/// Rows of calls, each as the writer and number of its last change, which are in its metadata.
pub(crate) type Rows = HashMap<Uuid, (u64, u64)>;

/// State of one client on one topic.
pub(crate) struct TopicState {
    pub(crate) name: &'static str,
    overlap: Overlap,
    /// Events that arrived.
    pub(crate) seen: HashSet<Key>,
    /// Events that a snapshot contained before they arrived.
    skipped: HashSet<Key>,
    /// Time of each replaced state, with the events that were skipped because of it.
    replaced: Vec<(Instant, Vec<Key>)>,
    last_of_writer: HashMap<u64, u64>,
    /// Rows of the last snapshot, with the changes since.
    pub(crate) rows: Rows,
    /// Last seen round of the calm.
    calm: u64,
    /// Whether the last event was seen.
    pub(crate) is_done: bool,
}

/// Whether events of a snapshot may also arrive after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// No: the client resumes from the cursor of the snapshot.
    None,
    /// Yes: the client had joined before the snapshot was taken.
    Allowed,
}

impl TopicState {
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

    /// Whether the event arrived, or was part of a snapshot.
    pub(crate) fn knows(&self, key: &Key) -> bool {
        self.seen.contains(key) || self.skipped.contains(key)
    }

    pub(crate) fn in_snapshots(&self) -> usize {
        self.skipped.difference(&self.seen).count()
    }

    /// Applies an event. Returns a description if the event must not arrive.
    pub(crate) fn take(&mut self, org: Uuid, name: &str, data: &Value) -> Option<String> {
        if data["org_id"] != org.to_string().as_str() {
            return Some(format!("{name} of another organisation: {data}"));
        }
        // A row has the numbers in its metadata.
        let numbers = if data["writer"].is_u64() { data } else { &data["metadata"] };
        let (Some(writer), Some(n)) = (numbers["writer"].as_u64(), numbers["n"].as_u64()) else {
            return Some(format!("{name} without a writer: {data}"));
        };
        let is_deletion = name == "call.deleted";
        if is_deletion {
            if !self.knows(&Key { is_deletion: false, writer, n }) {
                return Some(format!("call deleted before its last change {writer}/{n}"));
            }
        } else {
            let before = self.last_of_writer.insert(writer, n);
            if before.is_some_and(|before| before >= n) {
                return Some(format!("{writer}/{n} after {before:?}: duplicate or out of order"));
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
            return Some(format!("{name} {writer}/{n} arrived although the snapshot contained it"));
        }
        (!self.seen.insert(key)).then(|| format!("{name} {writer}/{n} is a duplicate"))
    }

    /// Applies an event of the calm. Returns a description if the event must not arrive.
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
        (round != before + 1).then(|| format!("round {round} of the calm after round {before}"))
    }

    /// Replaces the rows with those of a snapshot. Returns the number of events that are skipped because of
    /// it.
    pub(crate) fn replace(&mut self, org: Uuid, snapshot: &Snapshot, record: &Record) -> usize {
        self.rows.clone_from(&snapshot.rows);
        self.is_done |= snapshot.marks.contains(&LAST_MARK);
        while snapshot.marks.contains(&mark_of_round(self.calm + 1)) {
            self.calm += 1;
            record.saw_calm(self.calm);
        }
        let shown = record.events_of(&snapshot.marks, org, self.is_calls());
        if self.overlap == Overlap::None {
            // An event that arrives although the snapshot contained it then counts as out of order.
            for key in shown.iter().filter(|key| !key.is_deletion) {
                let last = self.last_of_writer.entry(key.writer).or_default();
                *last = key.n.max(*last);
            }
        }
        let skipped: Vec<Key> = shown.into_iter().filter(|key| !self.knows(key)).collect();
        let count = skipped.len();
        self.skipped.extend(skipped.iter().copied());
        self.replaced.push((Instant::now(), skipped));
        count
    }

    /// Events that recent snapshots contained and that have not arrived since.
    ///
    /// A join is rejected because its cursor is too old. A snapshot may already contain the events after that
    /// cursor: a snapshot that was being taken when the join was sent, or one that is ahead of a node that
    /// still reads a bulk.
    pub(crate) fn skipped_about(&self, asked: Instant) -> usize {
        let recent = self.replaced.iter().filter(|(at, _)| *at + NODE_BEHIND >= asked);
        recent.flat_map(|(_, keys)| keys).filter(|key| !self.seen.contains(key)).count()
    }
}

/// Counts a resync by its excuse, or reports a failure. `skipped` is the number of events that the client
/// skipped, if it took a snapshot.
pub(crate) fn judge_resync(
    record: &Record,
    client: &str,
    reason: &str,
    asked: Instant,
    skipped: Option<usize>,
) {
    let excuse = match (reason, skipped) {
        ("too_many", Some(skipped)) if skipped >= TOO_MANY_AT_LEAST => {
            "more events than a replay may contain"
        }
        ("unavailable", _) if record.was_unavailable_since(asked) => "the database was unavailable",
        ("unavailable" | "too_many", _) if asked.elapsed() >= LONG_WAIT => {
            return record.count(TIMEOUT_EXPIRED);
        }
        _ => {
            let waited = asked.elapsed();
            record.report_failure(format!(
                "{client}: resync: {reason}, {waited:?} after the join; skipped {skipped:?}"
            ));
            return;
        }
    };
    record.count(format!("resyncs excused: {reason}, {excuse}"));
}

//! State of one client on one topic: the events that it saw, the events that its snapshots contained, and the
//! resulting rows. It checks each event immediately. It must not know the protocol.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use uuid::Uuid;

use crate::filters::{Filters, Form};
use crate::record::{Key, Record};
use crate::snapshot::{RowContent, Snapshot};

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

/// Name of the row that is committed at the very end.
pub(crate) const LAST: &str = "chaos.last";
/// Mark of the transaction that published it.
pub(crate) const LAST_MARK: Uuid = Uuid::max();
/// Name of the rows of the calm, with the numbers of their rounds.
pub(crate) const CALM: &str = "chaos.calm";

/// Mark of the transaction of a round.
pub(crate) const fn mark_of_round(round: u64) -> Uuid {
    Uuid::from_u128(u128::MAX - round as u128)
}

/// Rows of calls.
pub(crate) type Rows = HashMap<Uuid, RowContent>;

impl Snapshot {
    /// The rows that filters select.
    pub(crate) fn rows_of(&self, filters: &Filters) -> Rows {
        let selected = self.rows.iter().filter(|(_, _, state)| filters.select(*state));
        selected.map(|(id, content, _)| (*id, *content)).collect()
    }
}

/// State of one client on one topic.
pub(crate) struct TopicState {
    pub(crate) name: &'static str,
    overlap: Overlap,
    pub(crate) filters: Filters,
    /// Events that arrived.
    pub(crate) seen: HashSet<Key>,
    /// Events that a snapshot contained before they arrived.
    skipped: HashSet<Key>,
    /// Events that a snapshot covered, and that the filters do not select.
    withheld: HashSet<Key>,
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
    pub(crate) fn new(name: &'static str, overlap: Overlap, filters: &Filters) -> Self {
        Self {
            name,
            overlap,
            filters: filters.on(name),
            seen: HashSet::new(),
            skipped: HashSet::new(),
            withheld: HashSet::new(),
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
    pub(crate) fn take(&mut self, org: Uuid, name: &str, payload: &Value, record: &Record) -> Option<String> {
        let form = Form::of(payload);
        if form.is_key {
            return self.take_key(payload, form, record);
        }
        let data = &payload["data"];
        if data["org_id"] != org.to_string().as_str() {
            return Some(format!("{name} of another organisation: {data}"));
        }
        if let Some(calm) = data["metadata"]["calm"].as_str() {
            return self.take_calm(calm, data, record);
        }
        // A row has the numbers in its metadata.
        let numbers = if data["writer"].is_u64() { data } else { &data["metadata"] };
        let (Some(writer), Some(n)) = (numbers["writer"].as_u64(), numbers["n"].as_u64()) else {
            return Some(format!("{name} without a writer: {data}"));
        };
        let key = Key { is_deletion: name == "call.deleted", writer, n };
        if key.is_deletion && !self.knows(&Key { is_deletion: false, ..key }) {
            return Some(format!("call deleted before its last change {writer}/{n}"));
        }
        if name.starts_with("call.") {
            let Some(call) = id_of(data) else {
                return Some(format!("{name} without an id: {data}"));
            };
            if key.is_deletion || form.filter == Some("left") {
                self.rows.remove(&call);
            } else {
                self.rows.insert(call, (writer, n));
            }
        }
        self.record(key, form, record)
    }

    /// Applies the key of a row that has left the filter of the token.
    fn take_key(&mut self, payload: &Value, form: Form, record: &Record) -> Option<String> {
        let row = id_of(&payload["data"]).and_then(|id| self.rows.remove(&id));
        let Some((writer, n)) = row else {
            return Some(format!("the key of a row that the client does not have: {payload}"));
        };
        match record.next_update(writer, n) {
            Some(n) => self.record(Key { is_deletion: false, writer, n }, form, record),
            None => Some(format!("{writer}/{n} left the filter without an update: {payload}")),
        }
    }

    /// Records an event that arrived in this form.
    fn record(&mut self, key: Key, form: Form, record: &Record) -> Option<String> {
        let Key { is_deletion, writer, n } = key;
        if !is_deletion {
            let before = self.last_of_writer.insert(writer, n);
            if before.is_some_and(|before| before >= n) {
                return Some(format!("{writer}/{n} after {before:?}: duplicate or out of order"));
            }
        }
        if self.overlap == Overlap::None && self.skipped.contains(&key) {
            return Some(format!("{key:?} arrived although the snapshot contained it"));
        }
        if !self.seen.insert(key) {
            return Some(format!("{key:?} is a duplicate"));
        }
        if let Some(filter) = form.filter {
            record.count(format!("events of rows that {filter} a filter"));
        }
        let expected = record.written(&key).map(|written| self.filters.form(&written));
        (self.filters.are_some() && expected != Some(Some(form)))
            .then(|| format!("{key:?} arrived as {form:?} instead of {expected:?}"))
    }

    /// Applies a row of the calm. Returns a description if the event must not arrive.
    fn take_calm(&mut self, name: &str, data: &Value, record: &Record) -> Option<String> {
        let round = data["metadata"]["n"].as_u64().unwrap_or_default();
        self.rows.extend(id_of(data).map(|id| (id, (0, round))));
        if name == LAST {
            self.is_done = true;
            return None;
        }
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
        self.rows = snapshot.rows_of(&self.filters);
        self.is_done |= snapshot.marks.contains(&LAST_MARK);
        while snapshot.marks.contains(&mark_of_round(self.calm + 1)) {
            self.calm += 1;
            record.saw_calm(self.calm);
        }
        let shown = record.events_of(&snapshot.marks, org, self.is_calls());
        if self.overlap == Overlap::None {
            // An event that arrives although the snapshot contained it then counts as out of order.
            for key in shown.iter().map(|written| written.key).filter(|key| !key.is_deletion) {
                let last = self.last_of_writer.entry(key.writer).or_default();
                *last = key.n.max(*last);
            }
        }
        let (selected, withheld): (Vec<_>, Vec<_>) =
            shown.into_iter().partition(|written| self.filters.form(written).is_some());
        let skipped: Vec<Key> =
            selected.into_iter().map(|written| written.key).filter(|key| !self.knows(key)).collect();
        let before = self.withheld.len();
        self.withheld.extend(withheld.into_iter().map(|written| written.key));
        // A replay reads the events that the filters withhold too.
        let count = skipped.len() + self.withheld.len() - before;
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

/// Id of a row.
fn id_of(data: &Value) -> Option<Uuid> {
    data["id"].as_str()?.parse().ok()
}

//! The model: the events that each socket must receive, computed from the changes that the program committed.
//!
//! It knows the contract (which topics an event reaches), but neither the log nor the gateway. It must never
//! read `warden.events`, because it would then agree with any mistake in there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use fastrand::Rng;
use serde_json::Value;
use uuid::Uuid;
use warden_testkit::filters::State;

use crate::harness::Event;

/// State of the calls that exist from the start.
pub const FIRST_STATE: State = 0;

/// A watched table, and the columns in which the program counts versions and leaves its marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    Calls,
    CallLogs,
    Recordings,
}

impl Table {
    pub const ALL: [Self; 3] = [Self::Calls, Self::CallLogs, Self::Recordings];

    /// The name of the table and of its topic.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::CallLogs => "call_logs",
            Self::Recordings => "recordings",
        }
    }

    /// The table with this topic.
    pub fn of_topic(topic: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == topic)
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Calls => "call",
            Self::CallLogs => "call_log",
            Self::Recordings => "recording",
        }
    }

    /// The column that counts a row's updates, its next value, and its present value as a number.
    pub fn version(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Recordings => ("size_bytes", "size_bytes + 1", "size_bytes"),
            _ => {
                ("metadata", "jsonb_build_object('v', (metadata->>'v')::int + 1)", "(metadata->>'v')::bigint")
            }
        }
    }

    /// The column with the id of the call.
    pub fn call_column(self) -> &'static str {
        if self == Self::Calls { "id" } else { "call_id" }
    }

    /// The column with the mark of the statement that wrote the row last.
    pub fn mark_column(self) -> &'static str {
        match self {
            Self::Calls => "ended_reason",
            Self::CallLogs => "summary",
            Self::Recordings => "storage_path",
        }
    }

    /// Columns for a join to name: those from which events are recognised, and some others.
    pub fn random_columns(self, rng: &mut Rng) -> BTreeSet<String> {
        let others = ["state", "pad"].into_iter().filter(|_| rng.bool());
        let all = ["id", "org_id", self.version().0, self.mark_column()].into_iter().chain(others);
        all.map(str::to_owned).collect()
    }

    fn version_in(self, row: &Value) -> Option<i64> {
        if self == Self::Recordings { row["size_bytes"].as_i64() } else { row["metadata"]["v"].as_i64() }
    }

    /// Version and mark of a row of a page or an event.
    pub fn content_of(self, row: &Value) -> (i64, String) {
        let mark = row[self.mark_column()].as_str().unwrap_or_default();
        (self.version_in(row).expect("a version"), mark.to_owned())
    }
}

/// Kinds of changes, in the order in which they can happen to one version of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Created,
    Updated,
    Deleted,
    Published,
}

/// A change that the program made, which emits one event if it commits.
#[derive(Clone, Debug)]
pub struct Change {
    pub org: Uuid,
    /// The event's topic, besides `org` and the topic of `call`.
    pub topic: String,
    pub call: Option<Uuid>,
    pub seen: Seen,
    /// State of the row after the change; of a deleted row, before it.
    pub state: Option<State>,
    /// Number of the transaction, in the order in which they began.
    pub transaction: usize,
}

impl Change {
    pub fn row(kind: Kind, table: Table, row: Row) -> Self {
        let seen = Seen {
            what: format!("{} {}", table.prefix(), row.id),
            version: row.version,
            kind,
            mark: row.mark,
        };
        let state = Some(usize::try_from(row.state).expect("a state"));
        Self { org: row.org, topic: table.name().to_owned(), call: row.call, seen, state, transaction: 0 }
    }

    /// A published event. Each worker numbers its own from 1, and they must arrive in that order.
    pub fn publication(org: Uuid, topic: &str, worker: &str, number: i64, mark: &str) -> Self {
        let seen = Seen {
            what: format!("worker {worker}"),
            version: number,
            kind: Kind::Published,
            mark: mark.to_owned(),
        };
        Self { org, topic: topic.to_owned(), call: None, seen, state: None, transaction: 0 }
    }

    fn topics(&self) -> HashSet<String> {
        let call = self.call.map(|call| format!("call:{call}"));
        call.into_iter().chain([self.topic.clone(), "org".to_owned()]).collect()
    }
}

/// A row that a statement returned.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Row {
    pub id: Uuid,
    pub org: Uuid,
    pub call: Option<Uuid>,
    pub version: i64,
    pub mark: String,
    /// Whether the statement changed the row.
    pub changed: bool,
    pub state: i32,
}

/// An event in the form in which the program and a socket are compared. Its order is that within a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen {
    /// The row, or the worker that published the event.
    pub what: String,
    pub version: i64,
    pub kind: Kind,
    /// The mark of the statement, which distinguishes a rolled-back change from its successor.
    pub mark: String,
}

/// An event as a socket received it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivery {
    pub id: i64,
    /// Without version and mark if the event contains the key alone.
    pub seen: Seen,
    /// `entered` or `left`.
    pub filter: Option<String>,
    pub has_old: bool,
}

impl Delivery {
    /// Converts an event that a socket of `org` received. Panics if the event contradicts itself.
    pub fn from_event(event: &Event, org: Uuid) -> Self {
        let (prefix, verb) = event.name.split_once('.').unwrap_or_else(|| panic!("{event:?}"));
        let text = |field: &str| event.data(field).as_str().unwrap_or_default().to_owned();
        let kind = match verb {
            "created" => Kind::Created,
            "updated" => Kind::Updated,
            "deleted" => Kind::Deleted,
            "published" => Kind::Published,
            _ => panic!("an event that no change caused: {event:?}"),
        };
        let id = event.payload["id"].as_i64().expect("an id");
        let filter = event.payload.get("filter").map(|filter| filter.as_str().expect("text").to_owned());
        let has_old = event.payload.get("old").is_some();
        if filter.as_deref() == Some("left") && event.payload["data"].as_object().expect("a row").len() == 1 {
            let seen = Seen::key(format!("{prefix} {}", event.row_id()));
            return Self { id, seen, filter, has_old };
        }
        assert_eq!(text("org_id"), org.to_string(), "an event of another organisation: {event:?}");
        if kind == Kind::Published {
            let version = event.data("number").as_i64().expect("a number");
            let seen = Seen { what: format!("worker {}", text("worker")), version, kind, mark: text("mark") };
            return Self { id, seen, filter, has_old };
        }
        let table = Table::ALL.into_iter().find(|t| t.prefix() == prefix).expect("a watched table");
        let (version, mark) = table.content_of(&event.payload["data"]);
        let former = table.version_in(&event.payload["old"]);
        assert!(has_old || filter.is_some() || kind != Kind::Updated, "old is missing: {event:?}");
        assert_eq!(former, has_old.then_some(version - 1), "old: {event:?}");
        let seen = Seen { what: format!("{prefix} {}", event.row_id()), version, kind, mark };
        Self { id, seen, filter, has_old }
    }
}

impl Seen {
    /// An update of which a socket gets the key alone.
    pub fn key(what: String) -> Self {
        Self { what, version: 0, kind: Kind::Updated, mark: String::new() }
    }
}

/// Knowledge of the model about an event.
#[derive(Debug)]
pub struct Fact {
    /// The topic of the table, or the topic on which it was published.
    pub origin: String,
    pub topics: HashSet<String>,
    /// States of the row before and after the change. A published event has none.
    pub states: [Option<State>; 2],
    pub transaction: usize,
}

/// Expected events by organisation and topic, and the facts about each event.
pub struct Expected {
    topics: HashMap<(Uuid, String), Vec<Seen>>,
    pub facts: HashMap<Seen, Fact>,
}

impl Expected {
    /// Computes the events of all committed changes, which may be in any order.
    pub fn new(mut committed: Vec<Change>) -> Self {
        let cascaded = cascaded(&committed);
        committed.extend(cascaded);
        let mut topics: HashMap<(Uuid, String), Vec<Seen>> = HashMap::new();
        for change in &committed {
            for topic in change.topics() {
                topics.entry((change.org, topic)).or_default().push(change.seen.clone());
            }
        }
        topics.values_mut().for_each(|seen| seen.sort_unstable());
        Self { topics, facts: facts(&committed) }
    }

    /// Compares the events that one socket received on one topic, in order, with the expected ones.
    pub fn check(&self, org: Uuid, topic: &str, seen: &[Seen]) {
        let mut last: BTreeMap<&str, &Seen> = BTreeMap::new();
        for now in seen {
            if let Some(before) = last.insert(&now.what, now) {
                assert!(before < now, "topic {topic}: {now:?} arrived after {before:?}");
                let step = i64::from(now.kind != Kind::Deleted);
                assert!(
                    now.kind == Kind::Published || now.version == before.version + step,
                    "topic {topic}: a gap between {before:?} and {now:?}"
                );
            }
        }
        let expected = self.topics.get(&(org, topic.to_owned())).map(Vec::as_slice).unwrap_or_default();
        let mut sorted = seen.to_vec();
        sorted.sort_unstable();
        if sorted != expected {
            let minus = |a: &[Seen], b: &[Seen]| {
                let mut rest = a.to_vec();
                for one in b {
                    if let Some(at) = rest.iter().position(|r| r == one) {
                        rest.swap_remove(at);
                    }
                }
                rest
            };
            panic!(
                "topic {topic} of {org}\nlost: {:#?}\nunexpected or duplicate: {:#?}",
                minus(expected, &sorted),
                minus(&sorted, expected)
            );
        }
    }
}

/// Facts about the events of all committed changes.
fn facts(committed: &[Change]) -> HashMap<Seen, Fact> {
    let written = committed.iter().filter(|change| change.seen.kind != Kind::Deleted);
    let states: HashMap<(&str, i64), Option<State>> =
        written.map(|change| ((change.seen.what.as_str(), change.seen.version), change.state)).collect();
    let fact = |change: &Change| {
        let Seen { what, version, kind, .. } = &change.seen;
        let before = states.get(&(what.as_str(), version - 1)).copied().unwrap_or(Some(FIRST_STATE));
        let states = match kind {
            Kind::Created => [None, change.state],
            Kind::Updated => [before, change.state],
            Kind::Deleted => [change.state, None],
            Kind::Published => [None, None],
        };
        let (origin, transaction) = (change.topic.clone(), change.transaction);
        (change.seen.clone(), Fact { origin, topics: change.topics(), states, transaction })
    };
    committed.iter().map(fact).collect()
}

/// Deletions of children by cascade: of every committed child of a deleted call, unless a statement deleted
/// the child itself. A child whose call did not exist any more could not commit.
fn cascaded(committed: &[Change]) -> Vec<Change> {
    let deleted: HashSet<&str> =
        committed.iter().filter(|d| d.seen.kind == Kind::Deleted).map(|d| d.seen.what.as_str()).collect();
    let gone = |call: Uuid| deleted.contains(format!("call {call}").as_str());
    let mut latest: HashMap<&str, &Change> = HashMap::new();
    for change in committed {
        let is_child = change.seen.kind != Kind::Published && change.topic != Table::Calls.name();
        if is_child && !deleted.contains(change.seen.what.as_str()) && change.call.is_some_and(gone) {
            let known = latest.entry(&change.seen.what).or_insert(change);
            if known.seen < change.seen {
                *known = change;
            }
        }
    }
    let delete = |change: &Change| {
        let mut change = change.clone();
        change.seen.kind = Kind::Deleted;
        change
    };
    latest.into_values().map(delete).collect()
}

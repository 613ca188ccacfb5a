//! What each socket must see, worked out from what the program did and what of it committed.
//!
//! It knows the contract (which topics an event reaches) and nothing of the log or the gateway: it
//! must never look at `warden.events`, or it would agree with whatever stands there.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use crate::harness::Event;

/// A watched table, and the columns in which the program counts versions and leaves its marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Table {
    Calls,
    CallLogs,
    Recordings,
}

impl Table {
    pub const ALL: [Self; 3] = [Self::Calls, Self::CallLogs, Self::Recordings];

    /// Its name, which is that of its topic too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::CallLogs => "call_logs",
            Self::Recordings => "recordings",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Calls => "call",
            Self::CallLogs => "call_log",
            Self::Recordings => "recording",
        }
    }

    /// The column that names the call.
    pub fn call_column(self) -> &'static str {
        if self == Self::Calls { "id" } else { "call_id" }
    }

    /// The column that keeps the mark of the statement that wrote the row last.
    pub fn mark_column(self) -> &'static str {
        match self {
            Self::Calls => "ended_reason",
            Self::CallLogs => "summary",
            Self::Recordings => "storage_path",
        }
    }

    fn version_in(self, row: &serde_json::Value) -> Option<i64> {
        if self == Self::Recordings { row["size_bytes"].as_i64() } else { row["metadata"]["v"].as_i64() }
    }
}

/// In the order in which they can happen to a row of one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Created,
    Updated,
    Deleted,
    Published,
}

/// One thing that the program did, and that makes one event if it commits.
#[derive(Clone, Debug)]
pub struct Deed {
    pub org: Uuid,
    /// Where it is told, besides `call` and `org`.
    pub topic: String,
    pub call: Option<Uuid>,
    pub seen: Seen,
}

impl Deed {
    pub fn row(kind: Kind, table: Table, row: Row) -> Self {
        let seen = Seen {
            what: format!("{} {}", table.prefix(), row.id),
            version: row.version,
            kind,
            mark: row.mark,
        };
        Self { org: row.org, topic: table.name().to_owned(), call: row.call, seen }
    }

    /// A publication: `worker` numbers its own from 1, and these must arrive in that order.
    pub fn publication(org: Uuid, topic: &str, worker: &str, number: i64, mark: &str) -> Self {
        let seen = Seen {
            what: format!("worker {worker}"),
            version: number,
            kind: Kind::Published,
            mark: mark.to_owned(),
        };
        Self { org, topic: topic.to_owned(), call: None, seen }
    }

    fn topics(&self) -> HashSet<String> {
        let call = self.call.map(|call| format!("call:{call}"));
        call.into_iter().chain([self.topic.clone(), "org".to_owned()]).collect()
    }
}

/// A row as a statement returned it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Row {
    pub id: Uuid,
    pub org: Uuid,
    pub call: Option<Uuid>,
    pub version: i64,
    pub mark: String,
    /// Whether the statement changed it at all.
    pub changed: bool,
}

/// What is compared: one event as the program and a socket know it. The order is that within a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen {
    /// The row, or the publisher.
    pub what: String,
    pub version: i64,
    pub kind: Kind,
    /// Of the statement that wrote it, so that a rolled-back one is told from its successor.
    pub mark: String,
}

impl Seen {
    /// Reads an event that a socket of `org` got; fails where the event contradicts itself.
    pub fn from_event(event: &Event, org: Uuid) -> Self {
        let (prefix, verb) = event.name.split_once('.').expect("a name with a dot");
        let text = |field: &str| event.data(field).as_str().unwrap_or_default().to_owned();
        let kind = match verb {
            "created" => Kind::Created,
            "updated" => Kind::Updated,
            "deleted" => Kind::Deleted,
            "published" => Kind::Published,
            _ => panic!("an event that nobody caused: {event:?}"),
        };
        assert_eq!(text("org_id"), org.to_string(), "an event of another organisation: {event:?}");
        if kind == Kind::Published {
            let version = event.data("number").as_i64().expect("a number");
            return Self { what: format!("worker {}", text("worker")), version, kind, mark: text("mark") };
        }
        let table = Table::ALL.into_iter().find(|t| t.prefix() == prefix).expect("a watched table");
        let version = table.version_in(&event.payload["data"]).expect("a version");
        let former = table.version_in(&event.payload["old"]);
        assert_eq!(former, (kind == Kind::Updated).then_some(version - 1), "old: {event:?}");
        Self { what: format!("{prefix} {}", event.row_id()), version, kind, mark: text(table.mark_column()) }
    }
}

/// Expected events by organisation and topic.
pub struct Expected(HashMap<(Uuid, String), Vec<Seen>>);

impl Expected {
    /// From everything that committed, in any order.
    pub fn new(mut committed: Vec<Deed>) -> Self {
        let cascaded = cascaded(&committed);
        committed.extend(cascaded);
        let mut topics: HashMap<(Uuid, String), Vec<Seen>> = HashMap::new();
        for deed in &committed {
            for topic in deed.topics() {
                topics.entry((deed.org, topic)).or_default().push(deed.seen.clone());
            }
        }
        topics.values_mut().for_each(|seen| seen.sort_unstable());
        Self(topics)
    }

    /// Holds what one socket saw on one topic, in the order in which it came, against what it must.
    pub fn check(&self, org: Uuid, topic: &str, seen: &[Seen]) {
        let mut last: BTreeMap<&str, &Seen> = BTreeMap::new();
        for now in seen {
            if let Some(before) = last.insert(&now.what, now) {
                assert!(before < now, "topic {topic}: {now:?} came after {before:?}");
                let step = i64::from(now.kind != Kind::Deleted);
                assert!(
                    now.kind == Kind::Published || now.version == before.version + step,
                    "topic {topic}: a gap between {before:?} and {now:?}"
                );
            }
        }
        let expected = self.0.get(&(org, topic.to_owned())).map(Vec::as_slice).unwrap_or_default();
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
                "topic {topic} of {org}\nlost: {:#?}\nnobody caused, or twice: {:#?}",
                minus(expected, &sorted),
                minus(&sorted, expected)
            );
        }
    }
}

/// Deletions of children that went with their call: of every child that committed and that no
/// statement deleted by itself. A child whose call was gone could not commit at all.
fn cascaded(committed: &[Deed]) -> Vec<Deed> {
    let deleted: HashSet<&str> =
        committed.iter().filter(|d| d.seen.kind == Kind::Deleted).map(|d| d.seen.what.as_str()).collect();
    let gone = |call: Uuid| deleted.contains(format!("call {call}").as_str());
    let mut latest: HashMap<&str, &Deed> = HashMap::new();
    for deed in committed {
        let is_child = deed.seen.kind != Kind::Published && deed.topic != Table::Calls.name();
        if is_child && !deleted.contains(deed.seen.what.as_str()) && deed.call.is_some_and(gone) {
            let known = latest.entry(&deed.seen.what).or_insert(deed);
            if known.seen < deed.seen {
                *known = deed;
            }
        }
    }
    let delete = |deed: &Deed| {
        let mut deed = deed.clone();
        deed.seen.kind = Kind::Deleted;
        deed
    };
    latest.into_values().map(delete).collect()
}

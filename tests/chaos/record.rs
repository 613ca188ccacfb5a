//! What was committed, by the writers' own account; when the database was away; and what went wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use uuid::Uuid;

/// After a database came back, or a bulk was committed, its effects on replays may last so long.
const AFTERMATH: Duration = Duration::from_secs(15);
/// The same after a bulk, whose followers replay it two at a time.
const BULK_AFTERMATH: Duration = Duration::from_secs(120);
/// Complaints that are shown as they come; the others are counted.
const COMPLAINTS_MAX: usize = 40;

/// An event: kind, writer and number are unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// A deletion carries the number of the row's last change.
    pub(crate) is_deletion: bool,
    pub(crate) writer: u64,
    pub(crate) n: u64,
}

/// An event that a transaction wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) org: Uuid,
    /// It reaches `calls`; everything reaches `org`.
    pub(crate) on_calls: bool,
    pub(crate) key: Key,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    /// The connection broke at the commit: the mark in the database tells.
    Unknown,
}

/// A transaction that may have been committed.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) mark: Uuid,
    pub(crate) outcome: Outcome,
    pub(crate) events: Vec<Written>,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Record {
    outages: Mutex<Vec<(Instant, Option<Instant>)>>,
    bulk: Mutex<Option<Instant>>,
    counts: Mutex<BTreeMap<String, u64>>,
    complaints: Mutex<usize>,
}

impl Record {
    pub(crate) fn count(&self, what: impl Into<String>) {
        self.count_many(what, 1);
    }

    pub(crate) fn count_many(&self, what: impl Into<String>, n: usize) {
        *self.counts.lock().expect("no panics").entry(what.into()).or_default() += n as u64;
    }

    pub(crate) fn counted(&self, what: &str) -> u64 {
        self.counts.lock().expect("no panics").get(what).copied().unwrap_or_default()
    }

    pub(crate) fn complain(&self, what: impl std::fmt::Display) {
        let mut complaints = self.complaints.lock().expect("no panics");
        *complaints += 1;
        if *complaints <= COMPLAINTS_MAX {
            println!("WRONG: {what}");
        }
    }

    /// A complaint that is always shown: what a follower's whole run comes to.
    fn verdict(&self, what: impl std::fmt::Display) {
        println!("WRONG in the end: {what}");
        *self.complaints.lock().expect("no panics") += 1;
        self.count("verdicts against followers");
    }

    pub(crate) fn complaints(&self) -> usize {
        *self.complaints.lock().expect("no panics")
    }

    pub(crate) fn database_goes(&self) {
        self.outages.lock().expect("no panics").push((Instant::now(), None));
    }

    pub(crate) fn database_is_back(&self) {
        if let Some(last) = self.outages.lock().expect("no panics").last_mut() {
            last.1 = Some(Instant::now());
        }
    }

    pub(crate) fn bulk_begins(&self) {
        *self.bulk.lock().expect("no panics") = Some(Instant::now());
    }

    /// Whether a replay that was asked for then may have found the log unreadable: documented as
    /// `unavailable`, and the client may ask again with the same cursor.
    pub(crate) fn excuse(&self, asked: Instant) -> Option<&'static str> {
        let outages = self.outages.lock().expect("no panics");
        if outages.iter().any(|(_, back)| back.is_none_or(|back| back + AFTERMATH >= asked)) {
            return Some("the database was away");
        }
        let bulk = self.bulk.lock().expect("no panics");
        bulk.filter(|bulk| *bulk + BULK_AFTERMATH >= asked).map(|_| "after the bulk")
    }

    pub(crate) fn print(&self) {
        for (what, n) in &*self.counts.lock().expect("no panics") {
            println!("{n:>9}  {what}");
        }
    }
}

/// What each organisation's followers of a topic must see.
#[derive(Default)]
pub(crate) struct Expected {
    of: HashMap<(Uuid, bool), HashSet<Key>>,
}

impl Expected {
    /// From all that was committed, given the marks that the database holds.
    pub(crate) fn new(transactions: &[Transaction], marks: &HashSet<Uuid>, record: &Record) -> Self {
        let mut expected = Self::default();
        for transaction in transactions {
            let is_there = marks.contains(&transaction.mark);
            match (transaction.outcome, is_there) {
                (Outcome::Committed, false) => {
                    record.complain(format!("PostgreSQL lost a commit: {}", transaction.mark));
                }
                (Outcome::Unknown, false) => record.count("commits of unknown outcome: not done"),
                (Outcome::Unknown, true) => record.count("commits of unknown outcome: done"),
                (Outcome::Committed, true) => {}
            }
            if !is_there {
                continue;
            }
            record.count("transactions committed");
            record.count_many("events committed", transaction.events.len());
            for event in &transaction.events {
                expected.of.entry((event.org, false)).or_default().insert(event.key);
                if event.on_calls {
                    expected.of.entry((event.org, true)).or_default().insert(event.key);
                }
            }
        }
        expected
    }

    /// Complains of every difference between what had to be seen and what was.
    pub(crate) fn check(&self, who: &str, org: Uuid, is_calls: bool, seen: &HashSet<Key>, record: &Record) {
        let none = HashSet::new();
        let expected = self.of.get(&(org, is_calls)).unwrap_or(&none);
        let verdicts = [
            ("missed", expected.difference(seen).min(), expected.difference(seen).count()),
            (
                "saw what was never committed there:",
                seen.difference(expected).min(),
                seen.difference(expected).count(),
            ),
        ];
        for (what, first, count) in verdicts {
            if let Some(first) = first {
                record.verdict(format!("{who}: {what} {count} events; the first: {first:?}"));
            }
        }
        record.count_many("events seen", seen.len());
    }
}

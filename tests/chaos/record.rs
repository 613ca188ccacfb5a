//! What was committed, by the writers' own account; when the database was away; and what went wrong.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use crate::following::Following;

/// A database that is back is followed again within the reader's longest delay before a new connection (2 s)
/// and the time to connect.
const AFTERMATH: Duration = Duration::from_secs(3);
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
    pub(crate) events: Arc<Vec<Written>>,
}

/// See the module's documentation.
pub(crate) struct Record {
    started: Instant,
    outages: Mutex<Vec<(Instant, Option<Instant>)>>,
    /// Of each mark, before its commit was sent: what a snapshot that shows the mark shows as well.
    plans: Mutex<HashMap<Uuid, Arc<Vec<Written>>>>,
    /// On how many topics each round of the calm was seen.
    calm: watch::Sender<HashMap<u64, usize>>,
    counts: Mutex<BTreeMap<String, u64>>,
    complaints: Mutex<usize>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            outages: Mutex::default(),
            plans: Mutex::default(),
            calm: watch::Sender::default(),
            counts: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

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
            println!("WRONG after {:.1?}: {what}", self.started.elapsed());
        }
    }

    /// A complaint that is always shown: what a follower's whole run comes to.
    pub(crate) fn verdict(&self, what: impl std::fmt::Display) {
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

    /// Told before a commit is sent.
    pub(crate) fn plan(&self, mark: Uuid, events: Vec<Written>) -> Arc<Vec<Written>> {
        let events = Arc::new(events);
        self.plans.lock().expect("no panics").insert(mark, Arc::clone(&events));
        events
    }

    /// The events of an organisation on a topic that these transactions wrote.
    pub(crate) fn events_of(&self, marks: &[Uuid], org: Uuid, is_calls: bool) -> HashSet<Key> {
        let plans = self.plans.lock().expect("no panics");
        let events = marks.iter().filter_map(|mark| plans.get(mark)).flat_map(|events| events.iter());
        events.filter(|e| e.org == org && (e.on_calls || !is_calls)).map(|e| e.key).collect()
    }

    /// Whether a replay that was asked for then, and refused now, may have found the log unreadable: only
    /// where the database was away at some moment between, or the gateway could not know yet that it was
    /// back.
    pub(crate) fn was_away_since(&self, asked: Instant) -> bool {
        let outages = self.outages.lock().expect("no panics");
        outages.iter().any(|(_, back)| back.is_none_or(|back| back + AFTERMATH >= asked))
    }

    pub(crate) fn saw_calm(&self, round: u64) {
        self.calm.send_modify(|calm| *calm.entry(round).or_default() += 1);
    }

    pub(crate) fn calm_count(&self, round: u64) -> usize {
        self.calm.borrow().get(&round).copied().unwrap_or_default()
    }

    /// Resolves when a round of the calm was seen on so many topics.
    pub(crate) async fn calm_seen(&self, round: u64, topics: usize) {
        let mut calm = self.calm.subscribe();
        let seen = calm.wait_for(|calm| calm.get(&round).is_some_and(|seen| *seen >= topics));
        seen.await.expect("the record is there");
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
            for event in transaction.events.iter() {
                expected.of.entry((event.org, false)).or_default().insert(event.key);
                if event.on_calls {
                    expected.of.entry((event.org, true)).or_default().insert(event.key);
                }
            }
        }
        expected
    }

    /// Complains of every difference between what had to be seen, by events or in a snapshot, and what was.
    pub(crate) fn check(&self, who: &str, org: Uuid, following: &Following, record: &Record) {
        let none = HashSet::new();
        let expected = self.of.get(&(org, following.is_calls())).unwrap_or(&none);
        let missed = || expected.iter().filter(|key| !following.knows(key));
        let foreign = || following.seen.difference(expected);
        for (what, first, count) in [
            ("missed", missed().min(), missed().count()),
            ("saw what was never committed there:", foreign().min(), foreign().count()),
        ] {
            if let Some(first) = first {
                record.verdict(format!("{who}: {what} {count} events; the first: {first:?}"));
            }
        }
        record.count_many("events seen", following.seen.len());
        record.count_many("events skipped, being in a snapshot", following.in_snapshots());
    }
}

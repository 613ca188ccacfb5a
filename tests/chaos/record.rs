//! The record of a run: transactions of the writers, outages of the database, counts, and failures.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;
use warden_testkit::filters::State;

use crate::topic_state::TopicState;

/// Longest time until a restarted database is followed again: the tailer's longest reconnect delay (2 s), and
/// the time to connect.
const RECONNECT_MAX: Duration = Duration::from_secs(3);
/// Failures that are printed when they happen. Further ones are only counted.
const PRINTED_FAILURES_MAX: usize = 40;

/// Key of an event. Kind, writer and number are unique together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Whether it is a deletion, which has the number of the row's last change.
    pub(crate) is_deletion: bool,
    pub(crate) writer: u64,
    pub(crate) n: u64,
}

/// An event that a transaction wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) org: Uuid,
    /// Whether the event reaches `calls`. Every event reaches `org`.
    pub(crate) on_calls: bool,
    pub(crate) key: Key,
    /// The change of the row. A published event has none.
    pub(crate) row: Option<RowChange>,
}

/// A change of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowChange {
    /// States of the row before and after.
    pub(crate) states: [Option<State>; 2],
    /// Number of the row's last change before an update.
    pub(crate) previous: Option<u64>,
}

/// Outcome of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Committed,
    /// The connection broke during the commit. The mark in the database shows the outcome.
    Unknown,
}

/// A transaction that may have been committed.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub(crate) mark: Uuid,
    pub(crate) outcome: Outcome,
    pub(crate) events: Arc<Vec<Written>>,
}

/// Events by key, and the number of the update after each change of a row, by its writer and number.
type WrittenEvents = (HashMap<Key, Written>, HashMap<(u64, u64), u64>);

/// The record of a run.
pub(crate) struct Record {
    started: Instant,
    outages: Mutex<Vec<(Instant, Option<Instant>)>>,
    /// Events by mark, stored before the commit is sent. A snapshot that contains a mark contains these
    /// events.
    plans: Mutex<HashMap<Uuid, Arc<Vec<Written>>>>,
    /// Events that were written.
    written: Mutex<WrittenEvents>,
    /// Number of topics on which each round of the calm was seen.
    calm: watch::Sender<HashMap<u64, usize>>,
    counts: Mutex<BTreeMap<String, u64>>,
    failures: Mutex<usize>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            outages: Mutex::default(),
            plans: Mutex::default(),
            written: Mutex::default(),
            calm: watch::Sender::default(),
            counts: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    pub(crate) fn count(&self, name: impl Into<String>) {
        self.count_many(name, 1);
    }

    pub(crate) fn count_many(&self, name: impl Into<String>, n: usize) {
        *self.counts.lock().expect("no panics").entry(name.into()).or_default() += n as u64;
    }

    pub(crate) fn counted(&self, name: &str) -> u64 {
        self.counts.lock().expect("no panics").get(name).copied().unwrap_or_default()
    }

    pub(crate) fn report_failure(&self, failure: impl std::fmt::Display) {
        let mut failures = self.failures.lock().expect("no panics");
        *failures += 1;
        if *failures <= PRINTED_FAILURES_MAX {
            println!("FAILURE after {:.1?}: {failure}", self.started.elapsed());
        }
    }

    /// Reports a failure of the final check of a follower, which is always printed.
    pub(crate) fn report_final_failure(&self, failure: impl std::fmt::Display) {
        println!("FAILURE at the end: {failure}");
        *self.failures.lock().expect("no panics") += 1;
        self.count("failed final checks of followers");
    }

    pub(crate) fn failures(&self) -> usize {
        *self.failures.lock().expect("no panics")
    }

    pub(crate) fn database_killed(&self) {
        self.outages.lock().expect("no panics").push((Instant::now(), None));
    }

    pub(crate) fn database_restarted(&self) {
        if let Some(last) = self.outages.lock().expect("no panics").last_mut() {
            last.1 = Some(Instant::now());
        }
    }

    /// Stores the events of a transaction before its commit is sent.
    pub(crate) fn plan(&self, mark: Uuid, events: Vec<Written>) -> Arc<Vec<Written>> {
        let events = Arc::new(events);
        let mut written = self.written.lock().expect("no panics");
        for event in events.iter() {
            written.0.insert(event.key, *event);
            if let Some(previous) = event.row.and_then(|row| row.previous) {
                written.1.insert((event.key.writer, previous), event.key.n);
            }
        }
        self.plans.lock().expect("no panics").insert(mark, Arc::clone(&events));
        events
    }

    /// Events of an organisation on a topic in the transactions with these marks.
    pub(crate) fn events_of(&self, marks: &[Uuid], org: Uuid, is_calls: bool) -> Vec<Written> {
        let plans = self.plans.lock().expect("no panics");
        let events = marks.iter().filter_map(|mark| plans.get(mark)).flat_map(|events| events.iter());
        events.filter(|e| e.org == org && (e.on_calls || !is_calls)).copied().collect()
    }

    /// The event with this key, if a transaction with it may have been committed.
    pub(crate) fn written(&self, key: &Key) -> Option<Written> {
        self.written.lock().expect("no panics").0.get(key).copied()
    }

    /// Number of the update that follows a change of a row.
    pub(crate) fn next_update(&self, writer: u64, n: u64) -> Option<u64> {
        self.written.lock().expect("no panics").1.get(&(writer, n)).copied()
    }

    /// Whether the log may have been unreadable since a join was sent: the database was unavailable at some
    /// moment in between, or the gateway could not have reconnected yet.
    pub(crate) fn was_unavailable_since(&self, asked: Instant) -> bool {
        let outages = self.outages.lock().expect("no panics");
        outages.iter().any(|(_, end)| end.is_none_or(|end| end + RECONNECT_MAX >= asked))
    }

    pub(crate) fn saw_calm(&self, round: u64) {
        self.calm.send_modify(|calm| *calm.entry(round).or_default() += 1);
    }

    pub(crate) fn calm_count(&self, round: u64) -> usize {
        self.calm.borrow().get(&round).copied().unwrap_or_default()
    }

    /// Waits until a round of the calm was seen on this number of topics.
    pub(crate) async fn calm_seen(&self, round: u64, topics: usize) {
        let mut calm = self.calm.subscribe();
        let seen = calm.wait_for(|calm| calm.get(&round).is_some_and(|seen| *seen >= topics));
        seen.await.expect("the record exists");
    }

    pub(crate) fn print(&self) {
        for (name, n) in &*self.counts.lock().expect("no panics") {
            println!("{n:>9}  {name}");
        }
    }
}

/// Events that the followers of each organisation and topic must see.
#[derive(Default)]
pub(crate) struct Expected {
    /// By organisation, and whether the topic is `calls`.
    events: HashMap<(Uuid, bool), HashMap<Key, Written>>,
}

impl Expected {
    /// Collects the events of all committed transactions, by the marks in the database.
    pub(crate) fn new(transactions: &[Transaction], marks: &HashSet<Uuid>, record: &Record) -> Self {
        let mut expected = Self::default();
        for transaction in transactions {
            let is_committed = marks.contains(&transaction.mark);
            match (transaction.outcome, is_committed) {
                (Outcome::Committed, false) => {
                    record.report_failure(format!("PostgreSQL lost a commit: {}", transaction.mark));
                }
                (Outcome::Unknown, false) => record.count("commits of unknown outcome: not committed"),
                (Outcome::Unknown, true) => record.count("commits of unknown outcome: committed"),
                (Outcome::Committed, true) => {}
            }
            if !is_committed {
                continue;
            }
            record.count("transactions committed");
            record.count_many("events committed", transaction.events.len());
            for event in transaction.events.iter() {
                expected.events.entry((event.org, false)).or_default().insert(event.key, *event);
                if event.on_calls {
                    expected.events.entry((event.org, true)).or_default().insert(event.key, *event);
                }
            }
        }
        expected
    }

    /// Reports missing and unexpected events of a follower, by its filters. Events of its snapshots count as
    /// seen.
    pub(crate) fn check(&self, client: &str, org: Uuid, topic: &TopicState, record: &Record) {
        let all = self.events.get(&(org, topic.is_calls())).into_iter().flatten();
        let selected = all.filter(|(_, written)| topic.filters.form(written).is_some());
        let expected: HashSet<Key> = selected.map(|(key, _)| *key).collect();
        let missing = || expected.iter().filter(|key| !topic.knows(key));
        let unexpected = || topic.seen.difference(&expected);
        for (problem, first, count) in [
            ("missed", missing().min(), missing().count()),
            ("saw uncommitted or foreign events:", unexpected().min(), unexpected().count()),
        ] {
            if let Some(first) = first {
                record.report_final_failure(format!(
                    "{client}: {problem} {count} events; the first: {first:?}"
                ));
            }
        }
        record.count_many("events seen", topic.seen.len());
        if topic.filters.are_some() {
            record.count_many("events seen with a filter", topic.seen.len());
        }
        record.count_many("events skipped because of a snapshot", topic.in_snapshots());
    }
}

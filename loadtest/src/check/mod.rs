//! The bookkeeping: which change was committed when, which socket has seen it, and what that means.
//! It decides alone whether a run passed, so it knows nothing of sockets, SQL or JSON, and every
//! kind of fault that it must find has a unit test below.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// How many faults are described in words; all of them are counted.
const SAMPLES_MAX: usize = 10;

/// What was done to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Created,
    Updated,
}

/// How the transaction of a change ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Still running.
    Open,
    /// Its events are expected.
    Committed,
    /// Its events must not appear.
    RolledBack,
    /// The connection broke during COMMIT: its events are neither expected nor held against anyone.
    Unknown,
}

/// Names a change: the `n`th of the organisation with index `org`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangeId {
    pub(crate) org: usize,
    pub(crate) n: usize,
}

struct Change {
    call: Uuid,
    kind: Kind,
    /// Position in the life of its call, as the database counted it under the row's lock.
    seq: u32,
    /// The next change of the same call. Lives are short, so order is checked by walking this
    /// chain, and a socket needs one bit per change and nothing per call.
    newer: Option<usize>,
    commit_sent: Option<Instant>,
    outcome: Outcome,
}

#[derive(Default)]
struct Book {
    changes: Vec<Change>,
    /// The newest change of each call whose COMMIT was sent.
    latest: HashMap<Uuid, usize>,
}

struct Org {
    id: Uuid,
    book: RwLock<Book>,
    /// Joined topics, over all sockets of the organisation, that calls reach.
    listeners: AtomicU64,
}

/// What one joined topic of one socket has seen.
pub(crate) struct Subscription {
    org: usize,
    socket: usize,
    topic: String,
    /// Whether events of calls reach the topic at all.
    reached: bool,
    seen: Vec<u64>,
}

impl Subscription {
    /// A subscription of socket number `socket`, which belongs to the organisation with index `org`.
    pub(crate) fn new(org: usize, socket: usize, topic: &str) -> Self {
        Self { org, socket, topic: topic.to_owned(), reached: is_reached(topic), seen: Vec::new() }
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    fn has(&self, n: usize) -> bool {
        self.seen.get(n / 64).is_some_and(|word| word >> (n % 64) & 1 == 1)
    }

    fn mark(&mut self, n: usize) {
        if self.seen.len() <= n / 64 {
            self.seen.resize(n / 64 + 1, 0);
        }
        self.seen[n / 64] |= 1 << (n % 64);
    }
}

/// Whether events of table calls reach a topic that can be joined before the calls exist.
pub(crate) fn is_reached(topic: &str) -> bool {
    matches!(topic, "calls" | "org")
}

/// An event of a call, as it came out of a socket.
pub(crate) struct Arrival {
    pub(crate) org: Uuid,
    pub(crate) call: Uuid,
    pub(crate) kind: Kind,
    /// Index of the change in its organisation, from the row's metadata.
    pub(crate) n: usize,
    pub(crate) seq: u32,
    pub(crate) at: Instant,
}

/// What an arrival means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Seen for the first time. `in_order` is false where a later change of its call came before.
    Delivered {
        latency: Duration,
        in_order: bool,
    },
    Duplicate,
    CrossOrg,
    /// Right organisation, but no such change was made, or not on this topic.
    Unexpected,
}

/// Counters that move while the test runs, read by the progress line and the final report.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) changes: AtomicU64,
    pub(crate) changes_failed: AtomicU64,
    pub(crate) expected: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) cross_org: AtomicU64,
    pub(crate) out_of_order: AtomicU64,
    pub(crate) unexpected: AtomicU64,
    pub(crate) resyncs: AtomicU64,
}

/// What is known at the end, over all subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    pub(crate) missing: u64,
    /// Events of changes that were rolled back.
    pub(crate) phantoms: u64,
}

/// The ledger of one run.
pub(crate) struct Ledger {
    orgs: Vec<Org>,
    pub(crate) counts: Counts,
    samples: Mutex<Vec<String>>,
}

impl Ledger {
    pub(crate) fn new(orgs: &[Uuid]) -> Self {
        let org = |id: &Uuid| Org { id: *id, book: RwLock::default(), listeners: AtomicU64::new(0) };
        Self { orgs: orgs.iter().map(org).collect(), counts: Counts::default(), samples: Mutex::default() }
    }

    pub(crate) fn org_id(&self, org: usize) -> Uuid {
        self.orgs[org].id
    }

    /// How many organisations there are.
    pub(crate) fn orgs(&self) -> usize {
        self.orgs.len()
    }

    /// Enters a joined subscription. All of them come before the first change.
    pub(crate) fn joined(&self, subscription: &Subscription) {
        self.orgs[subscription.org].listeners.fetch_add(u64::from(subscription.reached), Relaxed);
    }

    /// Enters a change that is about to be made, and names it.
    pub(crate) fn plan(&self, org: usize, call: Uuid, kind: Kind) -> ChangeId {
        let mut book = self.orgs[org].book.write().unwrap_or_else(PoisonError::into_inner);
        book.changes.push(Change {
            call,
            kind,
            seq: 0,
            newer: None,
            commit_sent: None,
            outcome: Outcome::Open,
        });
        ChangeId { org, n: book.changes.len() - 1 }
    }

    /// Notes that COMMIT is sent now. The caller still holds the lock on the call's row, so that
    /// changes of one call come here in the order in which they commit.
    pub(crate) fn commit_sent(&self, id: ChangeId, seq: u32, at: Instant) {
        let mut book = self.orgs[id.org].book.write().unwrap_or_else(PoisonError::into_inner);
        let change = &mut book.changes[id.n];
        change.seq = seq;
        change.commit_sent = Some(at);
        let call = change.call;
        if let Some(before) = book.latest.insert(call, id.n) {
            book.changes[before].newer = Some(id.n);
        }
    }

    /// Notes how the transaction ended. An unknown outcome may be settled again, when it is known.
    pub(crate) fn settle(&self, id: ChangeId, outcome: Outcome) {
        let org = &self.orgs[id.org];
        let mut book = org.book.write().unwrap_or_else(PoisonError::into_inner);
        book.changes[id.n].outcome = outcome;
        match outcome {
            Outcome::Committed => {
                self.counts.changes.fetch_add(1, Relaxed);
                self.counts.expected.fetch_add(org.listeners.load(Relaxed), Relaxed);
            }
            Outcome::RolledBack => {
                self.counts.changes_failed.fetch_add(1, Relaxed);
            }
            Outcome::Open | Outcome::Unknown => {}
        }
    }

    /// Judges an event that a subscription received, and counts it.
    pub(crate) fn arrived(&self, subscription: &mut Subscription, arrival: &Arrival) -> Verdict {
        let verdict = self.judge(subscription, arrival);
        let counts = &self.counts;
        match verdict {
            Verdict::Delivered { in_order, .. } => {
                counts.delivered.fetch_add(1, Relaxed);
                if !in_order {
                    counts.out_of_order.fetch_add(1, Relaxed);
                    self.describe("out of order", subscription, arrival);
                }
            }
            Verdict::Duplicate => {
                counts.duplicates.fetch_add(1, Relaxed);
                self.describe("duplicate", subscription, arrival);
            }
            Verdict::CrossOrg => {
                counts.cross_org.fetch_add(1, Relaxed);
                self.describe("CROSS-ORG", subscription, arrival);
            }
            Verdict::Unexpected => {
                counts.unexpected.fetch_add(1, Relaxed);
                self.describe("unexpected", subscription, arrival);
            }
        }
        verdict
    }

    fn judge(&self, subscription: &mut Subscription, arrival: &Arrival) -> Verdict {
        let org = &self.orgs[subscription.org];
        if arrival.org != org.id {
            return Verdict::CrossOrg;
        }
        let book = org.book.read().unwrap_or_else(PoisonError::into_inner);
        let Some(change) = book.changes.get(arrival.n) else {
            return Verdict::Unexpected;
        };
        let same = change.call == arrival.call && change.kind == arrival.kind && change.seq == arrival.seq;
        let (true, true, Some(commit_sent)) = (same, subscription.reached, change.commit_sent) else {
            return Verdict::Unexpected;
        };
        if subscription.has(arrival.n) {
            return Verdict::Duplicate;
        }
        subscription.mark(arrival.n);
        let mut newer = std::iter::successors(change.newer, |n| book.changes[*n].newer);
        Verdict::Delivered {
            latency: arrival.at.saturating_duration_since(commit_sent),
            in_order: !newer.any(|n| subscription.has(n)),
        }
    }

    /// Counts what arrived and can't be matched with a change of this run. It is `foreign` where it
    /// is known to be another organisation's.
    pub(crate) fn stray(&self, socket: usize, what: &str, foreign: bool) {
        let (count, fault) = if foreign {
            (&self.counts.cross_org, "CROSS-ORG")
        } else {
            (&self.counts.unexpected, "unexpected")
        };
        count.fetch_add(1, Relaxed);
        self.sample(|| format!("{fault}: {what}, at socket {socket}"));
    }

    /// Holds what a subscription has seen against what was committed. Called once for each, after
    /// the last event.
    pub(crate) fn close(&self, subscription: &Subscription, tally: &mut Tally) {
        let book = self.orgs[subscription.org].book.read().unwrap_or_else(PoisonError::into_inner);
        for (n, change) in book.changes.iter().enumerate().filter(|_| subscription.reached) {
            let seen = subscription.has(n);
            match change.outcome {
                Outcome::Committed => {
                    tally.expected += 1;
                    tally.delivered += u64::from(seen);
                    tally.missing += u64::from(!seen);
                    if !seen {
                        self.sample(|| describe("missing", subscription, change.call, change.seq));
                    }
                }
                Outcome::RolledBack if seen => {
                    tally.phantoms += 1;
                    self.sample(|| {
                        describe("of a rolled-back change", subscription, change.call, change.seq)
                    });
                }
                Outcome::RolledBack | Outcome::Open | Outcome::Unknown => {}
            }
        }
    }

    /// Whether everything that is expected so far has arrived. Exact once all changes are settled.
    pub(crate) fn is_complete(&self) -> bool {
        self.counts.delivered.load(Relaxed) >= self.counts.expected.load(Relaxed)
    }

    /// Keeps a description of a fault, if there are not yet enough of them.
    pub(crate) fn sample(&self, text: impl FnOnce() -> String) {
        let mut samples = self.lock_samples();
        if samples.len() < SAMPLES_MAX {
            samples.push(text());
        }
    }

    pub(crate) fn samples(&self) -> Vec<String> {
        self.lock_samples().clone()
    }

    fn lock_samples(&self) -> MutexGuard<'_, Vec<String>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, what: &str, subscription: &Subscription, arrival: &Arrival) {
        self.sample(|| describe(what, subscription, arrival.call, arrival.seq));
    }
}

fn describe(what: &str, subscription: &Subscription, call: Uuid, seq: u32) -> String {
    format!(
        "{what}: call {call}, change {seq}, at socket {}, topic {}",
        subscription.socket, subscription.topic
    )
}

#[cfg(test)]
mod tests;

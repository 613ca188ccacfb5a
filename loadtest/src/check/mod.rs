//! The ledger of a worker: which change was committed when, which of its sockets must receive it, which have
//! received it, and what counts as a fault. It knows nothing of sockets, SQL or JSON, and every kind of fault
//! has a unit test.
//!
//! A change is announced before its COMMIT is sent. A subscription that had joined by then must receive it:
//! once, at no other organisation, and not after a later change of the same entity. A subscription that joins
//! between announcement and delivery may receive it.

mod facts;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

pub(crate) use self::facts::{Arrival, Change, ChangeKind, Counts, Delivery, Outcome, Verdict};
pub(crate) use self::subscription::{Subscription, is_reached};
use crate::clock::Nanos;
use crate::filters::{Filter, Moved};

/// Findings that are described in words; all of them are counted.
const FINDINGS_MAX: usize = 10;
/// A change is forgotten this long after it was sent, if every subscription has it. A later arrival is a
/// duplicate.
const REMEMBERED: Nanos = 60_000_000_000;

/// An announced change and its deliveries.
struct Record {
    change: Change,
    /// Position of the next change of the same entity. Entities have few changes, so the order is checked by
    /// following this chain. A socket then needs one bit per change, and no memory per entity.
    newer: Option<usize>,
    outcome: Outcome,
    /// Subscriptions that must receive it.
    required: u64,
    /// Required subscriptions that have received it.
    received: u64,
    /// Subscriptions that joined after the announcement and received it.
    early: u64,
}

/// The records of one organisation.
struct Org {
    id: Uuid,
    /// Subscriptions that must receive the next change, or the next one that their filter selects.
    members: HashMap<Option<Filter>, u64>,
    /// In the order of their announcement; `first` is the position of the first.
    records: VecDeque<Record>,
    first: usize,
    /// Position of each change by its number; `first_number` is the number of the first.
    positions: VecDeque<Option<usize>>,
    first_number: usize,
    /// Position of the newest remembered change of each entity.
    latest: HashMap<Uuid, usize>,
}

impl Org {
    fn new(id: Uuid) -> Self {
        Self {
            id,
            members: HashMap::new(),
            records: VecDeque::new(),
            first: 0,
            positions: VecDeque::new(),
            first_number: 0,
            latest: HashMap::new(),
        }
    }

    /// Subscriptions that must receive a change.
    fn required(&self, change: &Change) -> u64 {
        let selects = |filter: &Filter| filter.meaning(change.row).is_some();
        let filters = change.row.candidates().filter(selects).map(Some);
        filters.chain([None]).filter_map(|filter| self.members.get(&filter)).sum()
    }

    fn end(&self) -> usize {
        self.first + self.records.len()
    }

    fn position(&self, number: usize) -> Option<usize> {
        *self.positions.get(number.checked_sub(self.first_number)?)?
    }

    fn record(&self, position: usize) -> Option<&Record> {
        self.records.get(position.checked_sub(self.first)?)
    }

    fn record_mut(&mut self, position: usize) -> Option<&mut Record> {
        self.records.get_mut(position.checked_sub(self.first)?)
    }

    /// Drops old records that every required subscription has received, or that were rolled back.
    fn forget_settled(&mut self, now: Nanos) {
        while let Some(record) = self.records.front() {
            let settled = match record.outcome {
                Outcome::Committed => record.received >= record.required,
                Outcome::RolledBack => true,
                Outcome::Open | Outcome::Unknown => false,
            };
            if !settled || now.saturating_sub(record.change.sent) < REMEMBERED {
                return;
            }
            if self.latest.get(&record.change.entity) == Some(&self.first) {
                self.latest.remove(&record.change.entity);
            }
            self.records.pop_front();
            self.first += 1;
            // A change that failed before its COMMIT has a number but no position. It is dropped with its
            // neighbours.
            while self.positions.front().is_some_and(|at| at.is_none_or(|at| at < self.first))
                && self.positions.len() > 1
            {
                self.positions.pop_front();
                self.first_number += 1;
            }
        }
    }
}

/// The ledger of one worker.
pub(crate) struct Ledger {
    orgs: Vec<Org>,
    pub(crate) counts: Counts,
    findings: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(orgs: &[Uuid]) -> Self {
        let orgs = orgs.iter().copied().map(Org::new).collect();
        Self { orgs, counts: Counts::default(), findings: Vec::new() }
    }

    pub(crate) fn org_id(&self, org: usize) -> Uuid {
        self.orgs[org].id
    }

    /// Adds a subscription whose first join has just been answered. Every change that was announced before
    /// may still arrive; every later one must.
    pub(crate) fn add_subscription(&mut self, subscription: &mut Subscription) {
        let org = &mut self.orgs[subscription.org()];
        subscription.begin(org.end());
        *org.members.entry(subscription.filter()).or_default() += u64::from(subscription.is_reached());
    }

    /// Stops requiring new changes of a subscription. Earlier ones are still required.
    pub(crate) fn end_subscription(&mut self, subscription: &mut Subscription) {
        let org = &mut self.orgs[subscription.org()];
        if subscription.finish(org.end()) {
            *org.members.entry(subscription.filter()).or_default() -= u64::from(subscription.is_reached());
        }
    }

    /// Adds a change whose COMMIT is about to be sent.
    pub(crate) fn announce(&mut self, change: &Change) {
        let org = &mut self.orgs[change.org];
        let position = org.end();
        if let Some(before) = org.latest.insert(change.entity, position)
            && let Some(record) = org.record_mut(before)
        {
            record.newer = Some(position);
        }
        org.records.push_back(Record {
            change: *change,
            newer: None,
            outcome: Outcome::Open,
            required: org.required(change),
            received: 0,
            early: 0,
        });
        let Some(at) = change.number.checked_sub(org.first_number) else { return };
        if org.positions.len() <= at {
            org.positions.resize(at + 1, None);
        }
        org.positions[at] = Some(position);
    }

    /// Sets how the transaction of a change ended. An unknown outcome may be set again when it becomes known.
    pub(crate) fn set_outcome(&mut self, org: usize, number: usize, outcome: Outcome) {
        let org = &mut self.orgs[org];
        let Some(record) = org.position(number).and_then(|position| org.record_mut(position)) else {
            return; // The change failed before its COMMIT, so it was never announced.
        };
        record.outcome = outcome;
        match outcome {
            Outcome::Committed => {
                self.counts.expected += record.required;
                self.counts.delivered += record.received;
            }
            Outcome::RolledBack => self.counts.rolled_back += record.received + record.early,
            Outcome::Open | Outcome::Unknown => {}
        }
        let now = record.change.sent;
        org.forget_settled(now);
    }

    /// Whether a change was announced, even if it has been forgotten since.
    pub(crate) fn knows(&self, org: usize, number: usize) -> bool {
        let org = &self.orgs[org];
        number < org.first_number || org.position(number).is_some()
    }

    /// Judges an event that a subscription received, and counts it. `name` describes event and socket.
    pub(crate) fn receive(
        &mut self,
        subscription: &mut Subscription,
        arrival: &Arrival,
        name: impl FnOnce() -> String,
    ) -> Verdict {
        let verdict = self.judge(subscription, arrival);
        let (count, fault) = match &verdict {
            Verdict::Delivered(Delivery { in_order: true, .. }) => return verdict,
            Verdict::Delivered(_) => (&mut self.counts.out_of_order, "out of order"),
            Verdict::Duplicate => (&mut self.counts.duplicates, "duplicate"),
            Verdict::CrossOrg => (&mut self.counts.cross_org, "CROSS-ORG"),
            Verdict::Unexpected => (&mut self.counts.unexpected, "unexpected"),
        };
        *count += 1;
        self.add_finding(|| {
            format!("{fault}: entity {}, change {}, at {}", arrival.entity, arrival.seq, name())
        });
        verdict
    }

    fn judge(&mut self, subscription: &mut Subscription, arrival: &Arrival) -> Verdict {
        let org = &mut self.orgs[subscription.org()];
        if arrival.org != org.id {
            return Verdict::CrossOrg;
        }
        if arrival.number < org.first_number {
            return Verdict::Duplicate;
        }
        let Some(position) = org.position(arrival.number) else { return Verdict::Unexpected };
        let Some(record) = org.record(position) else { return Verdict::Duplicate };
        let change = record.change;
        let is_same =
            change.entity == arrival.entity && change.kind == arrival.kind && change.seq == arrival.seq;
        let is_meant = subscription.meaning(change.row) == Some(arrival.moved);
        if !is_same || !subscription.is_reached() || !is_meant {
            return Verdict::Unexpected;
        }
        if subscription.has(position) {
            return Verdict::Duplicate;
        }
        subscription.mark(position);
        let newer = |position: &usize| org.record(*position).and_then(|record| record.newer);
        let in_order = !std::iter::successors(record.newer, newer).any(|newer| subscription.has(newer));
        self.counts.events += 1;
        self.counts.entered += u64::from(arrival.moved == Some(Moved::Entered));
        self.counts.left += u64::from(arrival.moved == Some(Moved::Left));
        let required = subscription.requires(position);
        if let Some(record) = org.record_mut(position) {
            if required {
                record.received += 1;
            } else {
                record.early += 1;
            }
            match record.outcome {
                Outcome::Committed => self.counts.delivered += u64::from(required),
                Outcome::RolledBack => self.counts.rolled_back += 1,
                Outcome::Open | Outcome::Unknown => {}
            }
        }
        Verdict::Delivered(Delivery {
            sent: change.sent,
            since_sent: arrival.at.saturating_sub(change.sent),
            since_due: arrival.at.saturating_sub(change.due),
            phase: change.phase,
            in_order,
        })
    }

    /// Whether a subscription has received everything that was announced before the position `end` and that
    /// it must receive.
    pub(crate) fn has_all_before(&self, subscription: &Subscription, end: usize) -> bool {
        self.first_missing(subscription, end).is_none()
    }

    /// The position of the next change of an organisation.
    pub(crate) fn end(&self, org: usize) -> usize {
        self.orgs[org].end()
    }

    fn first_missing(&self, subscription: &Subscription, end: usize) -> Option<&Record> {
        let org = &self.orgs[subscription.org()];
        let missing = |position: usize| {
            let record = org.record(position);
            let record = record.filter(|r| matches!(r.outcome, Outcome::Open | Outcome::Committed));
            let record = record.filter(|r| subscription.meaning(r.change.row).is_some());
            record.filter(|_| !subscription.has(position))
        };
        subscription.possibly_missing(org.first, end.min(org.end())).find_map(missing)
    }

    /// Describes the first change that a subscription misses at the end of the test.
    pub(crate) fn describe_missing(&mut self, subscription: &Subscription, name: impl FnOnce() -> String) {
        if self.findings.len() < FINDINGS_MAX
            && let Some(record) = self.first_missing(subscription, usize::MAX)
            && record.outcome == Outcome::Committed
        {
            let Change { entity, seq, .. } = record.change;
            self.findings.push(format!("missing: entity {entity}, change {seq}, at {}", name()));
        }
    }

    /// Counts a message that does not belong to any change of this run. `foreign` means that it is known to
    /// belong to another organisation.
    pub(crate) fn receive_unmatched(&mut self, what: &str, foreign: bool) {
        let (count, fault) = if foreign {
            (&mut self.counts.cross_org, "CROSS-ORG")
        } else {
            (&mut self.counts.unexpected, "unexpected")
        };
        *count += 1;
        self.add_finding(|| format!("{fault}: {what}"));
    }

    /// Whether every transaction has ended and everything that is expected has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        let has_open = |org: &Org| org.records.iter().any(|record| record.outcome == Outcome::Open);
        self.counts.missing() == 0 && !self.orgs.iter().any(has_open)
    }

    /// Keeps a description, unless there are enough of them.
    pub(crate) fn add_finding(&mut self, text: impl FnOnce() -> String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(text());
        }
    }

    pub(crate) fn findings(&self) -> &[String] {
        &self.findings
    }
}

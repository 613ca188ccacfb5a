//! The bookkeeping of a holder: which change was committed when, which of its sockets must see it,
//! which has, and what that means. It decides alone what counts as a fault, so it knows nothing of
//! sockets, SQL or JSON, and every kind of fault that it must find has a unit test below.
//!
//! A change is entered before its COMMIT is sent. Who had joined by then must see it: once, nowhere
//! else, and not after a later change of the same entity. Who joins while it is in the air may.

mod facts;
mod seen;

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

pub(crate) use self::facts::{Arrival, Counts, Delivery, Kind, Outcome, Sent, Verdict};
pub(crate) use self::seen::{Subscription, is_reached};
use crate::clock::Nanos;

/// How many faults are described in words; all of them are counted.
const SAMPLES_MAX: usize = 10;
/// A change that everybody has seen is forgotten after so long; if it comes again it is a duplicate.
const REMEMBERED: Nanos = 60_000_000_000;

struct Change {
    sent: Sent,
    /// The next change of the same entity. Lives are short, so order is checked by walking this chain,
    /// and a socket needs one bit per change and nothing per entity.
    newer: Option<usize>,
    outcome: Outcome,
    /// Subscriptions that must see it, and that have.
    required: u64,
    seen: u64,
    /// Subscriptions that joined while it was in the air, and saw it.
    early: u64,
}

struct Org {
    id: Uuid,
    /// Subscriptions that changes reach and that must see what comes now.
    members: u64,
    /// In the order in which they became known; the place of the first is `first`.
    changes: VecDeque<Change>,
    first: usize,
    /// Place of each change by its name; the name of the first is `first_n`.
    places: VecDeque<Option<usize>>,
    first_n: usize,
    /// The newest change of each entity that is remembered.
    latest: HashMap<Uuid, usize>,
}

impl Org {
    fn end(&self) -> usize {
        self.first + self.changes.len()
    }

    fn place(&self, n: usize) -> Option<usize> {
        *self.places.get(n.checked_sub(self.first_n)?)?
    }

    fn change(&self, place: usize) -> Option<&Change> {
        self.changes.get(place.checked_sub(self.first)?)
    }

    fn change_mut(&mut self, place: usize) -> Option<&mut Change> {
        self.changes.get_mut(place.checked_sub(self.first)?)
    }
}

/// The ledger of one holder.
pub(crate) struct Ledger {
    orgs: Vec<Org>,
    pub(crate) counts: Counts,
    samples: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(orgs: &[Uuid]) -> Self {
        let org = |id: &Uuid| Org {
            id: *id,
            members: 0,
            changes: VecDeque::new(),
            first: 0,
            places: VecDeque::new(),
            first_n: 0,
            latest: HashMap::new(),
        };
        Self { orgs: orgs.iter().map(org).collect(), counts: Counts::default(), samples: Vec::new() }
    }

    pub(crate) fn org_id(&self, org: usize) -> Uuid {
        self.orgs[org].id
    }

    /// Enters a subscription whose first join was answered just now. Every change that was entered
    /// before may still come; every later one must.
    pub(crate) fn joined(&mut self, subscription: &mut Subscription) {
        let org = &mut self.orgs[subscription.org()];
        subscription.begin(org.end());
        org.members += u64::from(subscription.is_reached());
    }

    /// From now on nothing new is required of a subscription; what was still is.
    pub(crate) fn leaves(&mut self, subscription: &mut Subscription) {
        let org = &mut self.orgs[subscription.org()];
        if subscription.finish(org.end()) {
            org.members -= u64::from(subscription.is_reached());
        }
    }

    /// Enters a change.
    pub(crate) fn sent(&mut self, sent: &Sent) {
        let org = &mut self.orgs[sent.org];
        let place = org.end();
        if let Some(before) = org.latest.insert(sent.entity, place)
            && let Some(change) = org.change_mut(before)
        {
            change.newer = Some(place);
        }
        let required = org.members;
        let (outcome, newer) = (Outcome::Open, None);
        org.changes.push_back(Change { sent: *sent, newer, outcome, required, seen: 0, early: 0 });
        let Some(at) = sent.n.checked_sub(org.first_n) else { return };
        if org.places.len() <= at {
            org.places.resize(at + 1, None);
        }
        org.places[at] = Some(place);
    }

    /// Notes how the transaction ended. An unknown outcome may be settled again, when it is known.
    pub(crate) fn ended(&mut self, org: usize, n: usize, outcome: Outcome) {
        let org = &mut self.orgs[org];
        let Some(change) = org.place(n).and_then(|place| org.change_mut(place)) else {
            return; // failed before its COMMIT
        };
        change.outcome = outcome;
        match outcome {
            Outcome::Committed => {
                self.counts.expected += change.required;
                self.counts.delivered += change.seen;
            }
            Outcome::RolledBack => self.counts.phantoms += change.seen + change.early,
            Outcome::Open | Outcome::Unknown => {}
        }
        let now = change.sent.sent;
        Self::forget(org, now);
    }

    /// Drops what everybody has seen, and what was rolled back, a while ago.
    fn forget(org: &mut Org, now: Nanos) {
        while let Some(change) = org.changes.front() {
            let settled = match change.outcome {
                Outcome::Committed => change.seen >= change.required,
                Outcome::RolledBack => true,
                Outcome::Open | Outcome::Unknown => false,
            };
            if !settled || now.saturating_sub(change.sent.sent) < REMEMBERED {
                return;
            }
            if org.latest.get(&change.sent.entity) == Some(&org.first) {
                org.latest.remove(&change.sent.entity);
            }
            org.changes.pop_front();
            org.first += 1;
            // A name whose change failed before its COMMIT has no place, and goes with those around it.
            while org.places.front().is_some_and(|place| place.is_none_or(|place| place < org.first))
                && org.places.len() > 1
            {
                org.places.pop_front();
                org.first_n += 1;
            }
        }
    }

    /// Whether a change was entered, or is long forgotten.
    pub(crate) fn knows(&self, org: usize, n: usize) -> bool {
        let org = &self.orgs[org];
        n < org.first_n || org.place(n).is_some()
    }

    /// Judges an event that a subscription received, and counts it. `name` says where that is.
    pub(crate) fn arrived(
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
        self.sample(|| format!("{fault}: entity {}, change {}, at {}", arrival.entity, arrival.seq, name()));
        verdict
    }

    fn judge(&mut self, subscription: &mut Subscription, arrival: &Arrival) -> Verdict {
        let org = &mut self.orgs[subscription.org()];
        if arrival.org != org.id {
            return Verdict::CrossOrg;
        }
        if arrival.n < org.first_n {
            return Verdict::Duplicate;
        }
        let Some(place) = org.place(arrival.n) else { return Verdict::Unexpected };
        let Some(change) = org.change(place) else { return Verdict::Duplicate };
        let sent = change.sent;
        let same = sent.entity == arrival.entity && sent.kind == arrival.kind && sent.seq == arrival.seq;
        if !same || !subscription.is_reached() {
            return Verdict::Unexpected;
        }
        if subscription.has(place) {
            return Verdict::Duplicate;
        }
        subscription.mark(place);
        let newer = |place: &usize| org.change(*place).and_then(|change| change.newer);
        let in_order = !std::iter::successors(change.newer, newer).any(|newer| subscription.has(newer));
        self.counts.events += 1;
        let required = subscription.requires(place);
        if let Some(change) = org.change_mut(place) {
            if required {
                change.seen += 1;
            } else {
                change.early += 1;
            }
            match change.outcome {
                Outcome::Committed => self.counts.delivered += u64::from(required),
                Outcome::RolledBack => self.counts.phantoms += 1,
                Outcome::Open | Outcome::Unknown => {}
            }
        }
        Verdict::Delivered(Delivery {
            sent: sent.sent,
            since_sent: arrival.at.saturating_sub(sent.sent),
            since_due: arrival.at.saturating_sub(sent.due),
            phase: sent.phase,
            in_order,
        })
    }

    /// Whether a subscription has seen all that was entered before `end` and is required of it.
    pub(crate) fn has_all_before(&self, subscription: &Subscription, end: usize) -> bool {
        self.first_missing(subscription, end).is_none()
    }

    /// Where the next change of an organisation will stand.
    pub(crate) fn end(&self, org: usize) -> usize {
        self.orgs[org].end()
    }

    fn first_missing(&self, subscription: &Subscription, end: usize) -> Option<&Change> {
        let org = &self.orgs[subscription.org()];
        let missing = |place: usize| {
            let change =
                org.change(place).filter(|c| matches!(c.outcome, Outcome::Open | Outcome::Committed));
            change.filter(|_| !subscription.has(place))
        };
        subscription.perhaps_missing(org.first, end.min(org.end())).find_map(missing)
    }

    /// Describes what a subscription misses, at the end of the test.
    pub(crate) fn describe_missing(&mut self, subscription: &Subscription, name: impl FnOnce() -> String) {
        if self.samples.len() < SAMPLES_MAX
            && let Some(change) = self.first_missing(subscription, usize::MAX)
            && change.outcome == Outcome::Committed
        {
            let text =
                format!("missing: entity {}, change {}, at {}", change.sent.entity, change.sent.seq, name());
            self.samples.push(text);
        }
    }

    /// Counts what arrived and can't be matched with a change of this run. It is `foreign` where it
    /// is known to be another organisation's.
    pub(crate) fn stray(&mut self, what: &str, foreign: bool) {
        let (count, fault) = if foreign {
            (&mut self.counts.cross_org, "CROSS-ORG")
        } else {
            (&mut self.counts.unexpected, "unexpected")
        };
        *count += 1;
        self.sample(|| format!("{fault}: {what}"));
    }

    /// Whether every change has ended and everything that is expected has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        let open = |org: &Org| org.changes.iter().any(|change| change.outcome == Outcome::Open);
        self.counts.missing() == 0 && !self.orgs.iter().any(open)
    }

    /// Keeps a description of a fault, if there are not yet enough of them.
    pub(crate) fn sample(&mut self, text: impl FnOnce() -> String) {
        if self.samples.len() < SAMPLES_MAX {
            self.samples.push(text());
        }
    }

    pub(crate) fn samples(&self) -> &[String] {
        &self.samples
    }
}

#[cfg(test)]
mod tests;

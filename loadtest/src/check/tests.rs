//! Every kind of fault that the bookkeeping must find, and that it finds none where none is.

use super::*;

const ORGS: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];
const CALL: Uuid = Uuid::from_u128(77);
const LATENCY: Duration = Duration::from_millis(3);

struct Fixture {
    ledger: Ledger,
    subscription: Subscription,
    start: Instant,
}

impl Fixture {
    /// One socket of the first organisation, joined to a topic.
    fn joined(topic: &str) -> Self {
        let ledger = Ledger::new(&ORGS);
        let subscription = Subscription::new(0, 0, topic);
        ledger.joined(&subscription);
        Self { ledger, subscription, start: Instant::now() }
    }

    /// Commits the first `count` changes in the life of the one call.
    fn commit(self, count: u32) -> Self {
        for seq in 1..=count {
            self.change(seq, Outcome::Committed);
        }
        self
    }

    fn change(&self, seq: u32, outcome: Outcome) {
        let id = self.ledger.plan(0, CALL, kind(seq));
        self.ledger.commit_sent(id, seq, self.start);
        self.ledger.settle(id, outcome);
    }

    fn arrive(&mut self, seq: u32) -> Verdict {
        let arrival = self.arrival(seq);
        self.ledger.arrived(&mut self.subscription, &arrival)
    }

    fn arrival(&self, seq: u32) -> Arrival {
        let n = seq as usize - 1;
        Arrival { org: ORGS[0], call: CALL, kind: kind(seq), n, seq, at: self.start + LATENCY }
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.ledger.close(&self.subscription, &mut tally);
        tally
    }
}

fn kind(seq: u32) -> Kind {
    if seq == 1 { Kind::Created } else { Kind::Updated }
}

fn delivered(in_order: bool) -> Verdict {
    Verdict::Delivered { latency: LATENCY, in_order }
}

#[test]
fn all_delivered_once_and_in_order_is_clean() {
    let mut f = Fixture::joined("calls").commit(100);
    for seq in 1..=100 {
        assert!(!f.ledger.is_complete());
        assert_eq!(f.arrive(seq), delivered(true));
    }
    assert!(f.ledger.is_complete());
    assert_eq!(f.tally(), Tally { expected: 100, delivered: 100, missing: 0, phantoms: 0 });
    assert!(f.ledger.samples().is_empty());
}

#[test]
fn a_missing_event_is_found() {
    let mut f = Fixture::joined("org").commit(3);
    f.arrive(1);
    f.arrive(3);
    assert!(!f.ledger.is_complete());
    assert_eq!(f.tally(), Tally { expected: 3, delivered: 2, missing: 1, phantoms: 0 });
    assert!(f.ledger.samples()[0].starts_with("missing"));
}

#[test]
fn a_duplicate_is_found_and_does_not_hide_a_missing_one() {
    let mut f = Fixture::joined("calls").commit(2);
    f.arrive(1);
    assert_eq!(f.arrive(1), Verdict::Duplicate);
    assert!(!f.ledger.is_complete());
    assert_eq!(f.tally().missing, 1);
    assert_eq!(f.ledger.counts.duplicates.load(Relaxed), 1);
}

#[test]
fn another_organisations_event_is_found() {
    let mut f = Fixture::joined("calls").commit(1);
    let leak = Arrival { org: ORGS[1], ..f.arrival(1) };
    assert_eq!(f.ledger.arrived(&mut f.subscription, &leak), Verdict::CrossOrg);
    f.ledger.stray(0, "recording.created", true);
    assert_eq!(f.ledger.counts.cross_org.load(Relaxed), 2);
    assert_eq!(f.tally().missing, 1);
}

#[test]
fn wrong_order_is_found_even_across_a_gap() {
    let mut f = Fixture::joined("calls").commit(3);
    assert_eq!(f.arrive(3), delivered(true));
    assert_eq!(f.arrive(1), delivered(false));
    assert_eq!(f.arrive(2), delivered(false));
    assert_eq!(f.ledger.counts.out_of_order.load(Relaxed), 2);
    assert_eq!(f.tally().missing, 0);
}

#[test]
fn calls_are_independent_in_order() {
    let mut f = Fixture::joined("calls").commit(1);
    let other = Uuid::from_u128(78);
    let id = f.ledger.plan(0, other, Kind::Created);
    f.ledger.commit_sent(id, 1, f.start);
    f.ledger.settle(id, Outcome::Committed);
    let second = Arrival { call: other, n: id.n, ..f.arrival(1) };
    assert_eq!(f.ledger.arrived(&mut f.subscription, &second), delivered(true));
    assert_eq!(f.arrive(1), delivered(true));
}

#[test]
fn what_was_never_done_is_unexpected() {
    let mut f = Fixture::joined("calls").commit(2);
    let base = f.arrival(2);
    let wrong = [
        Arrival { n: 9, ..f.arrival(2) },
        Arrival { call: Uuid::from_u128(5), ..f.arrival(2) },
        Arrival { kind: Kind::Created, ..f.arrival(2) },
        Arrival { seq: 1, ..base },
    ];
    for arrival in &wrong {
        assert_eq!(f.ledger.arrived(&mut f.subscription, arrival), Verdict::Unexpected);
    }
    let planned = f.ledger.plan(0, CALL, Kind::Updated);
    let early = Arrival { n: planned.n, seq: 0, kind: Kind::Updated, ..f.arrival(1) };
    assert_eq!(f.ledger.arrived(&mut f.subscription, &early), Verdict::Unexpected);
}

#[test]
fn a_topic_that_calls_do_not_reach_expects_nothing() {
    let mut f = Fixture::joined("recordings").commit(2);
    assert_eq!(f.tally(), Tally::default());
    assert_eq!(f.ledger.counts.expected.load(Relaxed), 0);
    assert_eq!(f.arrive(1), Verdict::Unexpected);
}

#[test]
fn a_rolled_back_change_must_not_arrive_and_an_unknown_one_may() {
    let mut f = Fixture::joined("calls");
    f.change(1, Outcome::Unknown);
    f.change(2, Outcome::RolledBack);
    assert_eq!(f.tally(), Tally::default());
    f.arrive(1);
    assert_eq!(f.tally(), Tally::default());
    f.arrive(2);
    assert_eq!(f.tally(), Tally { phantoms: 1, ..Tally::default() });
}

#[test]
fn expected_counts_each_listener() {
    let f = Fixture::joined("calls");
    f.ledger.joined(&Subscription::new(0, 1, "org"));
    f.ledger.joined(&Subscription::new(1, 2, "calls"));
    let f = f.commit(5);
    assert_eq!(f.ledger.counts.expected.load(Relaxed), 10);
}

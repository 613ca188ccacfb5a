//! Every kind of fault that the bookkeeping must find, and that it finds none where none is.

use super::*;

const ORGS: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];
const CALL: Uuid = Uuid::from_u128(77);
const LATENCY: Nanos = 3_000_000;
const START: Nanos = 1_000_000_000;
/// A change was due so long before its COMMIT was sent.
const LAG: Nanos = 1_000_000;

struct Fixture {
    ledger: Ledger,
    subscription: Subscription,
}

impl Fixture {
    /// One socket of the first organisation, joined to a topic.
    fn joined(topic: &str) -> Self {
        let mut ledger = Ledger::new(&ORGS);
        let mut subscription = Subscription::new(0, topic);
        ledger.joined(&mut subscription);
        Self { ledger, subscription }
    }

    /// Commits the first `count` changes in the life of the one call.
    fn commit(mut self, count: u32) -> Self {
        for seq in 1..=count {
            self.change(seq, Outcome::Committed);
        }
        self
    }

    fn change(&mut self, seq: u32, outcome: Outcome) {
        self.change_at(seq, outcome, START);
    }

    fn change_at(&mut self, seq: u32, outcome: Outcome, sent: Nanos) {
        let entry = Sent { sent, due: sent - LAG, ..entry(seq) };
        self.ledger.sent(&entry);
        self.ledger.ended(0, entry.n, outcome);
    }

    fn arrive(&mut self, seq: u32) -> Verdict {
        let arrival = arrival(seq);
        self.ledger.arrived(&mut self.subscription, &arrival, String::new)
    }

    /// Expected, delivered, missing, of rolled-back changes.
    fn tally(&self) -> [u64; 4] {
        let counts = &self.ledger.counts;
        [counts.expected, counts.delivered, counts.missing(), counts.phantoms]
    }
}

fn entry(seq: u32) -> Sent {
    let n = seq as usize - 1;
    Sent { org: 0, n, entity: CALL, kind: kind(seq), seq, phase: 2, due: START - LAG, sent: START }
}

fn arrival(seq: u32) -> Arrival {
    let n = seq as usize - 1;
    Arrival { org: ORGS[0], entity: CALL, kind: kind(seq), n, seq, at: START + LATENCY }
}

fn kind(seq: u32) -> Kind {
    if seq == 1 { Kind::Created } else { Kind::Updated }
}

fn delivered(in_order: bool) -> Verdict {
    Verdict::Delivered(Delivery {
        sent: START,
        since_sent: LATENCY,
        since_due: LATENCY + LAG,
        phase: 2,
        in_order,
    })
}

#[test]
fn all_delivered_once_and_in_order_is_clean() {
    let mut f = Fixture::joined("calls").commit(1000);
    for seq in 1..=1000 {
        assert!(!f.ledger.is_complete());
        assert_eq!(f.arrive(seq), delivered(true));
    }
    assert!(f.ledger.is_complete());
    assert_eq!(f.tally(), [1000, 1000, 0, 0]);
    assert!(f.ledger.samples().is_empty());
}

#[test]
fn a_missing_event_is_found() {
    let mut f = Fixture::joined("org").commit(3);
    f.arrive(1);
    f.arrive(3);
    assert!(!f.ledger.is_complete());
    assert_eq!(f.tally(), [3, 2, 1, 0]);
    f.ledger.describe_missing(&f.subscription, String::new);
    assert!(
        f.ledger.samples()[0].starts_with("missing: entity") && f.ledger.samples()[0].contains("change 2")
    );
}

#[test]
fn a_missing_event_is_found_whatever_came_after_it() {
    let mut f = Fixture::joined("calls").commit(2000);
    for seq in (1..=2000).filter(|seq| *seq != 700) {
        f.arrive(seq);
    }
    assert_eq!(f.tally(), [2000, 1999, 1, 0]);
    assert!(!f.ledger.has_all_before(&f.subscription, usize::MAX));
    assert!(f.ledger.has_all_before(&f.subscription, 699));
}

#[test]
fn what_is_missing_at_the_beginning_is_found_whatever_came_after_it() {
    let mut f = Fixture::joined("calls").commit(2000);
    for seq in 513..=2000 {
        f.arrive(seq);
    }
    assert_eq!(f.tally(), [2000, 1488, 512, 0]);
    assert!(!f.ledger.has_all_before(&f.subscription, 1));
    assert_eq!(f.arrive(1), delivered(false), "late, and no duplicate");
    assert_eq!(f.tally(), [2000, 1489, 511, 0]);
}

#[test]
fn a_change_that_is_still_open_is_awaited() {
    let mut f = Fixture::joined("calls");
    f.ledger.sent(&entry(1));
    assert!(!f.ledger.is_complete(), "its COMMIT is not answered");
    f.arrive(1);
    f.ledger.ended(0, 0, Outcome::Committed);
    assert!(f.ledger.is_complete());
    assert_eq!(f.tally(), [1, 1, 0, 0]);
}

#[test]
fn a_duplicate_is_found_and_does_not_hide_a_missing_one() {
    let mut f = Fixture::joined("calls").commit(2);
    f.arrive(1);
    assert_eq!(f.arrive(1), Verdict::Duplicate);
    assert!(!f.ledger.is_complete());
    assert_eq!(f.tally(), [2, 1, 1, 0]);
    assert_eq!(f.ledger.counts.duplicates, 1);
}

#[test]
fn a_duplicate_is_found_long_after() {
    let mut f = Fixture::joined("calls").commit(1000);
    for seq in 1..=1000 {
        f.arrive(seq);
    }
    for seq in [1, 64, 65, 500, 1000] {
        assert_eq!(f.arrive(seq), Verdict::Duplicate, "{seq}");
    }
    // Everything from before is forgotten by now, and a duplicate is one nevertheless.
    f.change_at(1001, Outcome::Committed, START + 2 * REMEMBERED);
    assert_eq!(f.ledger.orgs[0].changes.len(), 1);
    assert_eq!(f.arrive(7), Verdict::Duplicate);
    assert_eq!(f.ledger.counts.duplicates, 6);
}

#[test]
fn what_is_missing_is_never_forgotten() {
    let mut f = Fixture::joined("calls").commit(2);
    f.arrive(1);
    f.change_at(3, Outcome::Committed, START + 2 * REMEMBERED);
    assert_eq!(f.arrive(2), delivered(true));
    assert_eq!(f.tally(), [3, 2, 1, 0]);
}

#[test]
fn another_organisations_event_is_found() {
    let mut f = Fixture::joined("calls").commit(1);
    let leak = Arrival { org: ORGS[1], ..arrival(1) };
    assert_eq!(f.ledger.arrived(&mut f.subscription, &leak, String::new), Verdict::CrossOrg);
    f.ledger.stray("recording.created", true);
    assert_eq!(f.ledger.counts.cross_org, 2);
    assert_eq!(f.tally(), [1, 0, 1, 0]);
}

#[test]
fn wrong_order_is_found_even_across_a_gap() {
    let mut f = Fixture::joined("calls").commit(3);
    assert_eq!(f.arrive(3), delivered(true));
    assert_eq!(f.arrive(1), delivered(false));
    assert_eq!(f.arrive(2), delivered(false));
    assert_eq!(f.ledger.counts.out_of_order, 2);
    assert_eq!(f.tally(), [3, 3, 0, 0]);
}

#[test]
fn calls_are_independent_in_order() {
    let mut f = Fixture::joined("calls").commit(1);
    let other = Uuid::from_u128(78);
    f.ledger.sent(&Sent { entity: other, n: 1, ..entry(1) });
    f.ledger.ended(0, 1, Outcome::Committed);
    let second = Arrival { entity: other, n: 1, ..arrival(1) };
    assert_eq!(f.ledger.arrived(&mut f.subscription, &second, String::new), delivered(true));
    assert_eq!(f.arrive(1), delivered(true));
}

#[test]
fn what_was_never_done_is_unexpected() {
    let mut f = Fixture::joined("calls").commit(2);
    let wrong = [
        Arrival { n: 9, ..arrival(2) },
        Arrival { entity: Uuid::from_u128(5), ..arrival(2) },
        Arrival { kind: Kind::Created, ..arrival(2) },
        Arrival { seq: 1, ..arrival(2) },
    ];
    for arrival in &wrong {
        assert_eq!(f.ledger.arrived(&mut f.subscription, arrival, String::new), Verdict::Unexpected);
    }
    assert!(!f.ledger.knows(0, 9) && f.ledger.knows(0, 1));
    assert_eq!(f.ledger.counts.unexpected, 4);
}

#[test]
fn a_topic_that_calls_do_not_reach_expects_nothing() {
    let mut f = Fixture::joined("recordings").commit(2);
    assert_eq!(f.tally(), [0; 4]);
    assert!(f.ledger.is_complete() && f.ledger.has_all_before(&f.subscription, usize::MAX));
    assert_eq!(f.arrive(1), Verdict::Unexpected);
}

#[test]
fn a_rolled_back_change_must_not_arrive_and_an_unknown_one_may() {
    let mut f = Fixture::joined("calls");
    f.change(1, Outcome::Unknown);
    f.change(2, Outcome::RolledBack);
    assert_eq!(f.tally(), [0; 4]);
    f.arrive(1);
    assert_eq!(f.tally(), [0; 4]);
    f.arrive(2);
    assert_eq!(f.tally(), [0, 0, 0, 1]);
}

#[test]
fn an_unknown_change_counts_once_it_is_known() {
    let mut f = Fixture::joined("calls");
    f.change(1, Outcome::Unknown);
    f.change(2, Outcome::Unknown);
    f.arrive(1);
    f.ledger.ended(0, 0, Outcome::Committed);
    f.ledger.ended(0, 1, Outcome::Committed);
    assert_eq!(f.tally(), [2, 1, 1, 0]);
    let mut f = Fixture::joined("calls");
    f.change(1, Outcome::Unknown);
    f.arrive(1);
    f.ledger.ended(0, 0, Outcome::RolledBack);
    assert_eq!(f.tally(), [0, 0, 0, 1]);
}

#[test]
fn expected_counts_each_listener() {
    let mut f = Fixture::joined("calls");
    f.ledger.joined(&mut Subscription::new(0, "org"));
    f.ledger.joined(&mut Subscription::new(1, "calls"));
    let f = f.commit(5);
    assert_eq!(f.ledger.counts.expected, 10);
}

#[test]
fn who_joins_later_may_see_what_was_in_the_air_and_must_see_what_follows() {
    let mut f = Fixture::joined("calls").commit(3);
    let mut late = Subscription::new(0, "calls");
    f.ledger.joined(&mut late);
    f.change(4, Outcome::Committed);
    assert_eq!(f.tally()[0], 5, "three for one, and the fourth for both");
    // The third was in the air; the fourth is required; neither may come twice.
    for (seq, all) in [(3, false), (4, true)] {
        assert_eq!(f.ledger.arrived(&mut late, &arrival(seq), String::new), delivered(true));
        assert_eq!(f.ledger.has_all_before(&late, usize::MAX), all);
        assert_eq!(f.ledger.arrived(&mut late, &arrival(seq), String::new), Verdict::Duplicate);
    }
    assert_eq!(f.tally(), [5, 1, 4, 0]);
    // An optional one that comes behind a later change of its call is out of order all the same.
    assert_eq!(f.ledger.arrived(&mut late, &arrival(2), String::new), delivered(false));
}

#[test]
fn who_leaves_must_see_what_was_sent_before_and_nothing_more_is_expected() {
    let mut f = Fixture::joined("calls").commit(2);
    f.arrive(1);
    f.ledger.leaves(&mut f.subscription);
    f.change(3, Outcome::Committed);
    assert_eq!(f.tally(), [2, 1, 1, 0]);
    assert!(!f.ledger.has_all_before(&f.subscription, usize::MAX));
    f.arrive(3);
    assert!(!f.ledger.has_all_before(&f.subscription, usize::MAX), "what is optional replaces nothing");
    f.arrive(2);
    assert!(f.ledger.has_all_before(&f.subscription, usize::MAX));
    assert_eq!(f.tally(), [2, 2, 0, 0]);
    // Leaving twice, as a socket that breaks while it leaves, takes nobody else's place.
    f.ledger.joined(&mut Subscription::new(0, "calls"));
    f.ledger.leaves(&mut f.subscription);
    f.change(4, Outcome::Committed);
    assert_eq!(f.tally()[0], 3);
}

#[test]
fn after_a_storm_what_was_missed_must_come_once_and_in_order() {
    let mut f = Fixture::joined("calls").commit(2);
    f.arrive(1);
    f.arrive(2);
    // Away: what happens now is required all the same.
    for seq in 3..=5 {
        f.change(seq, Outcome::Committed);
    }
    let caught_up_at = f.ledger.end(0);
    assert_eq!(f.tally(), [5, 2, 3, 0]);
    // Back with a cursor that was too old: the second comes again, and that is found.
    assert_eq!(f.arrive(2), Verdict::Duplicate);
    f.arrive(3);
    f.change(6, Outcome::Committed);
    // A live one overtakes those that were missed.
    f.arrive(6);
    assert_eq!(f.arrive(4), delivered(false));
    assert!(!f.ledger.has_all_before(&f.subscription, caught_up_at));
    f.arrive(5);
    assert!(f.ledger.has_all_before(&f.subscription, caught_up_at));
    assert_eq!(f.tally(), [6, 6, 0, 0]);
    assert_eq!((f.ledger.counts.duplicates, f.ledger.counts.out_of_order), (1, 2));
}

#[test]
fn what_a_storm_swallows_is_missing() {
    let mut f = Fixture::joined("calls").commit(1);
    f.arrive(1);
    f.change(2, Outcome::Committed);
    f.change(3, Outcome::Committed);
    f.arrive(3);
    assert_eq!(f.tally(), [3, 2, 1, 0]);
    assert!(!f.ledger.is_complete());
}

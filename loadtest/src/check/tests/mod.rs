//! Tests that the ledger finds every kind of fault, and finds none in a faultless delivery.

mod filters;

use super::*;
use crate::filters::{Filter, RowChange};

const ORGS: [Uuid; 2] = [Uuid::from_u128(1), Uuid::from_u128(2)];
const CALL: Uuid = Uuid::from_u128(77);
const LATENCY: Nanos = 3_000_000;
const START: Nanos = 1_000_000_000;
/// Time from a change's due time to its COMMIT.
const LAG: Nanos = 1_000_000;

struct Fixture {
    ledger: Ledger,
    subscription: Subscription,
}

impl Fixture {
    /// A ledger with one socket of the first organisation, which has joined a topic.
    fn joined(topic: &str) -> Self {
        Self::joined_with(topic, None)
    }

    /// A ledger with one socket that has joined a topic with a filter.
    fn joined_with(topic: &str, filter: Option<Filter>) -> Self {
        let mut ledger = Ledger::new(&ORGS);
        let mut subscription = Subscription::new(0, topic, filter);
        ledger.add_subscription(&mut subscription);
        Self { ledger, subscription }
    }

    /// Commits the first `count` changes of the call.
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
        let change = Change { sent, due: sent - LAG, ..change(seq) };
        self.ledger.announce(&change);
        self.ledger.set_outcome(0, change.number, outcome);
    }

    fn receive(&mut self, seq: u32) -> Verdict {
        let arrival = arrival(seq);
        self.ledger.receive(&mut self.subscription, &arrival, String::new)
    }

    /// Counts: expected, delivered, missing, of rolled-back changes.
    fn tally(&self) -> [u64; 4] {
        let counts = &self.ledger.counts;
        [counts.expected, counts.delivered, counts.missing(), counts.rolled_back]
    }
}

fn change(seq: u32) -> Change {
    let number = seq as usize - 1;
    Change {
        org: 0,
        number,
        entity: CALL,
        kind: kind(seq),
        seq,
        phase: 2,
        due: START - LAG,
        sent: START,
        row: RowChange::default(),
    }
}

fn arrival(seq: u32) -> Arrival {
    let number = seq as usize - 1;
    Arrival { org: ORGS[0], entity: CALL, kind: kind(seq), number, seq, moved: None, at: START + LATENCY }
}

fn kind(seq: u32) -> ChangeKind {
    if seq == 1 { ChangeKind::Created } else { ChangeKind::Updated }
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
fn complete_delivery_in_order_has_no_finding() {
    let mut f = Fixture::joined("calls").commit(1000);
    for seq in 1..=1000 {
        assert!(!f.ledger.is_complete());
        assert_eq!(f.receive(seq), delivered(true));
    }
    assert!(f.ledger.is_complete());
    assert_eq!(f.tally(), [1000, 1000, 0, 0]);
    assert!(f.ledger.findings().is_empty());
}

#[test]
fn a_missing_event_is_found() {
    let mut f = Fixture::joined("org").commit(3);
    f.receive(1);
    f.receive(3);
    assert!(!f.ledger.is_complete());
    assert_eq!(f.tally(), [3, 2, 1, 0]);
    f.ledger.describe_missing(&f.subscription, String::new);
    let finding = &f.ledger.findings()[0];
    assert!(finding.starts_with("missing: entity") && finding.contains("change 2"), "{finding}");
}

#[test]
fn a_missing_event_is_found_after_many_later_events() {
    let mut f = Fixture::joined("calls").commit(2000);
    for seq in (1..=2000).filter(|seq| *seq != 700) {
        f.receive(seq);
    }
    assert_eq!(f.tally(), [2000, 1999, 1, 0]);
    assert!(!f.ledger.has_all_before(&f.subscription, usize::MAX));
    assert!(f.ledger.has_all_before(&f.subscription, 699));
}

#[test]
fn events_missing_at_the_beginning_are_found_after_many_later_events() {
    let mut f = Fixture::joined("calls").commit(2000);
    for seq in 513..=2000 {
        f.receive(seq);
    }
    assert_eq!(f.tally(), [2000, 1488, 512, 0]);
    assert!(!f.ledger.has_all_before(&f.subscription, 1));
    assert_eq!(f.receive(1), delivered(false), "late, but not a duplicate");
    assert_eq!(f.tally(), [2000, 1489, 511, 0]);
}

#[test]
fn an_open_transaction_keeps_the_ledger_incomplete() {
    let mut f = Fixture::joined("calls");
    f.ledger.announce(&change(1));
    assert!(!f.ledger.is_complete(), "its COMMIT is not answered");
    f.receive(1);
    f.ledger.set_outcome(0, 0, Outcome::Committed);
    assert!(f.ledger.is_complete());
    assert_eq!(f.tally(), [1, 1, 0, 0]);
}

#[test]
fn a_duplicate_is_found_and_does_not_hide_a_missing_event() {
    let mut f = Fixture::joined("calls").commit(2);
    f.receive(1);
    assert_eq!(f.receive(1), Verdict::Duplicate);
    assert!(!f.ledger.is_complete());
    assert_eq!(f.tally(), [2, 1, 1, 0]);
    assert_eq!(f.ledger.counts.duplicates, 1);
}

#[test]
fn a_duplicate_is_found_after_its_change_was_forgotten() {
    let mut f = Fixture::joined("calls").commit(1000);
    for seq in 1..=1000 {
        f.receive(seq);
    }
    for seq in [1, 64, 65, 500, 1000] {
        assert_eq!(f.receive(seq), Verdict::Duplicate, "{seq}");
    }
    f.change_at(1001, Outcome::Committed, START + 2 * REMEMBERED);
    assert_eq!(f.ledger.orgs[0].records.len(), 1);
    assert_eq!(f.receive(7), Verdict::Duplicate);
    assert_eq!(f.ledger.counts.duplicates, 6);
}

#[test]
fn a_missing_event_is_never_forgotten() {
    let mut f = Fixture::joined("calls").commit(2);
    f.receive(1);
    f.change_at(3, Outcome::Committed, START + 2 * REMEMBERED);
    assert_eq!(f.receive(2), delivered(true));
    assert_eq!(f.tally(), [3, 2, 1, 0]);
}

#[test]
fn an_event_of_another_organisation_is_a_leak() {
    let mut f = Fixture::joined("calls").commit(1);
    let leak = Arrival { org: ORGS[1], ..arrival(1) };
    assert_eq!(f.ledger.receive(&mut f.subscription, &leak, String::new), Verdict::CrossOrg);
    f.ledger.receive_unmatched("recording.created", true);
    assert_eq!(f.ledger.counts.cross_org, 2);
    assert_eq!(f.tally(), [1, 0, 1, 0]);
}

#[test]
fn a_wrong_order_is_found_across_a_gap() {
    let mut f = Fixture::joined("calls").commit(3);
    assert_eq!(f.receive(3), delivered(true));
    assert_eq!(f.receive(1), delivered(false));
    assert_eq!(f.receive(2), delivered(false));
    assert_eq!(f.ledger.counts.out_of_order, 2);
    assert_eq!(f.tally(), [3, 3, 0, 0]);
}

#[test]
fn order_is_checked_within_one_entity_only() {
    let mut f = Fixture::joined("calls").commit(1);
    let other = Uuid::from_u128(78);
    f.ledger.announce(&Change { entity: other, number: 1, ..change(1) });
    f.ledger.set_outcome(0, 1, Outcome::Committed);
    let second = Arrival { entity: other, number: 1, ..arrival(1) };
    assert_eq!(f.ledger.receive(&mut f.subscription, &second, String::new), delivered(true));
    assert_eq!(f.receive(1), delivered(true));
}

#[test]
fn an_event_that_matches_no_announced_change_is_unexpected() {
    let mut f = Fixture::joined("calls").commit(2);
    let wrong = [
        Arrival { number: 9, ..arrival(2) },
        Arrival { entity: Uuid::from_u128(5), ..arrival(2) },
        Arrival { kind: ChangeKind::Created, ..arrival(2) },
        Arrival { seq: 1, ..arrival(2) },
    ];
    for arrival in &wrong {
        assert_eq!(f.ledger.receive(&mut f.subscription, arrival, String::new), Verdict::Unexpected);
    }
    assert!(!f.ledger.knows(0, 9) && f.ledger.knows(0, 1));
    assert_eq!(f.ledger.counts.unexpected, 4);
}

#[test]
fn a_topic_without_changes_expects_nothing() {
    let mut f = Fixture::joined("recordings").commit(2);
    assert_eq!(f.tally(), [0; 4]);
    assert!(f.ledger.is_complete() && f.ledger.has_all_before(&f.subscription, usize::MAX));
    assert_eq!(f.receive(1), Verdict::Unexpected);
}

#[test]
fn a_rolled_back_change_must_not_arrive_and_an_unknown_one_may() {
    let mut f = Fixture::joined("calls");
    f.change(1, Outcome::Unknown);
    f.change(2, Outcome::RolledBack);
    assert_eq!(f.tally(), [0; 4]);
    f.receive(1);
    assert_eq!(f.tally(), [0; 4]);
    f.receive(2);
    assert_eq!(f.tally(), [0, 0, 0, 1]);
}

#[test]
fn an_unknown_outcome_can_be_resolved_later() {
    let mut f = Fixture::joined("calls");
    f.change(1, Outcome::Unknown);
    f.change(2, Outcome::Unknown);
    f.receive(1);
    f.ledger.set_outcome(0, 0, Outcome::Committed);
    f.ledger.set_outcome(0, 1, Outcome::Committed);
    assert_eq!(f.tally(), [2, 1, 1, 0]);
    let mut f = Fixture::joined("calls");
    f.change(1, Outcome::Unknown);
    f.receive(1);
    f.ledger.set_outcome(0, 0, Outcome::RolledBack);
    assert_eq!(f.tally(), [0, 0, 0, 1]);
}

#[test]
fn each_subscription_of_the_organisation_expects_a_delivery() {
    let mut f = Fixture::joined("calls");
    f.ledger.add_subscription(&mut Subscription::new(0, "org", None));
    f.ledger.add_subscription(&mut Subscription::new(1, "calls", None));
    let f = f.commit(5);
    assert_eq!(f.ledger.counts.expected, 10);
}

#[test]
fn a_late_subscription_may_receive_earlier_changes_and_must_receive_later_ones() {
    let mut f = Fixture::joined("calls").commit(3);
    let mut late = Subscription::new(0, "calls", None);
    f.ledger.add_subscription(&mut late);
    f.change(4, Outcome::Committed);
    assert_eq!(f.tally()[0], 5, "three for one subscription, and the fourth for both");
    // The third change was announced before the join, so it is optional. The fourth is required. Neither may
    // come twice.
    for (seq, all) in [(3, false), (4, true)] {
        assert_eq!(f.ledger.receive(&mut late, &arrival(seq), String::new), delivered(true));
        assert_eq!(f.ledger.has_all_before(&late, usize::MAX), all);
        assert_eq!(f.ledger.receive(&mut late, &arrival(seq), String::new), Verdict::Duplicate);
    }
    assert_eq!(f.tally(), [5, 1, 4, 0]);
    // An optional event after a later change of its call is out of order all the same.
    assert_eq!(f.ledger.receive(&mut late, &arrival(2), String::new), delivered(false));
}

#[test]
fn a_leaving_subscription_must_receive_earlier_changes_only() {
    let mut f = Fixture::joined("calls").commit(2);
    f.receive(1);
    f.ledger.end_subscription(&mut f.subscription);
    f.change(3, Outcome::Committed);
    assert_eq!(f.tally(), [2, 1, 1, 0]);
    assert!(!f.ledger.has_all_before(&f.subscription, usize::MAX));
    f.receive(3);
    assert!(
        !f.ledger.has_all_before(&f.subscription, usize::MAX),
        "an optional event replaces no required one"
    );
    f.receive(2);
    assert!(f.ledger.has_all_before(&f.subscription, usize::MAX));
    assert_eq!(f.tally(), [2, 2, 0, 0]);
}

#[test]
fn a_subscription_that_ends_twice_is_subtracted_once() {
    let mut f = Fixture::joined("calls").commit(2);
    f.ledger.end_subscription(&mut f.subscription);
    f.ledger.add_subscription(&mut Subscription::new(0, "calls", None));
    // A socket that breaks while it leaves ends its subscription a second time.
    f.ledger.end_subscription(&mut f.subscription);
    f.change(3, Outcome::Committed);
    assert_eq!(f.tally()[0], 3);
}

#[test]
fn events_missed_during_a_storm_must_arrive_once_and_in_order() {
    let mut f = Fixture::joined("calls").commit(2);
    f.receive(1);
    f.receive(2);
    // The socket is away, but changes are required all the same.
    for seq in 3..=5 {
        f.change(seq, Outcome::Committed);
    }
    let caught_up_at = f.ledger.end(0);
    assert_eq!(f.tally(), [5, 2, 3, 0]);
    // Reconnected with a cursor that was too old, the socket receives the second change again.
    assert_eq!(f.receive(2), Verdict::Duplicate);
    f.receive(3);
    f.change(6, Outcome::Committed);
    // A live event overtakes missed ones.
    f.receive(6);
    assert_eq!(f.receive(4), delivered(false));
    assert!(!f.ledger.has_all_before(&f.subscription, caught_up_at));
    f.receive(5);
    assert!(f.ledger.has_all_before(&f.subscription, caught_up_at));
    assert_eq!(f.tally(), [6, 6, 0, 0]);
    assert_eq!((f.ledger.counts.duplicates, f.ledger.counts.out_of_order), (1, 2));
}

#[test]
fn an_event_lost_in_a_storm_is_missing() {
    let mut f = Fixture::joined("calls").commit(1);
    f.receive(1);
    f.change(2, Outcome::Committed);
    f.change(3, Outcome::Committed);
    f.receive(3);
    assert_eq!(f.tally(), [3, 2, 1, 0]);
    assert!(!f.ledger.is_complete());
}

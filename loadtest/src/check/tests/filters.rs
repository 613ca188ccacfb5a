//! Subscriptions with a filter.

use super::*;
use crate::filters::{Moved, Row};

/// Agents of a call before and after each of its changes.
const AGENTS: [[Option<u32>; 2]; 5] =
    [[None, Some(1)], [Some(1), Some(1)], [Some(1), Some(2)], [Some(2), Some(5)], [Some(5), Some(1)]];

/// A subscription to the rows of agent 1, and committed changes of a call.
fn filtered() -> Fixture {
    let mut f = Fixture::joined_with("calls", Some(Filter(1)));
    for (seq, agents) in (1..).zip(AGENTS) {
        let [before, after] = agents.map(|agent| agent.map(|agent| Row { agent, status: 0 }));
        let change = Change { row: RowChange { before, after }, ..change(seq) };
        f.ledger.announce(&change);
        f.ledger.set_outcome(0, change.number, Outcome::Committed);
    }
    f
}

#[test]
fn a_filter_requires_the_changes_that_it_selects() {
    let mut f = filtered();
    assert_eq!(f.tally(), [4, 0, 4, 0]);
    for (seq, moved) in [(1, None), (2, None), (3, Some(Moved::Left)), (5, Some(Moved::Entered))] {
        assert!(!f.ledger.is_complete());
        let arrival = Arrival { moved, ..arrival(seq) };
        assert_eq!(f.ledger.receive(&mut f.subscription, &arrival, String::new), delivered(true));
    }
    assert!(f.ledger.is_complete() && f.ledger.has_all_before(&f.subscription, usize::MAX));
    assert_eq!((f.ledger.counts.entered, f.ledger.counts.left), (1, 1));
    assert!(f.ledger.findings().is_empty());
}

#[test]
fn an_event_that_a_filter_does_not_select_is_unexpected() {
    let mut f = filtered();
    for (seq, moved) in [(4, None), (4, Some(Moved::Left)), (1, Some(Moved::Entered)), (3, None), (5, None)] {
        let arrival = Arrival { moved, ..arrival(seq) };
        let verdict = f.ledger.receive(&mut f.subscription, &arrival, String::new);
        assert_eq!(verdict, Verdict::Unexpected, "{seq} {moved:?}");
    }
    f.ledger.describe_missing(&f.subscription, String::new);
    assert_eq!((f.ledger.counts.unexpected, f.tally()), (5, [4, 0, 4, 0]));
    let finding = f.ledger.findings().last().expect("one");
    assert!(finding.starts_with("missing: entity") && finding.contains("change 1"), "{finding}");
}

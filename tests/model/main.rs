//! A model of the event log's protocol. The tests visit every state that the model can reach.
//!
//! | file | contents |
//! |---|---|
//! | `state` | the state of database, tailers and client, and the parameters of a run |
//! | `writers` | `warden.events`, `warden.ring()`, commits as PostgreSQL performs them, crashes |
//! | `tailers` | `Doorbell::listen`, `LogReader`, `LogTailer::poll`, `LogTailer::wait` |
//! | `clients` | a client that joins, receives missed events, and disconnects: `session::resume`, `Replay` |
//! | `explore` | the search |
//!
//! The model claims three properties:
//!
//! - **Safety.** No tailer dispatches an event twice, and it has dispatched every event that its point
//!   covers. No client receives an event twice, and it has received every event that its cursor covers.
//! - **Liveness with the poll.** From every state, every tailer dispatches every committed event, whatever
//!   was lost.
//! - **Liveness without the poll.** If no ring is lost, the doorbell, the retries and the silencing protocol
//!   achieve the same alone. So one second, the interval of the poll, is not the usual latency.
//!
//! Liveness must not depend on steps that are left to chance (see `explore`), so it holds for every fair run.
//!
//! The model covers
//! - up to four transactions, which get ids in one order and commit in another, roll back, never ring
//!   (immediate constraints, two-phase), or fail in their commit;
//! - PostgreSQL's order of commit (visible, lock released, listeners signalled), and its snapshots, which
//!   list no transaction at or above `xmax`;
//! - crashes, after which transaction ids and sequence values are assigned again;
//! - lost rings, lost connections, and tailers that start late;
//! - pages;
//! - up to two tailers that silence the doorbell;
//! - a client that joins one of two nodes up to three times, even between pages, and disconnects after any
//!   event.
//!
//! The model does not cover
//! - time, and so not how late an event is;
//! - epochs, retention and subtransactions;
//! - whether a replay comes from memory or from the log;
//! - a full notification queue, and other clients that hold the doorbell lock: both act like a lost ring.
//!
//! The model assumes PostgreSQL's guarantee that nobody reads rows of an aborted transaction. A transaction
//! with `synchronous_commit = off` breaks safety if the server crashes, which one of the tests shows.
//!
//! `CURRENT` lists the details of the product on which the properties depend. Change it together with the
//! product. `cargo test --test model -- --nocapture` prints the number of states, and the schedule of each
//! expected counterexample.

mod clients;
mod explore;
mod state;
mod tailers;
mod writers;

use std::time::Instant;

use explore::{Model, Next, Outcome, explore};
use state::{
    Client, DoorbellState, Kind, Mutation, Phase, Point, Product, Restoration, Script, Session, Setup, Stage,
    State,
};

/// The name of a step: the kind of actor, its number, and what it does.
#[derive(Clone, Copy)]
pub(crate) struct Action(pub(crate) &'static str, pub(crate) usize, pub(crate) &'static str);

impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.0, self.1, self.2)
    }
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn start(&self) -> State {
        State::new(self)
    }

    fn steps(&self, state: &State, into: &mut Vec<Next<State, Action>>) {
        writers::steps(self, state, into);
        tailers::steps(self, state, into);
        clients::steps(self, state, into);
    }

    /// Checks safety. A tailer never reads a committed event again that its point covers.
    fn check(&self, state: &State) -> Result<(), String> {
        for row in state.rows() {
            let Client { cursor, received, .. } = state.client;
            if cursor.covers(row.xid, row.id) && received & row.bit == 0 {
                return Err(format!("the client never receives event {} of transaction {}", row.id, row.xid));
            }
            for (n, tailer) in state.tailers[..self.tailers].iter().enumerate() {
                let is_covered = !tailers::is_new(self.mutation, tailer.point, &row);
                if tailer.phase != Phase::Off && is_covered && tailer.dispatched & row.bit == 0 {
                    return Err(format!(
                        "tailer {n} never reads event {} of transaction {}",
                        row.id, row.xid
                    ));
                }
            }
        }
        Ok(())
    }

    fn is_complete(&self, state: &State) -> bool {
        let all = state.rows().iter().fold(0, |all, row| all | row.bit);
        state.txs[..self.txs.len()].iter().all(|tx| matches!(tx.stage, Stage::Committed | Stage::Gone))
            && state.tailers[..self.tailers]
                .iter()
                .all(|r| r.phase != Phase::Off && r.dispatched & all == all)
            && (self.joins == 0
                || (matches!(state.client.session, Session::Live { .. })
                    && state.client.received & all == all))
    }
}

/// The details of the product as it is.
const CURRENT: Product = SOUND;

/// The details that the doorbell needs to lose no event.
const SOUND: Product =
    Product { checks_beyond_xmax: true, restoration: Restoration::Rings, starts_maybe_silenced: true };

const PLAIN: Script = Script { kind: Kind::Plain, events: 1, after: None };
const LARGE: Script = Script { events: 2, ..PLAIN };
const IMMEDIATE: Script = Script { kind: Kind::Immediate, ..PLAIN };
const TWO_PHASE: Script = Script { kind: Kind::TwoPhase, ..PLAIN };
const ASYNCHRONOUS: Script = Script { kind: Kind::Asynchronous, ..PLAIN };
const SECOND: Script = Script { after: Some(0), ..PLAIN };

/// Two writers and one tailer, without faults and without the poll.
const BASE: Setup = Setup {
    txs: &[PLAIN, PLAIN],
    tailers: 1,
    page: 0,
    aborts: true,
    late_aborts: false,
    crashes: 0,
    lost_rings: 0,
    doorbell_disconnects: 0,
    disconnects: 0,
    joins: 0,
    late_start: false,
    doorbells: [DoorbellState::Rings; 2],
    overruns: 0,
    coarse: false,
    early_delivery: false,
    poll: false,
    mutation: Mutation::None,
    product: SOUND,
};

/// Two tailers.
const TWO_TAILERS: Setup = Setup { tailers: 2, coarse: true, aborts: false, ..BASE };
/// One tailer silences the doorbell, and the other has been notified.
const SILENCED: Setup = Setup {
    txs: &[PLAIN],
    doorbells: [DoorbellState::Silenced, DoorbellState::MaybeSilenced],
    ..TWO_TAILERS
};
/// One tailer is about to silence the doorbell.
const SILENCING: Setup = Setup {
    txs: &[PLAIN, SECOND],
    doorbells: [DoorbellState::MaybeSilenced, DoorbellState::Rings],
    ..TWO_TAILERS
};
/// Reads of several pages.
const PAGED: Setup = Setup { txs: &[LARGE, LARGE, PLAIN], page: 1, aborts: false, coarse: true, ..BASE };
/// The server may crash, and the poll exists.
const CRASHING: Setup = Setup { crashes: 1, poll: true, ..BASE };

/// A client disconnects from and resumes at one node, which reads several pages.
const ONE_NODE: Setup = Setup { joins: 3, ..PAGED };
/// A client disconnects from and resumes at two nodes.
const TWO_NODES: Setup = Setup { txs: &[LARGE, PLAIN], tailers: 2, joins: 2, ..PAGED };

fn outcome_of(name: &str, setup: &Setup) -> Outcome {
    let began = Instant::now();
    let report = explore(setup);
    println!("{name}: {} states, {} steps, {:.1?}", report.states, report.steps, began.elapsed());
    report.outcome
}

#[track_caller]
fn assert_holds(name: &str, setup: &Setup) {
    let outcome = outcome_of(name, setup);
    assert!(matches!(outcome, Outcome::Holds), "{name}: {outcome:#?}");
}

#[track_caller]
fn assert_stuck(name: &str, setup: &Setup) {
    match outcome_of(name, setup) {
        Outcome::Stuck { schedule } => println!("  stuck after\n    {}", schedule.join("\n    ")),
        outcome => panic!("{name}: expected to get stuck: {outcome:#?}"),
    }
}

#[track_caller]
fn assert_broken(name: &str, setup: &Setup) {
    match outcome_of(name, setup) {
        Outcome::Broken { what, schedule } => println!("  {what}:\n    {}", schedule.join("\n    ")),
        outcome => panic!("{name}: expected to violate safety: {outcome:#?}"),
    }
}

#[test]
fn points_cover_the_same_events_as_in_the_product() {
    use warden::cursor;
    for (xmax, list, max_id) in
        (1..6_u8).flat_map(|x| (0..64_u16).flat_map(move |l| (0..4).map(move |m| (x, l, m))))
    {
        let in_progress = list & ((1 << xmax) - 1) & !1;
        let model = Point { xmax, in_progress, max_id };
        let listed: Vec<u64> = (1..xmax).filter(|xid| in_progress & (1 << xid) != 0).map(u64::from).collect();
        let xmin = listed.first().copied().unwrap_or(xmax.into());
        let snapshot = cursor::Snapshot { xmin, xmax: xmax.into(), in_progress: listed };
        let product = cursor::Point { snapshot, max_id: max_id.into() };
        for (xid, id) in (1..8_u8).flat_map(|xid| (1..6_u8).map(move |id| (xid, id))) {
            assert_eq!(model.covers(xid, id), product.covers(xid.into(), id.into()), "{model:?} {xid} {id}");
        }
    }
}

#[test]
fn the_poll_finds_every_event_and_none_twice() {
    assert_holds("crash, two writers", &CRASHING);
    let three = Setup { txs: &[PLAIN, SECOND, PLAIN], coarse: true, aborts: false, ..CRASHING };
    assert_holds("crash, three transactions of two writers", &three);
    assert_holds("two crashes", &Setup { txs: &[PLAIN, SECOND], crashes: 2, ..CRASHING });
    assert_holds("crash, silent transactions", &Setup { txs: &[IMMEDIATE, TWO_PHASE], ..CRASHING });
    assert_holds("pages", &PAGED);
    assert_holds("pages, crash", &Setup { txs: &[LARGE, LARGE], crashes: 1, poll: true, ..PAGED });
}

#[test]
fn the_current_product_finds_every_event_with_the_poll() {
    let faulty = Setup { product: CURRENT, lost_rings: 1, overruns: 1, late_aborts: true, ..CRASHING };
    assert_holds("current product, all faults", &Setup { coarse: true, ..faulty });
    let pair = Setup { product: CURRENT, poll: true, ..SILENCED };
    assert_holds("current product, two tailers", &Setup { disconnects: 1, ..pair });
    assert_holds("current product, a tailer starts late", &Setup { late_start: true, lost_rings: 1, ..pair });
}

#[test]
fn clients_that_resume_between_pages_lose_no_event() {
    assert_holds("one node", &ONE_NODE);
    assert_holds("one node, crash", &Setup { txs: &[LARGE, PLAIN], crashes: 1, poll: true, ..ONE_NODE });
    assert_holds(
        "one node, its connection is lost",
        &Setup { txs: &[LARGE, PLAIN], disconnects: 1, ..ONE_NODE },
    );
    assert_holds("two nodes", &TWO_NODES);
    assert_holds("two nodes, three joins", &Setup { joins: 3, ..TWO_NODES });
}

#[test]
fn deliberate_errors_in_joining_are_found() {
    let with = |mutation, setup: Setup| Setup { mutation, ..setup };
    assert_broken("join at a node that is behind", &with(Mutation::JoinWithoutWaiting, TWO_NODES));
    assert_broken(
        "a node is reached by the target of its pages",
        &with(Mutation::ReachedByTarget, TWO_NODES),
    );
    assert_broken("join at the target of the pages", &with(Mutation::JoinAtTarget, ONE_NODE));
    assert_broken("replay in two parts", &with(Mutation::TwoParts, ONE_NODE));
}

#[test]
fn the_doorbell_loses_no_event() {
    assert_holds("two writers", &BASE);
    assert_holds("three writers", &Setup { txs: &[PLAIN; 3], ..BASE });
    assert_holds("three transactions of two writers", &Setup { txs: &[PLAIN, SECOND, PLAIN], ..BASE });
    assert_holds("three writers, two tailers", &Setup { txs: &[PLAIN; 3], aborts: true, ..TWO_TAILERS });
    assert_holds("overrun", &Setup { overruns: 1, ..TWO_TAILERS });
    assert_holds("overrun twice, one tailer", &Setup { txs: &[PLAIN; 3], overruns: 2, coarse: true, ..BASE });
}

#[test]
fn silencing_the_doorbell_loses_no_event() {
    assert_holds("silenced", &SILENCED);
    assert_holds("silenced, two events", &Setup { txs: &[PLAIN, SECOND], ..SILENCED });
    assert_holds("silencing", &SILENCING);
    assert_holds("a tailer starts late", &Setup { late_start: true, ..SILENCED });
    assert_holds("connections are lost", &Setup { disconnects: 1, doorbell_disconnects: 1, ..SILENCED });
    let takes_lock = Product { restoration: Restoration::TakesLock, ..SOUND };
    assert_holds(
        "silenced, one tailer, no ring on restoring",
        &Setup { tailers: 1, product: takes_lock, ..SILENCED },
    );
    let reads_lock = Product { restoration: Restoration::ReadsLock, ..SOUND };
    assert_holds("silenced, lock only read", &Setup { product: reads_lock, ..SILENCED });
    assert_holds("silencing, lock only read", &Setup { product: reads_lock, ..SILENCING });
}

#[test]
fn a_silencing_tailer_that_disconnects_loses_no_event() {
    assert_holds("a silencing tailer loses its connection", &Setup { disconnects: 1, ..SILENCING });
}

#[test]
fn every_detail_of_the_product_is_needed() {
    let ignores_beyond_xmax = Product { checks_beyond_xmax: false, ..SOUND };
    assert_stuck("no check beyond xmax", &Setup { product: ignores_beyond_xmax, ..BASE });
    let takes_lock = Product { restoration: Restoration::TakesLock, ..SOUND };
    assert_stuck("restoring without a ring", &Setup { product: takes_lock, ..SILENCED });
    let assumes_rings = Product { starts_maybe_silenced: false, ..SOUND };
    assert_stuck(
        "a new connection assumes that the doorbell rings",
        &Setup { product: assumes_rings, disconnects: 1, ..SILENCING },
    );
}

#[test]
fn some_events_are_found_by_the_poll_alone() {
    let known = [
        ("a ring is lost", Setup { lost_rings: 1, ..BASE }),
        ("immediate constraints", Setup { txs: &[PLAIN, IMMEDIATE], ..BASE }),
        ("two-phase", Setup { txs: &[PLAIN, TWO_PHASE], ..BASE }),
        ("the ringing transaction fails in its commit", Setup { late_aborts: true, ..BASE }),
        ("the ring arrives before the lock is released", Setup { early_delivery: true, ..BASE }),
    ];
    for (name, setup) in known {
        assert_stuck(name, &setup);
        assert_holds("  with the poll", &Setup { poll: true, ..setup });
    }
}

#[test]
fn asynchronous_commits_break_safety() {
    assert_broken("asynchronous commit", &Setup { txs: &[ASYNCHRONOUS, SECOND], ..CRASHING });
}

#[test]
fn deliberate_errors_are_found() {
    let with = |mutation, setup: Setup| Setup { mutation, ..setup };
    assert_broken("id > last", &with(Mutation::IdOnly, BASE));
    assert_broken("without id > m", &with(Mutation::SnapshotOnly, CRASHING));
    assert_broken("unfiltered pages", &with(Mutation::UnfilteredPages, PAGED));
    assert_stuck("no retry", &with(Mutation::NoRetry, BASE));
    assert_stuck("lock kept until delivery", &with(Mutation::UnlockAfterDelivery, BASE));
    assert_stuck("no check for other silencing tailers", &with(Mutation::NoCheckForOthers, SILENCED));
    // A ring on restoring hides these errors, so it is left out.
    let reads_lock = Product { restoration: Restoration::ReadsLock, ..SOUND };
    assert_stuck(
        "no poll after silence",
        &with(Mutation::NoPollAfterSilence, Setup { product: reads_lock, ..SILENCED }),
    );
    assert_stuck(
        "silenced without a notification",
        &with(Mutation::NoNotification, Setup { product: reads_lock, ..SILENCING }),
    );
    assert_stuck(
        "notification before the lock",
        &with(Mutation::NotificationBeforeLock, Setup { product: reads_lock, ..SILENCING }),
    );
}

/// Keeping the lock beyond the commit reduces the number of rings, and is not needed for safety. A
/// transaction that does not get the lock has its transaction id before the ringing transaction becomes
/// visible, in either case.
#[test]
fn releasing_the_lock_before_the_commit_loses_no_event() {
    let early = Setup { mutation: Mutation::UnlockBeforeCommit, early_delivery: true, ..BASE };
    assert_holds("lock released before the commit", &early);
    assert_holds("lock released before the commit, three writers", &Setup { txs: &[PLAIN; 3], ..early });
}

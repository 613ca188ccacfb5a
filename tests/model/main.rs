//! A model of the event log's protocol, checked by looking at every state that it can get into.
//!
//! | file | has |
//! |---|---|
//! | `state` | the state of the database and the readers, and what a run can vary |
//! | `writers` | `warden.events`, `warden.ring()`, commits as PostgreSQL does them, crashes |
//! | `readers` | `Doorbell::listen`, `LogReader`, `Source::read`, `Source::wait` |
//! | `clients` | a client that joins, is told what it missed, and goes away again: `session::resume`, `Replay` |
//! | `explore` | the search |
//!
//! Three things are claimed. **Safe**: no reader passes an event on twice, and whatever its point covers it has
//! passed on; no client gets an event twice, and whatever its cursor covers it has got. **Live with the poll**: from every state every reader gets everything that is committed, whatever was
//! lost. **Live without the poll**: the same by the bell, the retries and the protocol of silence alone,
//! where no ring is lost; so the poll's second is not the usual latency. Both kinds of liveness are judged
//! without the help of anything that is left to chance (see `explore`), hence for every fair run.
//!
//! Covered: up to four transactions, which get ids in one order and commit in another, roll back, never ring
//! (immediate constraints, two-phase), or fail in their commit; PostgreSQL's order of *visible, lock given back,
//! listeners signalled*, and its snapshots, which list nothing from `xmax` on; crashes that hand
//! transaction ids and sequence values out again; rings lost, connections lost, readers that start late; pages; up to
//! two readers that silence the bell; a client that joins any of two nodes up to three times, between pages too, and goes
//! away after any event.
//!
//! Not covered: time, so also how late is late; epochs; where a client's missed events come from; retention; subtransactions; a queue of
//! notifications that fills up, and strangers with the bell's lock (both are like a lost ring). That nothing of an
//! aborted transaction is ever read is PostgreSQL's promise, and assumed. A transaction with
//! `synchronous_commit = off` voids the promise of safety once the server crashes (a test shows it).
//!
//! `TODAY` says which details the product has; a change of the product changes it here. `cargo test --test model --
//! --nocapture` prints sizes, and the schedule of each counterexample that a test expects.

mod clients;
mod explore;
mod readers;
mod state;
mod writers;

use std::time::Instant;

use explore::{Model, Next, Outcome, explore};
use state::{
    Bell, Client, Kind, Mutation, Phase, Point, Product, Restoring, Script, Session, Setup, Stage, State,
};

/// What is done, and the number of who does it.
#[derive(Clone, Copy)]
pub(crate) struct Action(pub(crate) &'static str, pub(crate) usize);

impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.0, self.1)
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
        readers::steps(self, state, into);
        clients::steps(self, state, into);
    }

    /// A committed event that a reader's point covers will not be looked for again.
    fn check(&self, state: &State) -> Result<(), String> {
        for row in state.rows() {
            let Client { cursor, got, .. } = state.client;
            if cursor.covers(row.xid, row.id) && got & row.bit == 0 {
                return Err(format!("a client never gets event {} of xid {}", row.id, row.xid));
            }
            for (n, reader) in state.readers[..self.readers].iter().enumerate() {
                let is_behind = !readers::is_new(self.mutation, reader.point, &row);
                if reader.phase != Phase::Off && is_behind && reader.got & row.bit == 0 {
                    return Err(format!("reader {n} never gets event {} of xid {}", row.id, row.xid));
                }
            }
        }
        Ok(())
    }

    fn is_complete(&self, state: &State) -> bool {
        let all = state.rows().iter().fold(0, |all, row| all | row.bit);
        state.txs[..self.txs.len()].iter().all(|tx| matches!(tx.stage, Stage::Committed | Stage::Gone))
            && state.readers[..self.readers].iter().all(|r| r.phase != Phase::Off && r.got & all == all)
            && (self.joins == 0
                || (matches!(state.client.session, Session::Live { .. }) && state.client.got & all == all))
    }
}

/// The product as it is.
const TODAY: Product = SOUND;

/// The product as it has to be for the bell to lose nothing.
const SOUND: Product = Product { looks_beyond_xmax: true, restoring: Restoring::Rings, starts_unsure: true };

const PLAIN: Script = Script { kind: Kind::Plain, events: 1, after: None };
const LARGE: Script = Script { events: 2, ..PLAIN };
const IMMEDIATE: Script = Script { kind: Kind::Immediate, ..PLAIN };
const TWO_PHASE: Script = Script { kind: Kind::TwoPhase, ..PLAIN };
const ASYNCHRONOUS: Script = Script { kind: Kind::Asynchronous, ..PLAIN };
const SECOND: Script = Script { after: Some(0), ..PLAIN };

/// Two writers and a reader, all well, no poll.
const QUIET: Setup = Setup {
    txs: &[PLAIN, PLAIN],
    readers: 1,
    page: 0,
    aborts: true,
    late_aborts: false,
    crashes: 0,
    losses: 0,
    relistens: 0,
    breaks: 0,
    joins: 0,
    late_start: false,
    bells: [Bell::Rings; 2],
    overruns: 0,
    coarse: false,
    early_hearing: false,
    poll: false,
    mutation: Mutation::None,
    product: SOUND,
};

/// Two readers.
const PAIR: Setup = Setup { readers: 2, coarse: true, aborts: false, ..QUIET };
/// One of them silences the bell, the other knows.
const SILENT: Setup = Setup { txs: &[PLAIN], bells: [Bell::Silenced, Bell::MaybeSilent], ..PAIR };
/// One of them is about to silence the bell.
const SILENCING: Setup = Setup { txs: &[PLAIN, SECOND], bells: [Bell::MaybeSilent, Bell::Rings], ..PAIR };
/// Reads of more than a page.
const PAGES: Setup = Setup { txs: &[LARGE, LARGE, PLAIN], page: 1, aborts: false, coarse: true, ..QUIET };
/// The server may crash, and the poll is there.
const ROUGH: Setup = Setup { crashes: 1, poll: true, ..QUIET };

/// A client comes and goes at one node, or at two, which read what is more than a page.
const COMING: Setup = Setup { joins: 3, ..PAGES };
const GOING: Setup = Setup { txs: &[LARGE, PLAIN], readers: 2, joins: 2, ..PAGES };

fn outcome_of(name: &str, setup: &Setup) -> Outcome {
    let began = Instant::now();
    let report = explore(setup);
    println!("{name}: {} states, {} steps, {:.1?}", report.states, report.steps, began.elapsed());
    report.outcome
}

#[track_caller]
fn holds(name: &str, setup: &Setup) {
    let outcome = outcome_of(name, setup);
    assert!(matches!(outcome, Outcome::Holds), "{name}: {outcome:#?}");
}

#[track_caller]
fn gets_stuck(name: &str, setup: &Setup) {
    match outcome_of(name, setup) {
        Outcome::Stuck { schedule } => println!("  is stuck after\n    {}", schedule.join("\n    ")),
        outcome => panic!("{name}: should be stuck: {outcome:#?}"),
    }
}

#[track_caller]
fn breaks(name: &str, setup: &Setup) {
    match outcome_of(name, setup) {
        Outcome::Broken { what, schedule } => println!("  {what}:\n    {}", schedule.join("\n    ")),
        outcome => panic!("{name}: should break: {outcome:#?}"),
    }
}

#[test]
fn the_points_are_those_of_the_product() {
    use warden::log::cursor;
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
fn nothing_is_lost_or_doubled_and_the_poll_finds_everything() {
    holds("crash, two writers", &ROUGH);
    let three = Setup { txs: &[PLAIN, SECOND, PLAIN], coarse: true, aborts: false, ..ROUGH };
    holds("crash, three transactions of two writers", &three);
    holds("two crashes", &Setup { txs: &[PLAIN, SECOND], crashes: 2, ..ROUGH });
    holds("crash, never ringing", &Setup { txs: &[IMMEDIATE, TWO_PHASE], ..ROUGH });
    holds("pages", &PAGES);
    holds("pages, crash", &Setup { txs: &[LARGE, LARGE], crashes: 1, poll: true, ..PAGES });
}

#[test]
fn the_product_of_today_finds_everything_with_the_poll() {
    let rough = Setup { product: TODAY, losses: 1, overruns: 1, late_aborts: true, ..ROUGH };
    holds("today, rough", &Setup { coarse: true, ..rough });
    let pair = Setup { product: TODAY, poll: true, ..SILENT };
    holds("today, two readers", &Setup { breaks: 1, ..pair });
    holds("today, a reader starts late", &Setup { late_start: true, losses: 1, ..pair });
}

#[test]
fn clients_that_come_and_go_between_pages_lose_nothing() {
    holds("one node", &COMING);
    holds("one node, crash", &Setup { txs: &[LARGE, PLAIN], crashes: 1, poll: true, ..COMING });
    holds("one node, its connection breaks", &Setup { txs: &[LARGE, PLAIN], breaks: 1, ..COMING });
    holds("two nodes", &GOING);
    holds("two nodes, three joins", &Setup { joins: 3, ..GOING });
}

#[test]
fn errors_of_joining_are_found() {
    let with = |mutation, setup: Setup| Setup { mutation, ..setup };
    breaks("joins a node that is behind", &with(Mutation::JoinsAhead, GOING));
    breaks("reaches by the end of the pages", &with(Mutation::ReachesByEnd, GOING));
    breaks("joins at the end of the pages", &with(Mutation::JoinsAtEnd, COMING));
    breaks("two parts", &with(Mutation::TwoParts, COMING));
}

#[test]
fn the_bell_loses_nothing() {
    holds("two writers", &QUIET);
    holds("three writers", &Setup { txs: &[PLAIN; 3], ..QUIET });
    holds("three transactions of two writers", &Setup { txs: &[PLAIN, SECOND, PLAIN], ..QUIET });
    holds("three writers, two readers", &Setup { txs: &[PLAIN; 3], aborts: true, ..PAIR });
    holds("overrun", &Setup { overruns: 1, ..PAIR });
    holds("overrun twice, one reader", &Setup { txs: &[PLAIN; 3], overruns: 2, coarse: true, ..QUIET });
}

#[test]
fn silence_loses_nothing() {
    holds("silent", &SILENT);
    holds("silent, two events", &Setup { txs: &[PLAIN, SECOND], ..SILENT });
    holds("silencing", &SILENCING);
    holds("a reader starts late", &Setup { late_start: true, ..SILENT });
    holds("connections are lost", &Setup { breaks: 1, relistens: 1, ..SILENT });
    let locks = Product { restoring: Restoring::Locks, ..SOUND };
    holds("silent, alone, no ring on restoring", &Setup { readers: 1, product: locks, ..SILENT });
    let peeks = Product { restoring: Restoring::Peeks, ..SOUND };
    holds("silent, peeking", &Setup { product: peeks, ..SILENT });
    holds("silencing, peeking", &Setup { product: peeks, ..SILENCING });
}

#[test]
fn a_reader_that_goes_away_silent_loses_nothing() {
    holds("a silencer loses its connection", &Setup { breaks: 1, ..SILENCING });
}

#[test]
fn each_detail_of_the_product_is_needed() {
    let blind = Product { looks_beyond_xmax: false, ..SOUND };
    gets_stuck("without a look beyond xmax", &Setup { product: blind, ..QUIET });
    let mute = Product { restoring: Restoring::Locks, ..SOUND };
    gets_stuck("restoring without a ring", &Setup { product: mute, ..SILENT });
    let sure = Product { starts_unsure: false, ..SOUND };
    gets_stuck("starting sure of the bell", &Setup { product: sure, breaks: 1, ..SILENCING });
}

#[test]
fn some_things_only_the_poll_finds() {
    let known = [
        ("a ring is lost", Setup { losses: 1, ..QUIET }),
        ("immediate constraints", Setup { txs: &[PLAIN, IMMEDIATE], ..QUIET }),
        ("two-phase", Setup { txs: &[PLAIN, TWO_PHASE], ..QUIET }),
        ("the ringer fails in its commit", Setup { late_aborts: true, ..QUIET }),
        ("the ring is heard before the lock is given back", Setup { early_hearing: true, ..QUIET }),
    ];
    for (name, setup) in known {
        gets_stuck(name, &setup);
        holds("  with the poll", &Setup { poll: true, ..setup });
    }
}

#[test]
fn asynchronous_commits_void_the_promise() {
    breaks("asynchronous", &Setup { txs: &[ASYNCHRONOUS, SECOND], ..ROUGH });
}

#[test]
fn errors_are_found() {
    let with = |mutation, setup: Setup| Setup { mutation, ..setup };
    breaks("id > last", &with(Mutation::IdAlone, QUIET));
    breaks("without id > m", &with(Mutation::SnapshotAlone, ROUGH));
    breaks("pages unfiltered", &with(Mutation::PagesUnfiltered, PAGES));
    gets_stuck("no retry", &with(Mutation::NoRetry, QUIET));
    gets_stuck("unlocked after hearing", &with(Mutation::UnlockAfterHearing, QUIET));
    gets_stuck("others silence the bell", &with(Mutation::NoCheckOfOthers, SILENT));
    // A ring on restoring heals these in the end; without it they show.
    let peeks = Product { restoring: Restoring::Peeks, ..SOUND };
    gets_stuck(
        "no look after silence",
        &with(Mutation::NoLookAfterSilence, Setup { product: peeks, ..SILENT }),
    );
    gets_stuck("silenced without a word", &with(Mutation::NoWord, Setup { product: peeks, ..SILENCING }));
    gets_stuck(
        "the word before the lock",
        &with(Mutation::WordBeforeLock, Setup { product: peeks, ..SILENCING }),
    );
}

/// The lock is kept beyond the commit to have fewer rings, not for safety: whoever is refused it has its
/// transaction id before the ringer is visible, either way.
#[test]
fn the_lock_given_back_before_the_commit_loses_nothing() {
    let early = Setup { mutation: Mutation::UnlockBeforeCommit, early_hearing: true, ..QUIET };
    holds("unlocked before the commit", &early);
    holds("unlocked before the commit, three writers", &Setup { txs: &[PLAIN; 3], ..early });
}

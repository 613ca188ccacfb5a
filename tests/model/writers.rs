//! The steps of writers, of the database, and of what befalls them.

use super::Action;
use super::explore::Next;
use super::state::{Bell, Holder, Kind, Mutation, Phase, Product, Setup, Stage, State};

type Steps = Vec<Next<State, Action>>;

/// Adds a step that leads to the state as `change` leaves it.
pub(crate) fn push(
    into: &mut Steps,
    state: &State,
    action: Action,
    is_chance: bool,
    change: impl FnOnce(&mut State),
) {
    let mut state = *state;
    change(&mut state);
    into.push(Next { action, is_chance, state: Ok(state) });
}

pub(crate) fn steps(setup: &Setup, state: &State, into: &mut Steps) {
    for (n, script) in setup.txs.iter().enumerate() {
        let tx = state.txs[n];
        let is_inserted = tx.ids[script.events - 1] > 0;
        match tx.stage {
            Stage::Idle if is_turn(setup, state, n) => {
                push(into, state, Action("begins and gets an xid: writer", n), false, |s| {
                    s.txs[n].xid = s.next_xid;
                    s.txs[n].stage = Stage::Running;
                    s.next_xid += 1;
                    if setup.coarse {
                        insert(s, n);
                    }
                });
            }
            Stage::Running if !is_inserted => {
                push(into, state, Action("inserts an event: writer", n), false, |s| {
                    insert(s, n);
                });
            }
            Stage::Running if script.kind == Kind::TwoPhase => {
                push(into, state, Action("prepares: writer", n), false, |s| {
                    s.txs[n].stage = Stage::Prepared;
                    s.flushed = s.written;
                });
            }
            Stage::Running => at_commit(setup, state, n, into),
            Stage::AtCommit | Stage::Prepared => become_visible(setup, state, n, into),
            Stage::Visible => unlock(setup, state, n, into),
            Stage::Idle | Stage::Committed | Stage::Gone => {}
        }
        let may_abort = match tx.stage {
            Stage::Running => setup.aborts,
            Stage::AtCommit => setup.late_aborts,
            _ => false,
        };
        if may_abort {
            push(into, state, Action("rolls back: writer", n), true, |s| {
                s.txs[n].stage = Stage::Gone;
                s.completed = s.completed.max(tx.xid);
                if s.holder == Some(Holder::Tx(n)) {
                    s.holder = None;
                }
            });
        }
    }
    if state.crashes < setup.crashes {
        crash(setup, state, into);
    }
}

fn insert(state: &mut State, n: usize) {
    let tx = &mut state.txs[n];
    let k = usize::from(tx.ids[0] > 0);
    tx.ids[k] = state.next_id;
    state.next_id += 1;
    state.written = state.written.max(tx.xid);
}

/// A writer's transactions follow each other. Of writers that do the same the first begins first, because all
/// other orders are this one with the names exchanged.
fn is_turn(setup: &Setup, state: &State, n: usize) -> bool {
    let script = setup.txs[n];
    let has_ended = |n: usize| matches!(state.txs[n].stage, Stage::Committed | Stage::Gone);
    let has_twin_before =
        n > 0 && script.after.is_none() && setup.txs[n - 1] == script && !is_followed(setup, n);
    script.after.is_none_or(has_ended) && !(has_twin_before && state.txs[n - 1].stage == Stage::Idle)
}

/// Whether the transaction or the one before it has a successor.
fn is_followed(setup: &Setup, n: usize) -> bool {
    setup.txs.iter().any(|script| script.after == Some(n) || script.after == Some(n - 1))
}

/// The deferred trigger, `warden.ring()`.
fn at_commit(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    if setup.txs[n].kind == Kind::Immediate {
        return push(into, state, Action("is at its commit, without the trigger: writer", n), false, |s| {
            s.txs[n].stage = Stage::AtCommit;
        });
    }
    let gets_it = state.holder.is_none() && state.shared == 0;
    let what = if gets_it { "gets the lock and will ring: writer" } else { "doesn't get the lock: writer" };
    push(into, state, Action(what, n), false, |s| {
        s.txs[n].stage = Stage::AtCommit;
        s.txs[n].rings = gets_it;
        if gets_it {
            s.holder = Some(Holder::Tx(n));
        }
    });
}

fn become_visible(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    if setup.mutation == Mutation::UnlockBeforeCommit && state.holder == Some(Holder::Tx(n)) {
        return push(into, state, Action("gives the lock back before its commit: writer", n), false, |s| {
            s.holder = None;
        });
    }
    push(into, state, Action("has committed and is visible: writer", n), false, |s| {
        let tx = &mut s.txs[n];
        tx.stage = if tx.rings { Stage::Visible } else { Stage::Committed };
        s.completed = s.completed.max(tx.xid);
        if setup.txs[n].kind != Kind::Asynchronous {
            s.flushed = s.written;
        }
        if s.txs[n].rings && setup.early_hearing {
            s.notify(false);
        }
    });
}

/// PostgreSQL gives locks back after the transaction is visible, and signals listeners after that.
fn unlock(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    if setup.mutation == Mutation::UnlockAfterHearing && state.txs[n].rings {
        return push(into, state, Action("rings, with the lock: writer", n), false, |s| {
            s.txs[n].rings = false;
            s.notify(false);
        });
    }
    push(into, state, Action("gives the lock back and rings: writer", n), false, |s| {
        s.txs[n].stage = Stage::Committed;
        // What it did is of no more account.
        s.txs[n].rings = false;
        if s.holder == Some(Holder::Tx(n)) {
            s.holder = None;
        }
        if !setup.early_hearing && setup.mutation != Mutation::UnlockAfterHearing {
            s.notify(false);
        }
    });
}

/// The database is killed and comes back. How much of the WAL was on disk is chance, as is whether a commit
/// record that nobody has seen was.
fn crash(setup: &Setup, state: &State, into: &mut Steps) {
    let at_commit: Vec<usize> =
        (0..setup.txs.len()).filter(|n| state.txs[*n].stage == Stage::AtCommit).collect();
    for choice in 0..1_u8 << at_commit.len() {
        let mut base = *state;
        base.crashes += 1;
        for (k, n) in at_commit.iter().enumerate() {
            if choice & (1 << k) != 0 {
                base.txs[*n].stage = Stage::Committed;
                base.flushed = base.flushed.max(base.txs[*n].xid);
            }
        }
        for flushed in base.flushed..=base.written.max(base.flushed) {
            recover(setup, base, flushed, into);
        }
    }
}

fn recover(setup: &Setup, mut base: State, flushed: u8, into: &mut Steps) {
    for (n, script) in setup.txs.iter().enumerate() {
        let tx = &mut base.txs[n];
        let was_lost = script.kind == Kind::Asynchronous && tx.xid > flushed;
        tx.stage = match tx.stage {
            Stage::Visible | Stage::Committed if !was_lost => Stage::Committed,
            stage @ (Stage::Idle | Stage::Prepared) => stage,
            _ => Stage::Gone,
        };
        tx.rings = false;
    }
    base.next_xid = flushed + 1;
    base.completed = flushed;
    base.written = flushed;
    base.flushed = flushed;
    base.holder = None;
    base.shared = 0;
    for n in 0..setup.readers {
        disconnect(&setup.product, &mut base, n);
        stop_listening(&mut base, n);
    }
    // A prepared row is as good as committed.
    let kept = base.txs.iter().filter(|tx| matches!(tx.stage, Stage::Committed | Stage::Prepared));
    let highest = kept.flat_map(|tx| tx.ids).max().unwrap_or(0);
    for next_id in highest + 1..=base.next_id {
        push(into, &base, Action("is killed; next id of the database:", next_id.into()), true, |s| {
            s.next_id = next_id;
        });
    }
}

/// A reader loses its connection, keeps its place, and connects again, with a new `Pace`.
pub(crate) fn disconnect(product: &Product, state: &mut State, n: usize) {
    state.shared &= !(1 << n);
    if state.holder == Some(Holder::Reader(n)) {
        state.holder = None;
    }
    let reader = &mut state.readers[n];
    if matches!(reader.phase, Phase::EndOf | Phase::Page { is_first: true, .. }) {
        reader.partial = None;
    }
    reader.phase = match reader.phase {
        Phase::Off => Phase::Off,
        _ if reader.partial.is_some() => Phase::Page { is_first: false, found: false },
        _ => Phase::Read { found: false },
    };
    reader.bell = if product.starts_unsure { Bell::MaybeSilent } else { Bell::Rings };
    reader.woken_by_ring = false;
    reader.was_poll = false;
}

/// What was on its way to the doorbell is lost.
pub(crate) fn stop_listening(state: &mut State, n: usize) {
    let reader = &mut state.readers[n];
    reader.is_listening = false;
    reader.rings = false;
    reader.words = false;
}

//! The steps of writers and of the database, and their faults.

use super::Action;
use super::explore::Next;
use super::state::{DoorbellState, Kind, LockHolder, Mutation, Phase, Product, Setup, Stage, State};

type Steps = Vec<Next<State, Action>>;

/// Adds a step whose next state is the result of `change`.
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
            Stage::Idle if may_start(setup, state, n) => {
                push(into, state, Action("writer", n, "begins and gets a transaction id"), false, |s| {
                    s.txs[n].xid = s.next_xid;
                    s.txs[n].stage = Stage::Running;
                    s.next_xid += 1;
                    if setup.coarse {
                        insert(s, n);
                    }
                });
            }
            Stage::Running if !is_inserted => {
                push(into, state, Action("writer", n, "inserts an event"), false, |s| {
                    insert(s, n);
                });
            }
            Stage::Running if script.kind == Kind::TwoPhase => {
                push(into, state, Action("writer", n, "prepares"), false, |s| {
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
            push(into, state, Action("writer", n, "rolls back"), true, |s| {
                s.txs[n].stage = Stage::Gone;
                s.completed = s.completed.max(tx.xid);
                if s.holder == Some(LockHolder::Tx(n)) {
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

/// Whether transaction `n` may start. The transactions of one writer follow each other. Of identical writers
/// the first starts first, because every other order is the same one with exchanged names.
fn may_start(setup: &Setup, state: &State, n: usize) -> bool {
    let script = setup.txs[n];
    let has_ended = |n: usize| matches!(state.txs[n].stage, Stage::Committed | Stage::Gone);
    let has_twin_before =
        n > 0 && script.after.is_none() && setup.txs[n - 1] == script && !is_followed(setup, n);
    script.after.is_none_or(has_ended) && !(has_twin_before && state.txs[n - 1].stage == Stage::Idle)
}

/// Whether this transaction or the previous one has a successor.
fn is_followed(setup: &Setup, n: usize) -> bool {
    setup.txs.iter().any(|script| script.after == Some(n) || script.after == Some(n - 1))
}

/// The deferred trigger, `warden.ring()`.
fn at_commit(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    if setup.txs[n].kind == Kind::Immediate {
        return push(into, state, Action("writer", n, "starts to commit without the trigger"), false, |s| {
            s.txs[n].stage = Stage::AtCommit;
        });
    }
    let gets_lock = state.holder.is_none() && state.shared == 0;
    let what =
        if gets_lock { "gets the doorbell lock and will ring" } else { "does not get the doorbell lock" };
    push(into, state, Action("writer", n, what), false, |s| {
        s.txs[n].stage = Stage::AtCommit;
        s.txs[n].rings = gets_lock;
        if gets_lock {
            s.holder = Some(LockHolder::Tx(n));
        }
    });
}

fn become_visible(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    if setup.mutation == Mutation::UnlockBeforeCommit && state.holder == Some(LockHolder::Tx(n)) {
        return push(
            into,
            state,
            Action("writer", n, "releases the doorbell lock before its commit"),
            false,
            |s| {
                s.holder = None;
            },
        );
    }
    push(into, state, Action("writer", n, "becomes visible"), false, |s| {
        let tx = &mut s.txs[n];
        tx.stage = if tx.rings { Stage::Visible } else { Stage::Committed };
        s.completed = s.completed.max(tx.xid);
        if setup.txs[n].kind != Kind::Asynchronous {
            s.flushed = s.written;
        }
        if s.txs[n].rings && setup.early_delivery {
            s.notify(false);
        }
    });
}

/// Releases the lock and rings. PostgreSQL releases locks after the transaction is visible, and signals
/// listeners after that.
fn unlock(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    if setup.mutation == Mutation::UnlockAfterDelivery && state.txs[n].rings {
        return push(
            into,
            state,
            Action("writer", n, "rings while it holds the doorbell lock"),
            false,
            |s| {
                s.txs[n].rings = false;
                s.notify(false);
            },
        );
    }
    push(into, state, Action("writer", n, "releases the doorbell lock and rings"), false, |s| {
        s.txs[n].stage = Stage::Committed;
        // Reset, so that states which differ only in the past are equal.
        s.txs[n].rings = false;
        if s.holder == Some(LockHolder::Tx(n)) {
            s.holder = None;
        }
        if !setup.early_delivery && setup.mutation != Mutation::UnlockAfterDelivery {
            s.notify(false);
        }
    });
}

/// The database crashes and restarts. Chance decides how much of the WAL was on disk, and whether it
/// contained the commit records that nobody has seen yet.
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
    for n in 0..setup.tailers {
        disconnect(&setup.product, &mut base, n);
        stop_listening(&mut base, n);
    }
    // The rows of a prepared transaction survive, like committed ones.
    let kept = base.txs.iter().filter(|tx| matches!(tx.stage, Stage::Committed | Stage::Prepared));
    let highest = kept.flat_map(|tx| tx.ids).max().unwrap_or(0);
    for next_id in highest + 1..=base.next_id {
        push(
            into,
            &base,
            Action("event id", next_id.into(), "is the next one after a crash of the database"),
            true,
            |s| {
                s.next_id = next_id;
            },
        );
    }
}

/// A tailer loses its connection, keeps its position, and reconnects with a new `PollSchedule`.
pub(crate) fn disconnect(product: &Product, state: &mut State, n: usize) {
    state.shared &= !(1 << n);
    if state.holder == Some(LockHolder::Tailer(n)) {
        state.holder = None;
    }
    let tailer = &mut state.tailers[n];
    if matches!(tailer.phase, Phase::QueryTarget | Phase::Page { is_first: true, .. }) {
        tailer.partial = None;
    }
    tailer.phase = match tailer.phase {
        Phase::Off => Phase::Off,
        _ if tailer.partial.is_some() => Phase::Page { is_first: false, found: false },
        _ => Phase::Read { found: false },
    };
    tailer.doorbell =
        if product.starts_maybe_silenced { DoorbellState::MaybeSilenced } else { DoorbellState::Rings };
    tailer.woken_by_ring = false;
    tailer.was_poll = false;
}

/// The doorbell loses its connection, and the notifications in transit.
pub(crate) fn stop_listening(state: &mut State, n: usize) {
    let tailer = &mut state.tailers[n];
    tailer.is_listening = false;
    tailer.ring_in_transit = false;
    tailer.silenced_in_transit = false;
}

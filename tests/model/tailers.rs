//! The steps of tailers: `Doorbell::listen`, `LogReader::read_since` and `read_between`, `LogTailer::poll`
//! and `LogTailer::wait`.

use super::Action;
use super::clients;
use super::explore::Next;
use super::state::{
    Cursor, DoorbellState, LockHolder, Mutation, Phase, Point, Restoration, Row, Setup, State,
};
use super::writers::{disconnect, push, stop_listening};

type Steps = Vec<Next<State, Action>>;

pub(crate) fn steps(setup: &Setup, state: &State, into: &mut Steps) {
    for n in 0..setup.tailers {
        doorbell(setup, state, n, into);
        let tailer = &state.tailers[n];
        match tailer.phase {
            Phase::Off => start(setup, state, n, into),
            Phase::Read { found } => {
                push_checked(into, state, Action("tailer", n, "reads"), |s| read_since(setup, s, n, found));
            }
            Phase::QueryTarget => {
                push(into, state, Action("tailer", n, "queries the target of its pages"), false, |s| {
                    query_target(s, n);
                });
            }
            Phase::Page { is_first, found } => {
                push_checked(into, state, Action("tailer", n, "reads a page"), |s| {
                    read_between(setup, s, n, is_first, found)
                });
            }
            Phase::Wait { found } => wait(setup, state, n, found, into),
            Phase::Silencing => silence(setup, state, n, into),
            Phase::Probing => restore(setup, state, n, into),
        }
        let can_break = setup.disconnects > state.disconnects && tailer.phase != Phase::Off;
        // The server completes a statement that has begun, even if the client disconnects.
        let must_complete = setup.product.restoration == Restoration::Rings && tailer.phase == Phase::Probing;
        if can_break && !must_complete {
            push(into, state, Action("tailer", n, "loses its connection and reconnects"), true, |s| {
                s.disconnects += 1;
                disconnect(&setup.product, s, n);
            });
        }
    }
}

fn doorbell(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    let tailer = &state.tailers[n];
    if tailer.ring_in_transit {
        push(into, state, Action("doorbell", n, "receives a ring"), false, |s| {
            s.tailers[n].ring_in_transit = false;
            s.tailers[n].poll_requested = true;
        });
        if state.lost_rings < setup.lost_rings {
            push(into, state, Action("doorbell", n, "loses a ring"), true, |s| {
                s.lost_rings += 1;
                s.tailers[n].ring_in_transit = false;
            });
        }
    }
    if tailer.silenced_in_transit {
        push(into, state, Action("doorbell", n, "receives \"silenced\""), false, |s| {
            s.tailers[n].silenced_in_transit = false;
            s.tailers[n].silenced = true;
            s.tailers[n].poll_requested = true;
        });
    }
    if !tailer.is_listening {
        push(into, state, Action("doorbell", n, "listens again and requests a poll"), false, |s| {
            s.tailers[n].is_listening = true;
            s.tailers[n].poll_requested = true;
        });
    } else if state.doorbell_disconnects < setup.doorbell_disconnects {
        push(into, state, Action("doorbell", n, "loses its connection"), true, |s| {
            s.doorbell_disconnects += 1;
            stop_listening(s, n);
        });
    }
}

/// The first connection, which starts at the end of the log.
fn start(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    push(into, state, Action("tailer", n, "starts at the end of the log"), false, |s| {
        let rows = s.rows();
        let point = s.snapshot(rows.last().map_or(0, |row| row.id));
        let tailer = &mut s.tailers[n];
        tailer.point = point;
        tailer.dispatched = rows.iter().fold(0, |all, row| all | row.bit);
        tailer.phase = Phase::Read { found: false };
        tailer.doorbell = if setup.product.starts_maybe_silenced {
            DoorbellState::MaybeSilenced
        } else {
            DoorbellState::Rings
        };
    });
}

pub(crate) fn push_checked(
    into: &mut Steps,
    state: &State,
    action: Action,
    change: impl FnOnce(&mut State) -> Result<(), String>,
) {
    let mut state = *state;
    let state = change(&mut state).map(|()| state);
    into.push(Next { action, is_chance: false, state });
}

/// Whether the query returns the row.
pub(crate) fn is_new(mutation: Mutation, point: Point, row: &Row) -> bool {
    match mutation {
        Mutation::IdOnly => row.id > point.max_id,
        Mutation::SnapshotOnly => !point.sees(row.xid),
        _ => !point.covers(row.xid, row.id),
    }
}

fn dispatch(state: &mut State, n: usize, rows: &[Row], from: Point, to: Point) -> Result<(), String> {
    for row in rows {
        if state.tailers[n].dispatched & row.bit != 0 {
            return Err(format!("tailer {n} reads event {} of transaction {} twice", row.id, row.xid));
        }
        state.tailers[n].dispatched |= row.bit;
        clients::deliver(state, n, row, Cursor { from, to, id: row.id })?;
    }
    Ok(())
}

fn read_since(setup: &Setup, state: &mut State, n: usize, found: bool) -> Result<(), String> {
    let from = state.tailers[n].point;
    let mut rows = state.rows();
    rows.retain(|row| is_new(setup.mutation, from, row));
    if setup.page > 0 && rows.len() > setup.page {
        state.tailers[n].phase = Phase::QueryTarget;
        return Ok(());
    }
    let max_id = rows.last().map_or(from.max_id, |row| row.id.max(from.max_id));
    let to = state.snapshot(max_id);
    dispatch(state, n, &rows, from, to)?;
    state.tailers[n].point = to;
    state.tailers[n].is_ahead = setup.product.checks_beyond_xmax && state.next_xid > state.completed + 1;
    let tailer = &mut state.tailers[n];
    // Recorded only if something depends on it, to keep the number of states small.
    let matters = tailer.doorbell != DoorbellState::Rings || tailer.was_poll;
    tailer.phase = Phase::Wait { found: matters && (found || !rows.is_empty()) };
    clients::progress(setup, state, n, true)
}

fn query_target(state: &mut State, n: usize) {
    let from = state.tailers[n].point;
    let mut rows = state.rows();
    rows.retain(|row| is_new(Mutation::None, from, row));
    let last = rows.last().map_or(0, |row| row.id);
    let before = rows.first().map_or(0, |row| row.id - 1);
    state.tailers[n].partial = Some((state.snapshot(last.max(from.max_id)), before));
    state.tailers[n].phase = Phase::Page { is_first: true, found: false };
}

fn read_between(
    setup: &Setup,
    state: &mut State,
    n: usize,
    is_first: bool,
    found: bool,
) -> Result<(), String> {
    let from = state.tailers[n].point;
    let Some((to, after)) = state.tailers[n].partial else {
        return Err("a page needs a target".into());
    };
    let mut rows = state.rows();
    rows.retain(|row| row.id > after && is_new(setup.mutation, from, row));
    rows.truncate(setup.page);
    let has_more = rows.len() == setup.page;
    let last_id = rows.last().map_or(to.max_id, |row| row.id);
    if setup.mutation != Mutation::UnfilteredPages {
        rows.retain(|row| to.covers(row.xid, row.id));
    }
    dispatch(state, n, &rows, from, to)?;
    let found = found || !rows.is_empty();
    let tailer = &mut state.tailers[n];
    if has_more {
        tailer.partial = Some((to, last_id));
        tailer.phase = Phase::Page { is_first: false, found };
    } else {
        tailer.partial = None;
        tailer.point = to;
        // After several pages the next read follows immediately.
        tailer.phase = if is_first { Phase::Wait { found } } else { Phase::Read { found } };
    }
    // After several pages the poll is complete only with the read that follows.
    clients::progress(setup, state, n, is_first && !has_more)
}

/// `LogTailer::wait`.
fn wait(setup: &Setup, state: &State, n: usize, found: bool, into: &mut Steps) {
    let read = Phase::Read { found: false };
    match state.tailers[n].doorbell {
        DoorbellState::Silenced if found => {
            push(into, state, Action("tailer", n, "pauses"), false, |s| s.tailers[n].phase = read);
        }
        DoorbellState::Silenced => {
            push(into, state, Action("tailer", n, "releases the doorbell"), false, |s| {
                s.shared &= !(1 << n);
                s.tailers[n].doorbell = DoorbellState::MaybeSilenced;
                s.tailers[n].phase = read;
                if setup.mutation == Mutation::NoPollAfterSilence {
                    s.tailers[n].phase = Phase::Wait { found: false };
                }
            });
        }
        DoorbellState::MaybeSilenced if found => {
            if state.holder.is_some() && setup.mutation != Mutation::NotificationBeforeLock {
                push(into, state, Action("tailer", n, "cannot silence the doorbell"), false, |s| {
                    s.tailers[n].phase = read;
                });
            } else {
                push(into, state, Action("tailer", n, "starts to silence the doorbell"), false, |s| {
                    s.tailers[n].phase = Phase::Silencing;
                    if setup.mutation == Mutation::NotificationBeforeLock {
                        s.notify(true);
                    } else {
                        s.shared |= 1 << n;
                    }
                });
            }
        }
        DoorbellState::MaybeSilenced => check_for_others(setup, state, n, into),
        DoorbellState::Rings => wait_for_ring(setup, state, n, found, into),
    }
}

fn silence(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    let is_reversed = setup.mutation == Mutation::NotificationBeforeLock;
    let what = if is_reversed { "takes the doorbell lock" } else { "notifies that it silenced the doorbell" };
    push(into, state, Action("tailer", n, what), false, |s| {
        s.tailers[n].phase = Phase::Read { found: false };
        if is_reversed {
            if s.holder.is_some() {
                return;
            }
            s.shared |= 1 << n;
        } else if setup.mutation != Mutation::NoNotification {
            s.notify(true);
        }
        s.tailers[n].doorbell = DoorbellState::Silenced;
    });
}

/// The first half of `LogReader::try_ring_doorbell`.
fn check_for_others(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    if setup.mutation == Mutation::NoCheckForOthers {
        push(into, state, Action("tailer", n, "assumes that the doorbell rings"), false, |s| {
            s.tailers[n].doorbell = DoorbellState::Rings;
            s.tailers[n].phase = Phase::Read { found: false };
        });
    } else if state.holder.is_some() || state.shared != 0 {
        push(into, state, Action("tailer", n, "finds the doorbell lock taken"), false, |s| {
            s.tailers[n].phase = Phase::Read { found: false };
        });
    } else if setup.product.restoration == Restoration::ReadsLock {
        push(into, state, Action("tailer", n, "finds the doorbell lock free"), false, |s| {
            restored(setup, s, n);
        });
    } else {
        push(into, state, Action("tailer", n, "takes the doorbell lock to check for others"), false, |s| {
            s.holder = Some(LockHolder::Tailer(n));
            s.tailers[n].phase = Phase::Probing;
        });
    }
}

/// The second half of `LogReader::try_ring_doorbell`.
fn restore(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    push(
        into,
        state,
        Action("tailer", n, "releases the doorbell lock and restores the doorbell"),
        false,
        |s| {
            s.holder = None;
            if setup.product.restoration == Restoration::Rings {
                s.notify(false);
            }
            restored(setup, s, n);
        },
    );
}

fn restored(setup: &Setup, state: &mut State, n: usize) {
    let tailer = &mut state.tailers[n];
    tailer.doorbell = DoorbellState::Rings;
    tailer.woken_by_ring = false;
    let is_blind = setup.mutation == Mutation::NoPollAfterSilence;
    tailer.phase = if is_blind { Phase::Wait { found: false } } else { Phase::Read { found: false } };
}

fn wait_for_ring(setup: &Setup, state: &State, n: usize, found: bool, into: &mut Steps) {
    let tailer = &state.tailers[n];
    let become_maybe_silenced = |s: &mut State| {
        s.tailers[n].silenced = false;
        s.tailers[n].doorbell = DoorbellState::MaybeSilenced;
        s.tailers[n].phase = Phase::Read { found: false };
    };
    if tailer.silenced || (tailer.was_poll && found) {
        return push(
            into,
            state,
            Action("tailer", n, "cannot rely on the doorbell"),
            false,
            become_maybe_silenced,
        );
    }
    // The product needs sixteen consecutive rings. Here any number may overrun the tailer, by chance, because
    // no property may depend on it.
    if state.overruns < setup.overruns && tailer.woken_by_ring {
        push(into, state, Action("tailer", n, "is overrun by rings"), true, |s| {
            s.overruns += 1;
            become_maybe_silenced(s);
        });
    }
    let mut poll = |what, was_poll: bool, by_ring: bool| {
        push(into, state, Action("tailer", n, what), false, |s| {
            let tailer = &mut s.tailers[n];
            tailer.poll_requested &= !by_ring;
            // Recorded only if something depends on it, to keep the number of states small.
            tailer.woken_by_ring = by_ring && s.overruns < setup.overruns;
            tailer.was_poll = was_poll;
            tailer.phase = Phase::Read { found: false };
        });
    };
    if tailer.poll_requested {
        poll("polls after a signal", false, true);
    }
    let is_settled = tailer.point.in_progress == 0 && !tailer.is_ahead;
    if !is_settled && setup.mutation != Mutation::NoRetry {
        poll("polls again because of transactions in progress", false, false);
    } else if setup.poll {
        poll("polls unconditionally", true, false);
    }
}

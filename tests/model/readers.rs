//! The steps of readers: `Doorbell::listen`, `LogReader::read_since` and `read_between`, `Source::read`
//! and `Source::wait`.

use super::Action;
use super::clients;
use super::explore::Next;
use super::state::{Bell, Cursor, Holder, Mutation, Phase, Point, Restoring, Row, Setup, State};
use super::writers::{disconnect, push, stop_listening};

type Steps = Vec<Next<State, Action>>;

pub(crate) fn steps(setup: &Setup, state: &State, into: &mut Steps) {
    for n in 0..setup.readers {
        doorbell(setup, state, n, into);
        let reader = &state.readers[n];
        match reader.phase {
            Phase::Off => start(setup, state, n, into),
            Phase::Read { found } => {
                push_checked(into, state, Action("reads: reader", n), |s| read_since(setup, s, n, found));
            }
            Phase::EndOf => {
                push(into, state, Action("asks where the pages end: reader", n), false, |s| end_of(s, n));
            }
            Phase::Page { is_first, found } => {
                push_checked(into, state, Action("reads a page: reader", n), |s| {
                    read_between(setup, s, n, is_first, found)
                });
            }
            Phase::Wait { found } => wait(setup, state, n, found, into),
            Phase::Silencing => silence(setup, state, n, into),
            Phase::Probing => restore(setup, state, n, into),
        }
        let can_break = setup.breaks > state.breaks && reader.phase != Phase::Off;
        // A statement that has begun is carried through, whatever becomes of the client.
        let is_carried_through =
            setup.product.restoring == Restoring::Rings && reader.phase == Phase::Probing;
        if can_break && !is_carried_through {
            push(into, state, Action("loses its connection, and connects: reader", n), true, |s| {
                s.breaks += 1;
                disconnect(&setup.product, s, n);
            });
        }
    }
}

fn doorbell(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    let reader = &state.readers[n];
    if reader.rings {
        push(into, state, Action("hears a ring: doorbell", n), false, |s| {
            s.readers[n].rings = false;
            s.readers[n].permit = true;
        });
        if state.losses < setup.losses {
            push(into, state, Action("misses a ring: doorbell", n), true, |s| {
                s.losses += 1;
                s.readers[n].rings = false;
            });
        }
    }
    if reader.words {
        push(into, state, Action("hears \"silenced\": doorbell", n), false, |s| {
            s.readers[n].words = false;
            s.readers[n].silenced = true;
            s.readers[n].permit = true;
        });
    }
    if !reader.is_listening {
        push(into, state, Action("listens, and rings once: doorbell", n), false, |s| {
            s.readers[n].is_listening = true;
            s.readers[n].permit = true;
        });
    } else if state.relistens < setup.relistens {
        push(into, state, Action("loses its connection: doorbell", n), true, |s| {
            s.relistens += 1;
            stop_listening(s, n);
        });
    }
}

/// The first connection: from the end of the log on.
fn start(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    push(into, state, Action("starts at the log's end: reader", n), false, |s| {
        let rows = s.rows();
        let point = s.snapshot(rows.last().map_or(0, |row| row.id));
        let reader = &mut s.readers[n];
        reader.point = point;
        reader.got = rows.iter().fold(0, |got, row| got | row.bit);
        reader.phase = Phase::Read { found: false };
        reader.bell = if setup.product.starts_unsure { Bell::MaybeSilent } else { Bell::Rings };
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

/// Whether the query brings the row.
pub(crate) fn is_new(mutation: Mutation, point: Point, row: &Row) -> bool {
    match mutation {
        Mutation::IdAlone => row.id > point.max_id,
        Mutation::SnapshotAlone => !point.sees(row.xid),
        _ => !point.covers(row.xid, row.id),
    }
}

fn pass_on(state: &mut State, n: usize, rows: &[Row], from: Point, to: Point) -> Result<(), String> {
    for row in rows {
        if state.readers[n].got & row.bit != 0 {
            return Err(format!("reader {n} gets event {} of xid {} twice", row.id, row.xid));
        }
        state.readers[n].got |= row.bit;
        clients::take(state, n, row, Cursor { from, to, id: row.id })?;
    }
    Ok(())
}

fn read_since(setup: &Setup, state: &mut State, n: usize, found: bool) -> Result<(), String> {
    let from = state.readers[n].point;
    let mut rows = state.rows();
    rows.retain(|row| is_new(setup.mutation, from, row));
    if setup.page > 0 && rows.len() > setup.page {
        state.readers[n].phase = Phase::EndOf;
        return Ok(());
    }
    let max_id = rows.last().map_or(from.max_id, |row| row.id.max(from.max_id));
    let to = state.snapshot(max_id);
    pass_on(state, n, &rows, from, to)?;
    state.readers[n].point = to;
    state.readers[n].is_ahead = setup.product.looks_beyond_xmax && state.next_xid > state.completed + 1;
    let reader = &mut state.readers[n];
    let is_of_account = reader.bell != Bell::Rings || reader.was_poll;
    reader.phase = Phase::Wait { found: is_of_account && (found || !rows.is_empty()) };
    clients::progress(setup, state, n, true)
}

fn end_of(state: &mut State, n: usize) {
    let from = state.readers[n].point;
    let mut rows = state.rows();
    rows.retain(|row| is_new(Mutation::None, from, row));
    let last = rows.last().map_or(0, |row| row.id);
    let before = rows.first().map_or(0, |row| row.id - 1);
    state.readers[n].partial = Some((state.snapshot(last.max(from.max_id)), before));
    state.readers[n].phase = Phase::Page { is_first: true, found: false };
}

fn read_between(
    setup: &Setup,
    state: &mut State,
    n: usize,
    is_first: bool,
    found: bool,
) -> Result<(), String> {
    let from = state.readers[n].point;
    let Some((to, after)) = state.readers[n].partial else {
        return Err("no page without a place".into());
    };
    let mut rows = state.rows();
    rows.retain(|row| row.id > after && is_new(setup.mutation, from, row));
    rows.truncate(setup.page);
    let has_more = rows.len() == setup.page;
    let last_id = rows.last().map_or(to.max_id, |row| row.id);
    if setup.mutation != Mutation::PagesUnfiltered {
        rows.retain(|row| to.covers(row.xid, row.id));
    }
    pass_on(state, n, &rows, from, to)?;
    let found = found || !rows.is_empty();
    let reader = &mut state.readers[n];
    if has_more {
        reader.partial = Some((to, last_id));
        reader.phase = Phase::Page { is_first: false, found };
    } else {
        reader.partial = None;
        reader.point = to;
        // After pages the next read follows at once.
        reader.phase = if is_first { Phase::Wait { found } } else { Phase::Read { found } };
    }
    // After several pages the look is through only with the read that follows.
    clients::progress(setup, state, n, is_first && !has_more)
}

/// `Source::wait`.
fn wait(setup: &Setup, state: &State, n: usize, found: bool, into: &mut Steps) {
    let read = Phase::Read { found: false };
    match state.readers[n].bell {
        Bell::Silenced if found => {
            push(into, state, Action("sleeps a moment: reader", n), false, |s| s.readers[n].phase = read);
        }
        Bell::Silenced => push(into, state, Action("gives the bell back: reader", n), false, |s| {
            s.shared &= !(1 << n);
            s.readers[n].bell = Bell::MaybeSilent;
            s.readers[n].phase = read;
            if setup.mutation == Mutation::NoLookAfterSilence {
                s.readers[n].phase = Phase::Wait { found: false };
            }
        }),
        Bell::MaybeSilent if found => {
            if state.holder.is_some() && setup.mutation != Mutation::WordBeforeLock {
                push(into, state, Action("can't silence the bell: reader", n), false, |s| {
                    s.readers[n].phase = read;
                });
            } else {
                push(into, state, Action("silences the bell: reader", n), false, |s| {
                    s.readers[n].phase = Phase::Silencing;
                    if setup.mutation == Mutation::WordBeforeLock {
                        s.notify(true);
                    } else {
                        s.shared |= 1 << n;
                    }
                });
            }
        }
        Bell::MaybeSilent => make_sure(setup, state, n, into),
        Bell::Rings => wait_for_ring(setup, state, n, found, into),
    }
}

fn silence(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    let is_reversed = setup.mutation == Mutation::WordBeforeLock;
    let what = if is_reversed { "locks the bell: reader" } else { "says that it silenced the bell: reader" };
    push(into, state, Action(what, n), false, |s| {
        s.readers[n].phase = Phase::Read { found: false };
        if is_reversed {
            if s.holder.is_some() {
                return;
            }
            s.shared |= 1 << n;
        } else if setup.mutation != Mutation::NoWord {
            s.notify(true);
        }
        s.readers[n].bell = Bell::Silenced;
    });
}

/// `LogReader::bell_rings`, its first half.
fn make_sure(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    if setup.mutation == Mutation::NoCheckOfOthers {
        push(into, state, Action("takes it that the bell rings: reader", n), false, |s| {
            s.readers[n].bell = Bell::Rings;
            s.readers[n].phase = Phase::Read { found: false };
        });
    } else if state.holder.is_some() || state.shared != 0 {
        push(into, state, Action("finds the bell silenced: reader", n), false, |s| {
            s.readers[n].phase = Phase::Read { found: false };
        });
    } else if setup.product.restoring == Restoring::Peeks {
        push(into, state, Action("finds the bell free: reader", n), false, |s| {
            restored(setup, s, n);
        });
    } else {
        push(into, state, Action("takes the bell's lock to make sure: reader", n), false, |s| {
            s.holder = Some(Holder::Reader(n));
            s.readers[n].phase = Phase::Probing;
        });
    }
}

/// Its second half.
fn restore(setup: &Setup, state: &State, n: usize, into: &mut Steps) {
    push(into, state, Action("gives the bell's lock back, all is well: reader", n), false, |s| {
        s.holder = None;
        if setup.product.restoring == Restoring::Rings {
            s.notify(false);
        }
        restored(setup, s, n);
    });
}

fn restored(setup: &Setup, state: &mut State, n: usize) {
    let reader = &mut state.readers[n];
    reader.bell = Bell::Rings;
    reader.woken_by_ring = false;
    let is_blind = setup.mutation == Mutation::NoLookAfterSilence;
    reader.phase = if is_blind { Phase::Wait { found: false } } else { Phase::Read { found: false } };
}

fn wait_for_ring(setup: &Setup, state: &State, n: usize, found: bool, into: &mut Steps) {
    let reader = &state.readers[n];
    let become_unsure = |s: &mut State| {
        s.readers[n].silenced = false;
        s.readers[n].bell = Bell::MaybeSilent;
        s.readers[n].phase = Phase::Read { found: false };
    };
    if reader.silenced || (reader.was_poll && found) {
        return push(into, state, Action("can't rely on the bell: reader", n), false, become_unsure);
    }
    // Sixteen rings in a row: any number here, and chance, for nothing may depend on it.
    if state.overruns < setup.overruns && reader.woken_by_ring {
        push(into, state, Action("is overrun by rings: reader", n), true, |s| {
            s.overruns += 1;
            become_unsure(s);
        });
    }
    let mut look = |what, was_poll: bool, by_ring: bool| {
        push(into, state, Action(what, n), false, |s| {
            let reader = &mut s.readers[n];
            reader.permit &= !by_ring;
            // Kept only where something depends on it: every state less counts.
            reader.woken_by_ring = by_ring && s.overruns < setup.overruns;
            reader.was_poll = was_poll;
            reader.phase = Phase::Read { found: false };
        });
    };
    if reader.permit {
        look("is woken: reader", false, true);
    }
    let is_settled = reader.point.in_progress == 0 && !reader.is_ahead;
    if !is_settled && setup.mutation != Mutation::NoRetry {
        look("looks again at what was in progress: reader", false, false);
    } else if setup.poll {
        look("polls: reader", true, false);
    }
}

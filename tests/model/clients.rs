//! A client that disconnects and resumes: it joins with a cursor, receives its missed events, and then live
//! events (`session::resume`, `Replay::wait_until_reached`, `ReplayBatch::iter`).

use super::Action;
use super::explore::Next;
use super::state::{Cursor, Mutation, Phase, Row, Session, Setup, State};
use super::tailers::push_checked;

/// Most events that the client receives before it disconnects, if it disconnects.
const EVENTS_LEFT_MAX: u8 = 2;

pub(crate) fn steps(setup: &Setup, state: &State, into: &mut Vec<Next<State, Action>>) {
    let client = &state.client;
    if client.session != Session::Disconnected || client.joins == setup.joins {
        return;
    }
    let nodes = (0..setup.tailers).filter(|n| state.tailers[*n].phase != Phase::Off);
    for n in nodes {
        let is_last = client.joins + 1 == setup.joins;
        let choices = (1..=EVENTS_LEFT_MAX).filter(|_| !is_last).map(Some);
        for events_left in choices.chain(is_last.then_some(None)) {
            push_checked(into, state, Action("node", n, "is joined by the client"), |s| {
                s.client.joins += 1;
                s.client.events_left = events_left;
                // The read that is under way may have its snapshot already. The read after it has not.
                s.client.session = Session::Waiting { node: n, reads_left: 2 };
                try_join(setup, s, n)
            });
        }
    }
}

/// Position of a tailer's node. It is between two points as soon as the first of several pages was
/// dispatched.
fn position(setup: &Setup, state: &State, n: usize) -> Cursor {
    let tailer = &state.tailers[n];
    match (tailer.phase, tailer.partial) {
        (Phase::Page { is_first: false, .. }, Some((to, _))) if setup.mutation == Mutation::JoinAtTarget => {
            Cursor::at(to)
        }
        (Phase::Page { is_first: false, .. }, Some((to, id))) => Cursor { from: tailer.point, to, id },
        _ => Cursor::at(tailer.point),
    }
}

fn has_reached(setup: &Setup, now: Cursor, since: Cursor) -> bool {
    let is_same_batch = now.from == since.from && now.to == since.to && since.id <= now.id;
    match setup.mutation {
        Mutation::JoinWithoutWaiting => true,
        Mutation::ReachedByTarget => now.to.includes(since.to),
        _ => now.from.includes(since.to) || is_same_batch,
    }
}

/// Records that a tailer has dispatched a page, which may have completed its poll.
pub(crate) fn progress(
    setup: &Setup,
    state: &mut State,
    n: usize,
    is_poll_complete: bool,
) -> Result<(), String> {
    if let Session::Waiting { node, reads_left } = &mut state.client.session
        && *node == n
    {
        *reads_left -= u8::from(is_poll_complete);
        return try_join(setup, state, n);
    }
    Ok(())
}

fn try_join(setup: &Setup, state: &mut State, n: usize) -> Result<(), String> {
    let (now, since) = (position(setup, state, n), state.client.cursor);
    let Session::Waiting { reads_left, .. } = state.client.session else { return Ok(()) };
    if reads_left > 0 && !has_reached(setup, now, since) {
        // The client makes the tailer poll.
        state.tailers[n].poll_requested = true;
        return Ok(());
    }
    state.client.session = Session::Live { node: n };
    let mut missed = state.rows();
    missed.retain(|row| now.covers(row.xid, row.id) && !since.covers(row.xid, row.id));
    let part = |row: &Row| match row {
        row if since.to.covers(row.xid, row.id) => 0,
        row if now.from.covers(row.xid, row.id) || setup.mutation == Mutation::TwoParts => 1,
        _ => 2,
    };
    let parts = [(since.from, since.to), (since.to, now.from), (now.from, now.to)];
    for (k, (from, to)) in parts.into_iter().enumerate() {
        for row in missed.iter().filter(|row| part(row) == k) {
            deliver(state, n, row, Cursor { from, to, id: row.id })?;
        }
    }
    Ok(())
}

/// Sends an event to the client, if it is connected to this node.
pub(crate) fn deliver(state: &mut State, n: usize, row: &Row, cursor: Cursor) -> Result<(), String> {
    let client = &mut state.client;
    if client.session != (Session::Live { node: n }) {
        return Ok(());
    }
    if client.received & row.bit != 0 {
        return Err(format!("the client receives event {} of transaction {} twice", row.id, row.xid));
    }
    client.received |= row.bit;
    client.cursor = cursor;
    if let Some(events_left) = &mut client.events_left {
        *events_left -= 1;
        if *events_left == 0 {
            client.session = Session::Disconnected;
        }
    }
    Ok(())
}

//! A client that comes and goes: joins with a cursor, is told what it missed, and goes on live
//! (`session::resume`, `Replay::caught_up`, `Missed::iter`).

use super::Action;
use super::explore::Next;
use super::readers::push_checked;
use super::state::{Cursor, Mutation, Phase, Row, Session, Setup, State};

/// A client goes away after so many events at the most, where it goes away.
const PATIENCE_MAX: u8 = 2;

pub(crate) fn steps(setup: &Setup, state: &State, into: &mut Vec<Next<State, Action>>) {
    let client = &state.client;
    if client.session != Session::Away || client.joins == setup.joins {
        return;
    }
    let nodes = (0..setup.readers).filter(|n| state.readers[*n].phase != Phase::Off);
    for n in nodes {
        let is_last = client.joins + 1 == setup.joins;
        let patiences = (1..=PATIENCE_MAX).filter(|_| !is_last).map(Some);
        for patience in patiences.chain(is_last.then_some(None)) {
            push_checked(into, state, Action("a client comes back: node", n), |s| {
                s.client.joins += 1;
                s.client.patience = patience;
                // The look that is under way may have its snapshot already; the one after it has not.
                s.client.session = Session::Waits { node: n, looks: 2 };
                try_join(setup, s, n)
            });
        }
    }
}

/// Where a reader's node stands: between two points once the first of several pages was passed on.
fn position(setup: &Setup, state: &State, n: usize) -> Cursor {
    let reader = &state.readers[n];
    match (reader.phase, reader.partial) {
        (Phase::Page { is_first: false, .. }, Some((to, _))) if setup.mutation == Mutation::JoinsAtEnd => {
            Cursor::at(to)
        }
        (Phase::Page { is_first: false, .. }, Some((to, id))) => Cursor { from: reader.point, to, id },
        _ => Cursor::at(reader.point),
    }
}

fn has_reached(setup: &Setup, now: Cursor, since: Cursor) -> bool {
    let is_same_batch = now.from == since.from && now.to == since.to && since.id <= now.id;
    match setup.mutation {
        Mutation::JoinsAhead => true,
        Mutation::ReachesByEnd => now.to.includes(since.to),
        _ => now.from.includes(since.to) || is_same_batch,
    }
}

/// A reader has passed on a page, and perhaps its look is through.
pub(crate) fn progress(setup: &Setup, state: &mut State, n: usize, is_look: bool) -> Result<(), String> {
    if let Session::Waits { node, looks } = &mut state.client.session
        && *node == n
    {
        *looks -= u8::from(is_look);
        return try_join(setup, state, n);
    }
    Ok(())
}

fn try_join(setup: &Setup, state: &mut State, n: usize) -> Result<(), String> {
    let (now, since) = (position(setup, state, n), state.client.cursor);
    let Session::Waits { looks, .. } = state.client.session else { return Ok(()) };
    if looks > 0 && !has_reached(setup, now, since) {
        // The reader is made to look.
        state.readers[n].permit = true;
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
            take(state, n, row, Cursor { from, to, id: row.id })?;
        }
    }
    Ok(())
}

/// An event goes out to the client, if it is there and still listens.
pub(crate) fn take(state: &mut State, n: usize, row: &Row, cursor: Cursor) -> Result<(), String> {
    let client = &mut state.client;
    if client.session != (Session::Live { node: n }) {
        return Ok(());
    }
    if client.got & row.bit != 0 {
        return Err(format!("a client gets event {} of xid {} twice", row.id, row.xid));
    }
    client.got |= row.bit;
    client.cursor = cursor;
    if let Some(patience) = &mut client.patience {
        *patience -= 1;
        if *patience == 0 {
            client.session = Session::Away;
        }
    }
    Ok(())
}

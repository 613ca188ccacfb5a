//! Bulk statements: thousands of rows in one statement, more than a replay may contain, and fewer.

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::filters::STATES;
use crate::record::{Key, Outcome, RowChange, Transaction, Written};
use crate::writers::{BULK_ORG, World};

/// Rows of a bulk statement, by writer and numbers.
pub(crate) struct Bulk {
    id: u64,
    first: u64,
    last: u64,
}

/// Inserts many rows in one statement, and retries until it is known to be committed. Then sends the rows to
/// `done`.
pub(crate) async fn insert(
    world: World,
    id: u64,
    rows: u32,
    mut random: fastrand::Rng,
    done: oneshot::Sender<Bulk>,
) -> Vec<Transaction> {
    let mut transactions = Vec::new();
    for attempt in 0_u64.. {
        // A retry after an unknown outcome uses other numbers.
        let first = attempt * u64::from(rows) + 1;
        let bulk = Bulk { id, first, last: first + u64::from(rows) - 1 };
        let sql = "with marked as (insert into chaos_marks values ($1))
                   insert into calls (org_id, metadata, state)
                   select $2, jsonb_build_object('writer', $3, 'n', n, 'bulk', true), n % (select max(state) from states)
                   from generate_series($4, $5) n";
        transactions.push(execute(&world, &bulk, false, sql, &mut random).await);
        if transactions.last().is_some_and(|last| last.outcome == Outcome::Committed) {
            world.record.count(format!("bulk statements of {rows} rows"));
            let _ = done.send(bulk);
            break;
        }
    }
    transactions
}

/// Deletes the rows of a bulk statement in one statement, so that the database stays small. Retries until the
/// deletion is known to be committed. A retry that finds no rows counts as the deletion of the attempt before
/// it.
pub(crate) async fn delete(
    world: World,
    bulk: oneshot::Receiver<Bulk>,
    mut random: fastrand::Rng,
) -> Vec<Transaction> {
    let Ok(bulk) = bulk.await else { return Vec::new() };
    let sql = "with marked as (insert into chaos_marks values ($1))
               delete from calls where org_id = $2 and (metadata->>'writer')::int8 = $3
               and (metadata->>'n')::int8 between $4 and $5";
    let mut transactions = Vec::new();
    loop {
        transactions.push(execute(&world, &bulk, true, sql, &mut random).await);
        if transactions.last().is_some_and(|last| last.outcome == Outcome::Committed) {
            world.record.count("bulk deletions");
            return transactions;
        }
    }
}

async fn execute(
    world: &World,
    bulk: &Bulk,
    is_deletion: bool,
    sql: &'static str,
    random: &mut fastrand::Rng,
) -> Transaction {
    let org = world.orgs[BULK_ORG];
    let mut connection = world.connect().await;
    let mark = Uuid::from_u128(random.u128(..));
    let key = |n| Key { is_deletion, writer: bulk.id, n };
    let written = |n: u64| {
        let state = Some(usize::try_from(n).expect("small") % STATES);
        let states = if is_deletion { [state, None] } else { [None, state] };
        Written { org, on_calls: true, key: key(n), row: Some(RowChange { states, previous: None }) }
    };
    let events = (bulk.first..=bulk.last).map(written).collect();
    let events = world.record.plan(mark, events);
    let query = sqlx::query(sql).bind(mark).bind(org).bind(bulk.id.cast_signed());
    let query = query.bind(bulk.first.cast_signed()).bind(bulk.last.cast_signed());
    let is_done = query.execute(&mut connection).await.is_ok();
    let outcome = if is_done { Outcome::Committed } else { Outcome::Unknown };
    Transaction { mark, outcome, events }
}

//! The state of an organisation's calls and the cursor from which their changes follow, read in one
//! transaction, as a REST snapshot would give them.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection as _, Row as _};
use uuid::Uuid;
use warden::log::cursor::{Cursor, Point};

use crate::following::Rows;
use crate::writers::World;

/// Snapshots that are taken at the same time.
pub(crate) const AT_ONCE_MAX: usize = 4;
/// Before the next try.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// See the module's documentation.
pub(crate) struct Snapshot {
    pub(crate) cursor: String,
    /// Of the transactions that it shows.
    pub(crate) marks: Vec<Uuid>,
    pub(crate) rows: Rows,
}

/// Takes one, as soon as the database is there.
pub(crate) async fn take(world: &World, org: Uuid) -> Snapshot {
    let _turn = world.snapshots.acquire().await.expect("never closed");
    loop {
        match try_take(world, org).await {
            Ok(snapshot) => {
                world.record.count("snapshots taken");
                return snapshot;
            }
            Err(_) => tokio::time::sleep(RETRY_DELAY).await,
        }
    }
}

async fn try_take(world: &World, org: Uuid) -> Result<Snapshot, sqlx::Error> {
    let mut connection = world.connect().await;
    let mut tx = connection.begin_with("begin isolation level repeatable read").await?;
    let sql = "select warden.epoch(), pg_current_snapshot()::text,
                      (select coalesce(max(id), 0) from warden.events)";
    let row = sqlx::query(sql).fetch_one(&mut *tx).await?;
    let epoch = row.get::<String, _>(0).parse().expect("an epoch");
    let snapshot = row.get::<String, _>(1).parse().expect("a snapshot");
    // The gateway's own encoding: there is no other way yet to have a cursor with a state.
    let cursor = Cursor::at(epoch, Arc::new(Point { snapshot, max_id: row.get(2) })).to_string();
    let marks = sqlx::query_scalar("select mark from chaos_marks").fetch_all(&mut *tx).await?;
    let sql = "select id, (metadata->>'writer')::int8, (metadata->>'n')::int8 from calls where org_id = $1";
    let rows = sqlx::query(sql).bind(org).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let number = |row: &sqlx::postgres::PgRow, at| row.get::<i64, usize>(at).cast_unsigned();
    let rows = rows.iter().map(|row| (row.get(0), (number(row, 1), number(row, 2)))).collect();
    Ok(Snapshot { cursor, marks, rows })
}

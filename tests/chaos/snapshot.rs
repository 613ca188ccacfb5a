//! Snapshots: an organisation's calls, with the cursor from which later changes follow. One transaction reads
//! both, as a REST snapshot would.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Connection as _, Row as _};
use uuid::Uuid;
use warden::cursor::{Cursor, CursorKey, CursorSeal, KeyRing, Point};
use warden::org::Incarnation;
use warden_testkit::filters::State;

use crate::writers::World;

/// Most concurrent snapshots.
pub(crate) const AT_ONCE_MAX: usize = 4;
/// Pause after a failed attempt.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// A state and its cursor.
pub(crate) struct Snapshot {
    pub(crate) cursor: String,
    /// Marks of the transactions that it contains.
    pub(crate) marks: Vec<Uuid>,
    pub(crate) rows: Vec<(Uuid, RowContent, State)>,
}

/// Writer and number of the last change of a row, which are in its metadata.
pub(crate) type RowContent = (u64, u64);

/// Takes a snapshot, and retries until the database is available.
pub(crate) async fn take(world: &World, org: Uuid) -> Snapshot {
    let _permit = world.snapshots.acquire().await.expect("never closed");
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
    // Uses the gateway's own seal, because there is no other source of a cursor for a state yet.
    let cursor = Cursor::at(epoch, Arc::new(Point { snapshot, max_id: row.get(2) }));
    let cursor = seal(&mut tx, org).await?.seal(&cursor);
    let marks = sqlx::query_scalar("select mark from chaos_marks").fetch_all(&mut *tx).await?;
    let sql = "select id, (metadata->>'writer')::int8, (metadata->>'n')::int8, state::int8
               from calls where org_id = $1";
    let rows = sqlx::query(sql).bind(org).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    let number = |row: &PgRow, at| row.get::<i64, usize>(at).cast_unsigned();
    let state = |row: &PgRow| State::try_from(number(row, 3)).expect("a state");
    let rows = rows.iter().map(|row| (row.get(0), (number(row, 1), number(row, 2)), state(row))).collect();
    Ok(Snapshot { cursor, marks, rows })
}

/// A seal of the organisation, with the database's keys. The transaction reads only, so it does not rotate
/// them.
async fn seal(connection: &mut PgConnection, org: Uuid) -> Result<CursorSeal, sqlx::Error> {
    let keys =
        sqlx::query("select id, key from warden.cursor_keys order by id").fetch_all(&mut *connection).await?;
    let last = keys.len().saturating_sub(1);
    let key =
        |(n, row): (usize, &PgRow)| CursorKey { id: row.get(0), key: row.get(1), is_current: n == last };
    let ring = Arc::<KeyRing>::default();
    ring.replace(&Vec::from_iter(keys.iter().enumerate().map(key)));
    let org = sqlx::query_scalar("select $1::uuid").bind(org).fetch_one(connection).await?;
    Ok(CursorSeal::new(ring, org, Incarnation::default()))
}

//! The writers: each publishes and changes calls, in transactions one after the other, and keeps a record
//! of what it did. They must not look into the event log: the record is the expectation.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Postgres, Row as _};
use tokio::sync::{Semaphore, oneshot, watch};
use uuid::Uuid;

use crate::record::{Key, Outcome, Record, Transaction, Written};

/// Made beside the product's tables; nothing watches it. A transaction's row tells whether it committed.
pub(crate) const MARKS: &str = "create table public.chaos_marks (mark uuid primary key)";
/// Chaos: pause between transactions.
const PAUSE_MS: std::ops::Range<u64> = 20..160;
/// Chaos: so long a transaction stays open, now and then.
const HELD_MS: std::ops::Range<u64> = 500..4_000;
/// One in so many transactions stays open.
const HELD_ONE_IN: u32 = 40;
/// One in so many is rolled back.
const ROLLED_BACK_ONE_IN: u32 = 6;
/// One in so many published events is large.
const LARGE_ONE_IN: u32 = 12;
/// Chaos: one in so many hangs up while it commits, after so long, and does not learn what became of it.
const IMPATIENT_ONE_IN: u32 = 25;
const IMPATIENT_MICROS: std::ops::Range<u64> = 0..3_000;
/// One in so many is rolled back to a savepoint, and goes on.
const SAVEPOINT_ONE_IN: u32 = 20;
/// One in so many checks its constraints at once, so that no bell rings at its commit.
const WITHOUT_BELL_ONE_IN: u32 = 20;
/// One in so many commits in two phases, where no bell may ring either.
const TWO_PHASE_ONE_IN: u32 = 20;
const LARGE_BYTES: i32 = 20_000;
/// Delay before the next try to connect.
const RECONNECT_DELAY: Duration = Duration::from_millis(50);
/// A try to connect, or to commit, takes no longer.
const DATABASE_DEADLINE: Duration = Duration::from_secs(30);

/// The organisation of the bulk statements, at this place in the list; few follow it.
pub(crate) const BULK_ORG: usize = 0;

/// What all writers need.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) orgs: Arc<Vec<Uuid>>,
    pub(crate) record: Arc<Record>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) snapshots: Arc<Semaphore>,
}

impl World {
    /// A connection, as soon as the database is there.
    pub(crate) async fn connect(&self) -> PgConnection {
        loop {
            let attempt = tokio::time::timeout(DATABASE_DEADLINE, PgConnection::connect(&self.url)).await;
            match attempt {
                Ok(Ok(connection)) => return connection,
                // The condition is polled: the database is there.
                _ => tokio::time::sleep(RECONNECT_DELAY).await,
            }
        }
    }
}

/// A backend of the server: numbers of processes come again, with the start they don't.
#[derive(Clone, Debug)]
struct Backend {
    pid: i32,
    started: String,
}

async fn backend(connection: &mut PgConnection) -> Option<Backend> {
    let sql = "select pid, backend_start::text from pg_stat_activity where pid = pg_backend_pid()";
    let row = sqlx::query(sql).fetch_one(connection).await.ok()?;
    Some(Backend { pid: row.get(0), started: row.get(1) })
}

/// A new connection, when the former one's backend is gone: a commit that it was told of may still be under
/// way, and what comes next must come after it.
async fn connect_after(world: &World, former: Option<&Backend>) -> (PgConnection, Option<Backend>) {
    loop {
        let mut connection = world.connect().await;
        let Some(present) = backend(&mut connection).await else { continue };
        let Some(former) = former else { return (connection, Some(present)) };
        let sql =
            "select not exists (select from pg_stat_activity where pid = $1 and backend_start::text = $2)";
        let query = sqlx::query_scalar(sql).bind(former.pid).bind(&former.started);
        if let Ok(true) = query.fetch_one(&mut connection).await {
            return (connection, Some(present));
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

/// Commits what was prepared under this name, until it is known to be gone.
async fn finish_prepared(world: &World, mark: Uuid) {
    loop {
        let mut connection = world.connect().await;
        let sql = "select exists (select from pg_prepared_xacts where gid = $1)";
        let there = sqlx::query_scalar(sql).bind(mark.to_string()).fetch_one(&mut connection).await;
        match there {
            Ok(false) => return,
            Ok(true) => {
                let _ = connection.execute(AssertSqlSafe(format!("commit prepared '{mark}'"))).await;
            }
            Err(_) => tokio::time::sleep(RECONNECT_DELAY).await,
        }
    }
}

struct Writer {
    world: World,
    id: u64,
    n: u64,
    random: fastrand::Rng,
    /// Calls that are there: organisation, id, number of the last change.
    calls: Vec<(Uuid, Uuid, u64)>,
    /// A transaction whose commit was perhaps sent.
    planned: Option<(Uuid, Arc<Vec<Written>>)>,
}

/// Writes until told to stop; the transactions that may have been committed.
pub(crate) async fn write(world: World, id: u64, random: fastrand::Rng) -> Vec<Transaction> {
    let mut writer = Writer { world, id, n: 0, random, calls: Vec::new(), planned: None };
    let mut transactions = Vec::new();
    let (mut connection, mut backend) = connect_after(&writer.world, None).await;
    while !*writer.world.stop.borrow() {
        tokio::time::sleep(Duration::from_millis(writer.random.u64(PAUSE_MS))).await;
        let calls = writer.calls.clone();
        writer.planned = None;
        let attempt = tokio::time::timeout(DATABASE_DEADLINE, writer.transaction(&mut connection)).await;
        match attempt {
            Ok(Ok(Some(transaction))) => {
                let is_unknown = transaction.outcome == Outcome::Unknown;
                transactions.push(transaction);
                if is_unknown {
                    // Whether its changes are there is not known here, so these calls are left alone.
                    writer.calls.clear();
                    drop(connection);
                    (connection, backend) = connect_after(&writer.world, backend.as_ref()).await;
                }
            }
            Ok(Ok(None)) => {
                writer.world.record.count("transactions rolled back");
                writer.calls = calls;
            }
            Ok(Err(_)) | Err(_) => {
                if let Some((mark, events)) = writer.planned.take() {
                    transactions.push(Transaction { mark, outcome: Outcome::Unknown, events });
                    writer.calls.clear();
                } else {
                    // Before its commit: it can't have happened.
                    writer.world.record.count("transactions broken off");
                    writer.calls = calls;
                }
                drop(connection);
                (connection, backend) = connect_after(&writer.world, backend.as_ref()).await;
            }
        }
    }
    transactions
}

impl Writer {
    /// None: rolled back on purpose. The error: broken off before the commit was sent.
    async fn transaction(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<Option<Transaction>, sqlx::Error> {
        let mark = Uuid::from_u128(self.random.u128(..));
        let mut events = Vec::new();
        let mut tx = connection.begin().await?;
        let is_two_phase = self.random.u32(..TWO_PHASE_ONE_IN) == 0;
        let is_without_bell = !is_two_phase && self.random.u32(..WITHOUT_BELL_ONE_IN) == 0;
        if is_without_bell {
            tx.execute("set constraints all immediate").await?;
        }
        sqlx::query("insert into chaos_marks values ($1)").bind(mark).execute(&mut *tx).await?;
        for _ in 0..self.random.usize(1..4) {
            self.event(&mut tx, &mut events).await?;
        }
        if self.random.u32(..SAVEPOINT_ONE_IN) == 0 {
            self.roll_back_to_savepoint(&mut tx).await?;
        }
        if self.random.u32(..HELD_ONE_IN) == 0 {
            self.count("transactions held open");
            tokio::time::sleep(Duration::from_millis(self.random.u64(HELD_MS))).await;
        }
        if self.random.u32(..ROLLED_BACK_ONE_IN) == 0 {
            tx.rollback().await?;
            return Ok(None);
        }
        let patience = if self.random.u32(..IMPATIENT_ONE_IN) == 0 {
            Duration::from_micros(self.random.u64(IMPATIENT_MICROS))
        } else {
            DATABASE_DEADLINE / 2
        };
        let events = self.world.record.plan(mark, events);
        self.planned = Some((mark, Arc::clone(&events)));
        if is_two_phase {
            return self.commit_in_two_phases(tx, mark, events).await;
        }
        let outcome = match tokio::time::timeout(patience, tx.commit()).await {
            Ok(Ok(())) => Outcome::Committed,
            _ => Outcome::Unknown,
        };
        if is_without_bell && outcome == Outcome::Committed {
            self.count("transactions committed without a bell");
        }
        Ok(Some(Transaction { mark, outcome, events }))
    }

    /// Writes something that must not be seen.
    async fn roll_back_to_savepoint(
        &mut self,
        tx: &mut sqlx::Transaction<'_, Postgres>,
    ) -> Result<(), sqlx::Error> {
        let calls = self.calls.clone();
        let mut within = tx.begin().await?;
        self.event(&mut within, &mut Vec::new()).await?;
        within.rollback().await?;
        self.calls = calls;
        self.count("rollbacks to a savepoint");
        Ok(())
    }

    /// Prepares, and finishes whatever happens to the connection or the database between.
    async fn commit_in_two_phases(
        &mut self,
        mut tx: sqlx::Transaction<'_, Postgres>,
        mark: Uuid,
        events: Arc<Vec<Written>>,
    ) -> Result<Option<Transaction>, sqlx::Error> {
        let prepare = format!("prepare transaction '{mark}'");
        let is_prepared = tx.execute(AssertSqlSafe(prepare)).await.is_ok();
        // The server has left the transaction; the driver's rollback, on drop, does nothing but warn.
        drop(tx);
        if is_prepared {
            self.count("transactions prepared");
        }
        if self.random.u32(..HELD_ONE_IN / 8) == 0 {
            self.count("prepared transactions held");
            tokio::time::sleep(Duration::from_millis(self.random.u64(HELD_MS))).await;
        }
        finish_prepared(&self.world, mark).await;
        // Whether it was prepared, and so committed, only its mark tells where the connection broke.
        let outcome = if is_prepared { Outcome::Committed } else { Outcome::Unknown };
        if is_prepared {
            self.count("transactions committed in two phases");
        }
        Ok(Some(Transaction { mark, outcome, events }))
    }

    fn count(&self, what: &str) {
        self.world.record.count(what);
    }

    async fn event(
        &mut self,
        tx: &mut sqlx::Transaction<'_, Postgres>,
        events: &mut Vec<Written>,
    ) -> Result<(), sqlx::Error> {
        self.n += 1;
        let (writer, n) = (self.id, self.n);
        let key = Key { is_deletion: false, writer, n };
        let (w, m) = (writer.cast_signed(), n.cast_signed());
        let of_call = (!self.calls.is_empty()).then(|| self.random.usize(..self.calls.len()));
        match (self.random.u32(..10), of_call) {
            (0..2, _) | (2..6, None) => {
                let org = self.org();
                let sql = "insert into calls (org_id, metadata)
                           values ($1, jsonb_build_object('writer', $2, 'n', $3)) returning id";
                let row = sqlx::query(sql).bind(org).bind(w).bind(m).fetch_one(&mut **tx).await?;
                self.calls.push((org, row.get(0), n));
                events.push(Written { org, on_calls: true, key });
            }
            (2..5, Some(at)) => {
                let (org, call, _) = self.calls[at];
                let sql =
                    "update calls set metadata = jsonb_build_object('writer', $2, 'n', $3) where id = $1";
                sqlx::query(sql).bind(call).bind(w).bind(m).execute(&mut **tx).await?;
                self.calls[at].2 = n;
                events.push(Written { org, on_calls: true, key });
            }
            (5, Some(at)) => {
                let (org, call, last) = self.calls.swap_remove(at);
                sqlx::query("delete from calls where id = $1").bind(call).execute(&mut **tx).await?;
                let key = Key { is_deletion: true, writer, n: last };
                events.push(Written { org, on_calls: true, key });
            }
            _ => {
                let (org, on_calls) = (self.org(), self.random.u32(..5) > 0);
                let filler = if self.random.u32(..LARGE_ONE_IN) == 0 { LARGE_BYTES } else { 0 };
                let sql = "select warden.publish($1, $2, 'chaos.test', jsonb_build_object(
                             'org_id', $1, 'writer', $3, 'n', $4, 'filler', repeat('x', $5)))";
                let topic = if on_calls { "calls" } else { "call_logs" };
                let query = sqlx::query(sql).bind(org).bind(topic).bind(w).bind(m).bind(filler);
                query.execute(&mut **tx).await?;
                events.push(Written { org, on_calls, key });
            }
        }
        Ok(())
    }

    fn org(&mut self) -> Uuid {
        self.world.orgs[self.random.usize(..self.world.orgs.len())]
    }
}

/// Rows of a bulk statement that are there: whose, and their numbers.
pub(crate) struct Bulk {
    id: u64,
    first: u64,
    last: u64,
}

/// One statement of many rows, tried until it is known to be committed; then `done` is told.
pub(crate) async fn bulk(
    world: World,
    id: u64,
    rows: u32,
    mut random: fastrand::Rng,
    done: oneshot::Sender<Bulk>,
) -> Vec<Transaction> {
    let mut transactions = Vec::new();
    for attempt in 0_u64.. {
        // A second try after an unknown end writes other numbers.
        let first = attempt * u64::from(rows) + 1;
        let bulk = Bulk { id, first, last: first + u64::from(rows) - 1 };
        let sql = "with marked as (insert into chaos_marks values ($1))
                   insert into calls (org_id, metadata)
                   select $2, jsonb_build_object('writer', $3, 'n', n) from generate_series($4, $5) n";
        transactions.push(bulk_statement(&world, &bulk, false, sql, &mut random).await);
        if transactions.last().is_some_and(|last| last.outcome == Outcome::Committed) {
            world.record.count(format!("bulk statements of {rows} rows"));
            let _ = done.send(bulk);
            break;
        }
    }
    transactions
}

/// Deletes those rows in one statement, as soon as they are there, so that the database does not grow without
/// end. Tried until it is known to be committed; a try that finds them gone deletes nothing, and is expected to
/// have done what the one before it did.
pub(crate) async fn delete_bulk(
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
        transactions.push(bulk_statement(&world, &bulk, true, sql, &mut random).await);
        if transactions.last().is_some_and(|last| last.outcome == Outcome::Committed) {
            world.record.count("bulk deletions");
            return transactions;
        }
    }
}

async fn bulk_statement(
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
    let events = (bulk.first..=bulk.last).map(|n| Written { org, on_calls: true, key: key(n) }).collect();
    let events = world.record.plan(mark, events);
    let query = sqlx::query(sql).bind(mark).bind(org).bind(bulk.id.cast_signed());
    let query = query.bind(bulk.first.cast_signed()).bind(bulk.last.cast_signed());
    let is_done = query.execute(&mut connection).await.is_ok();
    let outcome = if is_done { Outcome::Committed } else { Outcome::Unknown };
    Transaction { mark, outcome, events }
}

//! The writers. Each one publishes events and changes calls in one transaction after the other, and records
//! its transactions. They must not read the event log, because the record is the expectation.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Postgres, Row as _};
use tokio::sync::{Semaphore, oneshot, watch};
use uuid::Uuid;

use crate::record::{Key, Outcome, Record, Transaction, Written};

/// Table of marks, which is not watched. The row of a transaction shows whether it was committed.
pub(crate) const MARKS: &str = "create table public.chaos_marks (mark uuid primary key)";
/// Pause between transactions.
const PAUSE_MS: std::ops::Range<u64> = 20..160;
/// Time for which some transactions stay open.
const HELD_MS: std::ops::Range<u64> = 500..4_000;
/// One in this many transactions stays open.
const HELD_ONE_IN: u32 = 40;
/// One in this many transactions is rolled back.
const ROLLED_BACK_ONE_IN: u32 = 6;
/// One in this many published events is large.
const LARGE_ONE_IN: u32 = 12;
/// One in this many transactions disconnects during its commit, and does not learn the outcome.
const IMPATIENT_ONE_IN: u32 = 25;
/// Time from the commit to that disconnect.
const IMPATIENT_MICROS: std::ops::Range<u64> = 0..3_000;
/// One in this many transactions rolls back to a savepoint, and continues.
const SAVEPOINT_ONE_IN: u32 = 20;
/// One in this many transactions checks its constraints immediately, so that its commit rings no doorbell.
const WITHOUT_DOORBELL_ONE_IN: u32 = 20;
/// One in this many transactions commits in two phases, which rings no doorbell either.
const TWO_PHASE_ONE_IN: u32 = 20;
const LARGE_BYTES: i32 = 20_000;
/// Pause after a failed attempt to connect.
const RECONNECT_DELAY: Duration = Duration::from_millis(50);
/// Longest attempt to connect, and longest transaction.
const DATABASE_DEADLINE: Duration = Duration::from_secs(30);

/// Index of the organisation of the bulk statements. Few clients follow it.
pub(crate) const BULK_ORG: usize = 0;

/// Shared context of writers and followers.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) orgs: Arc<Vec<Uuid>>,
    pub(crate) record: Arc<Record>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) snapshots: Arc<Semaphore>,
}

impl World {
    /// Connects, and retries until the database is available.
    pub(crate) async fn connect(&self) -> PgConnection {
        loop {
            let attempt = tokio::time::timeout(DATABASE_DEADLINE, PgConnection::connect(&self.url)).await;
            match attempt {
                Ok(Ok(connection)) => return connection,
                _ => tokio::time::sleep(RECONNECT_DELAY).await,
            }
        }
    }
}

/// A backend process of the server. Process ids are reused, but not together with the start time.
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

/// Connects after the previous backend has ended. That backend may still execute a commit, and later
/// transactions must come after it.
async fn connect_after(world: &World, previous: Option<&Backend>) -> (PgConnection, Option<Backend>) {
    loop {
        let mut connection = world.connect().await;
        let Some(current) = backend(&mut connection).await else { continue };
        let Some(previous) = previous else { return (connection, Some(current)) };
        let sql =
            "select not exists (select from pg_stat_activity where pid = $1 and backend_start::text = $2)";
        let query = sqlx::query_scalar(sql).bind(previous.pid).bind(&previous.started);
        if let Ok(true) = query.fetch_one(&mut connection).await {
            return (connection, Some(current));
        }
        tokio::time::sleep(RECONNECT_DELAY).await;
    }
}

/// Commits a prepared transaction, and retries until it no longer exists.
async fn finish_prepared(world: &World, mark: Uuid) {
    loop {
        let mut connection = world.connect().await;
        let sql = "select exists (select from pg_prepared_xacts where gid = $1)";
        let exists = sqlx::query_scalar(sql).bind(mark.to_string()).fetch_one(&mut connection).await;
        match exists {
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
    /// Existing calls: organisation, id, number of the last change.
    calls: Vec<(Uuid, Uuid, u64)>,
    /// Transaction whose commit may have been sent.
    planned: Option<(Uuid, Arc<Vec<Written>>)>,
}

/// Writes until the faults end. Returns the transactions that may have been committed.
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
                    // It is not known whether these changes exist, so the calls are not changed again.
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
                    // The transaction broke off before its commit, so it was not committed.
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
    /// Runs one transaction; `None` if it was rolled back on purpose. An error means that no commit was sent.
    async fn transaction(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<Option<Transaction>, sqlx::Error> {
        let mark = Uuid::from_u128(self.random.u128(..));
        let mut events = Vec::new();
        let mut tx = connection.begin().await?;
        let is_two_phase = self.random.u32(..TWO_PHASE_ONE_IN) == 0;
        let is_without_doorbell = !is_two_phase && self.random.u32(..WITHOUT_DOORBELL_ONE_IN) == 0;
        if is_without_doorbell {
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
        let timeout = if self.random.u32(..IMPATIENT_ONE_IN) == 0 {
            Duration::from_micros(self.random.u64(IMPATIENT_MICROS))
        } else {
            DATABASE_DEADLINE / 2
        };
        let events = self.world.record.plan(mark, events);
        self.planned = Some((mark, Arc::clone(&events)));
        if is_two_phase {
            return self.commit_in_two_phases(tx, mark, events).await;
        }
        let outcome = match tokio::time::timeout(timeout, tx.commit()).await {
            Ok(Ok(())) => Outcome::Committed,
            _ => Outcome::Unknown,
        };
        if is_without_doorbell && outcome == Outcome::Committed {
            self.count("transactions committed without a doorbell");
        }
        Ok(Some(Transaction { mark, outcome, events }))
    }

    /// Writes an event that must not be seen.
    async fn roll_back_to_savepoint(
        &mut self,
        tx: &mut sqlx::Transaction<'_, Postgres>,
    ) -> Result<(), sqlx::Error> {
        let calls = self.calls.clone();
        let mut savepoint = tx.begin().await?;
        self.event(&mut savepoint, &mut Vec::new()).await?;
        savepoint.rollback().await?;
        self.calls = calls;
        self.count("rollbacks to a savepoint");
        Ok(())
    }

    /// Prepares and commits. The commit happens even if the connection or the database fails in between.
    async fn commit_in_two_phases(
        &mut self,
        mut tx: sqlx::Transaction<'_, Postgres>,
        mark: Uuid,
        events: Arc<Vec<Written>>,
    ) -> Result<Option<Transaction>, sqlx::Error> {
        let prepare = format!("prepare transaction '{mark}'");
        let is_prepared = tx.execute(AssertSqlSafe(prepare)).await.is_ok();
        // The server has left the transaction, so the rollback of the driver only causes a warning.
        drop(tx);
        if is_prepared {
            self.count("transactions prepared");
        }
        if self.random.u32(..HELD_ONE_IN / 8) == 0 {
            self.count("prepared transactions held");
            tokio::time::sleep(Duration::from_millis(self.random.u64(HELD_MS))).await;
        }
        finish_prepared(&self.world, mark).await;
        // If the connection broke, only the mark shows whether it was prepared and so committed.
        let outcome = if is_prepared { Outcome::Committed } else { Outcome::Unknown };
        if is_prepared {
            self.count("transactions committed in two phases");
        }
        Ok(Some(Transaction { mark, outcome, events }))
    }

    fn count(&self, name: &str) {
        self.world.record.count(name);
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
        let call = (!self.calls.is_empty()).then(|| self.random.usize(..self.calls.len()));
        match (self.random.u32(..10), call) {
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

/// Rows of a bulk statement, by writer and numbers.
pub(crate) struct Bulk {
    id: u64,
    first: u64,
    last: u64,
}

/// Inserts many rows in one statement, and retries until it is known to be committed. Then sends the rows to
/// `done`.
pub(crate) async fn bulk(
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

/// Deletes the rows of a bulk statement in one statement, so that the database stays small. Retries until the
/// deletion is known to be committed. A retry that finds no rows counts as the deletion of the attempt before
/// it.
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

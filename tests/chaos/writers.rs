//! The writers. Each one publishes events and changes calls in one transaction after the other, and records
//! its transactions. They must not read the event log, because the record is the expectation.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Postgres, Row as _};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use warden_testkit::filters::State;

use crate::filters::STATES;
use crate::record::{Key, Outcome, Record, RowChange, Transaction, Written};

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

/// A call that a writer has created.
#[derive(Clone, Copy)]
struct Call {
    org: Uuid,
    id: Uuid,
    /// Number of its last change.
    last: u64,
    state: State,
}

struct Writer {
    world: World,
    id: u64,
    n: u64,
    random: fastrand::Rng,
    /// Existing calls.
    calls: Vec<Call>,
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
        let state = self.random.usize(..STATES);
        let stored_state = i32::try_from(state).expect("small");
        match (self.random.u32(..10), call) {
            (0..2, _) | (2..6, None) => {
                let org = self.org();
                let sql = "insert into calls (org_id, metadata, state)
                           values ($1, jsonb_build_object('writer', $2, 'n', $3), $4) returning id";
                let query = sqlx::query(sql).bind(org).bind(w).bind(m).bind(stored_state);
                let id = query.fetch_one(&mut **tx).await?.get(0);
                self.calls.push(Call { org, id, last: n, state });
                let row = RowChange { states: [None, Some(state)], previous: None };
                events.push(Written { org, on_calls: true, key, row: Some(row) });
            }
            (2..5, Some(at)) => {
                let sql = "update calls set metadata = jsonb_build_object('writer', $2, 'n', $3), state = $4
                           where id = $1";
                let query = sqlx::query(sql).bind(self.calls[at].id).bind(w).bind(m).bind(stored_state);
                query.execute(&mut **tx).await?;
                let call = &mut self.calls[at];
                let row = RowChange { states: [Some(call.state), Some(state)], previous: Some(call.last) };
                (call.last, call.state) = (n, state);
                events.push(Written { org: call.org, on_calls: true, key, row: Some(row) });
            }
            (5, Some(at)) => {
                let Call { org, id, last, state } = self.calls.swap_remove(at);
                sqlx::query("delete from calls where id = $1").bind(id).execute(&mut **tx).await?;
                let key = Key { is_deletion: true, writer, n: last };
                let row = RowChange { states: [Some(state), None], previous: None };
                events.push(Written { org, on_calls: true, key, row: Some(row) });
            }
            _ => {
                let (org, on_calls) = (self.org(), self.random.u32(..5) > 0);
                let filler = if self.random.u32(..LARGE_ONE_IN) == 0 { LARGE_BYTES } else { 0 };
                let sql = "select warden.publish($1, $2, 'chaos.test', jsonb_build_object(
                             'org_id', $1, 'writer', $3, 'n', $4, 'filler', repeat('x', $5)))";
                let topic = if on_calls { "calls" } else { "call_logs" };
                let query = sqlx::query(sql).bind(org).bind(topic).bind(w).bind(m).bind(filler);
                query.execute(&mut **tx).await?;
                events.push(Written { org, on_calls, key, row: None });
            }
        }
        Ok(())
    }

    fn org(&mut self) -> Uuid {
        self.world.orgs[self.random.usize(..self.world.orgs.len())]
    }
}

//! A random program: several connections write concurrently, and record which of their changes committed.
//!
//! The `returning` clause of each statement reports its changes. It is evaluated under the row lock and
//! contains the row's new version, so the commit order of concurrent updates is known as well.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use super::model::{Change, Kind, Row, Table};
use super::world::World;

/// The named topics to which the program publishes. `org` is the last, because it receives every event: its
/// final event is then the very last one.
pub const NAMED_TOPICS: [&str; 5] = ["calls", "call_logs", "recordings", "notes", "org"];

/// Errors that a random program may cause: a deadlock, and a child whose call does not exist any more.
const EXPECTED_SQLSTATES: [&str; 2] = ["40P01", "23503"];

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Commit,
    Rollback,
    TwoPhase,
}

/// A connection that runs random transactions.
pub struct Worker {
    name: String,
    world: Arc<World>,
    rng: Rng,
    connection: PgConnection,
    /// Changes of the open transaction.
    changes: Vec<Change>,
    /// Planned calls that the open transaction has created.
    born: Vec<(Uuid, Uuid)>,
    published: i64,
    marks: u32,
    /// Number of the transaction.
    transaction: usize,
}

impl Worker {
    pub async fn new(url: &str, name: &str, seed: u64, world: Arc<World>) -> Self {
        let mut connection = PgConnection::connect(url).await.expect("connects");
        // Deadlocks are expected, but the default timeout of a second each would make the test slow.
        connection.execute("set deadlock_timeout = '10ms'").await.expect("sets");
        Self {
            name: name.to_owned(),
            world,
            rng: Rng::with_seed(seed),
            connection,
            changes: Vec::new(),
            born: Vec::new(),
            published: 0,
            marks: 0,
            transaction: 0,
        }
    }

    /// Runs this number of random transactions.
    pub async fn run(mut self, transactions: usize) {
        for _ in 0..transactions {
            if self.rng.u8(..10) == 0 {
                // A single statement without a transaction block.
                self.count_transaction();
                let done = self.random_change().await;
                self.conclude(done.is_ok());
                continue;
            }
            let fate = match self.rng.u8(..10) {
                0 | 1 => Fate::Rollback,
                2 => Fate::TwoPhase,
                _ => Fate::Commit,
            };
            self.begin().await;
            let done = self.random_body().await;
            self.end(if done.is_ok() { fate } else { Fate::Rollback }).await;
        }
    }

    /// Opens a transaction and writes in it. It stays open until [`Self::release`].
    pub async fn hold(&mut self) {
        self.begin().await;
        // It inserts new calls only, because a lock on an existing row would block other workers until the
        // end.
        self.insert_calls(false).await.expect("no lock is in the way");
        for _ in 0..3 {
            self.publish_somewhere().await.expect("no lock is in the way");
        }
    }

    /// Ends the held transaction after one more write.
    pub async fn release(&mut self, commit: bool) {
        self.publish_somewhere().await.expect("no lock is in the way");
        self.end(if commit { Fate::Commit } else { Fate::Rollback }).await;
    }

    fn count_transaction(&mut self) {
        self.transaction = self.world.begun.fetch_add(1, Ordering::SeqCst);
    }

    async fn begin(&mut self) {
        self.count_transaction();
        self.connection.execute("begin").await.expect("begins");
    }

    async fn end(&mut self, fate: Fate) {
        match fate {
            Fate::Commit => self.connection.execute("commit").await.expect("commits"),
            Fate::Rollback => self.connection.execute("rollback").await.expect("rolls back"),
            Fate::TwoPhase => {
                // The name must be unique in the cluster, as the organisations of each program are.
                let mark = self.mark();
                let id = format!("{}-{mark}", self.world.orgs[0]);
                self.connection
                    .execute(AssertSqlSafe(format!("prepare transaction '{id}'")))
                    .await
                    .expect("prepares");
                self.connection
                    .execute(AssertSqlSafe(format!("commit prepared '{id}'")))
                    .await
                    .expect("commits what was prepared")
            }
        };
        self.conclude(fate != Fate::Rollback);
    }

    /// Records whether the changes since the last call have committed.
    pub fn conclude(&mut self, committed: bool) {
        let (changes, born) = (std::mem::take(&mut self.changes), std::mem::take(&mut self.born));
        let count = changes.len();
        self.world.state(|state| {
            if committed {
                state.committed.extend(changes);
            } else {
                state.rolled_back += changes.len();
                state.unborn.extend(born);
            }
        });
        self.world.progress.send_modify(|progress| *progress += count);
    }

    async fn random_body(&mut self) -> Result<(), ()> {
        for _ in 0..self.rng.usize(1..4) {
            if self.rng.u8(..5) > 0 {
                self.random_change().await?;
                continue;
            }
            self.connection.execute("savepoint s").await.expect("saves");
            let (changes, born) = (self.changes.len(), self.born.len());
            for _ in 0..self.rng.usize(1..3) {
                self.random_change().await?;
            }
            if self.rng.bool() {
                self.connection.execute("rollback to s").await.expect("rolls back");
                let (undone, unborn) = (self.changes.split_off(changes), self.born.split_off(born));
                self.world.state(|state| {
                    state.rolled_back += undone.len();
                    state.unborn.extend(unborn);
                });
            } else {
                self.connection.execute("release s").await.expect("releases");
            }
        }
        Ok(())
    }

    async fn random_change(&mut self) -> Result<(), ()> {
        match self.rng.u8(..20) {
            0..3 => self.insert_calls(false).await,
            3 => self.insert_calls(true).await,
            4..8 => self.insert_children().await,
            8..13 => self.update_some().await,
            13 => self.update_whole_orgs().await,
            14 => self.update_nothing().await,
            15..17 => self.delete_some().await,
            _ => self.publish_somewhere().await,
        }
    }

    /// Inserts one call or several, possibly of several organisations, in one statement. With an anchor, the
    /// same statement updates an existing call.
    async fn insert_calls(&mut self, with_anchor: bool) -> Result<(), ()> {
        let count = self.rng.usize(1..6);
        let rng = &mut self.rng;
        let mut calls = self.world.state(|state| {
            rng.shuffle(&mut state.unborn);
            state.unborn.split_off(state.unborn.len().saturating_sub(count))
        });
        self.born.extend(&calls);
        for _ in calls.len()..count {
            calls.push((self.org(), self.id()));
        }
        if with_anchor {
            calls.push(self.world.anchors[self.rng.usize(..self.world.anchors.len())]);
        }
        let (orgs, ids): (Vec<Uuid>, Vec<Uuid>) = calls.into_iter().unzip();
        let mark = self.mark();
        let query = sqlx::query_as::<_, Row>(
            "insert into calls (org_id, id, metadata, ended_reason, state)
             select t.*, '{\"v\": 1}', $3, random_state(t.id, $3) from unnest($1::uuid[], $2::uuid[]) t (org, id)
             on conflict (id) do update set ended_reason = excluded.ended_reason, state = excluded.state,
               metadata = jsonb_build_object('v', (calls.metadata->>'v')::int + 1)
             returning id, org_id as org, id as call, (metadata->>'v')::bigint as version,
               ended_reason as mark, true as changed, state",
        );
        let rows = query.bind(orgs).bind(ids).bind(mark).fetch_all(&mut self.connection).await;
        for row in expected_error(rows)? {
            let kind = if row.version == 1 { Kind::Created } else { Kind::Updated };
            self.record(kind, Table::Calls, row);
        }
        Ok(())
    }

    async fn insert_children(&mut self) -> Result<(), ()> {
        const CREATED: &str =
            "id, org_id as org, call_id as call, 1::bigint as version, $3 as mark, true as changed, state";
        let (table, version) = if self.rng.bool() {
            (Table::CallLogs, ("metadata", "'{\"v\": 1}'"))
        } else {
            (Table::Recordings, ("size_bytes", "1"))
        };
        let mark = self.mark();
        let children: Vec<Uuid> = (0..self.rng.usize(1..6)).map(|_| self.id()).collect();
        let rows = if self.rng.u8(..6) == 0 {
            // Children without a call reach the table's topic and `org` only.
            let sql = format!(
                "insert into {} (id, org_id, {}, {}, state)
                 select t.child, $2, {}, $3, random_state(t.child, $3) from unnest($1::uuid[]) t (child)
                 returning {CREATED}",
                table.name(),
                version.0,
                table.mark_column(),
                version.1
            );
            let org = self.org();
            let query = sqlx::query_as(AssertSqlSafe(sql)).bind(children).bind(org).bind(mark);
            query.fetch_all(&mut self.connection).await
        } else {
            let calls: Vec<Uuid> = children.iter().map(|_| self.some_call()).collect();
            let sql = format!(
                "insert into {} (id, org_id, call_id, {}, {}, state)
                 select t.child, c.org_id, c.id, {}, $3, random_state(t.child, $3)
                 from unnest($1::uuid[], $2::uuid[]) t (child, call) join calls c on c.id = t.call
                 returning {CREATED}",
                table.name(),
                version.0,
                table.mark_column(),
                version.1
            );
            let query = sqlx::query_as(AssertSqlSafe(sql)).bind(children).bind(calls).bind(mark);
            query.fetch_all(&mut self.connection).await
        };
        for row in expected_error(rows)? {
            self.record(Kind::Created, table, row);
        }
        Ok(())
    }

    /// Updates some rows of any organisations. Perhaps only some of them get another value.
    async fn update_some(&mut self) -> Result<(), ()> {
        let table = self.table();
        let ids: Vec<Uuid> = (0..self.rng.usize(1..5)).map(|_| self.some_row(table)).collect();
        let changed = ids[self.rng.usize(..ids.len())..].to_vec();
        self.update(table, "id", ids, changed).await
    }

    async fn update_whole_orgs(&mut self) -> Result<(), ()> {
        let table = self.table();
        let orgs: Vec<Uuid> = (0..2).map(|_| self.org()).collect();
        self.update(table, "org_id", orgs.clone(), orgs).await
    }

    async fn update_nothing(&mut self) -> Result<(), ()> {
        let table = self.table();
        let orgs = vec![self.org()];
        self.update(table, "org_id", orgs, Vec::new()).await
    }

    async fn update(&mut self, table: Table, by: &str, of: Vec<Uuid>, changed: Vec<Uuid>) -> Result<(), ()> {
        let (column, next, version) = table.version();
        let (name, call, mark) = (table.name(), table.call_column(), table.mark_column());
        let sql = format!(
            "update {name} set {column} = case when {by} = any ($2) then {next} else {column} end,
               {mark} = case when {by} = any ($2) then $3 else {mark} end,
               state = case when {by} = any ($2) then random_state(id, $3) else state end
             where {by} = any ($1)
             returning id, org_id as org, {call} as call, {version} as version, {mark} as mark,
               {by} = any ($2) as changed, state"
        );
        let statement = self.mark();
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(of).bind(changed).bind(statement);
        let rows: Vec<Row> = expected_error(query.fetch_all(&mut self.connection).await)?;
        for row in rows.into_iter().filter(|row| row.changed) {
            self.record(Kind::Updated, table, row);
        }
        Ok(())
    }

    async fn delete_some(&mut self) -> Result<(), ()> {
        let table = self.table();
        let mut ids: Vec<Uuid> = (0..self.rng.usize(1..4)).map(|_| self.some_row(table)).collect();
        ids.retain(|id| self.world.anchors.iter().all(|(_, anchor)| anchor != id));
        let (_, _, version) = table.version();
        let (name, call, mark) = (table.name(), table.call_column(), table.mark_column());
        let sql = format!(
            "delete from {name} where id = any ($1)
             returning id, org_id as org, {call} as call, {version} as version, {mark} as mark, true as changed,
               state"
        );
        let rows = sqlx::query_as(AssertSqlSafe(sql)).bind(ids).fetch_all(&mut self.connection).await;
        for row in expected_error(rows)? {
            self.record(Kind::Deleted, table, row);
        }
        Ok(())
    }

    async fn publish_somewhere(&mut self) -> Result<(), ()> {
        let topic = if self.rng.bool() {
            NAMED_TOPICS[self.rng.usize(..NAMED_TOPICS.len())].to_owned()
        } else {
            // The call may be another organisation's. The event must stay in the publishing organisation.
            format!("call:{}", self.some_call())
        };
        let (org, mark) = (self.org(), self.mark());
        self.publish(org, &topic, &mark).await
    }

    /// Publishes an event with the worker's name and a running number.
    pub async fn publish(&mut self, org: Uuid, topic: &str, mark: &str) -> Result<(), ()> {
        self.published += 1;
        let data = json!({"org_id": org, "worker": self.name, "number": self.published, "mark": mark});
        let query = sqlx::query("select warden.publish($1, $2, 'test.published', $3)");
        expected_error(query.bind(org).bind(topic).bind(data).execute(&mut self.connection).await)?;
        let change = Change::publication(org, topic, &self.name, self.published, mark);
        self.changes.push(Change { transaction: self.transaction, ..change });
        Ok(())
    }

    fn record(&mut self, kind: Kind, table: Table, row: Row) {
        self.world.state(|state| state.rows[table as usize].push(row.id));
        let change = Change::row(kind, table, row);
        self.changes.push(Change { transaction: self.transaction, ..change });
    }

    fn mark(&mut self) -> String {
        self.marks += 1;
        format!("{}-{}", self.name, self.marks)
    }

    fn id(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.rng.u128(..).to_be_bytes()).into_uuid()
    }

    fn org(&mut self) -> Uuid {
        self.world.orgs[self.rng.usize(..self.world.orgs.len())]
    }

    fn table(&mut self) -> Table {
        Table::ALL[self.rng.usize(..Table::ALL.len())]
    }

    /// A row of any organisation, which may be uncommitted or deleted.
    fn some_row(&mut self, table: Table) -> Uuid {
        let rng = &mut self.rng;
        let known = self.world.state(|state| rng.choice(&state.rows[table as usize]).copied());
        known.unwrap_or_else(|| self.some_call())
    }

    fn some_call(&mut self) -> Uuid {
        let calls = [&self.world.anchors, &self.world.planned][self.rng.usize(..2)];
        calls[self.rng.usize(..calls.len())].1
    }
}

fn expected_error<T>(result: Result<T, sqlx::Error>) -> Result<T, ()> {
    result.map_err(|error| {
        let code = error.as_database_error().and_then(|e| e.code().map(std::borrow::Cow::into_owned));
        let is_expected = code.is_some_and(|code| EXPECTED_SQLSTATES.contains(&code.as_str()));
        assert!(is_expected, "a statement failed: {error}");
    })
}

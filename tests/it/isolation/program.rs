//! A random program: what several connections do at once, and a record of what of it committed.
//!
//! What a statement did is known from its own `returning`: under a row lock that says which version
//! of a row it made, so the order in which concurrent updates committed is known as well.

use std::sync::{Arc, Mutex};

use fastrand::Rng;
use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use super::model::{Deed, Kind, Row, Table};

/// Topics that something is published to, besides those of calls. `org`, which hears of everything,
/// comes last, so that the last word on it is the very last.
pub const NAMED_TOPICS: [&str; 5] = ["calls", "call_logs", "recordings", "notes", "org"];

/// Errors that a random program must expect: a deadlock, and a child whose call is gone.
const EXPECTED_SQLSTATES: [&str; 2] = ["40P01", "23503"];

/// What the workers of one program share.
pub struct World {
    pub orgs: Vec<Uuid>,
    /// Calls that exist from the start and are never deleted.
    pub anchors: Vec<(Uuid, Uuid)>,
    /// Ids of calls that somebody may join before they are created: organisation and id.
    pub planned: Vec<(Uuid, Uuid)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Planned calls that nobody has created.
    unborn: Vec<(Uuid, Uuid)>,
    /// Rows that may exist, by table.
    rows: [Vec<Uuid>; 3],
    committed: Vec<Deed>,
    rolled_back: usize,
}

impl World {
    pub fn new(orgs: Vec<Uuid>, anchors: Vec<(Uuid, Uuid)>, planned: Vec<(Uuid, Uuid)>) -> Self {
        let state = State { unborn: planned.clone(), ..State::default() };
        Self { orgs, anchors, planned, state: Mutex::new(state) }
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("no worker has failed"))
    }

    /// What committed, and how many deeds were rolled back.
    pub fn outcome(&self) -> (Vec<Deed>, usize) {
        self.state(|s| (s.committed.clone(), s.rolled_back))
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Commit,
    Rollback,
    TwoPhase,
}

/// One connection and what it does.
pub struct Worker {
    name: String,
    world: Arc<World>,
    rng: Rng,
    connection: PgConnection,
    /// Of the transaction that is open.
    deeds: Vec<Deed>,
    born: Vec<(Uuid, Uuid)>,
    published: i64,
    marks: u32,
}

impl Worker {
    pub async fn new(url: &str, name: &str, seed: u64, world: Arc<World>) -> Self {
        let mut connection = PgConnection::connect(url).await.expect("connects");
        // A deadlock is part of the program; waiting a second for each is not.
        connection.execute("set deadlock_timeout = '10ms'").await.expect("sets");
        Self {
            name: name.to_owned(),
            world,
            rng: Rng::with_seed(seed),
            connection,
            deeds: Vec::new(),
            born: Vec::new(),
            published: 0,
            marks: 0,
        }
    }

    /// So many random transactions.
    pub async fn run(mut self, transactions: usize) {
        for _ in 0..transactions {
            if self.rng.u8(..10) == 0 {
                // Without a transaction block: the statement is its own.
                let done = self.random_deed().await;
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

    /// Opens a transaction that writes at once, and ends only when told.
    pub async fn hold(&mut self) {
        self.begin().await;
        // Only new calls: a lock on a row of others would hold them up until the end.
        self.insert_calls(false).await.expect("nobody is in the way");
        for _ in 0..3 {
            self.publish_somewhere().await.expect("nobody is in the way");
        }
    }

    /// Ends the held transaction after one more write.
    pub async fn release(&mut self, commit: bool) {
        self.publish_somewhere().await.expect("nobody is in the way");
        self.end(if commit { Fate::Commit } else { Fate::Rollback }).await;
    }

    async fn begin(&mut self) {
        self.connection.execute("begin").await.expect("begins");
    }

    async fn end(&mut self, fate: Fate) {
        match fate {
            Fate::Commit => self.connection.execute("commit").await.expect("commits"),
            Fate::Rollback => self.connection.execute("rollback").await.expect("rolls back"),
            Fate::TwoPhase => {
                // Its name is the cluster's, and ids of two programs never meet.
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

    /// What was done since the last call has committed, or has not.
    pub fn conclude(&mut self, committed: bool) {
        let (deeds, born) = (std::mem::take(&mut self.deeds), std::mem::take(&mut self.born));
        self.world.state(|state| {
            if committed {
                state.committed.extend(deeds);
            } else {
                state.rolled_back += deeds.len();
                state.unborn.extend(born);
            }
        });
    }

    async fn random_body(&mut self) -> Result<(), ()> {
        for _ in 0..self.rng.usize(1..4) {
            if self.rng.u8(..5) > 0 {
                self.random_deed().await?;
                continue;
            }
            self.connection.execute("savepoint s").await.expect("saves");
            let (deeds, born) = (self.deeds.len(), self.born.len());
            for _ in 0..self.rng.usize(1..3) {
                self.random_deed().await?;
            }
            if self.rng.bool() {
                self.connection.execute("rollback to s").await.expect("rolls back");
                let (undone, unborn) = (self.deeds.split_off(deeds), self.born.split_off(born));
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

    async fn random_deed(&mut self) -> Result<(), ()> {
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

    /// One or many, of one organisation or several in one statement; with an anchor, one that is
    /// there already is updated by the same statement.
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
            "insert into calls (org_id, id, metadata, ended_reason)
             select t.*, '{\"v\": 1}', $3 from unnest($1::uuid[], $2::uuid[]) t
             on conflict (id) do update set ended_reason = excluded.ended_reason,
               metadata = jsonb_build_object('v', (calls.metadata->>'v')::int + 1)
             returning id, org_id as org, id as call, (metadata->>'v')::bigint as version,
               ended_reason as mark, true as changed",
        );
        let rows = query.bind(orgs).bind(ids).bind(mark).fetch_all(&mut self.connection).await;
        for row in expected_error(rows)? {
            let kind = if row.version == 1 { Kind::Created } else { Kind::Updated };
            self.did(kind, Table::Calls, row);
        }
        Ok(())
    }

    async fn insert_children(&mut self) -> Result<(), ()> {
        let (table, version) = if self.rng.bool() {
            (Table::CallLogs, ("metadata", "'{\"v\": 1}'"))
        } else {
            (Table::Recordings, ("size_bytes", "1"))
        };
        let mark = self.mark();
        let children: Vec<Uuid> = (0..self.rng.usize(1..6)).map(|_| self.id()).collect();
        let rows = if self.rng.u8(..6) == 0 {
            // Of no call: told on the table's topic and on org alone.
            let sql = format!(
                "insert into {} (id, org_id, {}, {}) select unnest($1::uuid[]), $2, {}, $3
                 returning id, org_id as org, call_id as call, 1::bigint as version, $3 as mark, true as changed",
                table.name(), version.0, table.mark_column(), version.1
            );
            let org = self.org();
            let query = sqlx::query_as(AssertSqlSafe(sql)).bind(children).bind(org).bind(mark);
            query.fetch_all(&mut self.connection).await
        } else {
            let calls: Vec<Uuid> = children.iter().map(|_| self.some_call()).collect();
            let sql = format!(
                "insert into {} (id, org_id, call_id, {}, {})
                 select t.child, c.org_id, c.id, {}, $3
                 from unnest($1::uuid[], $2::uuid[]) t (child, call) join calls c on c.id = t.call
                 returning id, org_id as org, call_id as call, 1::bigint as version, $3 as mark, true as changed",
                table.name(), version.0, table.mark_column(), version.1
            );
            let query = sqlx::query_as(AssertSqlSafe(sql)).bind(children).bind(calls).bind(mark);
            query.fetch_all(&mut self.connection).await
        };
        for row in expected_error(rows)? {
            self.did(Kind::Created, table, row);
        }
        Ok(())
    }

    /// Some rows, of whichever organisations; of these, perhaps, only some to another value.
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
        let (column, next, version) = if table == Table::Recordings {
            ("size_bytes", "size_bytes + 1", "size_bytes")
        } else {
            ("metadata", "jsonb_build_object('v', (metadata->>'v')::int + 1)", "(metadata->>'v')::bigint")
        };
        let (name, call, mark) = (table.name(), table.call_column(), table.mark_column());
        let sql = format!(
            "update {name} set {column} = case when {by} = any ($2) then {next} else {column} end,
               {mark} = case when {by} = any ($2) then $3 else {mark} end
             where {by} = any ($1)
             returning id, org_id as org, {call} as call, {version} as version, {mark} as mark,
               {by} = any ($2) as changed"
        );
        let statement = self.mark();
        let query = sqlx::query_as(AssertSqlSafe(sql)).bind(of).bind(changed).bind(statement);
        let rows: Vec<Row> = expected_error(query.fetch_all(&mut self.connection).await)?;
        for row in rows.into_iter().filter(|row| row.changed) {
            self.did(Kind::Updated, table, row);
        }
        Ok(())
    }

    async fn delete_some(&mut self) -> Result<(), ()> {
        let table = self.table();
        let mut ids: Vec<Uuid> = (0..self.rng.usize(1..4)).map(|_| self.some_row(table)).collect();
        ids.retain(|id| self.world.anchors.iter().all(|(_, anchor)| anchor != id));
        let version = if table == Table::Recordings { "size_bytes" } else { "(metadata->>'v')::bigint" };
        let (name, call, mark) = (table.name(), table.call_column(), table.mark_column());
        let sql = format!(
            "delete from {name} where id = any ($1)
             returning id, org_id as org, {call} as call, {version} as version, {mark} as mark, true as changed"
        );
        let rows = sqlx::query_as(AssertSqlSafe(sql)).bind(ids).fetch_all(&mut self.connection).await;
        for row in expected_error(rows)? {
            self.did(Kind::Deleted, table, row);
        }
        Ok(())
    }

    async fn publish_somewhere(&mut self) -> Result<(), ()> {
        let topic = if self.rng.bool() {
            NAMED_TOPICS[self.rng.usize(..NAMED_TOPICS.len())].to_owned()
        } else {
            // Anybody's call: what an organisation publishes stays in it.
            format!("call:{}", self.some_call())
        };
        let (org, mark) = (self.org(), self.mark());
        self.publish(org, &topic, &mark).await
    }

    /// Publishes what shows who published and in which order.
    pub async fn publish(&mut self, org: Uuid, topic: &str, mark: &str) -> Result<(), ()> {
        self.published += 1;
        let data = json!({"org_id": org, "worker": self.name, "number": self.published, "mark": mark});
        let query = sqlx::query("select warden.publish($1, $2, 'test.published', $3)");
        expected_error(query.bind(org).bind(topic).bind(data).execute(&mut self.connection).await)?;
        self.deeds.push(Deed::publication(org, topic, &self.name, self.published, mark));
        Ok(())
    }

    fn did(&mut self, kind: Kind, table: Table, row: Row) {
        self.world.state(|state| state.rows[table as usize].push(row.id));
        self.deeds.push(Deed::row(kind, table, row));
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

    /// A row that may be there: of anybody, perhaps uncommitted or gone.
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

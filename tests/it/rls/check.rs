//! One table, held against what must be true of it. It lists what is wrong instead of stopping at it, for
//! the mutation test wants to see that something is.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use super::actors::{Actor, Reach};
use super::attempts::{NO_JSON, NO_PARENT, NOT_ALLOWED, Outcome, REFUSED};
use super::{Tenant, Tenants};
use crate::harness::tenancy::{Insert, RowMaker, Schema, Table, quote};

/// The rows that a check works with. Nothing of it is committed.
pub(super) struct Fixture {
    /// A row of the own tenant, and one of the other: the values of their primary keys.
    pub(super) own_key: String,
    other_key: String,
    /// Rows that could be inserted.
    pub(super) own: Insert,
    other: Insert,
}

/// The check of one table.
pub struct Check<'a> {
    pub failures: Vec<String>,
    pub(super) connection: &'a mut PgConnection,
    pub(super) schema: &'a Schema,
    pub(super) table: &'a Table,
    pub(super) tenants: Tenants,
    fixture: Option<Fixture>,
    /// A policy of the application grants everything: what it grants within the own organisation is its own
    /// affair, and only others' rows are looked at.
    pub is_rogue: bool,
    /// One failure is enough.
    pub stops_at_first: bool,
}

impl<'a> Check<'a> {
    pub fn new(
        connection: &'a mut PgConnection,
        schema: &'a Schema,
        table: &'a Table,
        tenants: Tenants,
    ) -> Self {
        let failures = Vec::new();
        Self {
            failures,
            connection,
            schema,
            table,
            tenants,
            fixture: None,
            is_rogue: false,
            stops_at_first: false,
        }
    }

    /// Adds such a policy.
    pub async fn go_rogue(&mut self) {
        let sql = format!("create policy rogue on {} using (true) with check (true)", self.table.name);
        self.execute(&sql).await;
        self.is_rogue = true;
    }

    fn is_done(&self) -> bool {
        self.stops_at_first && !self.failures.is_empty()
    }

    fn key_of(&self, tenant: Tenant) -> Uuid {
        if self.table.scope.as_deref() == Some("user") { tenant.user } else { tenant.org }
    }

    /// Makes the rows; the transaction is the caller's.
    ///
    /// # Errors
    /// When the table refuses valid rows.
    pub async fn prepare(&mut self) -> Result<(), String> {
        let maker = RowMaker { schema: self.schema, with_optional_parents: true };
        let (own, other) = (self.key_of(self.tenants.own), self.key_of(self.tenants.other));
        let is_root = self.table.scope.as_deref() == Some("root");
        let mut keys = Vec::new();
        for key in [own, other] {
            keys.push(if is_root {
                format!("'{key}'")
            } else {
                maker.insert(self.connection, self.table, key, &self.table.primary_key).await?.join(", ")
            });
        }
        // Where there is one row per tenant, another needs another tenant.
        let mut inserts = Vec::new();
        for key in [own, other] {
            let mut made = maker.prepare(self.connection, self.table, key).await;
            if made.as_ref().is_err_and(|error| error.contains("duplicate key")) {
                made = maker.prepare(self.connection, self.table, Uuid::new_v4()).await;
            }
            inserts.push(made?);
        }
        let (other_insert, own_insert) = (inserts.swap_remove(1), inserts.swap_remove(0));
        let (other_key, own_key) = (keys.pop().unwrap_or_default(), keys.pop().unwrap_or_default());
        self.fixture = Some(Fixture { own_key, other_key, own: own_insert, other: other_insert });
        Ok(())
    }

    /// Runs statements that must work, as the superuser.
    pub async fn execute(&mut self, sql: &str) {
        let done = self.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Everything, for these actors.
    pub async fn run(&mut self, actors: &[Actor]) {
        self.check_actors(actors).await;
        if !self.is_rogue {
            self.check_schema().await;
        }
    }

    /// What row-level security must do.
    pub async fn check_actors(&mut self, actors: &[Actor]) {
        for actor in actors {
            if self.is_done() {
                return;
            }
            match actor.reach {
                Reach::Own => self.check_own(actor).await,
                Reach::Nothing => self.check_nothing(actor, "").await,
                Reach::NothingThoughGranted => {
                    self.check_nothing(actor, "").await;
                    let grant = format!("grant all on {} to {};", self.table.name, actor.role);
                    self.check_nothing(actor, &grant).await;
                }
            }
        }
    }

    pub(super) fn fail(&mut self, actor: &str, what: &str, outcome: &Outcome) {
        self.failures.push(format!("{}: {actor}: {what}: {outcome:?}", self.table.name));
    }

    pub(super) fn fixture(&self) -> &Fixture {
        self.fixture.as_ref().expect("prepared")
    }

    pub(super) fn row(&self, key: &str) -> String {
        format!("({}) = ({key})", self.table.primary_key_list())
    }

    /// Runs a statement as an actor, and takes it back. `before` runs as the superuser.
    pub(super) async fn attempt(&mut self, actor: Option<&Actor>, before: &str, sql: &str) -> Outcome {
        self.attempts(actor, before, &[sql.to_owned()]).await.swap_remove(0)
    }

    /// The same for several, none of which sees what another did.
    async fn attempts(&mut self, actor: Option<&Actor>, before: &str, statements: &[String]) -> Vec<Outcome> {
        let outcomes: Vec<(Option<i64>, String, String, String)> =
            sqlx::query_as("select rows, code, broken, says from pg_temp.attempts($1, $2, $3, $4)")
                .bind(actor.map(|actor| actor.role.as_str()))
                .bind(actor.map(|actor| actor.claims.as_str()))
                .bind(before)
                .bind(statements)
                .fetch_all(&mut *self.connection)
                .await
                .unwrap_or_else(|error| panic!("{}: {before}: {error}", self.table.name));
        let outcome = |(rows, code, constraint, message): (Option<i64>, _, _, _)| match rows {
            Some(rows) => Outcome::Rows(rows.unsigned_abs()),
            None => Outcome::Refused { code, constraint, message },
        };
        outcomes.into_iter().map(outcome).collect()
    }

    /// The own rows can be worked with, those of others can't be reached.
    async fn check_own(&mut self, actor: &Actor) {
        let (table, key) = (self.table.name.clone(), quote(&self.table.key));
        let (own, other) = (self.key_of(self.tenants.own), self.key_of(self.tenants.other));
        let writes = !self.table.is_read_only;
        let own_row = self.row(&self.fixture().own_key.clone());
        let other_row = self.row(&self.fixture().other_key.clone());
        let own_insert = self.fixture().own.clone();
        let other_insert = self.fixture().other.clone();
        let select_others = format!("select from {table} where {key} is distinct from '{own}'");
        let wanted = |rows: u64| move |outcome: &Outcome| *outcome == Outcome::Rows(rows);
        let denied = |outcome: &Outcome| outcome.is_refused_with(NOT_ALLOWED);
        let steal = upsert(self.table, &own_insert, &self.fixture().other_key.clone());
        let again = upsert(self.table, &own_insert, &self.fixture().own_key.clone());
        let moves = format!("update {table} set {key} = '{other}' where {own_row}");
        type Test<'t> = Box<dyn Fn(&Outcome) -> bool + Send + 't>;
        let rows_if = |can: bool| -> Test<'_> { if can { Box::new(wanted(1)) } else { Box::new(wanted(0)) } };
        let denied_unless =
            |can: bool| -> Test<'_> { if can { Box::new(wanted(1)) } else { Box::new(denied) } };
        let tests: Vec<(&str, String, Test<'_>)> = vec![
            ("select own", format!("select from {table} where {own_row}"), Box::new(wanted(1))),
            ("select others'", select_others, Box::new(wanted(0))),
            ("insert own", own_insert.sql(), denied_unless(writes)),
            ("insert others'", other_insert.sql(), Box::new(denied)),
            ("update own", format!("update {table} set {key} = {key} where {own_row}"), rows_if(writes)),
            (
                "update others'",
                format!("update {table} set {key} = {key} where {other_row}"),
                Box::new(wanted(0)),
            ),
            (
                "take others'",
                format!("update {table} set {key} = '{own}' where {other_row}"),
                Box::new(wanted(0)),
            ),
            (
                "give away own",
                moves,
                Box::new(move |outcome| match outcome {
                    Outcome::Rows(rows) => !writes && *rows == 0,
                    Outcome::Refused { code, .. } => [NOT_ALLOWED, REFUSED].contains(&code.as_str()),
                }),
            ),
            ("upsert own", again, denied_unless(writes)),
            ("upsert others'", steal, Box::new(denied)),
            ("delete own", format!("delete from {table} where {own_row}"), rows_if(writes)),
            ("truncate", format!("truncate {table}"), Box::new(denied)),
            ("delete others'", format!("delete from {table} where {other_row}"), Box::new(wanted(0))),
        ];
        let statements: Vec<String> = tests.iter().map(|(_, sql, _)| sql.clone()).collect();
        let outcomes = self.attempts(Some(actor), "", &statements).await;
        for ((what, _, is_right), outcome) in tests.into_iter().zip(outcomes) {
            let is_granted = self.is_rogue && what.ends_with(" own") && what != "give away own";
            if !is_granted && !is_right(&outcome) {
                self.fail(&actor.name, what, &outcome);
            }
        }
        if writes && !self.is_rogue {
            self.check_references(Some(actor)).await;
        }
    }

    /// A row that points to another organisation's parent is refused, whoever inserts it.
    pub(super) async fn check_references(&mut self, actor: Option<&Actor>) {
        let maker = RowMaker { schema: self.schema, with_optional_parents: true };
        for foreign in
            self.table.foreign_keys.iter().filter(|f| f.is_between_orgs && f.parent != self.table.name)
        {
            let parent = self.schema.table(&foreign.parent);
            let theirs =
                maker.insert(self.connection, parent, self.tenants.other.org, &foreign.parent_columns).await;
            let theirs = match theirs {
                Ok(theirs) => theirs,
                Err(error) => return self.failures.push(error),
            };
            let mut insert = self.fixture().own.clone();
            for (column, value) in foreign.columns.iter().zip(theirs).filter(|(c, _)| **c != self.table.key) {
                insert = insert.with(column, value);
            }
            let outcome = self.attempt(actor, "", &insert.sql()).await;
            if !outcome.is_refused_with(NO_PARENT) {
                let who = actor.map_or("service_role", |actor| &actor.name).to_owned();
                self.fail(&who, &format!("{}: a parent of another organisation", foreign.name), &outcome);
            }
        }
    }

    /// Nothing can be seen or changed.
    async fn check_nothing(&mut self, actor: &Actor, before: &str) {
        let (table, key) = (self.table.name.clone(), quote(&self.table.key));
        let insert = self.fixture().own.clone();
        let again = upsert(self.table, &insert, &self.fixture().own_key.clone());
        let tests = [
            ("select", format!("select from {table}")),
            ("insert", insert.sql()),
            ("update", format!("update {table} set {key} = {key}")),
            ("delete", format!("delete from {table}")),
            ("upsert", again),
        ];
        let outcomes = self.attempts(Some(actor), before, &tests.clone().map(|(_, sql)| sql)).await;
        for ((what, _), outcome) in tests.into_iter().zip(outcomes) {
            let is_right = match &outcome {
                Outcome::Rows(rows) => *rows == 0 && !["insert", "upsert"].contains(&what),
                Outcome::Refused { code, .. } => code == NOT_ALLOWED || code == NO_JSON && !actor.has_json(),
            };
            if !is_right {
                self.fail(
                    &actor.name,
                    &format!("{what}{}", if before.is_empty() { "" } else { " with rights" }),
                    &outcome,
                );
            }
        }
    }
}

/// Inserts this row under a key that is there already.
fn upsert(table: &Table, insert: &Insert, key: &str) -> String {
    let keys = table.primary_key_list();
    let mut insert = insert.clone();
    for (column, value) in table.primary_key.iter().zip(key.split(", ")) {
        insert = insert.with(column, value);
    }
    let tenant = quote(&table.key);
    format!("{} on conflict ({keys}) do update set {tenant} = excluded.{tenant}", insert.sql())
}

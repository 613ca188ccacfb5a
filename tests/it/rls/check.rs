//! Checks of one table. A check collects failures instead of panicking, because the mutation test expects
//! some.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use super::actors::{Actor, Reach};
use super::attempts::{CHECK_FAILED, NO_JSON, NO_PARENT, NOT_ALLOWED, Outcome};
use super::{OWNER, Tenant, Tenants};
use crate::harness::tenancy::{Insert, RowMaker, Schema, Table, quote};

/// Rows that a check uses. They are never committed.
pub(super) struct Fixture {
    /// Primary-key values of one row of the own tenant.
    pub(super) own_key: String,
    /// Primary-key values of one row of the other tenant.
    other_key: String,
    /// A valid row of the own tenant that is not inserted yet.
    pub(super) own: Insert,
    /// A valid row of the other tenant that is not inserted yet.
    other: Insert,
}

/// A check of one table, with the failures found so far.
pub struct Check<'a> {
    pub failures: Vec<String>,
    pub(super) connection: &'a mut PgConnection,
    pub(super) schema: &'a Schema,
    pub(super) table: &'a Table,
    pub(super) tenants: Tenants,
    fixture: Option<Fixture>,
    /// An application's policy grants everything. Access within the own organisation is then not checked,
    /// only access to other organisations' rows.
    pub is_rogue: bool,
    /// Stops at the first failure.
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

    /// Adds a policy that grants everything, as an application might have one.
    pub async fn go_rogue(&mut self) {
        let sql = format!("create policy rogue on {} using (true) with check (true)", self.table.name);
        self.execute(&sql).await;
        self.is_rogue = true;
    }

    pub(super) fn is_done(&self) -> bool {
        self.stops_at_first && !self.failures.is_empty()
    }

    fn key_of(&self, tenant: Tenant) -> Uuid {
        if self.table.scope.as_deref() == Some("user") { tenant.user } else { tenant.org }
    }

    /// Inserts the rows in the caller's transaction.
    ///
    /// # Errors
    /// If the table rejects valid rows.
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
        // If the table holds one row per tenant, a further row needs a further tenant.
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

    /// Runs statements as the superuser; they must succeed.
    pub async fn execute(&mut self, sql: &str) {
        let done = self.connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Runs all checks for these actors.
    pub async fn run(&mut self, actors: &[Actor]) {
        self.check_actors(actors).await;
        if !self.is_rogue {
            self.check_schema().await;
        }
    }

    /// Checks row-level security for these actors.
    pub async fn check_actors(&mut self, actors: &[Actor]) {
        for actor in actors {
            if self.is_done() {
                return;
            }
            match actor.reach {
                Reach::Own => self.check_own(actor).await,
                Reach::Nothing => self.check_nothing(actor, "").await,
                Reach::ByGrants if self.table.is_granted => self.check_granted(actor).await,
                Reach::Worker if self.is_rogue || self.table.is_granted || self.table.has_worker => {
                    self.check_granted(actor).await;
                }
                Reach::NothingThoughGranted | Reach::ByGrants | Reach::Worker => {
                    self.check_nothing(actor, "").await;
                    let grant = format!("grant all on {} to {};", self.table.name, actor.role);
                    self.check_nothing(actor, &grant).await;
                }
            }
        }
    }

    /// Checks that a grant gives the actor the rows of its organisation, and no others.
    async fn check_granted(&mut self, actor: &Actor) {
        let grant = format!(
            "savepoint ungranted; grant select, insert, update, delete on {} to {}",
            self.table.name, actor.role
        );
        self.execute(&grant).await;
        self.check_own(actor).await;
        self.execute("rollback to ungranted; release ungranted").await;
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

    /// Runs a statement as an actor and rolls it back. `before` runs first, as the superuser.
    pub(super) async fn attempt(&mut self, actor: Option<&Actor>, before: &str, sql: &str) -> Outcome {
        self.attempts(actor, before, &[sql.to_owned()]).await.swap_remove(0)
    }

    /// Runs several statements as [`Self::attempt`] does; none sees the effects of another.
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
            None => Outcome::Rejected { code, constraint, message },
        };
        outcomes.into_iter().map(outcome).collect()
    }

    /// Checks that the actor can read and write its own rows and cannot reach rows of others.
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
        let denied = |outcome: &Outcome| outcome.is_rejected_with(NOT_ALLOWED);
        let steal = upsert(self.table, &own_insert, &self.fixture().other_key.clone());
        let again = upsert(self.table, &own_insert, &self.fixture().own_key.clone());
        let is_owner = actor.role == OWNER;
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
                    Outcome::Rejected { code, .. } => [NOT_ALLOWED, CHECK_FAILED].contains(&code.as_str()),
                }),
            ),
            ("upsert own", again, denied_unless(writes)),
            ("upsert others'", steal, Box::new(denied)),
            ("delete own", format!("delete from {table} where {own_row}"), rows_if(writes)),
            // The owner of a table can always empty it.
            ("truncate", format!("truncate {table}"), Box::new(move |outcome| is_owner || denied(outcome))),
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

    /// Checks that a row that references another organisation's parent is rejected, for any inserting role.
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
            if !outcome.is_rejected_with(NO_PARENT) {
                let who = actor.map_or("service_role", |actor| &actor.name).to_owned();
                self.fail(&who, &format!("{}: a parent of another organisation", foreign.name), &outcome);
            }
        }
    }

    /// Checks that the actor can neither read nor change a row.
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
                Outcome::Rejected { code, .. } => code == NOT_ALLOWED || code == NO_JSON && !actor.has_json(),
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

/// Statement that inserts a row under an existing key.
fn upsert(table: &Table, insert: &Insert, key: &str) -> String {
    let keys = table.primary_key_list();
    let mut insert = insert.clone();
    for (column, value) in table.primary_key.iter().zip(key.split(", ")) {
        insert = insert.with(column, value);
    }
    let tenant = quote(&table.key);
    format!("{} on conflict ({keys}) do update set {tenant} = excluded.{tenant}", insert.sql())
}

//! One table, held against what must be true of it. It lists what is wrong instead of stopping at it, for
//! the mutation test wants to see that something is.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use super::actors::{Actor, Reach};
use super::{Tenant, Tenants};
use crate::harness::tenancy::{Insert, RowMaker, Schema, Table, quote};

/// Refused by row-level security, or by rights.
const NOT_ALLOWED: &str = "42501";
const NULL_VALUE: &str = "23502";
const NO_PARENT: &str = "23503";
const TWICE: &str = "23505";
const REFUSED: &str = "23514";
/// Claims that are no JSON, below PostgreSQL 16.
const NO_JSON: &str = "22P02";

/// Runs statements one by one as a role with claims, each in a subtransaction that is taken back; in the
/// database, because there are tens of thousands.
pub const ATTEMPTS: &str = "
    create function pg_temp.attempts(role text, claims text, before text, statements text[])
    returns table (rows bigint, code text, broken text, says text)
    language plpgsql as $$
    declare
      statement text;
    begin
      foreach statement in array statements loop
        begin
          if before <> '' then
            execute before;
          end if;
          if role is not null then
            perform set_config('request.jwt.claims', claims, true), set_config('role', role, true);
          end if;
          execute statement;
          get diagnostics rows = row_count;
          raise exception sqlstate 'WD000';
        exception when others then
          get stacked diagnostics code = returned_sqlstate, broken = constraint_name, says = message_text;
        end;
        if code <> 'WD000' then
          rows := null;
        end if;
        return next;
      end loop;
    end $$";

/// What became of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Rows(u64),
    Refused { code: String, constraint: String, message: String },
}

impl Outcome {
    fn is_refused_with(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}

/// The rows that a check works with. Nothing of it is committed.
struct Fixture {
    /// A row of the own tenant, and one of the other: the values of their primary keys.
    own_key: String,
    other_key: String,
    /// Rows that could be inserted.
    own: Insert,
    other: Insert,
}

/// The check of one table.
pub struct Check<'a> {
    pub failures: Vec<String>,
    connection: &'a mut PgConnection,
    schema: &'a Schema,
    table: &'a Table,
    tenants: Tenants,
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

    fn fail(&mut self, actor: &str, what: &str, outcome: &Outcome) {
        self.failures.push(format!("{}: {actor}: {what}: {outcome:?}", self.table.name));
    }

    fn fixture(&self) -> &Fixture {
        self.fixture.as_ref().expect("prepared")
    }

    fn row(&self, key: &str) -> String {
        format!("({}) = ({key})", self.table.primary_key_list())
    }

    /// Runs a statement as an actor, and takes it back. `before` runs as the superuser.
    async fn attempt(&mut self, actor: Option<&Actor>, before: &str, sql: &str) -> Outcome {
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
    async fn check_references(&mut self, actor: Option<&Actor>) {
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
                Outcome::Refused { code, .. } => [NOT_ALLOWED, NO_JSON].contains(&code.as_str()),
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

    /// What holds for service_role as well, which passes over row-level security: constraints and triggers.
    pub async fn check_schema(&mut self) {
        let service = Actor {
            name: "service_role".into(),
            role: "service_role".into(),
            claims: String::new(),
            reach: Reach::Own,
        };
        let service = Some(&service);
        let own_insert = self.fixture().own.clone();
        let outcome = self.attempt(service, "", &own_insert.sql()).await;
        if outcome != Outcome::Rows(1) {
            self.fail("service_role", "insert", &outcome);
        }
        if self.table.scope.as_deref() != Some("org") {
            return;
        }
        let table = self.table.name.clone();
        let outcome = self.attempt(service, "", &own_insert.with("org_id", "null").sql()).await;
        if !outcome.is_refused_with(NULL_VALUE) {
            self.fail("service_role", "insert without an organisation", &outcome);
        }
        self.check_foreign_key_to_organizations(service, &own_insert).await;
        self.check_references(service).await;
        let own_row = self.row(&self.fixture().own_key.clone());
        if self.table.is_immutable {
            let moves = format!("update {table} set org_id = '{}' where {own_row}", self.tenants.other.org);
            let outcome = self.attempt(service, "", &moves).await;
            let is_guard = matches!(&outcome, Outcome::Refused { code, message, .. }
                if code == REFUSED && message.contains("org_id of ") && message.contains("cannot be changed"));
            if !is_guard {
                self.fail("service_role", "move to another organisation", &outcome);
            }
        }
        self.check_children().await;
        self.check_uniques(service, &own_insert).await;
        self.check_indexes().await;
    }

    /// Rows belong to organisations that exist, and go with them. Other keys are out of the way, for they may
    /// say the same.
    async fn check_foreign_key_to_organizations(&mut self, service: Option<&Actor>, own_insert: &Insert) {
        let table = self.table.name.clone();
        let drops: String = self
            .table
            .foreign_keys
            .iter()
            .filter(|f| f.is_between_orgs)
            .map(|f| format!("alter table {table} drop constraint if exists {};", quote(&f.name)))
            .collect();
        let nobody = own_insert.with("org_id", "'00000000-0000-0000-0000-00000000dead'");
        let outcome = self.attempt(service, &drops, &nobody.sql()).await;
        if !outcome.is_refused_with(NO_PARENT) {
            self.fail("service_role", "insert for an organisation that does not exist", &outcome);
        }
        let gone = format!("{drops} delete from public.organizations where id = '{}';", self.tenants.own.org);
        let own_row = self.row(&self.fixture().own_key.clone());
        let outcome = self.attempt(None, &gone, &format!("select from {table} where {own_row}")).await;
        if outcome != Outcome::Rows(0) {
            self.fail("service_role", "rows of an organisation that was deleted", &outcome);
        }
    }

    /// What refers to this table cannot do so from another organisation.
    async fn check_children(&mut self) {
        let schema = self.schema;
        for child in schema.registered() {
            if child
                .foreign_keys
                .iter()
                .any(|f| f.is_between_orgs && f.parent == self.table.name && child.name != f.parent)
            {
                let mut check = Check::new(self.connection, schema, child, self.tenants);
                match check.prepare().await {
                    Ok(()) => check.check_references(None).await,
                    Err(error) => check.failures.push(error),
                }
                let failures = check.failures;
                self.failures.extend(failures);
            }
        }
    }

    /// The same key twice in one organisation is refused, and is fine in two.
    async fn check_uniques(&mut self, service: Option<&Actor>, own_insert: &Insert) {
        let table = self.table;
        for unique in &table.uniques {
            let mut first = own_insert.clone();
            let mut second = own_insert.clone();
            if !table.primary_key.iter().all(|c| unique.columns.contains(c)) {
                for column in &table.primary_key {
                    second = second.without(column);
                    first = first.without(column);
                }
            }
            for column in unique.columns.iter().filter(|c| !own_insert.values.contains_key(*c)) {
                let value = crate::harness::tenancy::candidates(table, table.column(column)).swap_remove(0);
                first = first.with(column, value.clone());
                second = second.with(column, value);
            }
            // Values that are made anew each time, such as ids, would never be the same.
            for column in &unique.columns {
                if first.values[column].contains("gen_random_uuid()") {
                    let same = format!("'{}'", Uuid::new_v4());
                    first = first.with(column, same.clone());
                    second = second.with(column, same);
                }
            }
            let outcome = self.attempt(service, &format!("{};", first.sql()), &second.sql()).await;
            if !outcome.is_refused_with(TWICE) {
                self.fail("service_role", &format!("{}: the same twice", unique.name), &outcome);
            }
        }
    }

    /// Each index brings the organisation's rows in its order.
    async fn check_indexes(&mut self) {
        for index in &self.table.indexes {
            let sql = format!(
                "explain (costs off) select from {} where org_id = '{}' order by {}",
                self.table.name, self.tenants.own.org, index.columns
            );
            let steer = "savepoint plan; set local enable_seqscan = off; set local enable_sort = off;
                         set local enable_bitmapscan = off; set local enable_incremental_sort = off";
            self.connection.execute(sqlx::raw_sql(steer)).await.expect("steers");
            let plan =
                sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch_all(&mut *self.connection).await;
            self.connection
                .execute(sqlx::raw_sql("rollback to plan; release plan"))
                .await
                .expect("rolls back");
            let plan = plan.map(|lines| lines.join("\n")).unwrap_or_else(|e| e.to_string());
            let is_used = plan.contains(&format!("using {} on", index.name))
                || plan.contains(&format!("using {} on", quote(&index.name)));
            if !is_used {
                self.failures.push(format!("{}: {} is not used: {plan}", self.table.name, index.name));
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

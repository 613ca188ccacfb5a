//! What a run would do, in words. It changes nothing: where Warden's schema is up to date it reads in a read-only
//! transaction, and where it is not, the SQL migrations are applied in a transaction that is rolled back.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::Finding;
use super::apply::{self, Goal, firing_note, grouped};
use super::plan::{Kind, Object, Plan, TablePlan};
use super::registry::Scope;
use crate::postgres::{self, MigrationName, SchemaSet};

/// Tables that look smaller than this are counted; of larger ones the estimate is said.
const COUNTED_ROWS_MAX: u64 = 100_000;

/// What would be done.
#[derive(Debug, Clone)]
pub struct Preview {
    /// SQL migrations that would be applied.
    pub migrations: Vec<MigrationName>,
    /// Tables with what each needs.
    pub tables: Vec<TablePreview>,
    /// Tables that are registered and not there.
    pub absent: Vec<String>,
    /// What would be skipped, and why.
    pub findings: Vec<Finding>,
}

/// One table.
#[derive(Debug, Clone)]
pub struct TablePreview {
    /// Its name.
    pub name: String,
    /// Whether the SQL migrations would create it.
    pub is_new: bool,
    /// How many rows, in words.
    pub rows: String,
    /// Steps, in order; none where all is done.
    pub steps: Vec<String>,
    /// Remarks.
    pub notes: Vec<String>,
}

/// Looks what a run to a goal would do.
///
/// # Errors
/// When the database can't be reached, is a standby, or would refuse the SQL migrations.
pub async fn preview(
    database: &PgConnectOptions,
    schema: SchemaSet,
    goal: Goal,
    lock_timeout: Duration,
) -> anyhow::Result<Preview> {
    let mut connection =
        PgConnection::connect_with(&database.clone().application_name("warden migrate --plan"))
            .await
            .context("cannot connect to DATABASE_URL")?;
    apply::refuse_standby(&mut connection).await?;
    let pending = postgres::pending(&mut connection, schema).await?;
    let mut transaction = connection.begin().await?;
    if pending.is_empty() {
        transaction.execute("set transaction isolation level repeatable read, read only").await?;
    } else {
        let limit = format!("set local lock_timeout = {}", lock_timeout.as_millis().max(1));
        transaction.execute(AssertSqlSafe(limit)).await?;
        postgres::migrate_on(&mut transaction, schema).await?;
    }
    transaction.execute("set local search_path = ''").await?;
    let plan = Plan::load(&mut transaction).await?;
    // What the migrations locked is free again before anything is counted.
    transaction.rollback().await?;
    let mut transaction = connection.begin().await?;
    transaction.execute("set transaction isolation level repeatable read, read only").await?;
    let mut tables = Vec::new();
    for table in &plan.tables {
        let is_new = !exists(&mut transaction, table).await?;
        let rows = if is_new { "0 rows".to_owned() } else { count(&mut transaction, table).await? };
        tables.push(TablePreview {
            name: table.table.title(),
            is_new,
            steps: steps(table, goal, &rows),
            notes: notes(table, goal),
            rows,
        });
    }
    transaction.rollback().await?;
    Ok(Preview { migrations: pending, tables, absent: plan.absent, findings: plan.findings })
}

/// Whether the table exists now that the migrations are rolled back.
async fn exists(connection: &mut PgConnection, plan: &TablePlan) -> anyhow::Result<bool> {
    let exists = sqlx::query_scalar("select to_regclass($1) is not null").bind(plan.table.sql());
    Ok(exists.fetch_one(connection).await?)
}

async fn count(connection: &mut PgConnection, plan: &TablePlan) -> anyhow::Result<String> {
    let about = plan.table.rows_about();
    if about >= COUNTED_ROWS_MAX {
        return Ok(format!("about {} rows", grouped(about)));
    }
    let sql = format!("select count(*) from (select from {} limit {COUNTED_ROWS_MAX}) t", plan.table.sql());
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
    let rows = u64::try_from(rows).unwrap_or(0);
    Ok(match rows {
        1 => "1 row".to_owned(),
        COUNTED_ROWS_MAX.. => format!("{} rows or more", grouped(rows)),
        _ => format!("{} rows", grouped(rows)),
    })
}

fn steps(plan: &TablePlan, goal: Goal, rows: &str) -> Vec<String> {
    let mut steps = Vec::new();
    if goal == Goal::Relax {
        if plan.is_enforced_in_part() {
            steps.push("fill org_id of new rows again, then take the policies and NOT NULL away".to_owned());
        }
        return steps;
    }
    if plan.table.scope == Scope::Org {
        expand_steps(plan, goal, rows, &mut steps);
    }
    if goal == Goal::Enforce && !plan.is_enforced() {
        if !plan.has(Kind::NotNull) {
            steps.push("prove that no org_id is null (reads the table), then set NOT NULL".to_owned());
        }
        steps.push("row-level security, forced, with policies for each command; the filling ends".to_owned());
    }
    steps
}

fn expand_steps(plan: &TablePlan, goal: Goal, rows: &str, steps: &mut Vec<String>) {
    let table = &plan.table;
    if !plan.has(Kind::Column) {
        steps.push("add column org_id, and the trigger that fills it in new rows".to_owned());
    } else if plan.wants_filling() && !plan.has(Kind::Filling) {
        steps.push("add the trigger that fills org_id in new rows".to_owned());
    }
    if plan.wants_filling() && !(plan.has(Kind::Column) && table.has_org_index && plan.has(Kind::OrgKey)) {
        let mut from = Vec::new();
        if let Some(parent) = &table.parent {
            from.push(format!("that of {} by {}", parent.name, parent.column));
        }
        if let Some(user) = &table.user_column {
            from.push(format!("the membership of {user}"));
        }
        from.push("the default organisation".to_owned());
        let how = if table.pauses_triggers { ", its triggers paused for each batch" } else { "" };
        steps.push(format!(
            "fill org_id where it is missing ({rows}), in batches{how}: {}",
            from.join(", else ")
        ));
    }
    let is_due =
        |o: &&Object| (!o.is_valid || o.is_to_be_attached()) && (!o.is_late || goal == Goal::Enforce);
    for object in plan.objects.iter().filter(is_due) {
        match object.kind {
            Kind::Index => steps.push(format!(
                "create {}index concurrently {} ({})",
                if object.is_unique { "unique " } else { "" },
                object.name,
                object.definition
            )),
            Kind::Unique => {
                steps.push(format!(
                    "constraint {} {}, its index built concurrently",
                    object.name, object.definition
                ));
            }
            Kind::OrgKey | Kind::ParentKey => {
                steps.push(format!("foreign key {}, then validated", object.name));
            }
            Kind::Guard => steps.push("trigger that keeps org_id from changing".to_owned()),
            Kind::Column | Kind::Filling | Kind::NotNull | Kind::Protection => {}
        }
    }
}

fn notes(plan: &TablePlan, goal: Goal) -> Vec<String> {
    let table = &plan.table;
    let mut notes = Vec::new();
    if goal == Goal::Relax || table.scope != Scope::Org || !plan.wants_filling() || plan.has(Kind::OrgKey) {
        return notes;
    }
    if !table.stubborn_triggers.is_empty() && !table.pauses_triggers {
        notes.push(firing_note(&table.schema, &table.name, &table.stubborn_triggers));
    } else if !table.update_triggers.is_empty() {
        notes.push(format!(
            "its triggers {} don't see the filling, where this role may set session_replication_role{}",
            table.update_triggers.join(", "),
            if table.pauses_triggers { " or pauses them" } else { "; else they fire" }
        ));
    }
    if table.user_column.is_none() && table.parent.is_none() && !table.is_never_filled {
        notes.push("has neither parent nor user: all its rows go to the default organisation".to_owned());
    }
    notes
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for migration in &self.migrations {
            writeln!(f, "would apply {migration}")?;
        }
        let (new, existing): (Vec<_>, Vec<_>) = self.tables.iter().partition(|t| t.is_new);
        let (todo, done): (Vec<_>, Vec<_>) = existing.into_iter().partition(|t| !t.steps.is_empty());
        let names = |tables: &[&TablePreview]| tables.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        for table in &todo {
            writeln!(f, "{} ({})", table.name, table.rows)?;
            for step in &table.steps {
                writeln!(f, "  - {step}")?;
            }
            for note in &table.notes {
                writeln!(f, "  note: {note}")?;
            }
        }
        for (what, names) in [
            ("would be created", names(&new)),
            ("nothing to do", names(&done)),
            ("not in this database, skipped", self.absent.clone()),
        ] {
            if !names.is_empty() {
                writeln!(f, "{what}: {}", names.join(", "))?;
            }
        }
        for finding in &self.findings {
            writeln!(f, "skipped: {finding}")?;
        }
        write!(f, "Nothing was changed.")
    }
}

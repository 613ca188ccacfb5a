//! Preview of a run (`warden migrate --plan`). It changes nothing: if Warden's schema is up to date, it reads
//! in a read-only transaction. Otherwise it applies the SQL migrations in a transaction that it rolls back.

mod steps;

use std::collections::HashSet;
use std::fmt;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use self::steps::{is_filled, notes, steps};
use super::AdoptionIssue;
use super::access::{AccessOverview, condition_question, questions};
use super::executor::{self, AdoptionOptions, Goal, OtherSources, grouped, renewal_note};
use super::plan::{IncompleteTree, Plan, TablePlan};
use super::preflight::{self, Candidate};
use super::undecided;
use crate::postgres::{self, MigrationName};

/// Rows are counted in tables with a smaller estimate. For larger tables, the estimate is shown.
const COUNTED_ROWS_MAX: u64 = 100_000;

/// Description of what a run would do.
#[derive(Debug, Clone, Default)]
pub struct Preview {
    /// SQL migrations that would be applied.
    pub migrations: Vec<MigrationName>,
    /// Tables, each with its steps.
    pub tables: Vec<TablePreview>,
    /// Registered tables that do not exist.
    pub absent: Vec<String>,
    /// Access of each role to the tables that are not enforced, today and afterwards.
    pub access: AccessOverview,
    /// Tables that would be skipped, with the reason; or what must be decided before anything is changed.
    pub issues: Vec<AdoptionIssue>,
    /// Whether the issues concern the whole run.
    pub is_blocked: bool,
    /// Source of the organisation of newly listed tables, and other remarks.
    pub notes: Vec<String>,
    /// Tables that look like an organisation's and are not registered.
    pub candidates: Vec<Candidate>,
}

/// Steps of one table.
#[derive(Debug, Clone)]
pub struct TablePreview {
    /// Name of the table.
    pub name: String,
    /// Whether the SQL migrations would create the table.
    pub is_new: bool,
    /// Number of rows, as text.
    pub rows: String,
    /// Steps, in order; empty if the table is complete.
    pub steps: Vec<String>,
    /// Remarks.
    pub notes: Vec<String>,
}

/// Describes what a run to this goal would do.
///
/// # Errors
/// If the database cannot be reached, is a standby, or rejects the SQL migrations.
pub async fn preview(
    database: &PgConnectOptions,
    goal: Goal,
    options: &AdoptionOptions,
) -> anyhow::Result<Preview> {
    let (schema, choices) = (options.schema, &options.choices);
    // A slow statement is a whole migration, which a log should not contain.
    let database = database.clone().application_name("warden migrate --plan").disable_statement_logging();
    let mut connection = crate::postgres::connect(&database).await?;
    connection.execute(sqlx::raw_sql(AssertSqlSafe(postgres::dialect(false)))).await?;
    executor::reject_standby(&mut connection).await?;
    let mut transaction = connection.begin().await?;
    transaction
        .execute("set transaction isolation level repeatable read, read only; set local search_path = ''")
        .await?;
    let blocking = preflight::check(&mut transaction, choices).await?;
    transaction.rollback().await?;
    if !blocking.is_empty() {
        return Ok(Preview { issues: blocking, is_blocked: true, ..Preview::default() });
    }
    let pending = postgres::pending(&mut connection, schema).await?;
    let is_idle = pending.is_empty() && choices.is_empty() && !preflight::forgets(&mut connection).await?;
    let mut transaction = connection.begin().await?;
    let Registered { mut remarks, mut issues, listed } = if is_idle {
        transaction.execute("set transaction isolation level repeatable read, read only").await?;
        Registered::default()
    } else {
        Registered::on_trial(&mut transaction, options).await?
    };
    transaction.execute("set local search_path = ''").await?;
    remarks.append(&mut preflight::lost_watches(&mut transaction).await?);
    let mut plan = Plan::load(&mut transaction).await?;
    issues.append(&mut plan.issues);
    let clashes = preflight::clashes(&mut transaction, &plan).await?;
    for table in &plan.tables {
        for (problem, remedy) in clashes.get(&table.table.oid).into_iter().flatten() {
            issues.push(AdoptionIssue::new(table.table.title(), problem.clone(), remedy.clone()));
        }
    }
    let candidates = preflight::candidates(&mut transaction).await?;
    let incomplete = IncompleteTree::load(&mut transaction).await?;
    let mut access = read_access(&mut transaction, &plan, goal, &mut issues).await?;
    if goal == Goal::Expand {
        let question = condition_question(&mut transaction, &unenforced(&plan)).await?;
        remarks.extend(question.map(|question| format!("`--enforce` will ask: {question}")));
    }
    let mut sources = other_sources(&mut transaction, &plan).await?;
    let oids: Vec<i64> = plan.tables.iter().map(|table| table.table.oid).collect();
    remarks.append(&mut preflight::owner_notes(&mut transaction, &oids).await?);
    // Rows are counted in a second transaction, because this one holds the locks of the migrations.
    transaction.rollback().await?;
    if goal != Goal::Relax {
        issues.append(&mut leave_out_undecided(&mut connection, &mut plan, &mut sources, &listed).await?);
    }
    let mut tables = describe(&mut connection, &plan, &sources, goal).await?;
    if goal != Goal::Relax {
        complete(&mut tables, incomplete);
    }
    access.retain(|name| tables.iter().any(|t| t.name == name && !t.is_new));
    Ok(Preview {
        migrations: pending,
        tables,
        absent: plan.absent,
        access,
        issues,
        is_blocked: false,
        notes: remarks,
        candidates,
    })
}

/// The registration of a run, on trial.
#[derive(Debug, Default)]
struct Registered {
    remarks: Vec<String>,
    issues: Vec<AdoptionIssue>,
    /// Newly listed tables.
    listed: HashSet<i64>,
}

impl Registered {
    /// Applies the SQL migrations and the decisions, in a transaction that will be rolled back.
    async fn on_trial(connection: &mut PgConnection, options: &AdoptionOptions) -> anyhow::Result<Self> {
        let choices = &options.choices;
        let limit = format!("set local lock_timeout = {}", options.lock_timeout.as_millis().max(1));
        connection.execute(AssertSqlSafe(limit)).await?;
        preflight::prepare(&mut *connection, choices).await?;
        let migrated = postgres::migrate_on(&mut *connection, options.schema).await?;
        connection.execute("set local search_path = ''").await?;
        let mut remarks: Vec<String> = migrated.renewed.iter().map(|table| renewal_note(table)).collect();
        remarks.append(&mut preflight::record(&mut *connection, choices).await?);
        let mut registration = preflight::register(&mut *connection, choices, &HashSet::new()).await?;
        remarks.append(&mut registration.notes);
        Ok(Self { remarks, issues: registration.issues, listed: registration.tables })
    }
}

/// Reads the access of each role to the tables that are not enforced. Adds the questions that block the
/// enforce phase.
async fn read_access(
    connection: &mut PgConnection,
    plan: &Plan,
    goal: Goal,
    issues: &mut Vec<AdoptionIssue>,
) -> Result<AccessOverview, sqlx::Error> {
    if goal == Goal::Relax {
        return Ok(AccessOverview::default());
    }
    if goal == Goal::Enforce {
        issues.extend(questions(connection, &plan.tables).await?);
    }
    AccessOverview::read(connection, &unenforced(plan)).await
}

fn unenforced(plan: &Plan) -> Vec<i64> {
    plan.tables.iter().filter(|t| !t.is_enforced()).map(|t| t.table.oid).collect()
}

/// Sources of the organisation of each table's rows, besides parent and user.
async fn other_sources(connection: &mut PgConnection, plan: &Plan) -> Result<Vec<OtherSources>, sqlx::Error> {
    let mut sources = Vec::new();
    for table in &plan.tables {
        sources.push(OtherSources::load(&mut *connection, &table.table).await?);
    }
    Ok(sources)
}

/// Removes newly listed tables from the plan, if nothing says to which organisation some of their rows
/// belong, and the tables that inherit from them. A run registers none of these.
async fn leave_out_undecided(
    connection: &mut PgConnection,
    plan: &mut Plan,
    sources: &mut Vec<OtherSources>,
    listed: &HashSet<i64>,
) -> Result<Vec<AdoptionIssue>, sqlx::Error> {
    let (mut texts, mut left_out, mut issues) = (Vec::new(), HashSet::new(), Vec::new());
    for rows in sources.iter().filter_map(|source| source.undecided.as_ref()) {
        if let Some(text) = rows.describe(&mut *connection).await? {
            texts.push(text);
            left_out.extend(Some(rows.oid).filter(|oid| listed.contains(oid)));
        }
    }
    issues.extend(undecided::issue(&texts));
    // Parents come before their children.
    for table in &plan.tables {
        if let Some(parent) = table.table.parent.as_ref().filter(|p| left_out.contains(&p.oid))
            && left_out.insert(table.table.oid)
        {
            issues.push(AdoptionIssue::new(
                table.table.title(),
                format!("inherits its organisation from {}, which is not adopted", parent.name),
                format!("Resolve the issue of {} first.", parent.name),
            ));
        }
    }
    let mut kept =
        plan.tables.iter().map(|table| !left_out.contains(&table.table.oid)).collect::<Vec<_>>().into_iter();
    sources.retain(|_| kept.next().unwrap_or(true));
    plan.tables.retain(|table| !left_out.contains(&table.table.oid));
    Ok(issues)
}

/// The steps of each table.
async fn describe(
    connection: &mut PgConnection,
    plan: &Plan,
    sources: &[OtherSources],
    goal: Goal,
) -> anyhow::Result<Vec<TablePreview>> {
    let mut transaction = connection.begin().await?;
    transaction.execute("set transaction isolation level repeatable read, read only").await?;
    let mut tables = Vec::new();
    for (table, sources) in plan.tables.iter().zip(sources) {
        let is_new = !exists(&mut transaction, table).await?;
        let rows = if is_new { "0 rows".to_owned() } else { count(&mut transaction, table).await? };
        let mut notes = notes(table, sources, goal);
        if !is_new && is_filled(table, goal) {
            notes.extend(sources.remark(&mut transaction, &table.table).await?);
        }
        tables.push(TablePreview {
            name: table.table.title(),
            is_new,
            steps: steps(table, sources, goal, &rows),
            notes,
            rows,
        });
    }
    transaction.rollback().await?;
    Ok(tables)
}

/// Adds the step that completes new members. A watched table need not be registered.
fn complete(tables: &mut Vec<TablePreview>, incomplete: Vec<IncompleteTree>) {
    for tree in incomplete {
        let mut steps = Vec::new();
        if !tree.members.is_empty() {
            steps.push(format!("add the triggers and policies of new members: {}", tree.members.join(", ")));
        }
        if tree.accepts_unprotected_rows {
            steps.push("add the trigger that keeps a new partition empty until it is protected".to_owned());
        }
        match tables.iter_mut().find(|t| t.name == tree.title) {
            Some(table) => table.steps.extend(steps),
            None => tables.push(TablePreview {
                name: tree.title,
                is_new: false,
                rows: "watched".to_owned(),
                steps,
                notes: Vec::new(),
            }),
        }
    }
}

/// Whether the table exists after the migrations have been rolled back.
async fn exists(connection: &mut PgConnection, plan: &TablePlan) -> anyhow::Result<bool> {
    let exists = sqlx::query_scalar("select to_regclass($1) is not null").bind(plan.table.sql());
    Ok(exists.fetch_one(connection).await?)
}

async fn count(connection: &mut PgConnection, plan: &TablePlan) -> anyhow::Result<String> {
    let estimate = plan.table.estimated_rows();
    if estimate >= COUNTED_ROWS_MAX {
        return Ok(format!("about {} rows", grouped(estimate)));
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

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for migration in &self.migrations {
            writeln!(f, "would apply {migration}")?;
        }
        let (new, existing): (Vec<_>, Vec<_>) = self.tables.iter().partition(|t| t.is_new);
        let (todo, done): (Vec<_>, Vec<_>) = existing.into_iter().partition(|t| !t.steps.is_empty());
        for table in &todo {
            writeln!(f, "{} ({})", table.name, table.rows)?;
            for step in &table.steps {
                writeln!(f, "  - {step}")?;
            }
            for note in &table.notes {
                writeln!(f, "  note: {note}")?;
            }
        }
        let names = |tables: &[&TablePreview]| tables.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        for (label, names) in [
            ("would be created", names(&new)),
            ("nothing to do", names(&done)),
            ("not in this database, skipped", self.absent.clone()),
        ] {
            if !names.is_empty() {
                writeln!(f, "{label}: {}", names.join(", "))?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        let label = if self.is_blocked { "issue" } else { "skipped" };
        write!(f, "{}", self.access)?;
        for issue in &self.issues {
            writeln!(f, "{label}: {issue}")?;
        }
        write!(f, "Nothing was changed.")
    }
}

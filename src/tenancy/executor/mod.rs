//! The online executor: adds `org_id` and its isolation to a database while the application writes to it.
//!
//! - `connection` holds the database connections and the lock discipline.
//! - `expand` is the first phase, table by table: it breaks no running application.
//! - `backfill` gives rows their organisation, and `source` says which; `index` and `keys` build without
//!   blocking writers.
//! - `enforce` is the second phase and its reversal; `impact` names the roles that would lose access.
//! - `options` holds the options of a run; `progress` reports to the operator.
//!
//! Every step first checks whether it is needed, so a run may be killed at any point and the next one
//! completes it. A step that fails becomes an [`AdoptionIssue`], and the other tables continue.

mod backfill;
mod conflict;
mod connection;
mod enforce;
mod expand;
mod impact;
mod index;
mod keys;
mod options;
mod progress;
mod source;
mod tree;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Executor as _;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

pub(crate) use backfill::{BATCH_TARGET, WAIT_MAX};
pub(crate) use connection::LOCK_RETRY_MAX;
pub(super) use connection::reject_standby;
pub(super) use expand::{firing_note, renewal_note};
pub use impact::EnforcementImpact;
pub(crate) use index::RETRY_MAX as INDEX_RETRY_MAX;
pub use options::{AdoptionOptions, BATCH_ROWS_DEFAULT, LOCK_TIMEOUT_DEFAULT};
pub use progress::AdoptionProgress;
pub(crate) use progress::{grouped, human};
pub(super) use source::OtherSources;

use self::connection::{ExecutorConnection, StepError};
use super::AdoptionIssue;
use super::issue::NEEDS_BYPASS;
use super::plan::{Plan, TablePlan};
use super::preflight::{self, Candidate};
use super::registry::{Registry, title};
use crate::postgres::{self, Migrated};

/// The state that a run should reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Every row has its organisation, and new rows get theirs. The application need not know `org_id`.
    Expand,
    /// In addition, the database isolates organisations.
    Enforce,
    /// Isolation is removed again: the state after [`Goal::Expand`].
    Relax,
}

/// Duration of one step on one table.
#[derive(Debug, Clone)]
pub struct StepTime {
    /// The table.
    pub table: String,
    /// The step.
    pub step: &'static str,
    /// Duration, including waits.
    pub took: Duration,
    /// Rows that got their organisation.
    pub rows: u64,
}

/// Result of a run.
#[derive(Debug, Clone)]
pub struct AdoptionOutcome {
    /// The SQL migrations.
    pub migrated: Migrated,
    /// Every step that was needed, in order.
    pub steps: Vec<StepTime>,
    /// Issues for the operator.
    pub issues: Vec<AdoptionIssue>,
    /// Remarks that need no action.
    pub notes: Vec<String>,
    /// Number of registered tables that exist.
    pub tables: usize,
    /// Tables that look like an organisation's and are not registered.
    pub candidates: Vec<Candidate>,
    /// Whether an issue was found before anything was changed.
    pub is_blocked: bool,
    /// Whether the operator stopped the run.
    pub is_stopped: bool,
    /// Whether enforcement did not happen: an issue blocked it, or the operator declined it.
    pub is_declined: bool,
    /// Total duration.
    pub took: Duration,
}

/// Brings a database to a goal. `confirm` is called before any role loses access.
///
/// It first checks what exists: if that needs a decision of the operator, nothing is changed.
///
/// # Errors
/// If the database cannot be reached or is a standby, a migration fails, another run is in progress and
/// `is_waiting` is false, or the connection is lost. A problem with one table is an issue of the outcome
/// instead.
pub async fn run(
    database: &PgConnectOptions,
    goal: Goal,
    options: AdoptionOptions,
    progress: AdoptionProgress,
    stop: CancellationToken,
    confirm: impl AsyncFnOnce(&EnforcementImpact) -> anyhow::Result<bool>,
) -> anyhow::Result<AdoptionOutcome> {
    let begun = Instant::now();
    let (choices, is_waiting) = (options.choices.clone(), options.is_waiting);
    let mut connection = ExecutorConnection::open(options, database, stop, progress).await?;
    connection.lock_run(is_waiting).await?;
    let blocking = preflight::check(&mut connection.work, &choices).await?;
    if !blocking.is_empty() {
        connection.close().await;
        return Ok(AdoptionOutcome::blocked(blocking, begun.elapsed()));
    }
    preflight::prepare(&mut connection.work, &choices).await?;
    let migrated = connection.migrate().await?;
    let mut notes: Vec<String> = migrated.renewed.iter().map(|table| renewal_note(table)).collect();
    notes.append(&mut preflight::record(&mut connection.work, &choices).await?);
    let mut registration = preflight::register_decided(&mut connection.work, &choices).await?;
    notes.append(&mut registration.notes);
    notes.append(&mut preflight::lost_watches(&mut connection.work).await?);
    let mut run = AdoptionRun {
        connection,
        steps: Vec::new(),
        issues: registration.issues,
        notes,
        is_declined: false,
        known_plan: None,
    };
    let result = run.reach(goal, confirm).await;
    run.connection.progress.finish();
    let is_stopped = match result {
        Ok(()) => false,
        Err(StepError::Stopped) => true,
        Err(StepError::Fatal(error)) => return Err(error),
        Err(other) => return Err(anyhow::Error::new(other)),
    };
    let tables = Registry::load(&mut run.connection.work).await?.tables.len();
    let candidates = preflight::candidates(&mut run.connection.work).await?;
    let AdoptionRun { connection, steps, issues, notes, is_declined, .. } = run;
    connection.close().await;
    let took = begun.elapsed();
    Ok(AdoptionOutcome {
        migrated,
        steps,
        issues,
        notes,
        tables,
        candidates,
        is_blocked: false,
        is_stopped,
        is_declined,
        took,
    })
}

impl AdoptionOutcome {
    /// A run that changed nothing.
    fn blocked(issues: Vec<AdoptionIssue>, took: Duration) -> Self {
        Self {
            migrated: Migrated::default(),
            steps: Vec::new(),
            issues,
            notes: Vec::new(),
            tables: 0,
            candidates: Vec::new(),
            is_blocked: true,
            is_stopped: false,
            is_declined: false,
            took,
        }
    }
}

/// A run in progress. Each phase adds its methods in a file of its own.
struct AdoptionRun {
    connection: ExecutorConnection,
    steps: Vec<StepTime>,
    issues: Vec<AdoptionIssue>,
    notes: Vec<String>,
    is_declined: bool,
    /// The plan, unless a step has ended since it was read: the database takes much of a second for it.
    known_plan: Option<Arc<Plan>>,
}

impl AdoptionRun {
    async fn reach(
        &mut self,
        goal: Goal,
        confirm: impl AsyncFnOnce(&EnforcementImpact) -> anyhow::Result<bool>,
    ) -> Result<(), StepError> {
        if goal == Goal::Relax {
            return self.relax().await;
        }
        self.expand().await?;
        self.repair().await?;
        if goal == Goal::Enforce { self.enforce(confirm).await } else { Ok(()) }
    }

    async fn plan(&mut self) -> Result<Arc<Plan>, StepError> {
        if let Some(plan) = &self.known_plan {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(Plan::load(&mut self.connection.work).await.map_err(StepError::Fatal)?);
        self.known_plan = Some(Arc::clone(&plan));
        Ok(plan)
    }

    /// The expand phase. A table that fails waits for the next run, and so do the tables that inherit from
    /// it.
    async fn expand(&mut self) -> Result<(), StepError> {
        let plan = self.plan().await?;
        self.issues.extend(plan.issues.iter().cloned());
        let mut failed: HashSet<i64> = HashSet::new();
        let clashes = preflight::clashes(&mut self.connection.work, &plan).await?;
        for table in self.ordered(&plan.tables).await? {
            if let Some(found) = clashes.get(&table.table.oid) {
                let issue = |(problem, remedy): &(String, String)| {
                    AdoptionIssue::new(table.table.title(), problem.clone(), remedy.clone())
                };
                self.issues.extend(found.iter().map(issue));
                failed.insert(table.table.oid);
                continue;
            }
            if let Some(parent) = table.table.parent.as_ref().filter(|p| failed.contains(&p.oid)) {
                failed.insert(table.table.oid);
                self.issues.push(AdoptionIssue::new(
                    table.table.title(),
                    format!("waits for {}, which is not adopted yet", title(&parent.schema, &parent.name)),
                    "Resolve the issue of that table first, then run the command again.",
                ));
                continue;
            }
            if !self.expand_table(table, plan.server_version).await? {
                failed.insert(table.table.oid);
            }
        }
        self.renew_filling().await?;
        self.watch(&failed).await?;
        self.complete_members(&failed).await
    }

    /// The tables in an order in which rows find their organisation: parents before children, and as far as
    /// possible referenced tables before referencing ones.
    async fn ordered<'p>(&mut self, tables: &'p [TablePlan]) -> Result<Vec<&'p TablePlan>, StepError> {
        let oids: Vec<i64> = tables.iter().map(|t| t.table.oid).collect();
        let references: Vec<(i64, i64)> = sqlx::query_as(
            "select t.oid, r.target::oid::bigint from unnest($1::bigint[]) t (oid)
             cross join lateral warden.other_references(t.oid::oid, 't') r where r.target::oid <> t.oid::oid",
        )
        .bind(&oids)
        .fetch_all(&mut self.connection.work)
        .await?;
        let mut targets: HashMap<i64, Vec<i64>> = HashMap::new();
        for (from, to) in references {
            targets.entry(from).or_default().push(to);
        }
        let mut waiting: Vec<&TablePlan> = tables.iter().collect();
        let mut oids: HashSet<i64> = oids.into_iter().collect();
        let mut ordered = Vec::new();
        while !waiting.is_empty() {
            let has_parent = |t: &TablePlan| {
                t.table.parent.as_ref().is_some_and(|p| p.oid != t.table.oid && oids.contains(&p.oid))
            };
            let is_free = |t: &TablePlan| {
                !has_parent(t)
                    && targets.get(&t.table.oid).is_none_or(|all| all.iter().all(|to| !oids.contains(to)))
            };
            let next = waiting
                .iter()
                .position(|t| is_free(t))
                .or_else(|| waiting.iter().position(|t| !has_parent(t)))
                .unwrap_or(0);
            let table = waiting.remove(next);
            oids.remove(&table.table.oid);
            ordered.push(table);
        }
        Ok(ordered)
    }

    fn begin(&mut self, table: &str, name: &'static str) -> Step {
        self.connection.progress.begin(&format!("{table}: {name}"));
        Step { table: table.to_owned(), name, begun: Instant::now() }
    }

    /// Ends a step and records its duration. An error that concerns one table becomes an issue, and gives
    /// None.
    fn end<T>(
        &mut self,
        step: &Step,
        result: Result<T, StepError>,
        remedy: &str,
    ) -> Result<Option<T>, StepError> {
        self.known_plan = None;
        match result {
            Ok(value) => {
                let took = step.begun.elapsed();
                self.connection.progress.done(took);
                self.steps.push(StepTime { table: step.table.clone(), step: step.name, took, rows: 0 });
                Ok(Some(value))
            }
            Err(error @ (StepError::Stopped | StepError::Fatal(_))) => Err(error),
            Err(error) => {
                let issue = match error {
                    StepError::Conflict(issue) => *issue,
                    other => {
                        let remedy = if other.is_hidden_by_policy() { NEEDS_BYPASS } else { remedy };
                        AdoptionIssue::new(step.table.clone(), format!("{}: {other}", step.name), remedy)
                    }
                };
                self.connection.progress.print(&format!("{}: {} failed", step.table, step.name));
                self.issues.push(issue);
                Ok(None)
            }
        }
    }
}

/// A step in progress.
struct Step {
    table: String,
    name: &'static str,
    begun: Instant,
}

impl ExecutorConnection {
    /// Applies the SQL migrations, under the same lock limit as every other step.
    async fn migrate(&mut self) -> anyhow::Result<Migrated> {
        let begun = Instant::now();
        loop {
            let prepare = format!(
                "set row_security = on; set lock_timeout = {}",
                self.options.lock_timeout.as_millis().max(1)
            );
            self.work.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(prepare))).await?;
            let result = postgres::migrate_on(&mut self.work, self.options.schema).await;
            self.work.execute(sqlx::raw_sql(connection::SETTINGS)).await?;
            match result {
                Err(error) if postgres::is_locked(&error) && begun.elapsed() < connection::LOCK_RETRY_MAX => {
                    let reason = postgres::blocked(&error);
                    let reason = reason.unwrap_or_else(|| "a migration needs a lock".to_owned());
                    self.progress.wait(&format!("waiting: {reason}"));
                    self.pause(connection::POLL_INTERVAL).await.map_err(|_| anyhow::anyhow!("stopped"))?;
                }
                other => return other,
            }
        }
    }
}

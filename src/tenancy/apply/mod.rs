//! The online executor: brings a database under its organisations while the application writes to it.
//!
//! - `session` holds the connections and the discipline of locks.
//! - `expand` is the first phase, table by table: nothing that runs is broken by it.
//! - `backfill` gives rows their organisation; `index` and `keys` build what takes time without blocking.
//! - `enforce` is the second phase, and the way back; `cutoff` says whom it would cut off.
//! - `progress` is what the operator sees meanwhile.
//!
//! Every step looks first whether it is needed, so a run may be killed at any point and the next completes it.
//! A step that fails is a [`Finding`]; the other tables go on.

mod backfill;
mod cutoff;
mod enforce;
mod expand;
mod index;
mod keys;
mod progress;
mod session;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sqlx::Executor as _;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

pub use cutoff::Cutoff;
pub(super) use expand::firing_note;
pub use progress::Progress;
pub(crate) use progress::{grouped, human};
pub(super) use session::refuse_standby;

use self::session::{Session, StepError};
use super::Finding;
use super::plan::Plan;
use super::registry::title;
use crate::postgres::{self, Migrated, SchemaSet};

/// The longest that a request for a lock may make writers wait, where nothing else is said.
pub const LOCK_TIMEOUT_DEFAULT: Duration = Duration::from_millis(200);
/// Rows that get their organisation in one transaction, at most, where nothing else is said.
pub const BATCH_ROWS_DEFAULT: u32 = 5_000;

/// How a run behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The SQL migrations to apply.
    pub schema: SchemaSet,
    /// The longest that a request for a lock may make writers wait.
    pub lock_timeout: Duration,
    /// Rows in one batch, at most; time makes it fewer.
    pub batch_rows: u32,
    /// Whether each batch is followed by a pause as long as it took.
    pub is_gentle: bool,
    /// Whether to wait for another run; otherwise that is an error.
    pub is_waiting: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            schema: SchemaSet::Core,
            lock_timeout: LOCK_TIMEOUT_DEFAULT,
            batch_rows: BATCH_ROWS_DEFAULT,
            is_gentle: false,
            is_waiting: true,
        }
    }
}

/// Where a run is to lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Every row has its organisation, and every new one gets it; the application need not know.
    Expand,
    /// Beyond that, the database keeps organisations apart.
    Enforce,
    /// Back from there.
    Relax,
}

/// What one step of one table took.
#[derive(Debug, Clone)]
pub struct StepTime {
    /// The table.
    pub table: String,
    /// The step.
    pub step: &'static str,
    /// How long, waits included.
    pub took: Duration,
    /// Rows that got their organisation.
    pub rows: u64,
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// SQL migrations.
    pub migrated: Migrated,
    /// Every step that was needed, in order.
    pub steps: Vec<StepTime>,
    /// What somebody has to decide or mend.
    pub findings: Vec<Finding>,
    /// Remarks that need nothing done.
    pub notes: Vec<String>,
    /// Tables that are there and registered.
    pub tables: usize,
    /// Whether the operator asked to stop.
    pub is_stopped: bool,
    /// Whether enforcing was refused, or not wanted after all.
    pub is_refused: bool,
    /// From begin to end.
    pub took: Duration,
}

/// Runs to a goal. `confirm` is asked before anybody is cut off.
///
/// # Errors
/// When the database can't be reached or is a standby, a migration fails, another run is under way and is not
/// to be waited for, or the connection is lost. What concerns one table is a finding of the outcome instead.
pub async fn run(
    database: &PgConnectOptions,
    goal: Goal,
    options: Options,
    progress: Progress,
    stop: CancellationToken,
    confirm: impl AsyncFnOnce(&Cutoff) -> anyhow::Result<bool>,
) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let mut session = Session::open(options, database, stop, progress).await?;
    session.take_turn(options.is_waiting).await?;
    let migrated = session.migrate().await?;
    let mut run =
        Run { session, steps: Vec::new(), findings: Vec::new(), notes: Vec::new(), is_refused: false };
    let result = run.to(goal, confirm).await;
    run.session.progress.finish();
    let is_stopped = match result {
        Ok(()) => false,
        Err(StepError::Stopped) => true,
        Err(StepError::Fatal(error)) => return Err(error),
        Err(other) => return Err(anyhow::Error::new(other)),
    };
    let tables = Plan::load(&mut run.session.work).await?.tables.len();
    let Run { session, steps, findings, notes, is_refused } = run;
    session.close().await;
    let took = begun.elapsed();
    Ok(Outcome { migrated, steps, findings, notes, tables, is_stopped, is_refused, took })
}

/// A run under way.
struct Run {
    session: Session,
    steps: Vec<StepTime>,
    findings: Vec<Finding>,
    notes: Vec<String>,
    is_refused: bool,
}

impl Run {
    async fn to(
        &mut self,
        goal: Goal,
        confirm: impl AsyncFnOnce(&Cutoff) -> anyhow::Result<bool>,
    ) -> Result<(), StepError> {
        if goal == Goal::Relax {
            return self.relax().await;
        }
        self.expand().await?;
        if goal == Goal::Enforce { self.enforce(confirm).await } else { Ok(()) }
    }

    async fn plan(&mut self) -> Result<Plan, StepError> {
        Plan::load(&mut self.session.work).await.map_err(StepError::Fatal)
    }

    /// The first phase. A table in trouble is left for the next run, and with it those that inherit from it.
    async fn expand(&mut self) -> Result<(), StepError> {
        // Again for each table: what was made for a parent is there for its children.
        let mut plan = self.plan().await?;
        self.findings.append(&mut plan.findings);
        let mut failed: HashSet<i64> = HashSet::new();
        for table in &plan.tables {
            if let Some(parent) = table.table.parent.as_ref().filter(|p| failed.contains(&p.oid)) {
                failed.insert(table.table.oid);
                self.findings.push(Finding::new(
                    table.table.title(),
                    format!("waits for {}, which is not done", title(&parent.schema, &parent.name)),
                    "Mend that first, then run this again.",
                ));
                continue;
            }
            if !self.expand_table(table, plan.server_version).await? {
                failed.insert(table.table.oid);
            }
        }
        self.watch(&failed).await
    }

    /// Times a step; errors that concern one table become its finding, and give None.
    fn ended<T>(
        &mut self,
        step: &Step,
        result: Result<T, StepError>,
        remedy: &str,
    ) -> Result<Option<T>, StepError> {
        match result {
            Ok(value) => {
                let took = step.begun.elapsed();
                self.session.progress.done(took);
                self.steps.push(StepTime { table: step.table.clone(), step: step.name, took, rows: 0 });
                Ok(Some(value))
            }
            Err(error @ (StepError::Stopped | StepError::Fatal(_))) => Err(error),
            Err(error) => {
                let finding = match error {
                    StepError::Conflict(finding) => *finding,
                    other => Finding::new(step.table.clone(), format!("{}: {other}", step.name), remedy),
                };
                self.session.progress.say(&format!("{}: {} failed", step.table, step.name));
                self.findings.push(finding);
                Ok(None)
            }
        }
    }

    fn begin(&mut self, table: &str, name: &'static str) -> Step {
        self.session.progress.begin(&format!("{table}: {name}"));
        Step { table: table.to_owned(), name, begun: Instant::now() }
    }
}

/// A step under way.
struct Step {
    table: String,
    name: &'static str,
    begun: Instant,
}

/// What to do where nothing better is known.
const RUN_AGAIN: &str = "Mend the cause, then run this again: it goes on where it stopped.";

impl Session {
    /// The SQL migrations, under the same limit of locks as everything else.
    async fn migrate(&mut self) -> anyhow::Result<Migrated> {
        let begun = Instant::now();
        loop {
            let prepare = format!(
                "set search_path to default; set row_security to default; set lock_timeout = {}",
                self.options.lock_timeout.as_millis().max(1)
            );
            self.work.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(prepare))).await?;
            let result = postgres::migrate_on(&mut self.work, self.options.schema).await;
            self.work.execute(sqlx::raw_sql(session::SETTINGS)).await?;
            match result {
                Err(error) if postgres::is_locked(&error) && begun.elapsed() < session::LOCK_TRIES_MAX => {
                    self.progress.wait("waiting for a lock that a migration needs");
                    self.pause(session::LOOK_EVERY).await.map_err(|_| anyhow::anyhow!("stopped"))?;
                }
                other => return other,
            }
        }
    }
}

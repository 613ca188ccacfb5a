//! `warden migrate`: applies the SQL migrations, and adopts the registered tables of a database in use.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use super::candidates;
use super::terminal::{Stopped, confirm};
use crate::config::DatabaseArgs;
use crate::postgres::SchemaSet;
use crate::tenancy::executor::{
    self, AdoptionOptions, AdoptionOutcome, AdoptionProgress, EnforcementImpact, Goal, StepTime, grouped,
    human,
};
use crate::tenancy::preflight::{self, Choices};
use crate::tenancy::preview::preview;
use crate::{postgres, shutdown, tenancy};

/// Exit code of a run that was stopped, as of a process that ends by SIGINT.
const STOPPED: u8 = 130;

#[derive(Args)]
#[command(after_help = "\
Run it while the application writes: no step makes writers wait for longer than --lock-timeout. If a run is stopped or \
killed, the next one completes it.

Exit code 0: done; 1: issues remain (each is printed with a remedy), or the command failed; 130: stopped with Ctrl-C.")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print what would be done, with row counts, and change nothing
    #[arg(long)]
    plan: bool,
    /// Adopt these tables: names separated by commas, or @FILE with one per line and `#` comments. Options
    /// may follow a name: user_column=, parent=, parent_column=, parent_key=, organization=default. Without
    /// the list, a terminal asks; otherwise no table is adopted, and candidates are printed
    #[arg(long, value_name = "LIST|@FILE")]
    tables: Option<String>,
    /// Rows of the listed tables (without a list: of all adopted ones) of which nothing says to which
    /// organisation they belong belong to the default one, as in an application of a single organisation
    #[arg(long)]
    default_organization: bool,
    /// Add the tables of the voice-call platform (calls, recordings, ...): create them if the database has no
    /// other tables, otherwise adopt those that exist. The choice is permanent: later runs need no flag,
    /// except for tables that are created later under these names
    #[arg(long)]
    platform: bool,
    /// Leave these existing objects to the application; Warden uses its own in schema warden
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    keep: Vec<String>,
    /// Replace these existing objects of the application by Warden's
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    replace: Vec<String>,
    /// Accept what was found about these tables, roles or functions
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    accept: Vec<String>,
    /// Also let the database isolate organisations: NOT NULL, row-level security, no fill triggers
    #[arg(long, conflicts_with = "relax")]
    enforce: bool,
    /// Reverse --enforce, so that applications that do not set org_id work again
    #[arg(long)]
    relax: bool,
    /// Do not ask for confirmation of --enforce or --relax
    #[arg(long)]
    yes: bool,
    /// Milliseconds for which a lock request may make writers wait before it is cancelled and retried
    #[arg(long, env = "WARDEN_LOCK_TIMEOUT_MS", value_name = "MS",
          default_value_t = default_lock_timeout_ms(), value_parser = clap::value_parser!(u32).range(1..=60_000))]
    lock_timeout: u32,
    /// Maximum number of rows that one backfill transaction updates; slow batches become smaller
    #[arg(long, env = "WARDEN_BATCH_ROWS", value_name = "N", default_value_t = executor::BATCH_ROWS_DEFAULT,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_rows: u32,
    /// Pause after each batch for as long as the batch took
    #[arg(long)]
    gentle: bool,
    /// Fail if another run is in progress, instead of waiting for it
    #[arg(long)]
    no_wait: bool,
}

fn default_lock_timeout_ms() -> u32 {
    u32::try_from(executor::LOCK_TIMEOUT_DEFAULT.as_millis()).unwrap_or(u32::MAX)
}

impl MigrateArgs {
    fn goal(&self) -> Goal {
        match (self.enforce, self.relax) {
            (true, _) => Goal::Enforce,
            (_, true) => Goal::Relax,
            _ => Goal::Expand,
        }
    }

    fn options(&self) -> anyhow::Result<AdoptionOptions> {
        let tables = match self.tables.as_deref() {
            None => Vec::new(),
            Some(list) => list_of_tables(list)?,
        };
        let both: Vec<&str> =
            self.keep.iter().filter(|name| self.replace.contains(name)).map(String::as_str).collect();
        anyhow::ensure!(both.is_empty(), "both --keep and --replace name {}", both.join(", "));
        Ok(AdoptionOptions {
            schema: if self.platform { SchemaSet::Platform } else { SchemaSet::Core },
            choices: Choices {
                tables,
                has_platform: self.platform,
                uses_organizations: self.platform,
                uses_default: self.default_organization,
                keep: self.keep.clone(),
                replace: self.replace.clone(),
                accept: self.accept.clone(),
            },
            lock_timeout: Duration::from_millis(self.lock_timeout.into()),
            batch_rows: self.batch_rows,
            is_gentle: self.gentle,
            is_waiting: !self.no_wait,
        })
    }

    /// Whether the operator may be asked which tables to adopt.
    fn may_ask(&self) -> bool {
        self.goal() == Goal::Expand
            && self.tables.is_none()
            && !self.platform
            && !self.yes
            && std::io::stdin().is_terminal()
    }

    /// Whether candidates are of interest: not if the operator has chosen.
    fn shows_candidates(&self) -> bool {
        self.goal() == Goal::Expand && self.tables.is_none() && !self.platform
    }
}

/// The tables of the option, or of the file that it names.
fn list_of_tables(list: &str) -> anyhow::Result<Vec<preflight::TableChoice>> {
    let text = match list.strip_prefix('@') {
        None => list.to_owned(),
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("cannot read the list of tables {path}"))?
        }
    };
    preflight::parse_tables(&text).map_err(|errors| anyhow::anyhow!("--tables: {}", errors.join("; ")))
}

pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    match migrate(args).await {
        Err(error) if error.is::<Stopped>() => {
            eprintln!("\n{error}");
            Ok(ExitCode::from(STOPPED))
        }
        ended => ended,
    }
}

async fn migrate(args: MigrateArgs) -> anyhow::Result<ExitCode> {
    let mut options = args.options()?;
    let database = postgres::primary_options(&args.database.database_url).await?;
    let goal = args.goal();
    if args.plan {
        let preview = preview(&database, goal, &options).await?;
        println!("{preview}");
        if args.shows_candidates() {
            print!("{}", candidates::list(&preview.candidates));
        }
        return Ok(exit_code(preview.issues.is_empty()));
    }
    if goal == Goal::Relax && !args.yes {
        confirm("This removes the isolation of organisations from the database.").await?;
    }
    let mut outcome = adopt(&args, &database, options.clone()).await?;
    if let [issue] = outcome.issues.as_slice()
        && outcome.is_blocked
        && preflight::is_question(issue)
        && !args.yes
        && std::io::stdin().is_terminal()
    {
        confirm(&format!("{} {}.", issue.subject, issue.problem)).await?;
        options.choices.uses_organizations = true;
        outcome = adopt(&args, &database, options.clone()).await?;
    }
    if args.may_ask() && !outcome.is_blocked && !outcome.is_stopped && !outcome.candidates.is_empty() {
        report(&outcome, goal);
        options.choices.tables = candidates::ask(&outcome.candidates).await?;
        if options.choices.tables.is_empty() {
            return Ok(exit_code(outcome.issues.is_empty()));
        }
        outcome = adopt(&args, &database, options.clone()).await?;
        report(&outcome, goal);
    } else {
        report(&outcome, goal);
        if args.shows_candidates() {
            print!("{}", candidates::list(&outcome.candidates));
        }
    }
    if let [issue] = outcome.issues.as_slice()
        && tenancy::is_default_question(issue)
        && !args.yes
        && std::io::stdin().is_terminal()
    {
        confirm("Do all these rows belong to one organisation, the default one?").await?;
        options.choices.uses_default = true;
        outcome = adopt(&args, &database, options).await?;
        report(&outcome, goal);
    }
    if outcome.is_stopped {
        return Ok(ExitCode::from(STOPPED));
    }
    Ok(exit_code(outcome.issues.is_empty() && !outcome.is_declined))
}

/// Runs the executor until it ends, or the operator stops it.
async fn adopt(
    args: &MigrateArgs,
    database: &PgConnectOptions,
    options: AdoptionOptions,
) -> anyhow::Result<AdoptionOutcome> {
    let stop = CancellationToken::new();
    let requested = shutdown::requested()?;
    let signal = tokio::spawn({
        let stop = stop.clone();
        async move {
            requested.await;
            stop.cancel();
        }
    });
    let is_confirmed = args.yes;
    let confirm_impact = async |impact: &EnforcementImpact| {
        eprint!("{impact}");
        if is_confirmed { Ok(true) } else { confirm("").await.map(|()| true) }
    };
    let progress = AdoptionProgress::to_stderr();
    let outcome = executor::run(database, args.goal(), options, progress, stop, confirm_impact).await;
    signal.abort();
    outcome
}

fn exit_code(is_success: bool) -> ExitCode {
    if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(outcome: &AdoptionOutcome, goal: Goal) {
    if outcome.is_blocked {
        for issue in &outcome.issues {
            println!("issue: {issue}");
        }
        println!("Nothing was changed: decide about the issues above, then run the command again.");
        return;
    }
    for migration in &outcome.migrated.applied {
        println!("applied {migration}");
    }
    match outcome.migrated.applied.len() {
        0 => println!("the schema is up to date ({} migrations)", outcome.migrated.total),
        n => println!("{n} of {} migrations applied; the schema is up to date", outcome.migrated.total),
    }
    let is_idle = outcome.steps.is_empty() && outcome.issues.is_empty() && outcome.notes.is_empty();
    if goal == Goal::Expand && is_idle && !outcome.is_stopped {
        return;
    }
    if !outcome.steps.is_empty() {
        print!("{}", table(&outcome.steps));
    }
    for note in &outcome.notes {
        println!("note: {note}");
    }
    for issue in &outcome.issues {
        println!("issue: {issue}");
    }
    let rows: u64 = outcome.steps.iter().map(|s| s.rows).sum();
    let took = human(outcome.took);
    let state = match (goal, outcome.is_stopped, outcome.is_declined, outcome.issues.len()) {
        (_, true, ..) => "stopped: run the command again to continue".to_owned(),
        (_, _, true, _) => "not enforced: resolve the issues above, then run the command again".to_owned(),
        (_, _, _, 1) => "1 issue remains".to_owned(),
        (_, _, _, n @ 2..) => format!("{n} issues remain"),
        (Goal::Enforce, ..) => "the database isolates organisations".to_owned(),
        (Goal::Relax, ..) => "isolation is off: applications that do not set org_id work again".to_owned(),
        (Goal::Expand, ..) => "every row has an organisation".to_owned(),
    };
    println!("{} tables, {} rows filled, {took}: {state}", outcome.tables, grouped(rows));
}

/// One line per table and one column per step, with durations in seconds.
fn table(steps: &[StepTime]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut kinds: Vec<&str> = Vec::new();
    for step in steps {
        if !names.contains(&step.table.as_str()) {
            names.push(&step.table);
        }
        if !kinds.contains(&step.step) {
            kinds.push(step.step);
        }
    }
    let width = names.iter().map(|n| n.len()).max().unwrap_or(0).max("seconds".len());
    let mut text = format!("{:width$}  {:>10}", "seconds", "rows");
    for kind in &kinds {
        text.push_str(&format!("  {kind}"));
    }
    text.push('\n');
    for name in names {
        let own = || steps.iter().filter(|s| s.table == name);
        let rows: u64 = own().map(|s| s.rows).sum();
        text.push_str(&format!("{name:width$}  {:>10}", grouped(rows)));
        for kind in &kinds {
            let took: Duration = own().filter(|s| s.step == *kind).map(|s| s.took).sum();
            let cell = if took.is_zero() { String::new() } else { format!("{:.2}", took.as_secs_f64()) };
            text.push_str(&format!("  {cell:>width$}", width = kind.len()));
        }
        text.push('\n');
    }
    text
}

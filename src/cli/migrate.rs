//! `warden migrate`: brings the schema up to date, and a database that is in use under its organisations.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::config::DatabaseArgs;
use crate::postgres::SchemaSet;
use crate::tenancy::apply::{self, Cutoff, Goal, Options, Outcome, Progress, StepTime, grouped, human};
use crate::tenancy::preview::preview;
use crate::{postgres, shutdown};

#[derive(Args)]
#[command(after_help = "\
Run it while the application writes: no step makes writers wait for longer than --lock-timeout, and a run that \
is stopped or killed is completed by the next. Exit code 0: all done; 1: something is left to mend (it says \
what), or refused; 130: stopped with Ctrl-C.")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Say what would be done, with row counts, and change nothing
    #[arg(long)]
    plan: bool,
    /// Choose the tables of the voice-call platform (calls, recordings, ...) for this database, once and for all: create
    /// them if the database has no other tables, else adopt those that exist
    #[arg(long)]
    platform: bool,
    /// After that, let the database keep organisations apart: NOT NULL, row-level security, no more filling
    #[arg(long, conflicts_with = "relax")]
    enforce: bool,
    /// One step back from --enforce: applications that know nothing of organisations work again
    #[arg(long)]
    relax: bool,
    /// Don't ask before --enforce or --relax
    #[arg(long)]
    yes: bool,
    /// Milliseconds for which a request for a lock may make writers wait before it is withdrawn and tried again
    #[arg(long, env = "WARDEN_LOCK_TIMEOUT_MS", value_name = "MS",
          default_value_t = default_lock_timeout_ms(), value_parser = clap::value_parser!(u32).range(1..=60_000))]
    lock_timeout: u32,
    /// Rows that get their organisation in one transaction, at most; time makes it fewer
    #[arg(long, env = "WARDEN_BATCH_ROWS", value_name = "N", default_value_t = apply::BATCH_ROWS_DEFAULT,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batch_rows: u32,
    /// Pause after each batch for as long as it took
    #[arg(long)]
    gentle: bool,
    /// Fail where another run is under way, instead of waiting for it
    #[arg(long)]
    no_wait: bool,
}

fn default_lock_timeout_ms() -> u32 {
    u32::try_from(apply::LOCK_TIMEOUT_DEFAULT.as_millis()).unwrap_or(u32::MAX)
}

impl MigrateArgs {
    fn goal(&self) -> Goal {
        match (self.enforce, self.relax) {
            (true, _) => Goal::Enforce,
            (_, true) => Goal::Relax,
            _ => Goal::Expand,
        }
    }
}

/// Whether all is done; otherwise what is left was printed.
pub(super) async fn run(args: MigrateArgs) -> anyhow::Result<std::process::ExitCode> {
    let database = postgres::primary_options(&args.database.database_url).await?;
    let goal = args.goal();
    let schema = if args.platform { SchemaSet::Platform } else { SchemaSet::Core };
    let lock_timeout = Duration::from_millis(args.lock_timeout.into());
    if args.plan {
        let preview = preview(&database, schema, goal, lock_timeout).await?;
        println!("{preview}");
        return Ok(code(preview.findings.is_empty()));
    }
    if goal == Goal::Relax && !args.yes {
        ask("This takes the isolation of organisations out of the database again.")?;
    }
    let options = Options {
        schema,
        lock_timeout,
        batch_rows: args.batch_rows,
        is_gentle: args.gentle,
        is_waiting: !args.no_wait,
    };
    let stop = CancellationToken::new();
    let requested = shutdown::requested()?;
    let signal = tokio::spawn({
        let stop = stop.clone();
        async move {
            requested.await;
            stop.cancel();
        }
    });
    let is_sure = args.yes;
    let confirm = async |cutoff: &Cutoff| {
        eprint!("{cutoff}");
        if is_sure { Ok(true) } else { ask("").map(|()| true) }
    };
    let outcome = apply::run(&database, goal, options, Progress::to_stderr(), stop, confirm).await;
    signal.abort();
    let outcome = outcome?;
    report(&outcome, goal);
    if outcome.is_stopped {
        return Ok(std::process::ExitCode::from(130));
    }
    Ok(code(outcome.findings.is_empty() && !outcome.is_refused))
}

fn code(is_good: bool) -> std::process::ExitCode {
    if is_good { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

/// Asks on a terminal.
fn ask(what: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody can be asked here: say --yes");
    }
    eprint!("{what} Go on? Type yes: ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() != "yes" {
        bail!("nothing was changed");
    }
    Ok(())
}

fn report(outcome: &Outcome, goal: Goal) {
    for migration in &outcome.migrated.applied {
        println!("applied {migration}");
    }
    match outcome.migrated.applied.len() {
        0 => println!("the schema is up to date ({} migrations)", outcome.migrated.total),
        n => println!("{n} of {} migrations applied; the schema is up to date", outcome.migrated.total),
    }
    let is_idle = outcome.steps.is_empty() && outcome.findings.is_empty() && outcome.notes.is_empty();
    if goal == Goal::Expand && is_idle && !outcome.is_stopped {
        return;
    }
    if !outcome.steps.is_empty() {
        print!("{}", table(&outcome.steps));
    }
    for note in &outcome.notes {
        println!("note: {note}");
    }
    for finding in &outcome.findings {
        println!("finding: {finding}");
    }
    let rows: u64 = outcome.steps.iter().map(|s| s.rows).sum();
    let took = human(outcome.took);
    let state = match (goal, outcome.is_stopped, outcome.is_refused, outcome.findings.len()) {
        (_, true, ..) => "stopped: run this again, and it goes on from here".to_owned(),
        (_, _, true, _) => "not enforced: mend what is said above, then run this again".to_owned(),
        (_, _, _, 1) => "1 finding is left".to_owned(),
        (_, _, _, n @ 2..) => format!("{n} findings are left"),
        (Goal::Enforce, ..) => "the database keeps organisations apart".to_owned(),
        (Goal::Relax, ..) => "applications that know nothing of organisations work again".to_owned(),
        (Goal::Expand, ..) => "every row has its organisation".to_owned(),
    };
    println!("{} tables, {} rows filled, {took}: {state}", outcome.tables, grouped(rows));
}

/// One line per table, one column per kind of step, times in seconds.
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

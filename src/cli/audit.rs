//! `warden audit`: checks whether a database isolates organisations.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::config::DatabaseArgs;
use crate::tenancy::audit::{self, AuditOptions, AuditProgress, TIMEOUT_DEFAULT};

/// Exit code if there are findings.
const FINDINGS: u8 = 1;
/// Exit code if the audit could not run.
const COULD_NOT_RUN: u8 = 2;

#[derive(Args)]
#[command(after_help = "\
The audit checks every table of the registry (warden.tenant_tables): column, keys, indexes, triggers, policies, rows. \
It also checks Warden's functions, rights, roles and watches. Each finding has a remedy: `$` a command, `sql>` \
statements for the role that runs the audit, `?` a question with its answers, `->` something to do outside the \
database. The audit changes nothing, runs in one read-only transaction, and works on a standby. Run it \
as the role that runs `warden migrate`: a rule that a role has no right to check is a finding.

Exit code 0: clean (notices don't count); 1: findings; 2: the audit could not run.
docs/tenancy.md describes the rules and the format of --json.")]
pub(super) struct AuditArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON document instead of text
    #[arg(long)]
    json: bool,
    /// Read all rows, even if a valid constraint guarantees them (reads every table)
    #[arg(long)]
    deep: bool,
    /// Longest duration of one query, in seconds; a rule that needs longer is a finding
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_DEFAULT.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

pub(super) async fn run(args: AuditArgs) -> ExitCode {
    match audit(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FINDINGS),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Prints the report. Returns whether the database is clean.
async fn audit(args: AuditArgs) -> anyhow::Result<bool> {
    let database = crate::postgres::reading_options(&args.database.database_url).await?;
    let options = AuditOptions { timeout: Duration::from_secs(args.timeout), is_deep: args.deep };
    let report = audit::run(&database, options, &mut AuditProgress::to_stderr()).await?;
    let mut stdout = std::io::stdout().lock();
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        audit::render(&report, stdout.is_terminal())
    };
    stdout.write_all(text.as_bytes())?;
    Ok(report.is_clean())
}

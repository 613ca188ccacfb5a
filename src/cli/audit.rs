//! `warden audit`: whether a database keeps organisations apart.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::config::DatabaseArgs;
use crate::tenancy::audit::{self, Options, Progress, TIMEOUT_DEFAULT};

/// Something is to be mended.
const FOUND: u8 = 1;
/// Nothing can be said.
const COULD_NOT_RUN: u8 = 2;

#[derive(Args)]
#[command(after_help = "\
It looks at every table of the registry (warden.tenant_tables): column, keys, indexes, triggers, policies, rows; \
and at Warden's functions, at rights, roles and watches. Each finding says what mends it: `$` a command, `sql>` \
statements for the role that owns the tables, `->` something to decide. It changes nothing, runs in one read-only \
transaction, on a standby too, and is best run as the role that runs `warden migrate`: a rule that a role has no \
right to judge is a finding.

Exit code 0: clean (notices don't count); 1: findings; 2: it could not run.
The rules, and the shape of --json, are described in docs/tenancy.md.")]
pub(super) struct AuditArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Look at all rows, also where a valid constraint vouches for them (reads every table)
    #[arg(long)]
    deep: bool,
    /// The longest that one question may take, in seconds; what needs longer is a finding
    #[arg(long, value_name = "SECONDS", default_value_t = TIMEOUT_DEFAULT.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

pub(super) async fn run(args: AuditArgs) -> ExitCode {
    match audited(args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FOUND),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

/// Whether the database is clean.
async fn audited(args: AuditArgs) -> anyhow::Result<bool> {
    let database = crate::postgres::reading_options(&args.database.database_url).await?;
    let options = Options { timeout: Duration::from_secs(args.timeout), is_deep: args.deep };
    let report = audit::run(&database, options, &mut Progress::to_stderr()).await?;
    let mut stdout = std::io::stdout().lock();
    let text = if args.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        audit::render(&report, stdout.is_terminal())
    };
    stdout.write_all(text.as_bytes())?;
    Ok(report.is_clean())
}

//! `warden claims sync`: writes each user's organisation into `app_metadata.org_id` of Supabase Auth.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use url::{Host, Url};

use crate::claims_sync::{self, ApiOptions, RunMode, ServiceKey, SyncOptions, UserSource};
use crate::config::{DatabaseArgs, SERVICE_KEY_VARIABLE, service_key};
use crate::shutdown;

#[derive(Args)]
pub(super) struct ClaimsArgs {
    #[command(subcommand)]
    command: ClaimsCommand,
}

#[derive(Subcommand)]
enum ClaimsCommand {
    /// Write app_metadata.org_id of every user of Supabase Auth
    Sync(SyncArgs),
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Admin API of Supabase Auth
    Api,
    /// Table auth.users of the database
    Sql,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WithoutMembership {
    /// Insert a membership of the default organisation
    Insert,
    /// Leave the user out
    Skip,
}

#[derive(Args)]
#[command(after_help = "\
The organisation of a user is that of the primary membership, else of the oldest one, as in the token hook. A user \
without a membership becomes a member of the default organisation. Anonymous, banned and deleted users never become \
members.

The service key is read from the environment variable WARDEN_SERVICE_KEY or from a file. Run it as the database role \
that runs `warden migrate`. If a run with --state-file is stopped or killed, the next one continues.

Exit code 0: done; 1: some users failed or differ, or the command failed; 2: wrong usage.")]
struct SyncArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// How users are read and written
    #[arg(long, value_enum, default_value_t = By::Api)]
    by: By,
    /// URL of Supabase Auth, such as https://project.supabase.co/auth/v1
    #[arg(long, env = "WARDEN_AUTH_URL", value_name = "URL", required_if_eq("by", "api"))]
    auth_url: Option<String>,
    /// File with the key of the service role [default: the variable WARDEN_SERVICE_KEY]
    #[arg(long, value_name = "FILE")]
    service_key_file: Option<PathBuf>,
    /// Treatment of active users without a membership
    #[arg(long, value_enum, default_value_t = WithoutMembership::Insert)]
    without_membership: WithoutMembership,
    /// Overwrite another organisation
    #[arg(long)]
    reassign: bool,
    /// End the sessions of users whose organisation changed
    #[arg(long, requires = "reassign", requires = "state_file")]
    revoke: bool,
    /// Count what would be written, and write nothing
    #[arg(long, conflicts_with_all = ["verify", "state_file"])]
    dry_run: bool,
    /// Read all users back, write nothing, and exit with 1 if one has another organisation than expected
    #[arg(long, conflicts_with = "state_file")]
    verify: bool,
    /// File with the position of the run, which a repeated command continues
    #[arg(long, value_name = "FILE")]
    state_file: Option<PathBuf>,
    /// Requests at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    concurrency: u16,
    /// Most requests a second
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Attempts for each request
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// Longest time of one attempt, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
    /// Users in one page or batch
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    page_size: u32,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
}

impl SyncArgs {
    fn options(self) -> anyhow::Result<SyncOptions> {
        let source = match self.by {
            By::Sql => UserSource::Sql,
            By::Api => UserSource::Api(ApiOptions {
                url: auth_url(self.auth_url.as_deref().unwrap_or_default())?,
                key: key(self.service_key_file.as_ref())?,
                concurrency: self.concurrency.into(),
                rate: self.rate,
                attempts: self.attempts,
                timeout: Duration::from_secs(self.timeout),
            }),
        };
        Ok(SyncOptions {
            database_url: self.database.database_url,
            source,
            mode: match (self.dry_run, self.verify) {
                (true, _) => RunMode::DryRun,
                (_, true) => RunMode::Verify,
                _ => RunMode::Write,
            },
            inserts_memberships: self.without_membership == WithoutMembership::Insert,
            reassigns: self.reassign,
            revokes: self.revoke,
            page_size: self.page_size,
            state_file: self.state_file,
        })
    }
}

fn key(file: Option<&PathBuf>) -> anyhow::Result<ServiceKey> {
    let text = match file {
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the service key from {}", path.display()))?,
        None => service_key().with_context(|| {
            format!("no service key: set {SERVICE_KEY_VARIABLE}, or pass --service-key-file")
        })?,
    };
    ServiceKey::new(&text)
}

/// The key is sent over TLS, or to the same machine.
fn auth_url(text: &str) -> anyhow::Result<Url> {
    let url = Url::parse(text).ok().context("WARDEN_AUTH_URL cannot be parsed as a URL")?;
    let is_local = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => bail!("WARDEN_AUTH_URL has no host"),
    };
    ensure!(
        url.scheme() == "https" || url.scheme() == "http" && is_local,
        "WARDEN_AUTH_URL must begin with https:// so that the service key is sent over TLS"
    );
    ensure!(
        url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none(),
        "WARDEN_AUTH_URL must have no user, password, query or fragment"
    );
    Ok(url)
}

pub(super) async fn run(args: ClaimsArgs) -> anyhow::Result<ExitCode> {
    let ClaimsCommand::Sync(args) = args.command;
    let is_json = args.json;
    let requested = shutdown::requested()?;
    let options = args.options()?;
    let summary = tokio::select! {
        summary = claims_sync::run(&options) => summary?,
        () = requested => bail!(
            "interrupted: repeat the command{}",
            if options.state_file.is_some() { " to continue" } else { ", with --state-file to be able to continue" }
        ),
    };
    let text = if is_json { serde_json::to_string_pretty(&summary)? + "\n" } else { summary.to_string() };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    Ok(if summary.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

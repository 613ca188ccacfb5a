//! `warden worker`: runs the jobs of recordings. `jobs` lists and retries them, `cleanup` compares the store
//! with the rows.

mod cleanup;
mod jobs;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use ipnet::IpNet;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio_util::sync::CancellationToken;
use warden_connect::Link;

use crate::recordings::{
    Accounts, AddressPolicy, Fetcher, Queue, RecordingStore, SourceLimits, Terms, Transfer, Worker,
    WorkerSettings,
};
use crate::{postgres, shutdown};

const MIB: u64 = 1024 * 1024;

#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Copies recordings from their providers into the object store: it takes due rows of recording_upload_queue, organisation \
by organisation, fetches each recording, checks it, stores it as org/<organisation>/recordings/<id>, and completes the \
row, the recording and its call in one transaction. Clients see the stages as recording.updated.

Run as many workers as you like. One that is killed loses nothing: its rows are taken over when their leases end.

Its database role needs warden_worker:

  create role recordings login password '...'; grant warden_worker to recordings;

Try it against a folder:

  warden worker --store ./recordings --accounts accounts.toml

with one table for each account in accounts.toml:

  [[account]]
  provider = \"twilio\"                                   # or \"vapi\"
  id = \"AC...\"                                          # the account's id at the provider
  organization = \"00000000-0000-4000-8000-000000000000\"
  secret_file = \"/run/secrets/twilio\"                   # Twilio's auth token, Vapi's server secret

Exit codes: 0: stopped by a signal, or idle with --until-idle. 1: it could not start. 2: wrong usage."
)]
pub(super) struct WorkerArgs {
    #[command(subcommand)]
    command: Option<WorkerCommand>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Subcommand)]
enum WorkerCommand {
    /// List the jobs that are not done, or retry failed ones
    Jobs(jobs::JobsArgs),
    /// Find objects without a row and rows whose object is gone, and remove them
    Cleanup(cleanup::CleanupArgs),
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    database: OptionalDatabase,
    /// Store of the recordings: a folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix.
    /// Credentials come from the providers' variables (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL and so on)
    #[arg(long, env = "WARDEN_RECORDINGS_STORE", value_name = "STORE", default_value = "recordings")]
    store: String,
    /// File of the accounts at the providers
    #[arg(long, env = "WARDEN_ACCOUNTS_FILE", value_name = "FILE")]
    accounts: Option<PathBuf>,
    /// Recordings that are copied at once
    #[arg(long, env = "WARDEN_WORKER_JOBS", value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Recordings of one organisation that are copied at once
    #[arg(long, env = "WARDEN_WORKER_JOBS_PER_ORG", value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs_per_org: u16,
    /// Attempts for each recording before it counts as failed
    #[arg(long, env = "WARDEN_WORKER_ATTEMPTS", value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// Milliseconds before the second attempt. The delay doubles with each attempt
    #[arg(long, env = "WARDEN_WORKER_RETRY_MS", value_name = "MS", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    retry: u64,
    /// Longest delay between two attempts, in milliseconds
    #[arg(long, env = "WARDEN_WORKER_RETRY_MAX_MS", value_name = "MS", default_value_t = 3_600_000,
          value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    retry_max: u64,
    /// Milliseconds after which another worker takes over the work of one that was killed
    #[arg(long, env = "WARDEN_WORKER_LEASE_MS", value_name = "MS", default_value_t = 60_000,
          value_parser = clap::value_parser!(u64).range(500..=3_600_000))]
    lease: u64,
    /// Largest recording, in MiB
    #[arg(long, env = "WARDEN_RECORDING_MIB", value_name = "MIB", default_value_t = 512,
          value_parser = clap::value_parser!(u64).range(1..=65_536))]
    recording_mib: u64,
    /// Longest time of one attempt, in seconds
    #[arg(long, env = "WARDEN_WORKER_ATTEMPT_SECONDS", value_name = "SECONDS", default_value_t = 900,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    attempt_seconds: u64,
    /// Longest time in which a source sends nothing, in seconds
    #[arg(long, env = "WARDEN_WORKER_SILENCE_SECONDS", value_name = "SECONDS", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    silence_seconds: u64,
    /// Also fetch from these networks. Without it, only from public addresses
    #[arg(long, env = "WARDEN_WORKER_ALLOW_NETWORK", value_name = "NETWORK", value_delimiter = ',')]
    allow_network: Vec<IpNet>,
    /// Also fetch over http, where anyone on the way can read and replace recordings
    #[arg(long, env = "WARDEN_WORKER_ALLOW_HTTP")]
    allow_http: bool,
    /// Stop when no work is due
    #[arg(long)]
    until_idle: bool,
}

/// The database of the command. Not required here, because a subcommand has its own.
#[derive(Args)]
struct OptionalDatabase {
    /// Database, as in `warden serve`
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "DATABASE_URL")]
    database_url: Option<String>,
}

pub(super) async fn run(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(WorkerCommand::Jobs(args)) => jobs::run(args).await,
        Some(WorkerCommand::Cleanup(args)) => cleanup::run(args).await,
        None => work(args.run).await,
    }
}

async fn work(args: RunArgs) -> anyhow::Result<ExitCode> {
    let stopped = shutdown::requested()?;
    let url = args.database.database_url.as_deref().context("DATABASE_URL, or --database-url, is needed")?;
    let accounts = args.accounts.as_deref().map_or_else(|| Ok(Accounts::default()), Accounts::read)?;
    let store = RecordingStore::open(&args.store)?;
    let limits = SourceLimits {
        connect: Duration::from_secs(10),
        silence: Duration::from_secs(args.silence_seconds),
        total: Duration::from_secs(args.attempt_seconds),
        bytes_max: args.recording_mib * MIB,
    };
    let fetcher = Fetcher::new(AddressPolicy::new(args.allow_network), args.allow_http, limits)
        .context("cannot read the system's certificate authorities")?;
    let terms = Terms { lease: Duration::from_millis(args.lease), attempts_max: args.attempts };
    // Each job holds a connection for the moments of its transactions only.
    let database = Database::connect(url, u32::from(args.jobs.min(16)) + 2).await?;
    let queue = Queue::open(database.pool.clone(), worker_name(), terms).await?;
    let settings = WorkerSettings {
        jobs_max: usize::from(args.jobs),
        jobs_per_org_max: usize::from(args.jobs_per_org),
        poll: Duration::from_millis(500),
        retry_delays: (Duration::from_millis(args.retry), Duration::from_millis(args.retry_max)),
        terms,
        ends_when_idle: args.until_idle,
    };
    let worker = Worker::new(queue, Transfer::new(fetcher, store, accounts), settings);
    let counters = worker.counters();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tracing::info!(store = args.store, jobs = args.jobs, "the worker is up");
    let progress = progress::Progress::start(counters);
    let signal = tokio::spawn(async move {
        stopped.await;
        stopping.cancel();
    });
    worker.run(stop).await;
    signal.abort();
    progress.finish();
    Ok(ExitCode::SUCCESS)
}

/// Connections to the primary. Keep it while they are used: the link may be a tunnel that encrypts.
struct Database {
    pool: PgPool,
    _link: Link,
}

impl Database {
    async fn connect(url: &str, connections_max: u32) -> anyhow::Result<Self> {
        let link = postgres::primary_options(url).await?;
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(Duration::from_secs(10))
            .connect_with((*link).clone())
            .await
            .context("cannot connect to DATABASE_URL")?;
        Ok(Self { pool, _link: link })
    }
}

/// A name that no other worker has.
fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}:{:08x}", host.trim(), std::process::id(), fastrand::u32(..))
}

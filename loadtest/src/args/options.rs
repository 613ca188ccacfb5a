//! The options. `plan` validates them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bench_support::duration::parse_duration;
use clap::{Parser, Subcommand, ValueEnum};

use super::help;
use super::parse::parse_share;
use crate::slo::Slo;
use crate::spread::Skew;

/// Opens many sockets over many organisations, makes changes in PostgreSQL, and checks that every socket
/// receives every change of its organisation exactly once, in order, and no change of another organisation
#[derive(Parser, Debug)]
#[command(name = "warden-loadtest", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = help::OVERVIEW)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: CliCommand,
}

/// The scenarios, and the command with which a run starts its workers.
#[derive(Subcommand, Debug)]
pub(crate) enum CliCommand {
    /// A constant number of sockets, and changes at a constant rate
    #[command(after_help = help::STEADY)]
    Steady(Common),

    /// More sockets step by step, and changes at a constant rate: how does latency grow?
    #[command(after_help = help::RAMP)]
    Ramp {
        /// Number of steps; each has latencies of its own in the report
        #[arg(long, default_value_t = 5, help_heading = help::SCENARIO)]
        steps: usize,
        #[command(flatten)]
        common: Common,
    },

    /// Many changes in one transaction, at intervals
    #[command(after_help = help::BURST)]
    Burst {
        /// Changes per burst, all of one organisation
        #[arg(long, default_value_t = 50, help_heading = help::SCENARIO)]
        burst: usize,
        /// Time between bursts
        #[arg(long, default_value = "1s", value_parser = parse_duration, help_heading = help::SCENARIO)]
        every: Duration,
        #[command(flatten)]
        common: Common,
    },

    /// All sockets drop at once and reconnect with their cursors: does every missed event arrive once?
    #[command(after_help = help::STORM)]
    Storm {
        /// Share of the sockets that drop, e.g. 100% or 0.5
        #[arg(long, default_value = "100%", value_parser = parse_share, help_heading = help::SCENARIO)]
        share: f64,
        /// Time until they reconnect
        #[arg(long, default_value = "2s", value_parser = parse_duration, help_heading = help::SCENARIO)]
        away: Duration,
        /// Sockets per second that reconnect; 0: all at once
        #[arg(long, default_value_t = 0.0, help_heading = help::SCENARIO)]
        return_rate: f64,
        #[command(flatten)]
        common: Common,
    },

    /// Sockets leave and are replaced by new ones all the time
    #[command(after_help = help::CHURN)]
    Churn {
        /// Sockets per second that leave, each followed by a new one
        #[arg(long, default_value_t = 50.0, help_heading = help::SCENARIO)]
        churn_rate: f64,
        #[command(flatten)]
        common: Common,
    },

    /// The first organisation floods for a while: are the others slowed down?
    #[command(after_help = help::NOISY)]
    Noisy {
        /// Additional changes per second of the first organisation during the flood
        #[arg(long, default_value_t = 500.0, help_heading = help::SCENARIO)]
        flood: f64,
        #[command(flatten)]
        common: Common,
    },

    /// A long steady run: does the gateway's memory grow?
    #[command(after_help = help::SOAK)]
    Soak(Common),

    /// Holds sockets for the process that started it
    #[command(hide = true)]
    Worker,
}

/// The gateways, and the tokens that they accept.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Gateway")]
pub(crate) struct GatewayArgs {
    /// Socket endpoint of the gateway; `/websocket?vsn=2.0.0` is appended. For several gateways repeat the
    /// option or separate the URLs with commas; the sockets are spread over them
    #[arg(
        long,
        env = "WARDEN_URL",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "ws://127.0.0.1:4000/socket"
    )]
    pub(crate) url: Vec<String>,

    /// Secret with which the gateway verifies HS256 tokens
    #[arg(long, env = "WARDEN_JWT_SECRET", hide_env_values = true)]
    pub(crate) jwt_secret: String,

    /// Claim `aud` of the tokens
    #[arg(long, env = "WARDEN_JWT_AUDIENCE", default_value = "authenticated")]
    pub(crate) jwt_audience: String,

    /// Claim `iss` of the tokens, if the gateway requires one
    #[arg(long, env = "WARDEN_JWT_ISSUER")]
    pub(crate) jwt_issuer: Option<String>,

    /// Process ids of the gateways, separated by commas, to measure CPU and memory [default: the processes
    /// that listen on the URLs' ports, if they run on this machine]
    #[arg(long, value_delimiter = ',')]
    pub(crate) server_pid: Vec<u32>,
}

/// The sockets: how many, in which organisations, and from which addresses.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Sockets")]
pub(crate) struct SocketArgs {
    /// Sockets to open
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) sockets: usize,

    /// Organisations over which sockets and changes are spread
    #[arg(short = 'm', long, default_value_t = 5)]
    pub(crate) orgs: usize,

    /// How sockets are spread over organisations: uniform, zipf, zipf:1.2, one-large, one-large:0.8
    #[arg(long, default_value = "uniform")]
    pub(crate) skew: Skew,

    /// Topics that each socket joins, separated by commas. Changes reach `calls` and `org`
    #[arg(long, value_delimiter = ',', default_value = "calls")]
    pub(crate) topics: Vec<String>,

    /// Different filters of each organisation, for the joins of `calls`: most compare one column, some
    /// several; 0: none. Each socket has one, and must receive the changes that it selects, and no others
    #[arg(long, default_value_t = 0)]
    pub(crate) filters: usize,

    /// How sockets and changes are spread over the filters: as --skew, with filters instead of organisations
    #[arg(long, default_value = "zipf")]
    pub(crate) filter_skew: Skew,

    /// Handshakes started per second
    #[arg(long, default_value_t = 500.0)]
    pub(crate) connect_rate: f64,

    /// Source addresses, separated by commas, used in round-robin order [default: 127.0.0.2 and following,
    /// one per 400 sockets, if the gateways are on this machine]
    #[arg(long, value_delimiter = ',')]
    pub(crate) bind: Vec<IpAddr>,

    /// Processes that hold the sockets [default: as many as the limit of open files requires]
    #[arg(long)]
    pub(crate) processes: Option<usize>,
}

/// How changes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishBy {
    /// Rows of public.calls, which the gateway watches
    Calls,
    /// warden.publish
    Publish,
}

/// The changes: how they are made, how many, and for how long.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Changes")]
pub(crate) struct ChangeArgs {
    /// Database of the gateway, in any form that libpq knows, with TLS as its sslmode says. The role must be
    /// able to write public.organizations, and either public.calls or warden.publish
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,

    /// Changes per second over all organisations; 0 only holds the sockets open
    #[arg(short, long, default_value_t = 20.0)]
    pub(crate) rate: f64,

    /// How long to publish, e.g. 500ms, 30s, 5m [default: 10s; soak: 1h]
    #[arg(short, long, value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,

    /// How changes are made
    #[arg(long, value_enum, default_value_t = PublishBy::Calls)]
    pub(crate) by: PublishBy,

    /// With `--by publish`: bytes to add to each event
    #[arg(long, default_value_t = 0)]
    pub(crate) padding: usize,

    /// Database connections that make changes. Raise it if the report shows a schedule lag
    #[arg(long, default_value_t = 4)]
    pub(crate) writers: usize,

    /// How long after the end of the schedule late changes are still made. Later ones are reported as due but
    /// not made, and the run fails
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) late: Duration,

    /// How long to wait for missing events after the last change
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) settle: Duration,
}

/// How the result is shown and judged.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Report")]
pub(crate) struct OutputArgs {
    /// Thresholds that must hold as well, e.g. 'p99<50ms,connect.p99<200ms,cpu<10us'. `--slo help` lists all
    #[arg(long)]
    pub(crate) slo: Option<Slo>,

    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Write a report with plots into one self-contained file
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Options of all scenarios.
#[derive(clap::Args, Debug)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,
    #[command(flatten)]
    pub(crate) sockets: SocketArgs,
    #[command(flatten)]
    pub(crate) changes: ChangeArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

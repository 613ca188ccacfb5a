//! The command line: what can be asked for, and its help. What is refused and what a scenario makes of
//! it is in `plan`. Nothing else in the crate reads the environment.

mod help;
mod parse;
mod plan;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bench_support::duration::parse_duration;
use clap::{Parser, Subcommand, ValueEnum};

use self::parse::parse_share;
pub(crate) use self::plan::Plan;
use crate::slo::Slo;
use crate::spread::Skew;

/// Opens many sockets over many organisations, makes changes in PostgreSQL, and checks that every
/// socket gets every change of its organisation exactly once, in order, and none of another's.
#[derive(Parser, Debug)]
#[command(name = "warden-loadtest", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = help::OVERVIEW)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be run. Groups of options that several share are flattened into each.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Sockets that stay, changes at a steady rate
    #[command(after_help = help::STEADY)]
    Steady(Common),

    /// More and more sockets, in steps, at a steady rate of changes: how latency grows with them
    #[command(after_help = help::RAMP)]
    Ramp {
        /// Steps in which the sockets come; latencies are told apart by step
        #[arg(long, default_value_t = 5, help_heading = help::SCENARIO)]
        steps: usize,
        #[command(flatten)]
        common: Common,
    },

    /// Nothing for a while, then many changes in one transaction
    #[command(after_help = help::BURST)]
    Burst {
        /// Changes in each burst, all of one organisation
        #[arg(long, default_value_t = 50, help_heading = help::SCENARIO)]
        burst: usize,
        /// Time between bursts
        #[arg(long, default_value = "1s", value_parser = parse_duration, help_heading = help::SCENARIO)]
        every: Duration,
        #[command(flatten)]
        common: Common,
    },

    /// All sockets drop at once and come back with their cursors: all that they missed must arrive, once
    #[command(after_help = help::STORM)]
    Storm {
        /// Share of the sockets that drop, e.g. 100% or 0.5
        #[arg(long, default_value = "100%", value_parser = parse_share, help_heading = help::SCENARIO)]
        share: f64,
        /// How long they are away
        #[arg(long, default_value = "2s", value_parser = parse_duration, help_heading = help::SCENARIO)]
        away: Duration,
        /// Sockets a second that come back; 0: all at once
        #[arg(long, default_value_t = 0.0, help_heading = help::SCENARIO)]
        return_rate: f64,
        #[command(flatten)]
        common: Common,
    },

    /// Sockets leave and new ones come all the time
    #[command(after_help = help::CHURN)]
    Churn {
        /// Sockets a second that leave, each followed by a new one
        #[arg(long, default_value_t = 50.0, help_heading = help::SCENARIO)]
        churn_rate: f64,
        #[command(flatten)]
        common: Common,
    },

    /// The first organisation floods for a while: what the others feel of it
    #[command(after_help = help::NOISY)]
    Noisy {
        /// Changes a second of the first organisation while it floods
        #[arg(long, default_value_t = 500.0, help_heading = help::SCENARIO)]
        flood: f64,
        #[command(flatten)]
        common: Common,
    },

    /// A long time: whether the gateway's memory grows
    #[command(after_help = help::SOAK)]
    Soak(Common),

    /// Holds sockets for the process that started it
    #[command(hide = true)]
    Hold,
}

/// Which gateway, and as whom.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Gateway")]
pub(crate) struct GatewayArgs {
    /// The gateway's socket endpoint; `/websocket?vsn=2.0.0` is added. Several: repeat it, or write commas
    /// between; the sockets are spread over them
    #[arg(long, env = "WARDEN_URL", value_delimiter = ',', default_value = "ws://127.0.0.1:4000/socket")]
    pub(crate) url: Vec<String>,

    /// The secret with which the gateway verifies HS256 tokens
    #[arg(long, env = "WARDEN_JWT_SECRET", hide_env_values = true)]
    pub(crate) jwt_secret: String,

    /// `aud` of the tokens
    #[arg(long, env = "WARDEN_JWT_AUDIENCE", default_value = "authenticated")]
    pub(crate) jwt_audience: String,

    /// `iss` of the tokens, where the gateway requires one
    #[arg(long, env = "WARDEN_JWT_ISSUER")]
    pub(crate) jwt_issuer: Option<String>,

    /// Process id of the gateway, to measure its CPU and memory; several with commas between. Otherwise
    /// whoever listens on the URL's port is measured, where that is on this machine
    #[arg(long, value_delimiter = ',')]
    pub(crate) server_pid: Vec<u32>,
}

/// How many sockets, whose, and where they come from.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Sockets")]
pub(crate) struct SocketArgs {
    /// Sockets to open
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) sockets: usize,

    /// Organisations over which sockets and changes are spread
    #[arg(short = 'm', long, default_value_t = 5)]
    pub(crate) orgs: usize,

    /// How the sockets are spread: uniform, zipf, zipf:1.2, one-large, one-large:0.8
    #[arg(long, default_value = "uniform")]
    pub(crate) skew: Skew,

    /// Topics that each socket joins, with commas between. Changes reach `calls` and `org`
    #[arg(long, value_delimiter = ',', default_value = "calls")]
    pub(crate) topics: Vec<String>,

    /// Handshakes begun per second
    #[arg(long, default_value_t = 500.0)]
    pub(crate) connect_rate: f64,

    /// Local addresses to connect from, in turn, with commas between. Otherwise, where the gateway is on
    /// this machine, 127.0.0.2 and the next ones, one for 400 sockets
    #[arg(long, value_delimiter = ',')]
    pub(crate) bind: Vec<IpAddr>,

    /// Processes that hold the sockets. Otherwise as many as their open files ask for
    #[arg(long)]
    pub(crate) processes: Option<usize>,
}

/// How changes are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// Rows of public.calls, which the gateway watches
    Calls,
    /// warden.publish
    Publish,
}

/// What is published, and for how long.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Changes")]
pub(crate) struct ChangeArgs {
    /// PostgreSQL that the gateway watches. The role must be able to write public.organizations, and
    /// public.calls or warden.publish
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,

    /// Changes a second over all organisations; 0 only holds the sockets open
    #[arg(short, long, default_value_t = 20.0)]
    pub(crate) rate: f64,

    /// How long to publish, e.g. 500ms, 30s, 5m [default: 10s; soak: 1h]
    #[arg(short, long, value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,

    /// How changes are made
    #[arg(long, value_enum, default_value_t = By::Calls)]
    pub(crate) by: By,

    /// With `--by publish`: bytes that are added to each event
    #[arg(long, default_value_t = 0)]
    pub(crate) padding: usize,

    /// Database connections that publish. Raise it when the report shows a schedule lag
    #[arg(long, default_value_t = 4)]
    pub(crate) writers: usize,

    /// How long to wait for what is still missing after the last change
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) settle: Duration,
}

/// How the result is shown and judged.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Report")]
pub(crate) struct OutputArgs {
    /// What must hold beside that nothing is lost, doubled, out of order or leaked, e.g.
    /// 'p99<50ms,connect.p99<200ms,cpu<10us'. `--slo help` lists everything
    #[arg(long)]
    pub(crate) slo: Option<Slo>,

    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    /// Write a report with plots: one file that needs no other
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,

    /// Show nothing while it runs
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// The options that all scenarios have.
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

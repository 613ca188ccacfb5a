//! The command line, and what it means: which servers, which workloads, which sizes. Nothing else in the
//! crate reads the environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command as GitCommand;
use std::time::Duration;

use anyhow::ensure;
use bench_support::duration::parse_duration;
use clap::{Args, Parser, Subcommand};

use crate::baseline::BaselineArgs;
use crate::servers::{Dialect, GatewaySource, Programs, ServerKind};
use crate::workload::{Fanout, Sizes, Workload};

const AFTER_HELP: &str = "\
Every measurement starts its server on a loopback port, with its configuration in a temporary folder, and
stops it afterwards. Each round measures the servers in the same order, and every figure is the median of
the rounds. The gateway is a `warden dev --ephemeral` with a private PostgreSQL. To measure a gateway that
is already running, pass --url, --database-url and --jwt-secret.

The report has two figures for each server: the CPU time of its process per delivery (all threads, user and
system), and the same without intake. Intake is the cost of accepting events. It is measured with events at
the same rate that have no subscriber. For the gateway it includes reading the event log.

Examples:
  warden-compare                             # large, small, burst, idle, connect
  warden-compare large --rounds 5 --servers baseline,gateway
  warden-compare growth --duration 5s

Exit codes:
  0  everything was measured, and every event reached each socket once
  1  a server lost or duplicated events, or could not be measured
  2  wrong usage

Build both programs with --release, and do not use the machine for anything else at the same time.";

/// Measures the CPU time of a delivery, the memory of an idle socket and the CPU time of a handshake: for a
/// bare write loop (the baseline), for the gateway, and for other servers that are installed
#[derive(Parser, Debug)]
#[command(name = "warden-compare", version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) compare: CompareArgs,
}

/// Programs that the comparison starts as processes of their own.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Baseline(BaselineArgs),

    /// Holds the sockets of a measurement
    #[command(hide = true)]
    HoldSockets,
}

/// Options of a comparison.
#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// Workloads to measure [default: all except growth]
    #[arg(value_enum)]
    workloads: Vec<Workload>,

    /// Rounds; each measures every server once
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,

    /// How long each measurement publishes
    #[arg(short, long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// Length of an event on the wire, including the header of its frame
    #[arg(long, default_value_t = 250)]
    pub(crate) bytes: usize,

    /// Servers to measure, separated by commas [default: all that are installed]
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<ServerKind>,

    /// Let servers run on any core. By default the server has the first core, and everything else has the
    /// others
    #[arg(long)]
    pub(crate) share_cores: bool,

    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) sizes: Sizes,

    #[command(flatten)]
    gateway: GatewayArgs,

    #[command(flatten)]
    programs: ProgramArgs,
}

/// The gateway to measure.
#[derive(Args, Debug)]
#[command(next_help_heading = "Gateway")]
struct GatewayArgs {
    /// Gateway program to start [default: `warden` in the folder of this program]
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    warden: Option<PathBuf>,

    /// Endpoint of a gateway that is already running. Raise its limits per address first
    #[arg(long, requires_all = ["database_url", "jwt_secret"])]
    url: Option<String>,

    /// Database of that gateway. The role must be able to write public.organizations and to call
    /// warden.publish
    #[arg(long, requires = "url", hide_env_values = true)]
    database_url: Option<String>,

    /// HS256 secret of that gateway
    #[arg(long, requires = "url", hide_env_values = true)]
    jwt_secret: Option<String>,

    /// Process id of that gateway [default: the process that listens on the endpoint's port]
    #[arg(long, requires = "url")]
    pid: Option<u32>,
}

/// Programs of the other servers.
#[derive(Args, Debug)]
#[command(next_help_heading = "Servers")]
struct ProgramArgs {
    /// nginx, which needs the module Nchan [default: the installed one]
    #[arg(long, value_name = "PATH")]
    nginx: Option<PathBuf>,

    /// nats-server [default: the installed one]
    #[arg(long, value_name = "PATH")]
    nats_server: Option<PathBuf>,

    /// Bun [default: the installed one]
    #[arg(long, value_name = "PATH")]
    bun: Option<PathBuf>,

    /// Centrifugo, version 6
    #[arg(long, value_name = "PATH")]
    centrifugo: Option<PathBuf>,

    #[arg(long, env = "PATH", hide = true)]
    path: Option<OsString>,
}

impl CompareArgs {
    /// Rejects options that would measure nothing.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.rounds > 0, "--rounds 0 would measure nothing: use at least 1");
        ensure!(!self.duration.is_zero(), "--duration 0s would measure nothing: use e.g. 5s");
        for fanout in self.workloads().iter().flat_map(|workload| self.sizes.fanouts(*workload)) {
            fanout.validate()?;
        }
        ensure!(self.sizes.idle_sockets > 0, "--idle-sockets must be at least 1");
        ensure!(self.sizes.connects > 0, "--connects must be at least 1");
        Ok(())
    }

    /// The workloads to measure, each once, in a fixed order.
    pub(crate) fn workloads(&self) -> Vec<Workload> {
        let is_wanted = |workload: &Workload| {
            if self.workloads.is_empty() {
                *workload != Workload::Growth
            } else {
                self.workloads.contains(workload)
            }
        };
        Workload::ALL.into_iter().filter(is_wanted).collect()
    }

    /// The fan-out measurements of a workload.
    pub(crate) fn fanouts(&self, workload: Workload) -> Vec<Fanout> {
        self.sizes.fanouts(workload)
    }

    /// The servers to measure, the baseline first; and those that are not installed, with advice how to
    /// install them.
    pub(crate) fn servers(&self) -> (Vec<ServerKind>, Vec<(ServerKind, &'static str)>) {
        let programs = self.programs();
        let (mut installed, mut missing) = (Vec::new(), Vec::new());
        for kind in ServerKind::ALL {
            // Every ratio needs the baseline.
            let is_wanted =
                self.servers.is_empty() || self.servers.contains(&kind) || kind == ServerKind::Baseline;
            let is_missing = |dialect: &Dialect| dialect.find(&programs).is_none();
            match kind.dialect().filter(is_missing) {
                _ if !is_wanted => {}
                None => installed.push(kind),
                Some(dialect) => missing.push((kind, dialect.install_advice())),
            }
        }
        (installed, missing)
    }

    /// The places of the other servers' programs.
    pub(crate) fn programs(&self) -> Programs {
        let ProgramArgs { nginx, nats_server, bun, centrifugo, path } = &self.programs;
        // This program is in target/release; `scripts/setup peers` unpacks into target/tools/peers.
        let executable = std::env::current_exe().ok();
        let target = executable.as_deref().and_then(|file| file.parent()?.parent());
        Programs {
            nginx: nginx.clone(),
            nats_server: nats_server.clone(),
            bun: bun.clone(),
            centrifugo: centrifugo.clone(),
            search_path: path.clone().unwrap_or_default(),
            tools: target.map(|target| target.join("tools/peers")),
        }
    }

    /// The gateway to measure.
    pub(crate) fn gateway(&self) -> anyhow::Result<GatewaySource> {
        let GatewayArgs { warden, url, database_url, jwt_secret, pid } = &self.gateway;
        if let (Some(url), Some(database_url), Some(jwt_secret)) = (url, database_url, jwt_secret) {
            let (url, database_url, jwt_secret) = (url.clone(), database_url.clone(), jwt_secret.clone());
            return Ok(GatewaySource::Running { url, database_url, jwt_secret, pid: *pid });
        }
        if let Some(path) = warden {
            return Ok(GatewaySource::Program(path.clone()));
        }
        let beside = std::env::current_exe()?.with_file_name("warden");
        ensure!(
            beside.exists(),
            "{} does not exist: build it (cargo build --release --bin warden), or pass --warden",
            beside.display()
        );
        Ok(GatewaySource::Program(beside))
    }
}

/// The commit that is measured: that of the folder in which the gateway's program is.
pub(crate) fn commit_of(gateway: &GatewaySource) -> Option<String> {
    let GatewaySource::Program(path) = gateway else { return None };
    let output = GitCommand::new("git")
        .arg("-C")
        .arg(path.parent()?)
        .args(["describe", "--always", "--dirty", "--abbrev=7"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

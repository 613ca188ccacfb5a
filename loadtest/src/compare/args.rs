//! The command line of `warden-loadtest compare`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;

use super::servers::{Dialect, GatewaySource, Kind};
use super::workload::{Fanout, Workload};

const AFTER_HELP: &str = "\
Every server is started for each measurement on a port of loopback, with its configuration in a
temporary folder, and ended afterwards. Their order is the same in each round, and every figure is the
median of the rounds. The gateway gets a private PostgreSQL of its own (`warden dev --ephemeral`), or give
--url, --database-url and --jwt-secret of one that runs.

Two figures stand for each server: the CPU time of its process, all threads, user and system, for each
delivery; and the same without what it costs to take an event in at all, which is measured by events at
the same rate that nobody listens to. The gateway's reader is in the first and not in the second.

Examples:
  warden-loadtest compare                             # large, small, burst, idle, connect
  warden-loadtest compare large --rounds 5 --servers floor,gateway
  warden-loadtest compare growth --duration 5s

Exit codes:
  0  everything was measured, and every event arrived once at each socket
  1  a server lost or doubled events, or could not be measured
  2  wrong usage

Build both programs with --release, and leave the machine alone meanwhile.";

/// What a delivery costs: the bare write loop, the gateway and its peers in turn
#[derive(Args, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct CompareArgs {
    /// What to measure [default: all but growth]
    #[arg(value_enum)]
    workloads: Vec<Workload>,

    /// Rounds, in each of which every server has its turn
    #[arg(long, default_value_t = 3)]
    pub(super) rounds: usize,

    /// How long to publish in each measurement
    #[arg(short, long, default_value = "10s", value_parser = crate::args::parse_duration)]
    pub(super) duration: Duration,

    /// Of an event on the wire, its frame's header included
    #[arg(long, default_value_t = 250)]
    pub(super) bytes: usize,

    /// Which servers, with commas between [default: those that are installed]
    #[arg(long, value_enum, value_delimiter = ',')]
    servers: Vec<Kind>,

    /// Let servers run on any core, instead of giving them the first and everything else the others
    #[arg(long)]
    pub(super) share_cores: bool,

    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    sizes: Sizes,

    #[command(flatten)]
    from: From,

    /// nginx, which needs the module Nchan [default: the one that is installed]
    #[arg(long, value_name = "PATH", help_heading = "Servers")]
    pub(super) nginx: Option<PathBuf>,

    /// nats-server
    #[arg(long, value_name = "PATH", help_heading = "Servers")]
    pub(super) nats_server: Option<PathBuf>,

    /// Bun
    #[arg(long, value_name = "PATH", help_heading = "Servers")]
    pub(super) bun: Option<PathBuf>,

    /// Centrifugo, version 6
    #[arg(long, value_name = "PATH", help_heading = "Servers")]
    pub(super) centrifugo: Option<PathBuf>,

    #[arg(long, env = "PATH", hide = true)]
    path: Option<std::ffi::OsString>,
}

/// Which gateway.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Gateway")]
struct From {
    /// The program to start [default: `warden` beside this program]
    #[arg(long, value_name = "PATH", conflicts_with = "url")]
    warden: Option<PathBuf>,

    /// A gateway that runs already, with its limits for one address out of the way
    #[arg(long, requires_all = ["database_url", "jwt_secret"])]
    url: Option<String>,

    /// Its database; the role must be able to write public.organizations and to call warden.publish
    #[arg(long, requires = "url", hide_env_values = true)]
    database_url: Option<String>,

    /// Its HS256 secret
    #[arg(long, requires = "url", hide_env_values = true)]
    jwt_secret: Option<String>,

    /// Its process [default: the one that listens there]
    #[arg(long, requires = "url")]
    pid: Option<u32>,
}

/// How much of everything.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sizes")]
struct Sizes {
    /// large: sockets, in one organisation
    #[arg(long, default_value_t = 5000)]
    large_sockets: usize,
    /// large: events a second
    #[arg(long, default_value_t = 20.0)]
    large_rate: f64,
    /// small: sockets, in one organisation
    #[arg(long, default_value_t = 200)]
    small_sockets: usize,
    /// small: events a second
    #[arg(long, default_value_t = 500.0)]
    small_rate: f64,
    /// burst: sockets, in one organisation
    #[arg(long, default_value_t = 200)]
    burst_sockets: usize,
    /// burst: events in one transaction
    #[arg(long, default_value_t = 50)]
    burst_events: u32,
    /// burst: transactions a second
    #[arg(long, default_value_t = 10.0)]
    burst_rate: f64,
    /// idle: sockets, each joined to two topics
    #[arg(long, default_value_t = 15_000)]
    pub(super) idle_sockets: usize,
    /// connect: handshakes, each with a join
    #[arg(long, default_value_t = 5000)]
    pub(super) connects: usize,
    /// growth: sockets in one organisation, a measurement each
    #[arg(long, value_delimiter = ',', default_value = "1000,5000,18000")]
    growth_sockets: Vec<usize>,
    /// growth: organisations, a measurement each
    #[arg(long, value_delimiter = ',', default_value = "1,50,2000")]
    growth_orgs: Vec<usize>,
    /// growth: sockets over these organisations
    #[arg(long, default_value_t = 4000)]
    growth_org_sockets: usize,
    /// growth: deliveries a second to aim at
    #[arg(long, default_value_t = 100_000.0)]
    growth_rate: f64,
}

/// More events a second are not asked of a database in `growth`.
const GROWTH_EVENTS_PER_SECOND_MAX: f64 = 500.0;

impl CompareArgs {
    /// Refuses what can't be measured.
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.rounds > 0, "--rounds 0 would measure nothing");
        ensure!(!self.duration.is_zero(), "--duration 0s would measure nothing");
        for fanout in self.workloads().iter().flat_map(|workload| self.fanouts(*workload)) {
            fanout.validate()?;
        }
        ensure!(self.sizes.idle_sockets > 0 && self.sizes.connects > 0, "at least one socket");
        Ok(())
    }

    /// What to measure, each once, in a fixed order.
    pub(super) fn workloads(&self) -> Vec<Workload> {
        let asked = |workload: &Workload| {
            if self.workloads.is_empty() {
                *workload != Workload::Growth
            } else {
                self.workloads.contains(workload)
            }
        };
        Workload::ALL.into_iter().filter(asked).collect()
    }

    pub(super) fn idle_sockets(&self) -> usize {
        self.sizes.idle_sockets
    }

    pub(super) fn connects(&self) -> usize {
        self.sizes.connects
    }

    /// The measurements of fan-out that a workload is made of.
    pub(super) fn fanouts(&self, workload: Workload) -> Vec<Fanout> {
        let sizes = &self.sizes;
        let one = |name: &str, sockets, burst, bursts_per_second| Fanout {
            name: name.to_owned(),
            sockets,
            groups: 1,
            burst,
            bursts_per_second,
        };
        match workload {
            Workload::Large => vec![one("large", sizes.large_sockets, 1, sizes.large_rate)],
            Workload::Small => vec![one("small", sizes.small_sockets, 1, sizes.small_rate)],
            Workload::Burst => vec![one("burst", sizes.burst_sockets, sizes.burst_events, sizes.burst_rate)],
            Workload::Growth => {
                let rate = |per_event: f64| (sizes.growth_rate / per_event).min(GROWTH_EVENTS_PER_SECOND_MAX);
                let by_sockets = sizes
                    .growth_sockets
                    .iter()
                    .map(|sockets| one("growth", *sockets, 1, rate(*sockets as f64)));
                let by_orgs = sizes.growth_orgs.iter().map(|groups| Fanout {
                    groups: *groups,
                    ..one(
                        "growth",
                        sizes.growth_org_sockets,
                        1,
                        rate(sizes.growth_org_sockets as f64 / *groups as f64),
                    )
                });
                by_sockets.chain(by_orgs).collect()
            }
            Workload::Idle | Workload::Connect => Vec::new(),
        }
    }

    /// Those to measure, the floor first; and those that are missing, with how to install them.
    pub(super) fn servers(&self) -> (Vec<Kind>, Vec<(Kind, &'static str)>) {
        let (mut there, mut missing) = (Vec::new(), Vec::new());
        for kind in Kind::ALL {
            let advice = kind.dialect().filter(|dialect| dialect.find(self).is_none()).map(Dialect::advice);
            let is_asked = self.servers.is_empty() || self.servers.contains(&kind) || kind == Kind::Floor;
            match advice {
                None if is_asked => there.push(kind),
                Some(advice) if is_asked => missing.push((kind, advice)),
                _ => {}
            }
        }
        (there, missing)
    }

    pub(super) fn gateway(&self) -> anyhow::Result<GatewaySource> {
        if let (Some(url), Some(database_url), Some(jwt_secret)) =
            (&self.from.url, &self.from.database_url, &self.from.jwt_secret)
        {
            let (url, database_url, jwt_secret) = (url.clone(), database_url.clone(), jwt_secret.clone());
            return Ok(GatewaySource::Running { url, database_url, jwt_secret, pid: self.from.pid });
        }
        if let Some(path) = &self.from.warden {
            return Ok(GatewaySource::Binary(path.clone()));
        }
        let beside = std::env::current_exe()?.with_file_name("warden");
        ensure!(
            beside.exists(),
            "there is no {}: build it (cargo build --release --bin warden), or give --warden",
            beside.display()
        );
        Ok(GatewaySource::Binary(beside))
    }

    /// The commit of what is measured: that of the folder where the gateway's program lies.
    pub(super) fn commit(&self) -> Option<String> {
        let GatewaySource::Binary(path) = self.gateway().ok()? else { return None };
        let output = std::process::Command::new("git")
            .arg("-C")
            .arg(path.parent()?)
            .args(["describe", "--always", "--dirty", "--abbrev=7"])
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    }

    /// The program that was named, or the first that exists: a name is looked up in PATH, and what begins with
    /// `tools/` where `scripts/setup peers` puts it.
    pub(super) fn program(&self, given: Option<&Path>, names: &[&str]) -> Option<PathBuf> {
        if let Some(given) = given {
            return given.exists().then(|| given.to_owned());
        }
        let path = self.path.clone().unwrap_or_default();
        // This program lies in target/release, what was unpacked in target/tools/peers.
        let here = std::env::current_exe().ok()?;
        let tools = here.parent()?.parent()?.join("tools/peers");
        names.iter().find_map(|name| match name.strip_prefix("tools/") {
            Some(name) => Some(tools.join(name)).filter(|path| path.exists()),
            None if name.contains('/') => Some(PathBuf::from(name)).filter(|path| path.exists()),
            None => std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file()),
        })
    }
}

/// How many bursts fill a while, so that every group gets as many as the others.
pub(super) fn bursts(fanout: &Fanout, duration: Duration) -> anyhow::Result<u64> {
    let groups = u64::try_from(fanout.groups).context("groups")?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "hours of bursts are far below 2^53"
    )]
    let wanted = (fanout.bursts_per_second * duration.as_secs_f64()).ceil() as u64;
    Ok(wanted.div_ceil(groups).max(1) * groups)
}

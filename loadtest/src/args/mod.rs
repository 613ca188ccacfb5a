//! The command line: what can be asked for, its defaults, and what is refused. Nothing else in the
//! crate reads the environment.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::{Parser, Subcommand};

use crate::check::is_reached;

const AFTER_HELP: &str = "\
What happens, in order:
  1. Makes --orgs organisations named `loadtest <run> <n>` in public.organizations.
  2. Opens --sockets sockets, spread evenly over them, each with a token of its own (HS256), and
     joins every one of --topics.
  3. Inserts calls and updates their status, --rate transactions a second over all organisations,
     for --duration, whether or not the gateway keeps up.
  4. Waits until every socket has every change of its organisation, at most --settle.
  5. Removes the organisations and their calls, and prints the report.
Ctrl-C stops publishing and goes on with 4; a second Ctrl-C skips 4; a third leaves at once, and
leaves the organisations behind.

Examples:
  # Against `warden dev`, whose `--json` line has the secret and the database:
  export DATABASE_URL=postgres://... WARDEN_JWT_SECRET=...
  warden-loadtest steady

  # 5,000 sockets over 10 organisations, 50 changes a second: 25,000 events a second
  warden-loadtest steady --sockets 5000 --orgs 10 --rate 50 --duration 60s

  # How much memory do 10,000 idle sockets take? (look at the gateway meanwhile)
  warden-loadtest steady --sockets 10000 --rate 0 --duration 5m

  # More sockets than one address has ports (about 28,000): several source addresses
  warden-loadtest steady --sockets 50000 --bind 127.0.0.2,127.0.0.3

  # For scripts: one JSON object on standard output
  warden-loadtest steady --json | jq .latency_ms.p99

Exit codes:
  0  every event arrived exactly once, in order, and none at another organisation
  1  something was lost, doubled, out of order or leaked, or a socket was refused or dropped
  2  wrong usage, or the gateway or the database could not be reached

Build it with --release: a debug build is slow enough to measure mostly itself.";

/// Opens many sockets over many organisations, makes changes in PostgreSQL, and checks that every
/// socket gets every change of its organisation exactly once, in order, and none of another's.
#[derive(Parser, Debug)]
#[command(name = "warden-loadtest", version, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be run. Groups of options that several share are flattened into each.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Sockets that stay, changes at a steady rate
    #[command(after_help = AFTER_HELP)]
    Steady(Args),
}

/// Which gateway, and as whom.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Gateway")]
pub(crate) struct GatewayArgs {
    /// The gateway's socket endpoint; `/websocket?vsn=2.0.0` is added
    #[arg(long, env = "WARDEN_URL", default_value = "ws://127.0.0.1:4000/socket")]
    pub(crate) url: String,

    /// The secret with which the gateway verifies HS256 tokens
    #[arg(long, env = "WARDEN_JWT_SECRET", hide_env_values = true)]
    pub(crate) jwt_secret: String,

    /// `aud` of the tokens
    #[arg(long, env = "WARDEN_JWT_AUDIENCE", default_value = "authenticated")]
    pub(crate) jwt_audience: String,

    /// `iss` of the tokens, where the gateway requires one
    #[arg(long, env = "WARDEN_JWT_ISSUER")]
    pub(crate) jwt_issuer: Option<String>,
}

/// How many sockets, and where they come from.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Sockets")]
pub(crate) struct SocketArgs {
    /// Sockets to open
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) sockets: usize,

    /// Handshakes begun per second
    #[arg(long, default_value_t = 500.0)]
    pub(crate) connect_rate: f64,

    /// Local addresses to connect from, in turn, with commas between
    #[arg(long, value_delimiter = ',')]
    pub(crate) bind: Vec<IpAddr>,
}

/// How the result is shown.
#[derive(clap::Args, Debug)]
#[command(next_help_heading = "Report")]
pub(crate) struct OutputArgs {
    /// Print the report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// The options of a scenario.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) gateway: GatewayArgs,

    /// PostgreSQL that the gateway watches. The role must be able to write public.organizations and
    /// public.calls
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: String,

    #[command(flatten)]
    pub(crate) sockets: SocketArgs,

    /// Organisations over which sockets and changes are spread
    #[arg(short = 'm', long, default_value_t = 5)]
    pub(crate) orgs: usize,

    /// Topics that each socket joins, with commas between. Changes of calls reach `calls` and `org`
    #[arg(long, value_delimiter = ',', default_value = "calls")]
    pub(crate) topics: Vec<String>,

    /// Changes a second over all organisations; 0 only holds the sockets open
    #[arg(short, long, default_value_t = 20.0)]
    pub(crate) rate: f64,

    /// How long to publish, e.g. 500ms, 30s, 5m
    #[arg(short, long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// Database connections that publish. Raise it when the report shows a schedule lag
    #[arg(long, default_value_t = 4)]
    pub(crate) writers: usize,

    /// How long to wait for what is still missing after the last change
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) settle: Duration,

    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl Args {
    /// Refuses what would run but test nothing, and what can't run.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        ensure!(self.sockets.sockets > 0, "--sockets 0 would test nothing: ask for at least one");
        ensure!(self.orgs > 0, "--orgs 0 leaves the sockets nowhere to belong: ask for at least one");
        ensure!(self.writers > 0, "--writers 0 could publish nothing: ask for at least one");
        ensure!(
            self.rate.is_finite() && self.rate >= 0.0,
            "--rate must be a number of changes a second, or 0 to publish nothing"
        );
        ensure!(
            self.sockets.connect_rate.is_finite() && self.sockets.connect_rate > 0.0,
            "--connect-rate must be above 0 handshakes a second"
        );
        ensure!(
            !self.gateway.jwt_secret.is_empty(),
            "--jwt-secret is empty: give the gateway's WARDEN_JWT_SECRET"
        );
        for (n, topic) in self.topics.iter().enumerate() {
            ensure!(!topic.is_empty(), "--topics holds an empty name: write e.g. calls,org");
            ensure!(
                !self.topics[..n].contains(topic),
                "--topics names {topic} twice: a socket joins a topic once"
            );
        }
        if self.rate > 0.0 && !self.topics.iter().any(|topic| is_reached(topic)) {
            bail!(
                "changes of calls reach none of --topics {}: add calls or org, or use --rate 0",
                self.topics.join(",")
            );
        }
        Ok(())
    }
}

/// Reads `500ms`, `30s`, `5m`, `1h`, or a plain number of seconds.
fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        unit => bail!("unknown unit {unit}: use ms, s, m or h"),
    };
    let number: f64 = digits.parse().ok().context("not a duration: write e.g. 500ms, 30s or 5m")?;
    Duration::try_from_secs_f64(number * scale).context("not a duration: write e.g. 500ms, 30s or 5m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(parse_duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("7").unwrap(), Duration::from_secs(7));
        for text in ["", "s", "-1s", "1d", "1e999s", "five"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    fn parse(more: &[&str]) -> Args {
        let base = ["warden-loadtest", "steady", "--database-url", "x", "--jwt-secret", "y"];
        let Command::Steady(args) = Cli::try_parse_from(base.iter().chain(more)).unwrap().command;
        args
    }

    #[test]
    fn what_tests_nothing_is_refused() {
        parse(&[]).validate().unwrap();
        parse(&["--topics", "recordings", "--rate", "0"]).validate().unwrap();
        for more in [
            ["--sockets", "0"],
            ["--orgs", "0"],
            ["--writers", "0"],
            ["--connect-rate", "0"],
            ["--rate", "nan"],
            ["--topics", "recordings"],
            ["--topics", "calls,calls"],
            ["--topics", "calls,"],
        ] {
            assert!(parse(&more).validate().is_err(), "{more:?}");
        }
    }
}

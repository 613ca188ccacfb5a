//! Logging: to standard error, for people on a terminal and as JSON for machines.

use std::io::IsTerminal as _;

use clap::Args;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// These write what they read from sockets at the level trace, tokens among it: whatever the filter
/// says, they get no further than debug.
const TALKATIVE_TARGETS: &[&str] = &["tungstenite", "tokio_tungstenite"];

/// How to log.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or per module as in warden=debug,sqlx=warn [default:
    /// warden=info,warn; of dev: warn]
    #[arg(long, env = "WARDEN_LOG", value_name = "FILTER", global = true)]
    pub log: Option<String>,
    /// Log as one JSON object a line
    #[arg(long, env = "WARDEN_LOG_JSON", global = true)]
    pub log_json: bool,
}

/// What is logged where nothing else is said: what operators need, the audit trail with it.
pub const DEFAULT_FILTER: &str = "warden=info,warn";

/// The same of commands that talk to whoever started them, between whose lines a trail would only be in the way.
pub const QUIET_FILTER: &str = "warn";

/// Installs the logger; once per process.
///
/// # Errors
/// When the filter can't be read.
pub fn init(args: &LogArgs, default: &str) -> anyhow::Result<()> {
    let log = args.log.as_deref().unwrap_or(default);
    let filter = EnvFilter::try_new(log)
        .map_err(|error| anyhow::anyhow!("--log {log:?} is no filter ({error}): try warden=debug"))?;
    let discreet = filter_fn(|metadata| {
        *metadata.level() < LevelFilter::TRACE
            || !TALKATIVE_TARGETS.iter().any(|target| metadata.target().starts_with(target))
    });
    let registry = tracing_subscriber::registry().with(filter).with(discreet);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if args.log_json {
        // Machines tell the audit trail from the rest by its target.
        registry.with(layer.json()).init();
    } else {
        registry.with(layer.with_target(false)).init();
    }
    Ok(())
}

//! Logging: to standard error, for people on a terminal and as JSON for machines.

use clap::Args;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How to log.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// What to log: error, warn, info, debug, trace, or per module as in warden=debug,sqlx=warn
    #[arg(
        long,
        env = "WARDEN_LOG",
        value_name = "FILTER",
        default_value = "warden=info,warn",
        global = true
    )]
    pub log: String,
    /// Log as one JSON object a line
    #[arg(long, env = "WARDEN_LOG_JSON", global = true)]
    pub log_json: bool,
}

/// Installs the logger; once per process.
///
/// # Errors
/// When the filter can't be read.
pub fn init(args: &LogArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| anyhow::anyhow!("--log {:?} is no filter ({error}): try warden=debug", args.log))?;
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    if args.log_json {
        registry.with(layer.json()).init()
    } else {
        registry.with(layer).init()
    }
    Ok(())
}

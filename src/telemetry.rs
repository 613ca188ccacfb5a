//! Logging: to standard error, for people on a terminal and as JSON for machines.

use std::io::IsTerminal as _;

use clap::Args;
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// These write what they read from sockets at the level trace, tokens among it: whatever the filter
/// says, they get no further than debug.
const TALKATIVE_TARGETS: &[&str] = &["tungstenite", "tokio_tungstenite"];

/// sqlx reports as an error each new connection that a pool's own check turned away. The check tells of it, once
/// (`postgres::primary`): while servers change places it happens again and again, and nothing is wrong.
const POOL_TARGET: &str = "sqlx_core::pool::inner";

/// Whether an event may be logged, whatever was asked for.
fn is_discreet(metadata: &Metadata<'_>) -> bool {
    let is_talk = *metadata.level() == LevelFilter::TRACE
        && TALKATIVE_TARGETS.iter().any(|target| metadata.target().starts_with(target));
    let is_told = *metadata.level() == LevelFilter::ERROR && metadata.target() == POOL_TARGET;
    !is_talk && !is_told
}

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
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_discreet));
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::sync::lock;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_told_otherwise_and_what_may_hold_tokens_is_left_out() {
        let written = Written::default();
        let writer = written.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let registry =
            tracing_subscriber::registry().with(EnvFilter::new("trace")).with(filter_fn(is_discreet));
        tracing::subscriber::with_default(registry.with(layer), || {
            tracing::error!(target: "sqlx_core::pool::inner", "turned away");
            tracing::trace!(target: "tungstenite::protocol", "a token");
            tracing::warn!(target: "sqlx_core::pool::inner", "kept one");
            tracing::error!(target: "sqlx_core::pool", "kept two");
            tracing::debug!(target: "tungstenite::protocol", "kept three");
        });
        let text = String::from_utf8(lock(&written.0).clone()).expect("text");
        assert!(!text.contains("turned away") && !text.contains("a token"), "{text}");
        assert!(["one", "two", "three"].iter().all(|n| text.contains(&format!("kept {n}"))), "{text}");
    }
}

//! Logging to standard error: text for people, or JSON for machines.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use clap::Args;
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Targets whose level trace contains everything that is read from sockets, including tokens. Whatever the
/// filter is, they are logged down to debug only.
const SECRET_TARGETS: &[&str] = &["tungstenite", "tokio_tungstenite"];

/// Target of sqlx's errors about new connections that the check of a pool rejects. The check logs that
/// itself, once (`postgres::primary`). During a failover it happens repeatedly, and is not an error.
const POOL_TARGET: &str = "sqlx_core::pool::inner";

/// Whether an event may be logged, independently of the configured filter.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let may_hold_secrets = *metadata.level() == LevelFilter::TRACE
        && SECRET_TARGETS.iter().any(|target| metadata.target().starts_with(target));
    let is_duplicate = *metadata.level() == LevelFilter::ERROR && metadata.target() == POOL_TARGET;
    !may_hold_secrets && !is_duplicate
}

/// Flags of logging.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// Log filter: error, warn, info, debug, trace, or by module, such as warden=debug,sqlx=warn [default:
    /// warden=info,warn; for `warden dev`: warn]
    #[arg(long, env = "WARDEN_LOG", value_name = "FILTER", global = true)]
    pub log: Option<String>,
    /// Log one JSON object per line
    #[arg(long, env = "WARDEN_LOG_JSON", global = true)]
    pub log_json: bool,
}

/// Default filter: events for operators, including the audit trail.
pub const DEFAULT_FILTER: &str = "warden=info,warn";

/// Default filter of interactive commands, whose output the audit trail would clutter.
pub const QUIET_FILTER: &str = "warn";

/// Installs the logger. Call it once per process.
///
/// # Errors
/// When the filter is invalid.
pub fn init(args: &LogArgs, default: &str) -> anyhow::Result<()> {
    let log = args.log.as_deref().unwrap_or(default);
    // The error of the parser would repeat the filter, and any variable may hold a secret by mistake.
    let filter = EnvFilter::try_new(log).ok().context(
        "invalid log filter (--log, WARDEN_LOG): write a level such as debug, or module=level, separated by commas",
    )?;
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(may_be_logged));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if args.log_json {
        // With the target, which identifies events of the audit trail.
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
    fn duplicates_and_events_that_may_hold_tokens_are_not_logged() {
        let written = Written::default();
        let writer = written.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let registry =
            tracing_subscriber::registry().with(EnvFilter::new("trace")).with(filter_fn(may_be_logged));
        tracing::subscriber::with_default(registry.with(layer), || {
            tracing::error!(target: "sqlx_core::pool::inner", "rejected");
            tracing::trace!(target: "tungstenite::protocol", "a token");
            tracing::warn!(target: "sqlx_core::pool::inner", "kept one");
            tracing::error!(target: "sqlx_core::pool", "kept two");
            tracing::debug!(target: "tungstenite::protocol", "kept three");
        });
        let text = String::from_utf8(lock(&written.0).clone()).expect("text");
        assert!(!text.contains("rejected") && !text.contains("a token"), "{text}");
        assert!(["one", "two", "three"].iter().all(|n| text.contains(&format!("kept {n}"))), "{text}");
    }
}

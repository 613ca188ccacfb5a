//! Flags of the shutdown.

use std::time::Duration;

use clap::Args;

use super::Limits;

/// Time that sessions have to end after the last of them was closed.
const AFTER_WINDOW: Duration = Duration::from_secs(15);

#[derive(Args, Clone)]
#[command(next_help_heading = "Shutdown")]
pub(super) struct DrainArgs {
    /// Seconds over which sessions are closed on shutdown, so that they do not all reconnect at once
    #[arg(long, env = "WARDEN_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(0..=3600))]
    drain_seconds: u32,
}

impl DrainArgs {
    pub(super) fn apply(&self, limits: &mut Limits) {
        limits.drain.window = Duration::from_secs(self.drain_seconds.into());
        limits.drain_timeout = limits.drain.window + AFTER_WINDOW;
    }
}

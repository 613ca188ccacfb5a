//! Flags of the limits of one socket.

use clap::Args;

use super::Limits;
use crate::rate::Rate;

#[derive(Args, Clone)]
#[command(next_help_heading = "Limits of one socket")]
pub(super) struct SessionArgs {
    /// Messages of one socket, including pings: PER_SECOND:BURST
    #[arg(long, env = "WARDEN_MESSAGES", value_name = "RATE", default_value = "20:250")]
    messages: Rate,
    /// Topics that one socket may join
    #[arg(long, env = "WARDEN_JOINS_MAX", value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    joins_max: u32,
}

impl SessionArgs {
    pub(super) fn apply(&self, limits: &mut Limits) -> anyhow::Result<()> {
        limits.session.messages = self.messages;
        limits.session.joins_max = usize::try_from(self.joins_max)?;
        Ok(())
    }
}

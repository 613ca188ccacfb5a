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
    /// Messages of all sockets of one organisation: PER_SECOND:BURST; beyond it they are read more slowly
    #[arg(long, env = "WARDEN_MESSAGES_PER_ORG", value_name = "RATE", default_value = "20000:100000")]
    messages_per_org: Rate,
    /// Topics that one socket may join
    #[arg(long, env = "WARDEN_JOINS_MAX", value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    joins_max: u32,
}

impl SessionArgs {
    pub(super) fn apply(&self, limits: &mut Limits) -> anyhow::Result<()> {
        limits.session.messages = self.messages;
        limits.session.messages_per_org = self.messages_per_org;
        limits.session.joins_max = usize::try_from(self.joins_max)?;
        Ok(())
    }
}

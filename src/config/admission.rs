//! Flags of rate limits and of the time before the upgrade.

use std::time::Duration;

use clap::Args;

use super::Limits;
use crate::rate::Rate;

#[derive(Args, Clone)]
#[command(next_help_heading = "Rate limits (PER_SECOND:BURST) and handshakes")]
pub(super) struct AdmissionArgs {
    /// New connections of one address
    #[arg(long, env = "WARDEN_ARRIVALS_PER_ADDRESS", value_name = "RATE", default_value = "100:1000")]
    arrivals_per_address: Rate,
    /// Handshakes of all addresses together
    #[arg(long, env = "WARDEN_HANDSHAKES", value_name = "RATE", default_value = "2000:10000")]
    handshakes: Rate,
    /// Handshakes of one address
    #[arg(long, env = "WARDEN_HANDSHAKES_PER_ADDRESS", value_name = "RATE", default_value = "50:500")]
    handshakes_per_address: Rate,
    /// Revocations that the back ends of one organisation request
    #[arg(long, env = "WARDEN_REVOCATIONS_PER_ORG", value_name = "RATE", default_value = "5:50")]
    revocations_per_org: Rate,
    /// Events that the back ends of one organisation publish
    #[arg(long, env = "WARDEN_PUBLISHES_PER_ORG", value_name = "RATE", default_value = "1000:10000")]
    publishes_per_org: Rate,
    /// Requests for rows, and questions about cursors, of one user
    #[arg(long, env = "WARDEN_READS_PER_USER", value_name = "RATE", default_value = "20:200")]
    reads_per_user: Rate,
    /// Requests for rows, and questions about cursors, of one organisation
    #[arg(long, env = "WARDEN_READS_PER_ORG", value_name = "RATE", default_value = "100:1000")]
    reads_per_org: Rate,
    /// Bits of an IPv6 address that identify one client
    #[arg(long, env = "WARDEN_IPV6_PREFIX", value_name = "BITS", default_value_t = 64,
          value_parser = clap::value_parser!(u8).range(16..=128))]
    ipv6_prefix: u8,
    /// Seconds for a handshake, and for which a connection may be idle before it
    #[arg(long, env = "WARDEN_HANDSHAKE_SECONDS", value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=600))]
    handshake_seconds: u32,
    /// Longest delay of the answer to a failed handshake, in milliseconds; 0 disables the delay
    #[arg(long, env = "WARDEN_REFUSAL_DELAY_MS", value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(0..=60_000))]
    refusal_delay_ms: u32,
}

impl AdmissionArgs {
    pub(super) fn apply(&self, limits: &mut Limits) {
        let admission = &mut limits.admission;
        admission.connection_rate_per_address = self.arrivals_per_address;
        admission.handshakes = self.handshakes;
        admission.handshakes_per_address = self.handshakes_per_address;
        admission.revocations_per_org = self.revocations_per_org;
        admission.publishes_per_org = self.publishes_per_org;
        admission.reads_per_user = self.reads_per_user;
        admission.reads_per_org = self.reads_per_org;
        admission.ipv6_prefix_bits = self.ipv6_prefix;
        admission.rejection_delay = Duration::from_millis(self.refusal_delay_ms.into());
        limits.serve.header_timeout = Duration::from_secs(self.handshake_seconds.into());
    }
}

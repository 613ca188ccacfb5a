//! Flags of the event log's retention.

use std::time::Duration;

use clap::Args;

use super::Limits;

#[derive(Args, Clone)]
#[command(next_help_heading = "Retention")]
pub(super) struct RetentionArgs {
    /// Hours for which events are kept, for clients that resume
    #[arg(long, env = "WARDEN_RETENTION_HOURS", value_name = "HOURS", default_value_t = 24,
          value_parser = clap::value_parser!(u32).range(1..=8760))]
    retention_hours: u32,
    /// Gibibytes that the event log may take; a larger log loses its oldest events earlier
    #[arg(long, env = "WARDEN_RETENTION_GIB", value_name = "GIB", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    retention_gib: u32,
    /// Percentage of that size which one organisation's events may take. If the log is full, organisations
    /// beyond it lose their oldest events, and no other does
    #[arg(long, env = "WARDEN_RETENTION_ORG_PERCENT", value_name = "PERCENT", default_value_t = 25,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    retention_org_percent: u32,
}

impl RetentionArgs {
    pub(super) fn apply(&self, limits: &mut Limits) {
        limits.retention.keep = Duration::from_hours(self.retention_hours.into());
        limits.retention.bytes_max = u64::from(self.retention_gib) << 30;
        limits.retention.org_bytes_max =
            limits.retention.bytes_max * u64::from(self.retention_org_percent) / 100;
    }
}

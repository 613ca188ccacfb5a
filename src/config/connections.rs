//! Flags of the limits on connections, which depend on the machine's file descriptors.

use anyhow::ensure;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Limits;

/// File descriptors for everything that is not a client's connection: the database, listeners, the log,
/// certificates, and connections that are being rejected.
pub(super) const RESERVED_DESCRIPTORS: u64 = 256;

/// Connections by default if the system has no limit of file descriptors: some 2 GiB of memory hold them.
const DEFAULT_CONNECTIONS_MAX: u64 = 250_000;

/// Smallest plausible number of connections. A lower limit of file descriptors is a configuration error.
const CONNECTIONS_MIN: u64 = 16;

#[derive(Args, Clone)]
#[command(next_help_heading = "Limits of connections")]
pub(super) struct ConnectionArgs {
    /// Connections of this node [default: as many as file descriptors allow, at most 250000]
    #[arg(long, env = "WARDEN_CONNECTIONS_MAX", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    connections_max: Option<u64>,
    /// Connections of one organisation
    #[arg(long, env = "WARDEN_CONNECTIONS_PER_ORG", value_name = "N", default_value_t = 10_000)]
    connections_per_org: usize,
    /// Connections of one user
    #[arg(long, env = "WARDEN_CONNECTIONS_PER_USER", value_name = "N", default_value_t = 100)]
    connections_per_user: usize,
    /// Connections that are not upgraded yet, in total [default: what WARDEN_MEMORY_MIB allows, at most
    /// 4096, or a quarter of the file descriptors]
    #[arg(long, env = "WARDEN_PENDING_MAX", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pending_max: Option<u64>,
    /// Connections of one address that are not upgraded yet
    #[arg(long, env = "WARDEN_PENDING_PER_ADDRESS", value_name = "N", default_value_t = 256)]
    pending_per_address: usize,
}

impl ConnectionArgs {
    pub(super) fn apply(&self, limits: &mut Limits) -> anyhow::Result<()> {
        let (connections, pending) = self.connections(raise_descriptors(), limits.admission.pending_max)?;
        let admission = &mut limits.admission;
        admission.sessions_max = usize::try_from(connections)?;
        admission.org_sessions_max = self.connections_per_org;
        admission.user_sessions_max = self.connections_per_user;
        admission.pending_max = usize::try_from(pending)?;
        admission.pending_per_address_max = self.pending_per_address;
        Ok(())
    }

    /// Maximum of sessions and of connections without an upgrade: the configured numbers, or what descriptors
    /// allow.
    fn connections(&self, descriptors: Option<u64>, default_pending: usize) -> anyhow::Result<(u64, u64)> {
        let default_pending = u64::try_from(default_pending)?;
        let pending = self
            .pending_max
            .unwrap_or_else(|| descriptors.map_or(default_pending, |d| (d / 4).clamp(1, default_pending)));
        let Some(descriptors) = descriptors else {
            return Ok((self.connections_max.unwrap_or(DEFAULT_CONNECTIONS_MAX), pending));
        };
        let available = descriptors.saturating_sub(RESERVED_DESCRIPTORS + pending);
        let connections = self.connections_max.unwrap_or(available.min(DEFAULT_CONNECTIONS_MAX));
        ensure!(
            available >= CONNECTIONS_MIN && connections <= available,
            "too few file descriptors: the limit is {descriptors} (`ulimit -n`), {RESERVED_DESCRIPTORS} are reserved \
             and {pending} are for handshakes (WARDEN_PENDING_MAX), so {available} connections are possible and {} are \
             configured. Raise the limit (LimitNOFILE= in systemd, --ulimit nofile= in Docker), or lower \
             WARDEN_CONNECTIONS_MAX",
            self.connections_max.unwrap_or(CONNECTIONS_MIN),
        );
        Ok((connections, pending))
    }
}

/// Raises the process's limit of file descriptors to its hard limit, and returns it. None means unlimited.
fn raise_descriptors() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum && setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
        return maximum;
    }
    current
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        connections: ConnectionArgs,
    }

    fn args(flags: &[&str]) -> ConnectionArgs {
        let line = Line::try_parse_from([&["warden"], flags].concat()).map_err(|e| e.to_string());
        line.expect("parses").connections
    }

    #[test]
    fn connections_fit_into_file_descriptors() {
        let default = args(&[]);
        assert_eq!(default.connections(Some(1024), 4096).expect("enough"), (512, 256));
        assert_eq!(default.connections(Some(20_000), 4096).expect("enough"), (15_648, 4096));
        assert_eq!(default.connections(Some(1 << 30), 4096).expect("enough"), (250_000, 4096));
        assert_eq!(default.connections(None, 4096).expect("enough"), (250_000, 4096));
        let error = default.connections(Some(256), 4096).expect_err("too few").to_string();
        assert!(error.contains("ulimit -n") && error.contains("256"), "{error}");
        let configured = args(&["--connections-max", "1000"]);
        assert_eq!(configured.connections(Some(20_000), 4096).expect("enough").0, 1000);
        let error = configured.connections(Some(1024), 4096).expect_err("too many").to_string();
        assert!(error.contains("512 connections are possible and 1000 are configured"), "{error}");
    }
}

//! Flags and environment of the public listener's edges: TLS, proxies, cookies, and the limits of what
//! strangers and clients may use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::Args;
use ipnet::IpNet;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Limits;
use crate::auth::CookieName;
use crate::http::{AdmissionLimits, ForwardedHeader, Proxies, TlsFiles, parse_network};
use crate::rate::Rate;

/// File descriptors for everything that is no connection of a client: the database, listeners, log,
/// certificates, connections that are being turned away.
const RESERVED_DESCRIPTORS: u64 = 256;

/// Sessions by default where the system sets no limit: what some 2 GiB of memory hold.
const DEFAULT_CONNECTIONS_MAX: u64 = 250_000;

/// Fewer than this is a mistake.
const CONNECTIONS_MIN: u64 = 16;

/// What the public listener is beside its address and its limits.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    /// With these it speaks TLS.
    pub tls: Option<TlsFiles>,
    /// Proxies in front.
    pub proxies: Proxies,
    /// The cookie that may carry a token.
    pub auth_cookie: Option<CookieName>,
}

/// The part of `warden serve` that is about the edges.
#[derive(Args, Clone)]
pub(super) struct EdgeArgs {
    /// PEM file with the certificate and those between it and the root; read again when it changes
    #[arg(long, env = "WARDEN_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "WARDEN_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen without TLS on an address that others can reach, because something in front ends TLS
    #[arg(long, env = "WARDEN_ALLOW_PLAINTEXT")]
    allow_plaintext: bool,
    /// Networks of proxies whose word on the client's address is taken, e.g. 10.0.0.0/8
    #[arg(long, env = "WARDEN_TRUSTED_PROXIES", value_name = "NETWORK", value_delimiter = ',', value_parser = parse_network)]
    trusted_proxies: Vec<IpNet>,
    /// The header that these proxies set; the other one is not read
    #[arg(long, env = "WARDEN_FORWARDED_HEADER", value_name = "NAME", value_enum, default_value_t)]
    forwarded_header: ForwardedHeader,
    /// Name of an HttpOnly cookie that may carry the token, for browsers; needs WARDEN_ALLOWED_ORIGINS
    #[arg(long, env = "WARDEN_AUTH_COOKIE", value_name = "NAME")]
    auth_cookie: Option<CookieName>,
    /// Connections of this node [default: what file descriptors allow, at most 250000]
    #[arg(long, env = "WARDEN_CONNECTIONS_MAX", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    connections_max: Option<u64>,
    /// Connections of one organisation
    #[arg(long, env = "WARDEN_CONNECTIONS_PER_ORG", value_name = "N", default_value_t = 10_000)]
    connections_per_org: usize,
    /// Connections of one user
    #[arg(long, env = "WARDEN_CONNECTIONS_PER_USER", value_name = "N", default_value_t = 100)]
    connections_per_user: usize,
    /// Connections that are not upgraded yet, in total [default: 4096, or a quarter of the file descriptors]
    #[arg(long, env = "WARDEN_PENDING_MAX", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pending_max: Option<u64>,
    /// Connections of one address that are not upgraded yet
    #[arg(long, env = "WARDEN_PENDING_PER_ADDRESS", value_name = "N", default_value_t = 256)]
    pending_per_address: usize,
    /// New connections of one address, PER_SECOND:BURST
    #[arg(long, env = "WARDEN_ARRIVALS_PER_ADDRESS", value_name = "RATE", default_value = "100:1000")]
    arrivals_per_address: Rate,
    /// Handshakes of all addresses, PER_SECOND:BURST
    #[arg(long, env = "WARDEN_HANDSHAKES", value_name = "RATE", default_value = "2000:10000")]
    handshakes: Rate,
    /// Handshakes of one address, PER_SECOND:BURST
    #[arg(long, env = "WARDEN_HANDSHAKES_PER_ADDRESS", value_name = "RATE", default_value = "50:500")]
    handshakes_per_address: Rate,
    /// Revocations that the back ends of one organisation ask for, PER_SECOND:BURST
    #[arg(long, env = "WARDEN_REVOCATIONS_PER_ORG", value_name = "RATE", default_value = "5:50")]
    revocations_per_org: Rate,
    /// Bits of an IPv6 address that make one client
    #[arg(long, env = "WARDEN_IPV6_PREFIX", value_name = "BITS", default_value_t = 64,
          value_parser = clap::value_parser!(u8).range(16..=128))]
    ipv6_prefix: u8,
    /// Seconds in which a handshake must be done, and for which a connection may rest before it
    #[arg(long, env = "WARDEN_HANDSHAKE_SECONDS", value_name = "SECONDS", default_value_t = 10,
          value_parser = clap::value_parser!(u32).range(1..=600))]
    handshake_seconds: u32,
    /// Milliseconds for which the answer to a failed handshake is held up at most; 0: not at all
    #[arg(long, env = "WARDEN_REFUSAL_DELAY_MS", value_name = "MS", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(0..=60_000))]
    refusal_delay_ms: u32,
    /// Messages of one socket, pings among them, PER_SECOND:BURST
    #[arg(long, env = "WARDEN_MESSAGES", value_name = "RATE", default_value = "20:250")]
    messages: Rate,
    /// Bytes of one message
    #[arg(long, env = "WARDEN_MESSAGE_BYTES", value_name = "BYTES", default_value_t = 65_536,
          value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    message_bytes: u32,
    /// Topics that one socket may join
    #[arg(long, env = "WARDEN_JOINS_MAX", value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    joins_max: u32,
}

impl EdgeArgs {
    pub(super) fn into_edge(
        self,
        listen: SocketAddr,
        has_origins: bool,
        limits: &mut Limits,
    ) -> anyhow::Result<Edge> {
        let tls = self
            .tls_cert
            .clone()
            .zip(self.tls_key.clone())
            .map(|(certificate, key)| TlsFiles { certificate, key });
        if tls.is_none() && !self.allow_plaintext && !listen.ip().is_loopback() {
            bail!(
                "WARDEN_LISTEN is {listen}, which others can reach, and tokens would travel in plain text. \
                 Either set WARDEN_TLS_CERT and WARDEN_TLS_KEY; or, where a balancer or ingress in front ends TLS (as \
                 usual for containers), WARDEN_ALLOW_PLAINTEXT=true, and WARDEN_TRUSTED_PROXIES to its addresses; \
                 or listen on 127.0.0.1"
            );
        }
        ensure!(
            self.auth_cookie.is_none() || has_origins,
            "WARDEN_AUTH_COOKIE needs WARDEN_ALLOWED_ORIGINS: browsers send cookies for any page that asks"
        );
        self.set_limits(limits)?;
        let proxies = Proxies { trusted: self.trusted_proxies, header: self.forwarded_header };
        Ok(Edge { tls, proxies, auth_cookie: self.auth_cookie })
    }

    fn set_limits(&self, limits: &mut Limits) -> anyhow::Result<()> {
        let (connections, pending) = self.connections(raise_descriptors())?;
        limits.admission = AdmissionLimits {
            connection_rate_per_address: self.arrivals_per_address,
            handshakes_per_address: self.handshakes_per_address,
            handshakes: self.handshakes,
            revocations_per_org: self.revocations_per_org,
            ipv6_prefix_bits: self.ipv6_prefix,
            pending_max: usize::try_from(pending)?,
            pending_per_address_max: self.pending_per_address,
            sessions_max: usize::try_from(connections)?,
            org_sessions_max: self.connections_per_org,
            user_sessions_max: self.connections_per_user,
            rejection_delay: Duration::from_millis(self.refusal_delay_ms.into()),
            ..limits.admission
        };
        limits.serve.header_timeout = Duration::from_secs(self.handshake_seconds.into());
        limits.session.messages = self.messages;
        limits.session.message_bytes_max = usize::try_from(self.message_bytes)?;
        limits.session.joins_max = usize::try_from(self.joins_max)?;
        Ok(())
    }

    /// Sessions, and connections that are none yet: what was asked for, or what descriptors allow.
    fn connections(&self, descriptors: Option<u64>) -> anyhow::Result<(u64, u64)> {
        let default_pending = u64::try_from(Limits::default().admission.pending_max)?;
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
            "file descriptors are limited to {descriptors} (`ulimit -n`), of which {RESERVED_DESCRIPTORS} are \
             reserved and {pending} are for handshakes (WARDEN_PENDING_MAX): {available} connections are possible, \
             {} are asked for. Raise the limit (LimitNOFILE= in systemd, --ulimit nofile= in Docker), or lower \
             WARDEN_CONNECTIONS_MAX",
            self.connections_max.unwrap_or(CONNECTIONS_MIN),
        );
        Ok((connections, pending))
    }
}

/// Raises the process's limit of file descriptors to the most that it may; returns it. None: no limit.
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
        edge: EdgeArgs,
    }

    fn args(line: &[&str]) -> EdgeArgs {
        Line::try_parse_from([&["warden"], line].concat()).map_err(|e| e.to_string()).expect("parses").edge
    }

    #[test]
    fn the_defaults_of_the_command_line_are_those_of_the_limits() {
        let mut limits = Limits::default();
        args(&[]).set_limits(&mut limits).expect("limits");
        let default = Limits::default();
        // These depend on the machine.
        limits.admission.sessions_max = default.admission.sessions_max;
        limits.admission.pending_max = default.admission.pending_max;
        assert_eq!(format!("{limits:?}"), format!("{default:?}"));
    }

    #[test]
    fn connections_fit_into_file_descriptors() {
        let default = args(&[]);
        assert_eq!(default.connections(Some(1024)).expect("enough"), (512, 256));
        assert_eq!(default.connections(Some(20_000)).expect("enough"), (15_648, 4096));
        assert_eq!(default.connections(Some(1 << 30)).expect("enough"), (250_000, 4096));
        assert_eq!(default.connections(None).expect("enough"), (250_000, 4096));
        let error = default.connections(Some(256)).expect_err("too few").to_string();
        assert!(error.contains("ulimit -n") && error.contains("256"), "{error}");
        let asked = args(&["--connections-max", "1000"]);
        assert_eq!(asked.connections(Some(20_000)).expect("enough").0, 1000);
        let error = asked.connections(Some(1024)).expect_err("too many").to_string();
        assert!(error.contains("512 connections are possible, 1000 are asked for"), "{error}");
    }

    #[test]
    fn plain_text_stays_at_home_unless_told_otherwise() {
        let edge = |line: &[&str], listen: &str| {
            let listen = listen.parse().expect("an address");
            args(line).into_edge(listen, true, &mut Limits::default()).map_err(|e| e.to_string())
        };
        for home in ["127.0.0.1:4000", "127.8.8.8:1", "[::1]:4000"] {
            assert!(edge(&[], home).is_ok(), "{home}");
        }
        for reachable in
            ["0.0.0.0:4000", "[::]:4000", "10.0.0.1:4000", "[2001:db8::1]:4000", "[::ffff:127.0.0.1]:1"]
        {
            let error = edge(&[], reachable).expect_err(reachable);
            for shown in ["WARDEN_TLS_CERT", "WARDEN_TLS_KEY", "WARDEN_ALLOW_PLAINTEXT", reachable] {
                assert!(error.contains(shown), "{error}");
            }
            assert!(edge(&["--allow-plaintext"], reachable).is_ok());
            assert!(edge(&["--tls-cert", "a", "--tls-key", "b"], reachable).is_ok());
        }
    }

    #[test]
    fn a_cookie_needs_origins() {
        let listen = "127.0.0.1:1".parse().expect("an address");
        let edge = |has_origins| {
            args(&["--auth-cookie", "__Host-token"]).into_edge(listen, has_origins, &mut Limits::default())
        };
        assert!(edge(true).expect("fine").auth_cookie.is_some());
        assert!(edge(false).expect_err("refused").to_string().contains("WARDEN_ALLOWED_ORIGINS"));
    }
}

//! Flags of the listeners and of TLS.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use crate::http::{AdminHosts, TlsFiles};

#[derive(Args, Clone)]
#[command(next_help_heading = "Listeners and TLS")]
pub(super) struct ListenArgs {
    /// Address of the public listener
    #[arg(long, env = "WARDEN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4000")]
    listen: SocketAddr,
    /// Address of the admin listener, which serves metrics and does not authenticate: keep it private
    #[arg(long, env = "WARDEN_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4001")]
    admin_listen: SocketAddr,
    /// Names under which operators and Prometheus reach the admin listener, separated by commas. Addresses
    /// and localhost are always allowed
    #[arg(long, env = "WARDEN_ADMIN_HOSTS", value_name = "HOST", value_delimiter = ',')]
    admin_hosts: Vec<String>,
    /// PEM file with the certificate and its intermediate certificates; reloaded when it changes
    #[arg(long, env = "WARDEN_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the certificate's private key
    #[arg(long, env = "WARDEN_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen without TLS on an address that other machines can reach, because a balancer terminates TLS
    #[arg(long, env = "WARDEN_ALLOW_PLAINTEXT")]
    allow_plaintext: bool,
}

/// Checked addresses, and the certificate of the public listener.
pub(super) struct ListenConfig {
    pub(super) public: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) admin_hosts: AdminHosts,
    pub(super) tls: Option<TlsFiles>,
}

impl ListenArgs {
    /// Rejects plain text on an address that other machines can reach.
    pub(super) fn into_listeners(self) -> anyhow::Result<ListenConfig> {
        let Self { listen, admin_listen, allow_plaintext, .. } = self;
        let files = self.tls_cert.zip(self.tls_key);
        let tls = files.map(|(certificate, key)| TlsFiles { certificate, key });
        if tls.is_none() && !allow_plaintext && !listen.ip().is_loopback() {
            bail!(
                "WARDEN_LISTEN is {listen}, which other machines can reach, so tokens would be sent in plain text. \
                 Either set WARDEN_TLS_CERT and WARDEN_TLS_KEY; or, if a balancer or ingress in front terminates TLS \
                 (usual for containers), set WARDEN_ALLOW_PLAINTEXT=true, and WARDEN_TRUSTED_PROXIES to its addresses; \
                 or listen on 127.0.0.1"
            );
        }
        if !admin_listen.ip().is_loopback() {
            tracing::warn!(
                admin_listen = %admin_listen,
                "the admin listener does not authenticate: make sure that only operators can reach its address"
            );
        }
        let admin_hosts = AdminHosts::parse(&self.admin_hosts).map_err(|n| {
            anyhow::anyhow!(
                "WARDEN_ADMIN_HOSTS: entry {n} is not the name of a host: write it without scheme and port"
            )
        })?;
        Ok(ListenConfig { public: listen, admin: admin_listen, admin_hosts, tls })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        listen: ListenArgs,
    }

    fn listeners(flags: &[&str], listen: &str) -> Result<ListenConfig, String> {
        let line = Line::try_parse_from([&["warden", "--listen", listen], flags].concat());
        line.map_err(|e| e.to_string()).expect("parses").listen.into_listeners().map_err(|e| e.to_string())
    }

    #[test]
    fn plain_text_on_a_reachable_address_needs_permission() {
        for loopback in ["127.0.0.1:4000", "127.8.8.8:1", "[::1]:4000"] {
            assert!(listeners(&[], loopback).is_ok(), "{loopback}");
        }
        for reachable in
            ["0.0.0.0:4000", "[::]:4000", "10.0.0.1:4000", "[2001:db8::1]:4000", "[::ffff:127.0.0.1]:1"]
        {
            let error = listeners(&[], reachable).err().expect(reachable);
            for named in ["WARDEN_TLS_CERT", "WARDEN_TLS_KEY", "WARDEN_ALLOW_PLAINTEXT", reachable] {
                assert!(error.contains(named), "{error}");
            }
            assert!(listeners(&["--allow-plaintext"], reachable).is_ok());
            assert!(listeners(&["--tls-cert", "a", "--tls-key", "b"], reachable).is_ok());
        }
    }
}

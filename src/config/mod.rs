//! Configuration: command-line flags and environment variables, validated into a [`Config`].
//!
//! Each file turns the flags of one concern into a checked value; this one only composes them. Nothing
//! outside this module reads the environment. Every limit and its default is in [`limits`].

mod admission;
mod connections;
mod database;
mod drain;
mod issuers;
mod issuers_file;
pub mod limits;
mod listen;
mod memory;
mod origins;
mod proxies;
mod retention;
mod service_key;
mod session;
mod signing;
mod sizes;
mod topics;

use std::net::SocketAddr;

use clap::Args;

pub use database::DatabaseArgs;
pub use issuers::IssuerArgs;
pub use issuers_file::{IssuerDefaults, parse_issuers};
pub use limits::{DrainLimits, Limits};
#[cfg(feature = "dev")]
pub(crate) use origins::parse_origins;
pub(crate) use service_key::{SERVICE_KEY_VARIABLE, service_key};
pub use signing::{
    BACKEND_ISSUER, DEFAULT_AUDIENCE, JWT_SECRET_BYTES_MIN, Signing, SigningArgs, check_backend_secret,
};

use crate::auth::{CookieName, VerifierConfig};
use crate::http::{AdminHosts, Proxies, TlsFiles};
use crate::postgres::Addresses;

/// Default address of the gateway for `warden tail`.
pub const DEFAULT_URL: &str = "ws://127.0.0.1:4000/socket";

/// Flags of `warden serve`.
///
/// Required flags have the name of their variable as placeholder, because clap prints only the placeholder
/// when a value is missing.
#[derive(Args, Clone)]
pub struct ServeArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    issuers: IssuerArgs,
    #[command(flatten)]
    topics: topics::TopicArgs,
    #[command(flatten)]
    listen: listen::ListenArgs,
    #[command(flatten)]
    origins: origins::OriginArgs,
    #[command(flatten)]
    proxies: proxies::ProxyArgs,
    #[command(flatten)]
    connections: connections::ConnectionArgs,
    #[command(flatten)]
    admission: admission::AdmissionArgs,
    #[command(flatten)]
    sizes: sizes::SizeArgs,
    #[command(flatten)]
    memory: memory::MemoryArgs,
    #[command(flatten)]
    session: session::SessionArgs,
    #[command(flatten)]
    retention: retention::RetentionArgs,
    #[command(flatten)]
    drain: drain::DrainArgs,
}

/// Validated configuration of a gateway.
#[derive(Clone)]
pub struct Config {
    /// Addresses of the database servers.
    pub database: Addresses,
    /// Issuers whose tokens are accepted.
    pub verifier: VerifierConfig,
    /// Topics that a token must name to join them.
    pub topics_need_claim: Vec<String>,
    /// Address of the public listener.
    pub listen: SocketAddr,
    /// Address of the admin listener.
    pub admin_listen: SocketAddr,
    /// Exact origins of pages that may connect.
    pub allowed_origins: Vec<String>,
    /// TLS, proxies and cookies of the public listener.
    pub edge: Edge,
    /// All limits.
    pub limits: Limits,
}

/// Configuration of the listeners, beside their addresses and limits.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    /// Certificate and key. Without them the public listener speaks plain text.
    pub tls: Option<TlsFiles>,
    /// Trusted proxies in front.
    pub proxies: Proxies,
    /// Name of the cookie that may carry a token.
    pub auth_cookie: Option<CookieName>,
    /// Names under which the admin listener may be used.
    pub admin_hosts: AdminHosts,
}

impl ServeArgs {
    /// Checks everything that can be checked without a connection.
    ///
    /// # Errors
    /// When a value is invalid. The message names the variable and a remedy.
    pub fn into_config(self) -> anyhow::Result<Config> {
        let mut limits = Limits::default();
        self.sizes.apply(&mut limits)?;
        self.memory.apply(&mut limits)?;
        self.connections.apply(&mut limits)?;
        self.admission.apply(&mut limits);
        memory::check(&limits)?;
        self.session.apply(&mut limits)?;
        self.retention.apply(&mut limits);
        self.drain.apply(&mut limits);
        let listeners = self.listen.into_listeners()?;
        let origins = self.origins.into_origins()?;
        Ok(Config {
            database: self.database.into_addresses()?,
            verifier: self.issuers.into_verifier_config()?,
            topics_need_claim: self.topics.into_topics()?,
            listen: listeners.public,
            admin_listen: listeners.admin,
            allowed_origins: origins.allowed,
            edge: Edge {
                tls: listeners.tls,
                proxies: self.proxies.into_proxies(),
                auth_cookie: origins.auth_cookie,
                admin_hosts: listeners.admin_hosts,
            },
            limits,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    #[test]
    fn the_defaults_of_the_flags_are_the_defaults_of_the_limits() {
        let required = [
            "--database-url",
            "postgres://localhost/app",
            "--jwt-secret",
            "a secret of more than 32 bytes...",
        ];
        let line = Line::try_parse_from([&["warden"], &required[..]].concat()).map_err(|e| e.to_string());
        let mut limits = line.expect("parses").serve.into_config().expect("is valid").limits;
        // These two depend on the machine's limit of file descriptors.
        limits.admission.sessions_max = Limits::default().admission.sessions_max;
        limits.admission.pending_max = Limits::default().admission.pending_max;
        assert_eq!(format!("{limits:?}"), format!("{:?}", Limits::default()));
    }
}

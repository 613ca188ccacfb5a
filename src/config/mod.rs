//! Flags and environment, and what becomes of them: a validated [`Config`].
//!
//! Nothing outside this module reads the environment. Every limit has its name and default in `limits`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;

mod edge;
mod issuers;
mod limits;

use edge::EdgeArgs;

pub use edge::Edge;
pub use issuers::{DEFAULT_AUDIENCE, IssuerArgs, JWT_SECRET_BYTES_MIN, SigningArgs};
pub use limits::{DrainLimits, Limits};

use crate::auth::{VerifierConfig, is_topic};

/// Where the gateway is reached by `tail`.
pub const DEFAULT_URL: &str = "ws://127.0.0.1:4000/socket";

// The placeholders of what is required are the names of the variables, because clap names those
// alone when a value is missing.

/// What sessions have left to say goodbye when the last of them was told to.
const DRAIN_REST: Duration = Duration::from_secs(15);

/// How to reach the database.
#[derive(Args, Clone)]
pub struct DatabaseArgs {
    /// The database: postgres://user:password@host:5432/database; of several addresses (host1:5432,host2:5432)
    /// the primary is found and followed
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "DATABASE_URL")]
    pub database_url: String,
}

/// `warden serve`.
#[derive(Args, Clone)]
pub struct ServeArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    issuers: IssuerArgs,
    /// Topics that a token must name in app_metadata.warden_topics to join them: recordings, org, or
    /// call:* for the topics of single calls
    #[arg(long, env = "WARDEN_TOPICS_NEED_CLAIM", value_name = "TOPIC", value_delimiter = ',')]
    topics_need_claim: Vec<String>,
    /// Address of the public listener
    #[arg(long, env = "WARDEN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4000")]
    listen: SocketAddr,
    /// Address of the admin listener (metrics); keep it private
    #[arg(long, env = "WARDEN_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4001")]
    admin_listen: SocketAddr,
    /// Exact origins of pages that may connect, e.g. https://app.example.com; none: browsers are refused
    #[arg(long, env = "WARDEN_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    allowed_origins: Vec<String>,
    #[command(flatten)]
    edge: EdgeArgs,
    /// Hours for which events are kept, for clients that come back
    #[arg(long, env = "WARDEN_RETENTION_HOURS", value_name = "HOURS", default_value_t = 24,
          value_parser = clap::value_parser!(u32).range(1..=8760))]
    retention_hours: u32,
    /// Seconds over which sessions are closed when the gateway goes down, so that they don't come back all
    /// at once
    #[arg(long, env = "WARDEN_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(0..=3600))]
    drain_seconds: u32,
    /// Gibibytes that the event log may take; when it is full the oldest events go sooner
    #[arg(long, env = "WARDEN_RETENTION_GIB", value_name = "GIB", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    retention_gib: u32,
}

/// Everything a gateway needs, checked.
#[derive(Clone)]
pub struct Config {
    /// Where the primary may be.
    pub database: crate::postgres::Addresses,
    /// What tokens must be.
    pub verifier: VerifierConfig,
    /// Topics that a token must name to join them.
    pub topics_need_claim: Vec<String>,
    /// Public listener.
    pub listen: SocketAddr,
    /// Admin listener.
    pub admin_listen: SocketAddr,
    /// Exact origins.
    pub allowed_origins: Vec<String>,
    /// TLS, proxies, cookies.
    pub edge: Edge,
    /// All limits.
    pub limits: Limits,
}

impl ServeArgs {
    /// Checks everything that can be checked without a connection.
    ///
    /// # Errors
    /// When a value is none that the gateway could run with; the message says which and what to do.
    pub fn into_config(self) -> anyhow::Result<Config> {
        for origin in &self.allowed_origins {
            check_origin(origin).with_context(|| format!("WARDEN_ALLOWED_ORIGINS: {origin:?}"))?;
        }
        for topic in self.topics_need_claim.iter().filter(|topic| !topic.is_empty()) {
            ensure!(
                is_topic(topic),
                "WARDEN_TOPICS_NEED_CLAIM: {topic:?} is no topic; write names such as recordings, call:* or org"
            );
        }
        let mut limits = Limits::default();
        limits.retention.keep = Duration::from_hours(self.retention_hours.into());
        limits.drain.window = Duration::from_secs(self.drain_seconds.into());
        limits.drain_timeout = limits.drain.window + DRAIN_REST;
        limits.retention.bytes_max = u64::from(self.retention_gib) << 30;
        let edge = self.edge.into_edge(self.listen, !self.allowed_origins.is_empty(), &mut limits)?;
        if !self.admin_listen.ip().is_loopback() {
            tracing::warn!(
                admin_listen = %self.admin_listen,
                "the admin listener asks nobody who they are: see to it that only those who run the gateway reach it"
            );
        }
        Ok(Config {
            edge,
            database: crate::postgres::options(&self.database.database_url)?,
            verifier: self.issuers.into_verifier_config()?,
            topics_need_claim: self.topics_need_claim.into_iter().filter(|topic| !topic.is_empty()).collect(),
            listen: self.listen,
            admin_listen: self.admin_listen,
            allowed_origins: self.allowed_origins,
            limits,
        })
    }
}

fn check_origin(origin: &str) -> anyhow::Result<()> {
    let Some((scheme, host)) = origin.split_once("://") else {
        bail!("an origin is scheme://host[:port], as a browser sends it");
    };
    ensure!(matches!(scheme, "http" | "https"), "the scheme of an origin is http or https");
    ensure!(
        !host.is_empty() && !host.contains(['/', '*', '?', '#', '@']),
        "an origin has no path and no wildcard: list each one"
    );
    ensure!(
        origin.chars().all(|c| !c.is_ascii_uppercase() && !c.is_whitespace()),
        "browsers send origins in lower case"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_exact() {
        for good in ["http://localhost:3000", "https://app.example.com"] {
            check_origin(good).expect(good);
        }
        for bad in [
            "*",
            "https://*.example.com",
            "https://a.example/",
            "app.example.com",
            "HTTPS://a.example",
            "null",
        ] {
            assert!(check_origin(bad).is_err(), "{bad}");
        }
    }
}

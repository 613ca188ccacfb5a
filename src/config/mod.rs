//! Flags and environment, and what becomes of them: a validated [`Config`].
//!
//! Nothing outside this module reads the environment. Every limit has its name and default in `limits`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;

mod limits;

pub use limits::{DrainLimits, Limits};

use crate::auth::VerifierConfig;

/// Shortest HS256 secret, in bytes: as long as the hash (RFC 7518, section 3.2).
pub const JWT_SECRET_BYTES_MIN: usize = 32;

/// `aud` of tokens, where nothing else is said: what Supabase Auth issues.
pub const DEFAULT_AUDIENCE: &str = "authenticated";

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

/// How tokens are signed and checked.
#[derive(Args, Clone)]
pub struct JwtArgs {
    /// HS256 secret, at least 32 bytes (on Supabase: the JWT secret of the project)
    #[arg(long, env = "WARDEN_JWT_SECRET", hide_env_values = true, value_name = "WARDEN_JWT_SECRET")]
    pub jwt_secret: String,
    /// Required `iss` claim
    #[arg(long, env = "WARDEN_JWT_ISSUER", value_name = "ISS")]
    pub jwt_issuer: Option<String>,
    /// Required `aud` claim
    #[arg(long, env = "WARDEN_JWT_AUDIENCE", value_name = "AUD", default_value = DEFAULT_AUDIENCE)]
    pub jwt_audience: String,
}

/// `warden serve`.
#[derive(Args, Clone)]
pub struct ServeArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    jwt: JwtArgs,
    /// Address of the public listener
    #[arg(long, env = "WARDEN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4000")]
    listen: SocketAddr,
    /// Address of the admin listener (metrics); keep it private
    #[arg(long, env = "WARDEN_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:4001")]
    admin_listen: SocketAddr,
    /// Exact origins of pages that may connect, e.g. https://app.example.com; none: browsers are refused
    #[arg(long, env = "WARDEN_ALLOWED_ORIGINS", value_name = "ORIGIN", value_delimiter = ',')]
    allowed_origins: Vec<String>,
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
    /// Public listener.
    pub listen: SocketAddr,
    /// Admin listener.
    pub admin_listen: SocketAddr,
    /// Exact origins.
    pub allowed_origins: Vec<String>,
    /// All limits.
    pub limits: Limits,
}

impl JwtArgs {
    /// Checks the secret.
    ///
    /// # Errors
    /// When it is too short to be one.
    pub fn into_verifier_config(self) -> anyhow::Result<VerifierConfig> {
        ensure!(
            self.jwt_secret.len() >= JWT_SECRET_BYTES_MIN,
            "WARDEN_JWT_SECRET has {} bytes; HS256 needs at least {JWT_SECRET_BYTES_MIN}: make one with `openssl rand -hex 32`",
            self.jwt_secret.len()
        );
        Ok(VerifierConfig { secret: self.jwt_secret, audience: self.jwt_audience, issuer: self.jwt_issuer })
    }
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
        let mut limits = Limits::default();
        limits.retention.keep = Duration::from_hours(self.retention_hours.into());
        limits.drain.window = Duration::from_secs(self.drain_seconds.into());
        limits.drain_timeout = limits.drain.window + DRAIN_REST;
        limits.retention.bytes_max = u64::from(self.retention_gib) << 30;
        Ok(Config {
            database: crate::postgres::options(&self.database.database_url)?,
            verifier: self.jwt.into_verifier_config()?,
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

    #[test]
    fn a_short_secret_is_refused_without_being_shown() {
        let args = JwtArgs { jwt_secret: "hunter2".into(), jwt_issuer: None, jwt_audience: "a".into() };
        let error = args.into_verifier_config().err().expect("refused").to_string();
        assert!(error.contains("32") && !error.contains("hunter2"), "{error}");
    }
}

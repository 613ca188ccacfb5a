//! HS256 secrets, and the flags that sign development tokens with one.

use anyhow::{Context as _, ensure};
use clap::Args;

/// Shortest HS256 secret, in bytes: as long as the hash (RFC 7518, section 3.2).
pub const JWT_SECRET_BYTES_MIN: usize = 32;

/// Default `aud` of tokens: the one that Supabase Auth issues.
pub const DEFAULT_AUDIENCE: &str = "authenticated";

/// Flags of commands that sign development tokens.
#[derive(Args, Clone)]
pub struct SigningArgs {
    /// HS256 secret, at least 32 bytes (on Supabase: the JWT secret of the project)
    #[arg(long, env = "WARDEN_JWT_SECRET", hide_env_values = true, value_name = "WARDEN_JWT_SECRET")]
    pub jwt_secret: String,
    /// Claim `iss`
    #[arg(long, env = "WARDEN_JWT_ISSUER", value_name = "ISS")]
    pub jwt_issuer: Option<String>,
    /// Claim `aud`
    #[arg(long, env = "WARDEN_JWT_AUDIENCE", value_name = "AUD", default_value = DEFAULT_AUDIENCE)]
    pub jwt_audience: String,
}

impl SigningArgs {
    /// Checks the secret.
    ///
    /// # Errors
    /// When it is too short.
    pub fn check(&self) -> anyhow::Result<()> {
        check_secret(&self.jwt_secret).context("WARDEN_JWT_SECRET")
    }
}

/// Checks the length of a secret. The error never contains the secret.
pub(super) fn check_secret(secret: &str) -> anyhow::Result<()> {
    ensure!(
        secret.len() >= JWT_SECRET_BYTES_MIN,
        "the secret has {} bytes, and HS256 needs at least {JWT_SECRET_BYTES_MIN}: generate one with `openssl rand -hex 32`",
        secret.len()
    );
    Ok(())
}

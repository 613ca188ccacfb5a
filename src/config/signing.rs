//! HS256 secrets, and the flags that sign development tokens with one.

use std::collections::HashSet;

use anyhow::{Context as _, ensure};
use clap::Args;

/// Shortest HS256 secret, in bytes: as long as the hash (RFC 7518, section 3.2).
pub const JWT_SECRET_BYTES_MIN: usize = 32;

/// Default `aud` of tokens: the one that Supabase Auth issues.
pub const DEFAULT_AUDIENCE: &str = "authenticated";

/// Claims `iss` and `aud` of the tokens that WARDEN_BACKEND_SECRET signs.
pub const BACKEND_ISSUER: &str = "warden-backends";

/// Flags of the command that signs tokens.
#[derive(Args, Clone)]
pub struct SigningArgs {
    /// HS256 secret, at least 32 bytes (on Supabase: the JWT secret of the project)
    #[arg(
        long,
        env = "WARDEN_JWT_SECRET",
        hide_env_values = true,
        value_name = "WARDEN_JWT_SECRET",
        required_unless_present = "backend"
    )]
    jwt_secret: Option<String>,
    /// Claim `iss`
    #[arg(long, env = "WARDEN_JWT_ISSUER", value_name = "ISS")]
    jwt_issuer: Option<String>,
    /// Claim `aud`
    #[arg(long, env = "WARDEN_JWT_AUDIENCE", value_name = "AUD", default_value = DEFAULT_AUDIENCE)]
    jwt_audience: String,
    /// Sign a token of a back end, with the secret of back ends
    #[arg(long)]
    backend: bool,
    /// HS256 secret of back ends, at least 32 bytes
    #[arg(
        long,
        env = "WARDEN_BACKEND_SECRET",
        hide_env_values = true,
        value_name = "WARDEN_BACKEND_SECRET",
        required_if_eq("backend", "true")
    )]
    backend_secret: Option<String>,
}

/// Secret of a token, and the claims that name its issuer.
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    /// HS256 secret.
    pub secret: &'a str,
    /// Claim `iss`.
    pub issuer: Option<&'a str>,
    /// Claim `aud`.
    pub audience: &'a str,
    /// Whether it signs tokens of back ends.
    pub of_backends: bool,
}

impl SigningArgs {
    /// Checks the secret of users' tokens, or of those of back ends.
    ///
    /// # Errors
    /// When it is too short.
    pub fn signing(&self) -> anyhow::Result<Signing<'_>> {
        let (name, secret) = if self.backend {
            ("WARDEN_BACKEND_SECRET", &self.backend_secret)
        } else {
            ("WARDEN_JWT_SECRET", &self.jwt_secret)
        };
        let secret = secret.as_deref().unwrap_or_default();
        check_secret(secret).context(name)?;
        let (issuer, audience) = if self.backend {
            (Some(BACKEND_ISSUER), BACKEND_ISSUER)
        } else {
            (self.jwt_issuer.as_deref(), self.jwt_audience.as_str())
        };
        Ok(Signing { secret, issuer, audience, of_backends: self.backend })
    }
}

/// Secrets of documentation and development instances, which everyone knows.
const PUBLISHED_SECRETS: [&str; 9] = [
    // Supabase on a developer's machine, and its Docker Compose file.
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
    // jwt.io.
    "a-string-secret-at-least-256-bits-long",
    "a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    "your-256-bit-secret-your-256-bit-secret",
    // PostgREST's tutorials.
    "reallyreallyreallyreallyverysafe",
    "my_jwt_secret_at_least_32_characters_long",
    // Hasura's documentation.
    "3EK6FD+o0+c7tzBNVfjpMkNDi2yARAAKzQlk8O2IKoxQu4nF7EdAh8s3TwpHwrdWT6R",
    // RFC 7515, section A.1, in base64url.
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
];

/// Fewest different bytes of a secret. 32 random bytes in hexadecimal have fewer once in a trillion times.
const DIFFERENT_BYTES_MIN: usize = 8;

/// Whether a secret of sufficient length is known or repeats a short string.
fn is_guessable(secret: &str) -> bool {
    let bytes = secret.as_bytes();
    let different = bytes.iter().collect::<HashSet<_>>().len();
    let repeats =
        (1..JWT_SECRET_BYTES_MIN / 2).any(|period| bytes[period..] == bytes[..bytes.len() - period]);
    let is_published = PUBLISHED_SECRETS.iter().any(|known| known.eq_ignore_ascii_case(secret.trim()));
    different < DIFFERENT_BYTES_MIN || repeats || is_published
}

/// Checks a secret that verifies tokens. `allow_guessable` admits a secret of a development instance. The
/// error never contains the secret.
pub(super) fn check_verifying_secret(secret: &str, allow_guessable: bool) -> anyhow::Result<()> {
    check_secret(secret)?;
    ensure!(
        allow_guessable || !is_guessable(secret),
        "the secret is published in documentation or repeats itself, so anyone can sign tokens: generate one with `openssl rand -hex 32`, or set WARDEN_ALLOW_GUESSABLE_SECRET=true if nobody else can reach this gateway"
    );
    Ok(())
}

/// Checks a secret of back ends, which signs a token. The error never contains the secret.
///
/// # Errors
/// When it is too short.
pub fn check_backend_secret(secret: &str) -> anyhow::Result<()> {
    check_secret(secret).context("WARDEN_BACKEND_SECRET")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessable_secrets_verify_no_tokens_unless_the_operator_says_so() {
        for guessable in PUBLISHED_SECRETS.iter().copied().map(str::to_owned).chain([
            format!(" {}\n", PUBLISHED_SECRETS[0].to_uppercase()),
            "x".repeat(64),
            "password".repeat(4),
            "0123456789abcd".repeat(3),
            "correct-horse-1".repeat(3),
            "1234567 1234567 1234567 1234567 1234567".into(),
        ]) {
            let error = check_verifying_secret(&guessable, false).expect_err(&guessable).to_string();
            assert!(!error.contains(&guessable) && error.contains("openssl rand"), "{error}");
            assert!(check_verifying_secret(&guessable, true).is_ok() && check_secret(&guessable).is_ok());
        }
        assert!(check_verifying_secret("short", true).is_err());
        for good in [
            "4c7a1f0b93d2e8564c7a1f0b93d2e8564c7a1f0b93d2e8564c7a1f0b93d2e857",
            "f3a9c1d07be24586",
            "a secret of more than thirty-two bytes",
        ] {
            assert_eq!(check_verifying_secret(good, false).is_ok(), good.len() >= 32, "{good}");
        }
    }
}

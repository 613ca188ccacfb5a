//! Verification of tokens. The configuration decides about issuers, algorithms and keys, and the token
//! decides nothing.

use std::sync::Arc;
use std::time::Duration;

use super::error::AuthError;
use super::fetch::Fetcher;
use super::identity::Identity;
use super::issuer::{Issuer, IssuerConfig};
use super::key_server::{KeyHealth, KeyLimits, KeyServer};
use super::token::Token;
use super::unverified::UnverifiedToken;
use crate::metrics::Metrics;

/// Configuration of all issuers.
#[derive(Clone, Default)]
pub struct VerifierConfig {
    /// Issuers, each with its own keys, audience and rules. An issuer without a name must be the only one.
    pub issuers: Vec<IssuerConfig>,
}

impl VerifierConfig {
    /// Configuration of one issuer with an HS256 secret, this `aud`, and this `iss` if given.
    #[must_use]
    pub fn hs256(secret: impl Into<String>, audience: impl Into<String>, issuer: Option<&str>) -> Self {
        let issuer = IssuerConfig {
            issuer: issuer.map(str::to_owned),
            audience: audience.into(),
            secrets: vec![secret.into()],
            ..IssuerConfig::default()
        };
        Self { issuers: vec![issuer] }
    }
}

/// Ability of the node to verify tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Tokens of every issuer can be verified, with fresh keys.
    Ready,
    /// Tokens of at least one issuer can be verified. Another issuer has no keys, or its key server fails and
    /// only earlier keys are available.
    Degraded,
    /// No tokens can be verified.
    NotReady,
}

/// Verifies the tokens of all configured issuers.
pub struct Verifier {
    issuers: Vec<(Option<String>, Issuer)>,
    token_bytes_max: usize,
    wait: Duration,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// Creates a verifier for these issuers, which parses tokens of at most `token_bytes_max` bytes. The
    /// services of [`Self::key_fetchers`] must run to fetch published keys.
    ///
    /// # Errors
    /// Fails if issuers have no distinct names, or if the system's certificates are needed and cannot be
    /// read.
    pub fn new(
        config: &VerifierConfig,
        limits: KeyLimits,
        token_bytes_max: usize,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let mut issuers: Vec<(Option<String>, Issuer)> = Vec::new();
        let has_servers = config.issuers.iter().any(|issuer| issuer.jwks_url.is_some());
        let fetcher =
            has_servers.then(|| Fetcher::new(limits.fetch_timeout, limits.bytes_max)).transpose()?;
        for config in &config.issuers {
            anyhow::ensure!(
                issuers
                    .iter()
                    .all(|(name, _)| name.is_some() && config.issuer.is_some() && *name != config.issuer),
                "issuer {:?}: each of several issuers needs a distinct name",
                config.issuer.as_deref().unwrap_or("")
            );
            let server = match (&config.jwks_url, &fetcher, &config.issuer) {
                (Some(url), Some(fetcher), Some(name)) => {
                    Some(KeyServer::new(name, url.clone(), fetcher.clone(), limits, Arc::clone(metrics)))
                }
                (Some(_), _, _) => anyhow::bail!("an issuer with a key server needs a name: set its issuer"),
                (None, _, _) => None,
            };
            issuers.push((config.issuer.clone(), Issuer::new(config, server, Arc::clone(metrics))));
        }
        Ok(Self { issuers, token_bytes_max, wait: limits.wait })
    }

    /// Background services, one for each key server. Each fetches keys for ever.
    pub fn key_fetchers(self: &Arc<Self>) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let has_server = |n: &usize| self.issuers[*n].1.key_server.is_some();
        let fetchers = (0..self.issuers.len()).filter(has_server).map(|n| {
            let verifier = Arc::clone(self);
            async move {
                if let Some(server) = &verifier.issuers[n].1.key_server {
                    server.run().await;
                }
            }
        });
        fetchers.collect()
    }

    /// Verifies a token. If its key is not in memory, waits for the key server, for at most [`Self::wait`].
    ///
    /// # Errors
    /// Fails if the token is not valid now, is not from a configured issuer, names no organisation, or if its
    /// key is unavailable.
    pub async fn verify(&self, token: &Token) -> Result<Identity, AuthError> {
        let (issuer, unverified) = self.select(token)?;
        match issuer.verify(token, &unverified) {
            Err(AuthError::UnknownKey | AuthError::KeysUnavailable) => {
                issuer.verify_fetching(token, &unverified).await
            }
            result => result,
        }
    }

    /// Verifies a token with the keys in memory.
    ///
    /// # Errors
    /// Fails as [`Self::verify`] does. After [`AuthError::UnknownKey`] and [`AuthError::KeysUnavailable`],
    /// [`Self::verify`] may still succeed.
    pub fn verify_now(&self, token: &Token) -> Result<Identity, AuthError> {
        let (issuer, unverified) = self.select(token)?;
        issuer.verify(token, &unverified)
    }

    /// Longest wait of [`Self::verify`].
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Ability to verify tokens, for `readyz`. An issuer without keys does not make the node unready for the
    /// others.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let health = |issuer: &Issuer| match issuer.key_server.as_ref().map(KeyServer::health) {
            None | Some(KeyHealth::Fresh) => (true, true),
            Some(KeyHealth::Stale) => (true, false),
            Some(KeyHealth::Missing) => (issuer.has_secrets(), false),
        };
        let all: Vec<_> = self.issuers.iter().map(|(_, issuer)| health(issuer)).collect();
        if all.iter().all(|(_, is_good)| *is_good) {
            Readiness::Ready
        } else if all.iter().any(|(is_usable, _)| *is_usable) {
            Readiness::Degraded
        } else {
            Readiness::NotReady
        }
    }

    /// Selects the issuer whose name equals the token's `iss` exactly.
    fn select(&self, token: &Token) -> Result<(&Issuer, UnverifiedToken), AuthError> {
        let token = token.expose();
        if token.len() > self.token_bytes_max {
            return Err(AuthError::TooLong(self.token_bytes_max));
        }
        let unverified = UnverifiedToken::parse(token)?;
        let found = self.issuers.iter().find(|(name, _)| name.is_none() || *name == unverified.issuer);
        match found {
            Some((_, issuer)) => Ok((issuer, unverified)),
            None if unverified.issuer.is_none() => Err(AuthError::Malformed("claim iss is missing")),
            None => Err(AuthError::UnexpectedClaim("iss")),
        }
    }
}

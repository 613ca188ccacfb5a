//! Verifying a token: the configuration chooses issuers, algorithms and keys, never the token.

use std::sync::Arc;
use std::time::Duration;

use super::error::AuthError;
use super::fetch::Fetcher;
use super::identity::Identity;
use super::issuer::{Issuer, IssuerConfig};
use super::keys::{Health, KeyLimits, KeyServer};
use super::token::Token;
use super::unverified::UnverifiedToken;
use crate::metrics::Metrics;

/// Who may sign tokens.
#[derive(Clone, Default)]
pub struct VerifierConfig {
    /// Each with keys, audience and rules of its own. One without a name must be the only one.
    pub issuers: Vec<IssuerConfig>,
}

impl VerifierConfig {
    /// One HS256 secret, whose tokens have this `aud`, and this `iss` where one is given.
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

/// Whether tokens can be verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Those of every issuer, with fresh keys.
    Ready,
    /// Those of some issuer, but a key server of another fails, or only the keys from before are there.
    Degraded,
    /// Of none.
    NotReady,
}

/// See the module's documentation.
pub struct Verifier {
    issuers: Vec<(Option<String>, Issuer)>,
    wait: Duration,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier for these issuers; [`Self::key_fetchers`] fetch keys.
    ///
    /// # Errors
    /// When issuers can't be told apart, or the system's certificates, which key servers are checked by,
    /// can't be read.
    pub fn new(config: &VerifierConfig, limits: KeyLimits, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let mut issuers: Vec<(Option<String>, Issuer)> = Vec::new();
        let has_servers = config.issuers.iter().any(|issuer| issuer.jwks_url.is_some());
        let fetcher =
            has_servers.then(|| Fetcher::new(limits.fetch_timeout, limits.bytes_max)).transpose()?;
        for config in &config.issuers {
            anyhow::ensure!(
                issuers
                    .iter()
                    .all(|(name, _)| name.is_some() && config.issuer.is_some() && *name != config.issuer),
                "several issuers need names that differ"
            );
            let server = match (&config.jwks_url, &fetcher, &config.issuer) {
                (Some(url), Some(fetcher), Some(name)) => {
                    Some(KeyServer::new(name, url.clone(), fetcher.clone(), limits, Arc::clone(metrics)))
                }
                (Some(_), _, _) => anyhow::bail!("an issuer with a key server needs a name"),
                (None, _, _) => None,
            };
            issuers.push((config.issuer.clone(), Issuer::new(config, server)));
        }
        Ok(Self { issuers, wait: limits.wait })
    }

    /// One background service for each key server, which fetches its keys for ever.
    pub fn key_fetchers(self: &Arc<Self>) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let has_server = |n: &usize| self.issuers[*n].1.server.is_some();
        let fetchers = (0..self.issuers.len()).filter(has_server).map(|n| {
            let verifier = Arc::clone(self);
            async move {
                if let Some(server) = &verifier.issuers[n].1.server {
                    server.run().await;
                }
            }
        });
        fetchers.collect()
    }

    /// Who the token is. Waits for a key that is not known yet, for at most [`Self::wait`].
    ///
    /// # Errors
    /// When it is not a token of a configured issuer, not valid now, names no organisation, or its key
    /// can't be had.
    pub async fn verify(&self, token: &Token) -> Result<Identity, AuthError> {
        let (issuer, unverified) = self.select(token)?;
        match issuer.verify(token, &unverified) {
            Err(AuthError::UnknownKey | AuthError::KeysUnavailable) => {
                issuer.verify_fetching(token, &unverified).await
            }
            decided => decided,
        }
    }

    /// The same with keys that are in memory.
    ///
    /// # Errors
    /// As for [`Self::verify`]; [`AuthError::UnknownKey`] and [`AuthError::KeysUnavailable`] are not the
    /// last word.
    pub fn verify_now(&self, token: &Token) -> Result<Identity, AuthError> {
        let (issuer, unverified) = self.select(token)?;
        issuer.verify(token, &unverified)
    }

    /// The longest that [`Self::verify`] waits.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Whether tokens can be verified, for the readiness of the node. An issuer without keys does not
    /// make a node useless for the others.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let health = |issuer: &Issuer| match issuer.server.as_ref().map(KeyServer::health) {
            None | Some(Health::Good) => (true, true),
            Some(Health::Stale) => (true, false),
            Some(Health::Without) => (issuer.has_secrets(), false),
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

    /// The one issuer that the token names to the letter.
    fn select(&self, token: &Token) -> Result<(&Issuer, UnverifiedToken), AuthError> {
        let unverified = UnverifiedToken::read(token.expose())?;
        let found = self.issuers.iter().find(|(name, _)| name.is_none() || *name == unverified.issuer);
        match found {
            Some((_, issuer)) => Ok((issuer, unverified)),
            None if unverified.issuer.is_none() => Err(AuthError::Malformed("the claim iss is missing")),
            None => Err(AuthError::Foreign("iss")),
        }
    }
}

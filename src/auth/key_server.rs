//! The published keys of one issuer: fetched at an interval, kept while the key server is down, and fetched
//! again when a token names an unknown key.
//!
//! One task fetches, so at most one request is in progress, however many tokens wait for it. Open sessions
//! hold an identity instead of a key, so nothing here affects them.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::alg::Alg;
use super::fetch::{FetchError, Fetcher, KeyServerUrl};
use super::jwks::{Jwks, JwksError, KeyError, PublicKey};
use crate::backoff::{Backoff, jitter};
use crate::metrics::{IssuerLabels, Metrics};

/// Share of the interval that is random, so that nodes that started together do not fetch together.
const INTERVAL_JITTER: f64 = 0.1;

/// Limits of keys that come from key servers.
#[derive(Clone, Copy, Debug)]
pub struct KeyLimits {
    /// Longest time from one fetch to the next; up to a tenth less, at random.
    pub interval: Duration,
    /// Longest time for one request, including the response.
    pub fetch_timeout: Duration,
    /// Longest response, in bytes.
    pub bytes_max: usize,
    /// Shortest time between the end of a request and the next request for an unknown key.
    pub cooldown: Duration,
    /// Longest time that a handshake or a refresh waits for keys. After it the client must try again.
    pub wait: Duration,
    /// Tokens that may wait at the same time. The clients of further tokens must try again without waiting.
    pub waiting_max: usize,
    /// Longest use of keys after the last successful fetch, because the issuer may have withdrawn one since
    /// then.
    pub stale_max: Duration,
    /// Delay of the first retry after a failed fetch. Each further failure doubles the delay.
    pub retry_first: Duration,
    /// Longest delay of a retry.
    pub retry_max: Duration,
}

/// Keys in memory and the outcome of the last request.
#[derive(Debug, Default)]
struct State {
    keys: Arc<[PublicKey]>,
    /// Time of the last successful request.
    fetched_at: Option<Instant>,
    /// Number of finished requests, successful or failed.
    ended: u64,
    ended_at: Option<Instant>,
    /// Error of the last request, if it failed.
    failing: Option<FetchError>,
}

/// Reason for which no key was found for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyLookupError {
    /// The issuer publishes no key with this name and algorithm.
    Unknown,
    /// The token names no key, and the issuer publishes several for its algorithm.
    Ambiguous,
    /// The key server cannot be asked now.
    Unavailable,
}

/// Availability of an issuer's published keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyHealth {
    /// The last request succeeded.
    Fresh,
    /// The last request failed, and earlier keys are used.
    Stale,
    /// No usable keys are in memory.
    Missing,
}

/// Published keys of one issuer, and the task that fetches them.
pub(super) struct KeyServer {
    labels: IssuerLabels,
    url: KeyServerUrl,
    fetcher: Fetcher,
    limits: KeyLimits,
    state: watch::Sender<State>,
    /// Notified when a token needs an unknown key.
    requested: Notify,
    waiting: Semaphore,
    metrics: Arc<Metrics>,
}

impl KeyServer {
    pub(super) fn new(
        issuer: &str,
        url: KeyServerUrl,
        fetcher: Fetcher,
        limits: KeyLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            labels: IssuerLabels { issuer: issuer.to_owned() },
            url,
            fetcher,
            limits,
            state: watch::Sender::default(),
            requested: Notify::new(),
            waiting: Semaphore::new(limits.waiting_max),
            metrics,
        }
    }

    /// Finds the key for a token in memory.
    pub(super) fn find(&self, alg: Alg, kid: Option<&str>) -> Result<PublicKey, KeyLookupError> {
        let state = self.state.borrow();
        if !self.has_fresh_keys(&state) {
            return Err(KeyLookupError::Unavailable);
        }
        let mut of_alg = state.keys.iter().filter(|key| key.alg == alg);
        match kid {
            Some(kid) => {
                of_alg.find(|key| key.kid.as_deref() == Some(kid)).cloned().ok_or(KeyLookupError::Unknown)
            }
            None => match (of_alg.next(), of_alg.next()) {
                (Some(only), None) => Ok(only.clone()),
                (Some(_), Some(_)) => Err(KeyLookupError::Ambiguous),
                (None, _) => Err(KeyLookupError::Unknown),
            },
        }
    }

    /// Finds the key for a token. If it is not in memory, requests a fetch and waits for it, within the
    /// limits.
    pub(super) async fn find_or_fetch(
        &self,
        alg: Alg,
        kid: Option<&str>,
    ) -> Result<PublicKey, KeyLookupError> {
        match self.find(alg, kid) {
            Err(KeyLookupError::Unknown | KeyLookupError::Unavailable) => {}
            found => return found,
        }
        let mut state = self.state.subscribe();
        let (ended, is_cooling) = {
            let state = state.borrow_and_update();
            (state.ended, state.ended_at.is_some_and(|at| at.elapsed() < self.limits.cooldown))
        };
        if !is_cooling {
            let Ok(_permit) = self.waiting.try_acquire() else { return Err(KeyLookupError::Unavailable) };
            let _waiting = GaugeGuard::new(self.metrics.keys_waiting.get_or_create(&self.labels).clone());
            self.requested.notify_one();
            let finished = state.wait_for(|state| state.ended > ended);
            // The wait may also end because of its limit, or because the gateway shuts down.
            if !matches!(tokio::time::timeout(self.limits.wait, finished).await, Ok(Ok(_))) {
                return Err(KeyLookupError::Unavailable);
            }
        }
        // A failing key server cannot prove that the key does not exist.
        match self.find(alg, kid) {
            Err(KeyLookupError::Unknown) if self.state.borrow().failing.is_some() => {
                Err(KeyLookupError::Unavailable)
            }
            found => found,
        }
    }

    pub(super) fn health(&self) -> KeyHealth {
        let state = self.state.borrow();
        match (&state.failing, self.has_fresh_keys(&state)) {
            (_, false) => KeyHealth::Missing,
            (Some(_), true) => KeyHealth::Stale,
            (None, true) => KeyHealth::Fresh,
        }
    }

    fn has_fresh_keys(&self, state: &State) -> bool {
        state.fetched_at.is_some_and(|at| at.elapsed() <= self.limits.stale_max)
    }

    /// Fetches now, then at the interval or on request, for ever.
    pub(super) async fn run(&self) {
        let mut backoff = Backoff::new(self.limits.retry_first, self.limits.retry_max);
        loop {
            let result = self.fetch().await;
            let pause = if result.is_ok() {
                backoff.reset();
                jitter(self.limits.interval, INTERVAL_JITTER)
            } else {
                backoff.next()
            };
            self.record(result);
            let ended = Instant::now();
            // A token that arrived during the request waited for this request. Its notification is already
            // served and must not cause another request, so it is consumed here.
            let requested = self.requested.notified();
            tokio::pin!(requested);
            if requested.as_mut().enable() {
                requested.set(self.requested.notified());
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = requested => tokio::time::sleep_until(ended + self.limits.cooldown).await,
            }
        }
    }

    async fn fetch(&self) -> Result<Jwks, FetchError> {
        let document = self.fetcher.get(&self.url).await?;
        // The check of a long RSA key takes longer than a thread of the runtime may be blocked.
        let parsed = tokio::task::spawn_blocking(move || Jwks::parse(&document)).await;
        let jwks = parsed.unwrap_or(Err(JwksError::NotAKeySet))?;
        // An empty key set counts as a fault of the server, so the keys from before remain in use.
        if jwks.keys.is_empty() {
            return Err(FetchError::NoKeys(jwks.skipped.first().map(|(_, error)| *error)));
        }
        Ok(jwks)
    }

    fn record(&self, result: Result<Jwks, FetchError>) {
        let now = Instant::now();
        self.metrics.key_fetches.get_or_create(&self.labels).inc();
        self.metrics.keys_failing.get_or_create(&self.labels).set(i64::from(result.is_err()));
        let issuer = &self.labels.issuer;
        self.state.send_modify(|state| {
            state.ended += 1;
            state.ended_at = Some(now);
            match result {
                Ok(jwks) => {
                    if have_changed(&jwks.keys, &state.keys) {
                        log_keys(issuer, &jwks);
                    } else if state.failing.is_some() {
                        tracing::info!(issuer, "key server recovered");
                    }
                    state.keys = jwks.keys.into();
                    state.fetched_at = Some(now);
                    state.failing = None;
                }
                Err(error) => {
                    if state.failing.as_ref() != Some(&error) {
                        tracing::warn!(issuer, url = %self.url, %error, stale_max = ?self.limits.stale_max,
                            "key fetch failed, earlier keys remain in use");
                    }
                    state.failing = Some(error);
                }
            }
        });
        let count = i64::try_from(self.state.borrow().keys.len()).unwrap_or(i64::MAX);
        self.metrics.keys.get_or_create(&self.labels).set(count);
    }
}

/// Increments a gauge, and decrements it when dropped.
struct GaugeGuard(Gauge);

impl GaugeGuard {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn have_changed(new: &[PublicKey], old: &[PublicKey]) -> bool {
    let names =
        |keys: &[PublicKey]| -> Vec<_> { keys.iter().map(|key| (key.alg, key.kid.clone())).collect() };
    names(new) != names(old)
}

/// Logs the accepted keys, and each skipped key with its reason.
fn log_keys(issuer: &str, jwks: &Jwks) {
    let names: Vec<_> =
        jwks.keys.iter().map(|key| format!("{:?} {}", key.alg, key.kid.as_deref().unwrap_or("-"))).collect();
    tracing::info!(issuer, keys = ?names, "issuer keys changed");
    for (n, error) in &jwks.skipped {
        if matches!(error, KeyError::Private | KeyError::Weak(_)) {
            tracing::error!(issuer, key = n, %error, "published key skipped");
        } else {
            tracing::warn!(issuer, key = n, %error, "published key skipped");
        }
    }
}

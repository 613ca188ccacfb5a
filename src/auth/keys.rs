//! The keys of one issuer that are published by its key server: fetched now and then, kept while the
//! server is away, and fetched anew when a token names one that is not known.
//!
//! One task fetches, so there is never more than one request under way, whoever waits for it. Who is
//! connected already is not concerned by anything that happens here.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

use super::alg::Alg;
use super::fetch::{FetchError, Fetcher, KeyServerUrl};
use super::jwks::{Jwks, KeyError, PublicKey};
use crate::backoff::{Backoff, jitter};
use crate::metrics::{IssuerLabels, Metrics};

/// Share of the interval that is random, so that nodes that started together do not fetch together.
const INTERVAL_JITTER: f64 = 0.1;

/// Limits of keys that come from key servers.
#[derive(Clone, Copy, Debug)]
pub struct KeyLimits {
    /// Longest time from one fetch to the next; up to a tenth less, at random.
    pub interval: Duration,
    /// One request may take so long, answer and all.
    pub fetch_timeout: Duration,
    /// Longest answer, in bytes.
    pub bytes_max: usize,
    /// A token with an unknown key makes a request only so long after the last one ended.
    pub cooldown: Duration,
    /// A handshake or a refresh waits so long for the keys; then the client is asked to try again.
    pub wait: Duration,
    /// So many wait at once; others are asked to try again without waiting.
    pub waiting_max: usize,
    /// Keys are used for so long after they were last fetched: an issuer may have withdrawn one since.
    pub stale_max: Duration,
    /// After a failure the next try comes so soon, and then after twice as long each time,
    pub retry_first: Duration,
    /// up to this.
    pub retry_max: Duration,
}

/// What is known of a key server.
#[derive(Debug, Default)]
struct State {
    keys: Arc<[PublicKey]>,
    /// When `keys` came.
    fetched_at: Option<Instant>,
    /// Requests that ended, well or not.
    ended: u64,
    ended_at: Option<Instant>,
    /// Why the last one failed.
    failing: Option<FetchError>,
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The issuer publishes none of this name and algorithm.
    Unknown,
    /// The token names none, and there are several of its algorithm.
    Unnamed,
    /// It can't be told now.
    Unavailable,
}

/// How a key server does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// The last request brought keys.
    Good,
    /// Keys from before are used.
    Stale,
    /// There are no keys that can be used.
    Without,
}

/// See the module's documentation.
pub(super) struct KeyServer {
    labels: IssuerLabels,
    url: KeyServerUrl,
    fetcher: Fetcher,
    limits: KeyLimits,
    state: watch::Sender<State>,
    asked: Notify,
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
            asked: Notify::new(),
            waiting: Semaphore::new(limits.waiting_max),
            metrics,
        }
    }

    /// The key for a token, from memory.
    pub(super) fn find(&self, alg: Alg, kid: Option<&str>) -> Result<PublicKey, NoKey> {
        let state = self.state.borrow();
        if !self.has_fresh_keys(&state) {
            return Err(NoKey::Unavailable);
        }
        let mut of_alg = state.keys.iter().filter(|key| key.alg == alg);
        match kid {
            Some(kid) => of_alg.find(|key| key.kid.as_deref() == Some(kid)).cloned().ok_or(NoKey::Unknown),
            None => match (of_alg.next(), of_alg.next()) {
                (Some(only), None) => Ok(only.clone()),
                (Some(_), Some(_)) => Err(NoKey::Unnamed),
                (None, _) => Err(NoKey::Unknown),
            },
        }
    }

    /// The key for a token; asks the key server for one that is not known, within the limits.
    pub(super) async fn find_or_fetch(&self, alg: Alg, kid: Option<&str>) -> Result<PublicKey, NoKey> {
        match self.find(alg, kid) {
            Err(NoKey::Unknown | NoKey::Unavailable) => {}
            found => return found,
        }
        let mut state = self.state.subscribe();
        let (ended, is_cooling) = {
            let state = state.borrow_and_update();
            (state.ended, state.ended_at.is_some_and(|at| at.elapsed() < self.limits.cooldown))
        };
        if !is_cooling {
            let Ok(_place) = self.waiting.try_acquire() else { return Err(NoKey::Unavailable) };
            let _counted = Counted::new(self.metrics.keys_waiting.get_or_create(&self.labels).clone());
            self.asked.notify_one();
            let answered = state.wait_for(|state| state.ended > ended);
            // Neither too late nor ended for good is an answer.
            if !matches!(tokio::time::timeout(self.limits.wait, answered).await, Ok(Ok(_))) {
                return Err(NoKey::Unavailable);
            }
        }
        // A server that fails can't say that it knows no such key.
        match self.find(alg, kid) {
            Err(NoKey::Unknown) if self.state.borrow().failing.is_some() => Err(NoKey::Unavailable),
            found => found,
        }
    }

    pub(super) fn health(&self) -> Health {
        let state = self.state.borrow();
        match (&state.failing, self.has_fresh_keys(&state)) {
            (_, false) => Health::Without,
            (Some(_), true) => Health::Stale,
            (None, true) => Health::Good,
        }
    }

    fn has_fresh_keys(&self, state: &State) -> bool {
        state.fetched_at.is_some_and(|at| at.elapsed() <= self.limits.stale_max)
    }

    /// Fetches now, then at the interval, or when asked, for ever.
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
            self.note(result);
            let ended = Instant::now();
            // Who asked while the request was under way waited for it, and has its answer.
            let asked = self.asked.notified();
            tokio::pin!(asked);
            if asked.as_mut().enable() {
                asked.set(self.asked.notified());
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = asked => tokio::time::sleep_until(ended + self.limits.cooldown).await,
            }
        }
    }

    async fn fetch(&self) -> Result<Jwks, FetchError> {
        let jwks = Jwks::parse(&self.fetcher.get(&self.url).await?)?;
        // Nothing at all is taken for a fault of the server: keys that were good a moment ago stay.
        if jwks.keys.is_empty() { Err(FetchError::NoKeys) } else { Ok(jwks) }
    }

    fn note(&self, result: Result<Jwks, FetchError>) {
        let now = Instant::now();
        self.metrics.key_fetches.get_or_create(&self.labels).inc();
        self.metrics.keys_failing.get_or_create(&self.labels).set(i64::from(result.is_err()));
        let issuer = &self.labels.issuer;
        self.state.send_modify(|state| {
            state.ended += 1;
            state.ended_at = Some(now);
            match result {
                Ok(jwks) => {
                    if is_other(&jwks.keys, &state.keys) {
                        told_of_change(issuer, &jwks);
                    } else if state.failing.is_some() {
                        tracing::info!(issuer, "the key server is back");
                    }
                    state.keys = jwks.keys.into();
                    state.fetched_at = Some(now);
                    state.failing = None;
                }
                Err(error) => {
                    if state.failing.as_ref() != Some(&error) {
                        tracing::warn!(issuer, url = %self.url, %error,
                            "keys could not be fetched; those from before are used for at most {:?} after they came", self.limits.stale_max);
                    }
                    state.failing = Some(error);
                }
            }
        });
        let count = i64::try_from(self.state.borrow().keys.len()).unwrap_or(i64::MAX);
        self.metrics.keys.get_or_create(&self.labels).set(count);
    }
}

/// One more in a gauge for as long as this lives.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn is_other(new: &[PublicKey], old: &[PublicKey]) -> bool {
    let names =
        |keys: &[PublicKey]| -> Vec<_> { keys.iter().map(|key| (key.alg, key.kid.clone())).collect() };
    names(new) != names(old)
}

fn told_of_change(issuer: &str, jwks: &Jwks) {
    let names: Vec<_> =
        jwks.keys.iter().map(|key| format!("{:?} {}", key.alg, key.kid.as_deref().unwrap_or("-"))).collect();
    tracing::info!(issuer, keys = ?names, "the issuer's keys");
    for (n, error) in &jwks.passed_over {
        if *error == KeyError::Private {
            tracing::error!(issuer, key = n, %error, "a published key is passed over");
        } else {
            tracing::warn!(issuer, key = n, %error, "a published key is passed over");
        }
    }
}

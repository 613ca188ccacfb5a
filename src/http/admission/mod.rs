//! Admission: how much of the gateway anybody may use before, and while, being connected.
//!
//! What is cheapest is asked first. A connection is counted when it is accepted (in total, and per peer),
//! a handshake when its head was read (per address, then in total), a session when its token was verified
//! (per user, per organisation, in total). Whatever is kept per address is bounded by a named number, so a
//! flood costs the same memory however many addresses it comes from. It knows no routes and reads no token.

mod address;
mod counts;
mod keyed_rate;

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::Instant;

use self::address::AddressKey;
use self::counts::{Counts, Full, Permit};
use self::keyed_rate::KeyedRateLimiter;
use crate::auth::Identity;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::rate::{Bucket, Rate};
use crate::sync::lock;

pub use address::{ForwardedHeader, Proxies, parse_network};

/// Limits of admission.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    /// New connections of one peer, unless it is a trusted proxy: each costs an `accept`, and perhaps a TLS
    /// handshake, before anything is read.
    pub arrivals_per_address: Rate,
    /// Handshakes of one address.
    pub handshakes_per_address: Rate,
    /// Handshakes of all addresses together.
    pub handshakes: Rate,
    /// Addresses whose handshakes are remembered.
    pub addresses_max: usize,
    /// Revocations that the back ends of one organisation ask for: each is read by every node.
    pub revocations_per_org: Rate,
    /// So many bits of an IPv6 address are one client.
    pub ipv6_prefix_bits: u8,
    /// Connections that are not upgraded (yet), in total.
    pub pending_max: usize,
    /// The same of one peer, unless it is a trusted proxy.
    pub pending_per_address_max: usize,
    /// Sessions, in total.
    pub sessions_max: usize,
    /// Sessions of one organisation.
    pub org_sessions_max: usize,
    /// Sessions of one user.
    pub user_sessions_max: usize,
    /// A failed handshake is answered after between a half of this and all of it; zero: at once.
    pub refusal_delay: Duration,
    /// Answers that are delayed at the same time, in total; beyond it they go out at once.
    pub delayed_max: usize,
    /// The same to one address.
    pub delayed_per_address_max: usize,
    /// Connections that are told at the same time that there are too many; beyond it they are dropped.
    pub turned_away_max: usize,
}

/// A limit that was reached. Its name is the one in metrics, its code the one in the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitExceeded {
    #[error("too many new connections from this address: wait before trying again")]
    ArrivalsPerAddress,
    #[error("too many connections of this address are waiting to be upgraded: end some, or try again")]
    PendingPerAddress,
    #[error("too many connections are waiting to be upgraded: try again")]
    Pending,
    #[error("too many handshakes from this address: wait before trying again")]
    HandshakesPerAddress,
    #[error("too many handshakes at the moment: wait before trying again")]
    Handshakes,
    #[error("this node has as many connections as it may have: try again, perhaps on another")]
    Sessions,
    #[error("this organisation has as many connections as it may have")]
    OrgSessions,
    #[error("this user has as many connections as one may have: close some")]
    UserSessions,
    #[error(
        "too many revocations of this organisation: wait, or revoke users rather than each of their sessions"
    )]
    RevocationsPerOrg,
}

impl LimitExceeded {
    /// In error bodies, and as the label of the metric.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::ArrivalsPerAddress => "arrivals_per_address",
            Self::PendingPerAddress => "pending_per_address",
            Self::Pending => "pending",
            Self::HandshakesPerAddress => "handshakes_per_address",
            Self::Handshakes => "handshakes",
            Self::Sessions => "node_connections",
            Self::OrgSessions => "org_connections",
            Self::UserSessions => "user_connections",
            Self::RevocationsPerOrg => "revocations_per_org",
        }
    }
}

/// After so long a client may ask again for what is full now: a session may have ended.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Refusals because of a limit that are told one by one in the log; of the others only how many.
const TOLD_REFUSALS: Rate = Rate::new(5, 50);

/// A user within an organisation: the hash of its `sub`, with a key of this process.
type UserKey = (OrgId, u64);

/// See the module's documentation.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    proxies: Proxies,
    pending: Arc<Counts<AddressKey>>,
    turned_away: Arc<Counts<AddressKey>>,
    delayed: Arc<Counts<AddressKey>>,
    arrivals: KeyedRateLimiter<AddressKey>,
    addresses: KeyedRateLimiter<AddressKey>,
    handshakes: Mutex<Bucket>,
    revocations: KeyedRateLimiter<OrgId>,
    orgs: Arc<Counts<OrgId>>,
    users: Arc<Counts<UserKey>>,
    user_hasher: RandomState,
    told: Mutex<(Bucket, u64)>,
    has_warned: AtomicBool,
    metrics: Arc<Metrics>,
}

/// A connection that is not upgraded yet, counted while this lives.
#[derive(Debug)]
pub(super) struct Pending(#[expect(dead_code, reason = "held, not read")] Permit<AddressKey>);

/// A place of a session, counted while this lives.
#[derive(Debug)]
pub(super) struct SessionPermit {
    _org: Permit<OrgId>,
    _user: Permit<UserKey>,
}

impl Admission {
    /// Nobody is in yet.
    #[must_use]
    pub fn new(limits: AdmissionLimits, proxies: Proxies, metrics: Arc<Metrics>) -> Self {
        let now = Instant::now();
        Self {
            pending: Counts::new(limits.pending_max, limits.pending_per_address_max),
            turned_away: Counts::new(limits.turned_away_max, limits.turned_away_max),
            delayed: Counts::new(limits.delayed_max, limits.delayed_per_address_max),
            arrivals: KeyedRateLimiter::new(limits.arrivals_per_address, limits.addresses_max),
            addresses: KeyedRateLimiter::new(limits.handshakes_per_address, limits.addresses_max),
            handshakes: Mutex::new(Bucket::full(now)),
            // Only organisations that exist, by verified tokens, get here: as many as addresses is plenty.
            revocations: KeyedRateLimiter::new(limits.revocations_per_org, limits.addresses_max),
            orgs: Counts::new(limits.sessions_max, limits.org_sessions_max),
            users: Counts::new(usize::MAX, limits.user_sessions_max),
            user_hasher: RandomState::new(),
            told: Mutex::new((Bucket::full(now), 0)),
            has_warned: AtomicBool::new(false),
            limits,
            proxies,
            metrics,
        }
    }

    /// A connection came. Behind a proxy everybody has its address, so a trusted one counts in the total alone.
    pub(super) fn enter(&self, peer: IpAddr) -> Result<Pending, LimitExceeded> {
        let peer = peer.to_canonical();
        let key = (!self.proxies.trusts(peer)).then(|| self.key(peer));
        if let Some(key) = key
            && self.arrivals.take(key, Instant::now()).is_err()
        {
            return Err(self.reached(LimitExceeded::ArrivalsPerAddress));
        }
        let held = self.pending.take(key).map_err(|full| match full {
            Full::Total => self.reached(LimitExceeded::Pending),
            Full::Each => self.reached(LimitExceeded::PendingPerAddress),
        })?;
        Ok(Pending(held))
    }

    /// A place to tell a connection that there are too many, if there is one.
    pub(super) fn turn_away(&self) -> Option<Pending> {
        self.turned_away.take(None).ok().map(Pending)
    }

    /// Whose request it is.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let client = self.proxies.client(peer, headers);
        if self.proxies.trusts(client) && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                address = %client,
                "a trusted proxy names no client that can be read, so its clients share one address's limits: \
                 compare WARDEN_FORWARDED_HEADER with the header that it sets (said once)"
            );
        }
        client
    }

    /// A handshake came. The error says when to come again.
    pub(super) fn handshake(&self, client: IpAddr) -> Result<(), (LimitExceeded, Duration)> {
        self.request(client)?;
        // Asked again when the seat is taken; here it saves the work in between.
        if self.orgs.is_full() {
            return Err((self.reached(LimitExceeded::Sessions), FULL_RETRY_AFTER));
        }
        Ok(())
    }

    /// A request came that will take no seat: it counts as a handshake does.
    pub(super) fn request(&self, client: IpAddr) -> Result<(), (LimitExceeded, Duration)> {
        let now = Instant::now();
        // Its own bucket first: one address alone must not empty the one of all.
        self.addresses
            .take(self.key(client), now)
            .map_err(|wait| (self.reached(LimitExceeded::HandshakesPerAddress), wait))?;
        lock(&self.handshakes)
            .take(self.limits.handshakes, 1, now)
            .map_err(|wait| (self.reached(LimitExceeded::Handshakes), wait))
    }

    /// A back end of this organisation revokes.
    pub(super) fn revocation(&self, org: OrgId) -> Result<(), (LimitExceeded, Duration)> {
        self.revocations
            .take(org, Instant::now())
            .map_err(|wait| (self.reached(LimitExceeded::RevocationsPerOrg), wait))
    }

    /// A place for a session of this identity.
    pub(super) fn seat(&self, identity: &Identity) -> Result<SessionPermit, (LimitExceeded, Duration)> {
        let reached = |reached| (self.reached(reached), FULL_RETRY_AFTER);
        let user = (identity.org, self.user_hasher.hash_one(&identity.subject));
        let _user = self.users.take(Some(user)).map_err(|_| reached(LimitExceeded::UserSessions))?;
        let _org = self.orgs.take(Some(identity.org)).map_err(|full| {
            reached(match full {
                Full::Total => LimitExceeded::Sessions,
                Full::Each => LimitExceeded::OrgSessions,
            })
        })?;
        Ok(SessionPermit { _org, _user })
    }

    /// Holds up the answer to a failed handshake, so that a client in a loop costs little: for a while, if
    /// there is a place to wait.
    pub(super) async fn delay(&self, client: IpAddr) {
        if self.limits.refusal_delay.is_zero() {
            return;
        }
        let Ok(_held) = self.delayed.take(Some(self.key(client))) else { return };
        self.metrics.refusals_delayed.inc();
        tokio::time::sleep(with_jitter(self.limits.refusal_delay)).await;
    }

    /// Whether to tell in the log of a refusal because of a limit, and how many were not told before it.
    pub(super) fn tells(&self) -> Option<u64> {
        let mut told = lock(&self.told);
        if told.0.take(TOLD_REFUSALS, 1, Instant::now()).is_ok() {
            return Some(std::mem::take(&mut told.1));
        }
        told.1 += 1;
        None
    }

    /// Brings the gauges up to date.
    pub(super) fn observe(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.connections_pending.set(gauge(self.pending.total()));
        self.metrics.addresses_tracked.set(gauge(self.addresses.len()));
    }

    fn key(&self, address: IpAddr) -> AddressKey {
        AddressKey::new(address, self.limits.ipv6_prefix_bits)
    }

    fn reached(&self, reached: LimitExceeded) -> LimitExceeded {
        self.metrics.limit_reached(reached.code());
        reached
    }
}

/// Between a half of it and all.
fn with_jitter(max: Duration) -> Duration {
    max.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_lie_between_a_half_and_all_and_differ() {
        let max = Duration::from_secs(1);
        let mut delays: Vec<_> = (0..50).map(|_| with_jitter(max)).collect();
        assert!(delays.iter().all(|delay| (max / 2..=max).contains(delay)), "{delays:?}");
        delays.dedup();
        assert!(delays.len() > 40, "{delays:?}");
    }
}

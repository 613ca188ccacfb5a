//! Admission: limits by address, user and organisation, before and during a connection.
//!
//! The cheapest check comes first. A connection is counted when it is accepted (in total and by peer), a
//! handshake when its head has been read (by address, then in total), and a session when its token has been
//! verified (by user, by organisation, in total). State that is kept by address is bounded by a named limit,
//! so a flood costs the same memory from however many addresses it comes. This module knows no routes and
//! reads no tokens.

mod address;
mod counts;
mod keyed_rate;
mod known;

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
use self::known::KnownAddresses;
use crate::auth::Identity;
use crate::backoff::jitter;
use crate::metrics::Metrics;
use crate::org::OrgId;
use crate::rate::{Bucket, Rate};
use crate::sync::lock;

pub(crate) use address::HOPS_MAX;
pub use address::{ForwardedHeader, Proxies, parse_network};
pub(crate) use known::KNOWN_TIME;

/// Limits of admission.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionLimits {
    /// New connections of one peer, unless it is a trusted proxy. Each costs an `accept`, and perhaps a TLS
    /// handshake, before anything is read.
    pub connection_rate_per_address: Rate,
    /// Handshakes of one address.
    pub handshakes_per_address: Rate,
    /// Handshakes of all addresses together.
    pub handshakes: Rate,
    /// Addresses whose rates are remembered.
    pub addresses_max: usize,
    /// Revocations that the back ends of one organisation may request. Every node reads each of them.
    pub revocations_per_org: Rate,
    /// Events that the back ends of one organisation may publish.
    pub publishes_per_org: Rate,
    /// Requests for rows, and questions about cursors, of one user.
    pub reads_per_user: Rate,
    /// Requests for rows, and questions about cursors, of one organisation.
    pub reads_per_org: Rate,
    /// Users, and organisations, whose rates of reading are remembered.
    pub readers_max: usize,
    /// Bits of an IPv6 address that identify one client.
    pub ipv6_prefix_bits: u8,
    /// Connections that are not upgraded, in total.
    pub pending_max: usize,
    /// Connections of one peer that are not upgraded, unless it is a trusted proxy.
    pub pending_per_address_max: usize,
    /// Sessions of the node.
    pub sessions_max: usize,
    /// Sessions of one organisation.
    pub org_sessions_max: usize,
    /// Sessions of one user.
    pub user_sessions_max: usize,
    /// Longest delay of the answer to a failed handshake. The shortest is half of it; zero disables the
    /// delay.
    pub rejection_delay: Duration,
    /// Answers that are delayed at the same time, in total. Others are sent without delay.
    pub delayed_max: usize,
    /// Answers to one address that are delayed at the same time.
    pub delayed_per_address_max: usize,
    /// Connections beyond a limit that are answered at the same time. Others are dropped without an answer.
    pub rejected_max: usize,
}

/// Limit that a request or connection exceeds. Metrics and error bodies name it by its [code](Self::code).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LimitExceeded {
    #[error("connection rate limit of this address exceeded: retry later")]
    ConnectionRatePerAddress,
    #[error("too many connections from this address wait for their upgrade: close some, or retry later")]
    PendingPerAddress,
    #[error("too many connections wait for their upgrade: retry later")]
    Pending,
    #[error("handshake rate limit of this address exceeded: retry later")]
    HandshakesPerAddress,
    #[error("handshake rate limit of this node exceeded: retry later")]
    Handshakes,
    #[error("connection limit of this node reached: retry later, or on another node")]
    Sessions,
    #[error("connection limit of this organisation reached")]
    OrgSessions,
    #[error("connection limit of this user reached: close some connections")]
    UserSessions,
    #[error(
        "revocation rate limit of this organisation exceeded: retry later, or revoke users instead of single sessions"
    )]
    RevocationsPerOrg,
    #[error("publishing rate limit of this organisation exceeded: retry later")]
    PublishesPerOrg,
    #[error("read rate limit of this user exceeded: retry later, and follow the stream instead of polling")]
    ReadsPerUser,
    #[error("read rate limit of this organisation exceeded: retry later")]
    ReadsPerOrg,
}

impl LimitExceeded {
    /// Name of the limit in error bodies and as the label of metrics.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::ConnectionRatePerAddress => "arrivals_per_address",
            Self::PendingPerAddress => "pending_per_address",
            Self::Pending => "pending",
            Self::HandshakesPerAddress => "handshakes_per_address",
            Self::Handshakes => "handshakes",
            Self::Sessions => "node_connections",
            Self::OrgSessions => "org_connections",
            Self::UserSessions => "user_connections",
            Self::RevocationsPerOrg => "revocations_per_org",
            Self::PublishesPerOrg => "publishes_per_org",
            Self::ReadsPerUser => "reads_per_user",
            Self::ReadsPerOrg => "reads_per_org",
        }
    }
}

/// Retry-After for a limit on open sessions, one of which may have ended by then.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Share of a delayed answer's wait that is random.
const DELAY_JITTER: f64 = 0.5;

/// Rejections because of a limit that are logged one by one. Of the others only the number is logged.
pub(crate) const LOGGED_REJECTIONS: Rate = Rate::new(5, 50);

/// User within an organisation, by a hash of `sub` with a key of this process.
type UserKey = (OrgId, u64);

/// Counters and rate limiters of one listener.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    proxies: Proxies,
    pending: Arc<Counts<AddressKey>>,
    rejected: Arc<Counts<AddressKey>>,
    delayed: Arc<Counts<AddressKey>>,
    connection_rate: KeyedRateLimiter<AddressKey>,
    handshake_rate: KeyedRateLimiter<AddressKey>,
    total_handshake_rate: Mutex<Bucket>,
    known: KnownAddresses,
    revocation_rate: KeyedRateLimiter<OrgId>,
    publish_rate: KeyedRateLimiter<OrgId>,
    user_read_rate: KeyedRateLimiter<UserKey>,
    org_read_rate: KeyedRateLimiter<OrgId>,
    orgs: Arc<Counts<OrgId>>,
    users: Arc<Counts<UserKey>>,
    user_hasher: RandomState,
    rejection_log: Mutex<RejectionLog>,
    has_warned: AtomicBool,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct RejectionLog {
    bucket: Bucket,
    /// Rejections since the last logged one.
    unlogged: u64,
}

/// A connection without an upgrade, counted while this exists.
#[derive(Debug)]
pub(super) struct Pending(#[expect(dead_code, reason = "held, not read")] Permit<AddressKey>);

/// Permission for one session, counted while this exists.
#[derive(Debug)]
pub(super) struct SessionPermit {
    _org: Permit<OrgId>,
    _user: Permit<UserKey>,
}

impl Admission {
    /// Admission with every counter at zero.
    #[must_use]
    pub fn new(limits: AdmissionLimits, proxies: Proxies, metrics: Arc<Metrics>) -> Self {
        let now = Instant::now();
        Self {
            pending: Counts::new(limits.pending_max, limits.pending_per_address_max),
            rejected: Counts::new(limits.rejected_max, limits.rejected_max),
            delayed: Counts::new(limits.delayed_max, limits.delayed_per_address_max),
            connection_rate: KeyedRateLimiter::new(limits.connection_rate_per_address, limits.addresses_max),
            handshake_rate: KeyedRateLimiter::new(limits.handshakes_per_address, limits.addresses_max),
            total_handshake_rate: Mutex::new(Bucket::full(now)),
            known: KnownAddresses::new(limits.addresses_max, now),
            // Organisations are counted after their token was verified, so they are far fewer than addresses.
            revocation_rate: KeyedRateLimiter::new(limits.revocations_per_org, limits.addresses_max),
            publish_rate: KeyedRateLimiter::new(limits.publishes_per_org, limits.addresses_max),
            user_read_rate: KeyedRateLimiter::new(limits.reads_per_user, limits.readers_max),
            org_read_rate: KeyedRateLimiter::new(limits.reads_per_org, limits.readers_max),
            orgs: Counts::new(limits.sessions_max, limits.org_sessions_max),
            users: Counts::new(usize::MAX, limits.user_sessions_max),
            user_hasher: RandomState::new(),
            rejection_log: Mutex::new(RejectionLog { bucket: Bucket::full(now), unlogged: 0 }),
            has_warned: AtomicBool::new(false),
            limits,
            proxies,
            metrics,
        }
    }

    /// Admits a new connection.
    ///
    /// A trusted proxy counts in the total only, because all of its clients have its address.
    pub(super) fn enter(&self, peer: IpAddr) -> Result<Pending, LimitExceeded> {
        let peer = peer.to_canonical();
        let key = (!self.proxies.trusts(peer)).then(|| self.key(peer));
        if let Some(key) = key
            && self.connection_rate.take(key, Instant::now()).is_err()
        {
            return Err(self.exceeded(LimitExceeded::ConnectionRatePerAddress));
        }
        let permit = self.pending.take(key).map_err(|full| match full {
            Full::Total => self.exceeded(LimitExceeded::Pending),
            Full::Each => self.exceeded(LimitExceeded::PendingPerAddress),
        })?;
        Ok(Pending(permit))
    }

    /// Permission to answer a rejected connection. None if too many are being answered.
    pub(super) fn reject(&self) -> Option<Pending> {
        self.rejected.take(None).ok().map(Pending)
    }

    /// Address of the client that sent a request, as far as trusted proxies name it.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let client = self.proxies.client(peer, headers);
        if self.proxies.trusts(client) && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                address = %client,
                "a trusted proxy sends no readable client address, so its clients share the limits of one address: \
                 compare WARDEN_FORWARDED_HEADER with the header that the proxy sets (logged once)"
            );
        }
        client
    }

    /// Admits a handshake.
    ///
    /// # Errors
    /// The exceeded limit, and the time after which a retry may succeed.
    pub(super) fn handshake(&self, client: IpAddr) -> Result<(), (LimitExceeded, Duration)> {
        self.request(client)?;
        // `session` checks this again. Here it saves the work in between.
        if self.orgs.is_full() {
            return Err((self.exceeded(LimitExceeded::Sessions), FULL_RETRY_AFTER));
        }
        Ok(())
    }

    /// Admits a request that needs no session. It counts as a handshake.
    pub(super) fn request(&self, client: IpAddr) -> Result<(), (LimitExceeded, Duration)> {
        let (now, key) = (Instant::now(), self.key(client));
        // The address's own bucket first, so that one address cannot empty the bucket of all.
        self.handshake_rate
            .take(key, now)
            .map_err(|wait| (self.exceeded(LimitExceeded::HandshakesPerAddress), wait))?;
        // Addresses that are not known leave half of the bucket. So known ones come first, however many
        // others flood the node.
        let rate = self.limits.handshakes;
        let left = if self.known.contains(key, now) { 0 } else { rate.burst.get() / 2 };
        lock(&self.total_handshake_rate)
            .take_leaving(rate, 1, left, now)
            .map_err(|wait| (self.exceeded(LimitExceeded::Handshakes), wait))
    }

    /// Notes that a valid token came from this address. From then on it is known.
    pub(super) fn note_valid_token(&self, client: IpAddr) {
        self.known.note(self.key(client), Instant::now());
    }

    /// Admits a revocation requested by a back end of this organisation.
    pub(super) fn revocation(&self, org: OrgId) -> Result<(), (LimitExceeded, Duration)> {
        self.revocation_rate
            .take(org, Instant::now())
            .map_err(|wait| (self.exceeded(LimitExceeded::RevocationsPerOrg), wait))
    }

    /// Checks that an address has not exceeded its handshake rate, for a request that counts as a handshake
    /// only if it is rejected. A back end may publish more often than clients connect.
    pub(super) fn check_rate(&self, client: IpAddr) -> Result<(), (LimitExceeded, Duration)> {
        self.handshake_rate
            .peek(self.key(client), Instant::now())
            .map_err(|wait| (self.exceeded(LimitExceeded::HandshakesPerAddress), wait))
    }

    /// Admits this many events that a back end of this organisation publishes.
    pub(super) fn publish(&self, org: OrgId, events: usize) -> Result<(), (LimitExceeded, Duration)> {
        self.publish_rate
            .take_many(org, u32::try_from(events).unwrap_or(u32::MAX), Instant::now())
            .map_err(|wait| (self.exceeded(LimitExceeded::PublishesPerOrg), wait))
    }

    /// Admits a request for rows, or a question about a cursor. The user's own bucket comes first, so that
    /// one user cannot empty the organisation's bucket.
    pub(super) fn read(&self, identity: &Identity) -> Result<(), (LimitExceeded, Duration)> {
        let now = Instant::now();
        self.user_read_rate
            .take(self.user(identity), now)
            .map_err(|wait| (self.exceeded(LimitExceeded::ReadsPerUser), wait))?;
        self.org_read_rate
            .take(identity.org, now)
            .map_err(|wait| (self.exceeded(LimitExceeded::ReadsPerOrg), wait))
    }

    fn user(&self, identity: &Identity) -> UserKey {
        (identity.org, self.user_hasher.hash_one(&identity.subject))
    }

    /// Admits a session of this identity.
    pub(super) fn session(&self, identity: &Identity) -> Result<SessionPermit, (LimitExceeded, Duration)> {
        let exceeded = |limit| (self.exceeded(limit), FULL_RETRY_AFTER);
        let user = self.user(identity);
        let _user = self.users.take(Some(user)).map_err(|_| exceeded(LimitExceeded::UserSessions))?;
        let _org = self.orgs.take(Some(identity.org)).map_err(|full| {
            exceeded(match full {
                Full::Total => LimitExceeded::Sessions,
                Full::Each => LimitExceeded::OrgSessions,
            })
        })?;
        Ok(SessionPermit { _org, _user })
    }

    /// Delays the answer to a failed handshake, so that a client in a reconnect loop costs little.
    ///
    /// Returns at once if too many answers are delayed already.
    pub(super) async fn delay(&self, client: IpAddr) {
        if self.limits.rejection_delay.is_zero() {
            return;
        }
        let Ok(_permit) = self.delayed.take(Some(self.key(client))) else { return };
        self.metrics.rejections_delayed.inc();
        tokio::time::sleep(jitter(self.limits.rejection_delay, DELAY_JITTER)).await;
    }

    /// Permission to log a rejection because of a limit, with the number of rejections that were not logged
    /// before it.
    pub(super) fn log_allowance(&self) -> Option<u64> {
        let mut log = lock(&self.rejection_log);
        if log.bucket.take(LOGGED_REJECTIONS, 1, Instant::now()).is_ok() {
            return Some(std::mem::take(&mut log.unlogged));
        }
        log.unlogged += 1;
        None
    }

    /// Updates the gauges.
    pub(super) fn observe(&self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.connections_pending.set(gauge(self.pending.total()));
        self.metrics.addresses_tracked.set(gauge(self.handshake_rate.len()));
    }

    fn key(&self, address: IpAddr) -> AddressKey {
        AddressKey::new(address, self.limits.ipv6_prefix_bits)
    }

    /// Counts an exceeded limit.
    fn exceeded(&self, limit: LimitExceeded) -> LimitExceeded {
        self.metrics.limit_reached(limit.code());
        limit
    }
}

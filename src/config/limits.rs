//! Every limit of a gateway by name, with its default and unit.
//!
//! What can be set from outside is set in the module above; a limit that only tests change stands here too.

use std::time::Duration;

use crate::auth::KeyLimits;
use crate::control::{ReconcilerLimits, RevocationLimits};
use crate::http::{AdmissionLimits, ServeLimits};
use crate::hub::{FanoutLimits, OutboxLimits};
use crate::log::DoorbellLimits;
use crate::rate::Rate;
use crate::replay::{RecentLimits, ReplayLimits};
use crate::retention::RetentionLimits;
use crate::session::SessionLimits;
use crate::tailer::TailerLimits;

/// Every limit of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of what anybody may use.
    pub admission: AdmissionLimits,
    /// Of a connection before its upgrade.
    pub serve: ServeLimits,
    /// Of keys that come from key servers.
    pub keys: KeyLimits,
    /// Of a session.
    pub session: SessionLimits,
    /// Of what waits for one socket.
    pub outbox: OutboxLimits,
    /// Of the reader.
    pub tailer: TailerLimits,
    /// Of the doorbell.
    pub doorbell: DoorbellLimits,
    /// How long the look-up of an organisation may take, for all who wait for it.
    pub look_up_timeout: Duration,
    /// Of the recent events in memory.
    pub recent: RecentLimits,
    /// Of replays.
    pub replay: ReplayLimits,
    /// Of the log in the database.
    pub retention: RetentionLimits,
    /// Of keeping revocations in memory.
    pub revocations: RevocationLimits,
    /// Of looking for organisations that are gone without a word.
    pub reconciler: ReconcilerLimits,
    /// Of events that wait for their turn in fan-out.
    pub fanout: FanoutLimits,
    /// How the sessions of a gateway that goes down are ended.
    pub drain: DrainLimits,
    /// The files of certificate and key are looked at so often.
    pub tls_reload_interval: Duration,
    /// On shutdown sessions have so long to end before they are dropped.
    pub drain_timeout: Duration,
}

/// Sessions that are closed all at once come back all at once; so they are closed evenly over a while.
#[derive(Clone, Copy, Debug)]
pub struct DrainLimits {
    /// The last session is closed after so long at the latest.
    pub window: Duration,
    /// Few sessions are closed no more slowly than this.
    pub sessions_per_second_min: u32,
}

impl Limits {
    /// For `warden dev` and measurements, where everybody comes from one address, as few users.
    #[must_use]
    pub fn for_one_machine() -> Self {
        let mut limits = Self::default();
        let admission = &mut limits.admission;
        admission.handshakes_per_address = Rate::new(100_000, 100_000);
        admission.handshakes = admission.handshakes_per_address;
        admission.connection_rate_per_address = admission.handshakes_per_address;
        admission.pending_per_address_max = admission.pending_max;
        admission.org_sessions_max = admission.sessions_max;
        admission.user_sessions_max = admission.sessions_max;
        limits
    }

    /// Every limit of the edges under its name in metrics and answers, with its value.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, usize)> {
        let (admission, session) = (&self.admission, &self.session);
        let burst = |rate: Rate| usize::try_from(rate.burst.get()).unwrap_or(usize::MAX);
        vec![
            ("arrivals_per_address", burst(admission.connection_rate_per_address)),
            ("pending_per_address", admission.pending_per_address_max),
            ("pending", admission.pending_max),
            ("handshakes_per_address", burst(admission.handshakes_per_address)),
            ("handshakes", burst(admission.handshakes)),
            ("revocations_per_org", burst(admission.revocations_per_org)),
            ("node_connections", admission.sessions_max),
            ("org_connections", admission.org_sessions_max),
            ("user_connections", admission.user_sessions_max),
            ("addresses", admission.addresses_max),
            ("delayed", admission.delayed_max),
            ("delayed_per_address", admission.delayed_per_address_max),
            ("messages", burst(session.messages)),
            ("message_bytes", session.message_bytes_max),
            ("received_bytes", burst(session.received_bytes)),
            ("joins", session.joins_max),
        ]
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            admission: AdmissionLimits {
                connection_rate_per_address: Rate::new(100, 1000),
                // An office of 200 behind one address, with two pages each, comes back at once.
                handshakes_per_address: Rate::new(50, 500),
                handshakes: Rate::new(2000, 10_000),
                addresses_max: 64 * 1024,
                revocations_per_org: Rate::new(5, 50),
                ipv6_prefix_bits: 64,
                pending_max: 4096,
                pending_per_address_max: 256,
                sessions_max: 250_000,
                org_sessions_max: 10_000,
                user_sessions_max: 100,
                rejection_delay: Duration::from_secs(1),
                delayed_max: 512,
                delayed_per_address_max: 32,
                rejected_max: 64,
            },
            serve: ServeLimits {
                header_timeout: Duration::from_secs(10),
                headers_max: 64,
                head_bytes_max: 32 * 1024,
            },
            keys: KeyLimits {
                interval: Duration::from_mins(5),
                fetch_timeout: Duration::from_secs(5),
                bytes_max: 256 * 1024,
                cooldown: Duration::from_secs(5),
                wait: Duration::from_secs(3),
                waiting_max: 1000,
                stale_max: Duration::from_hours(24),
                retry_first: Duration::from_secs(1),
                retry_max: Duration::from_mins(1),
            },
            session: SessionLimits {
                message_bytes_max: 64 * 1024,
                // A hundred joins at once when a page comes back, and again after a hiccup.
                messages: Rate::new(20, 250),
                rejected_messages: Rate::new(20, 50),
                // Those joins may carry cursors of up to 32 KiB.
                received_bytes: Rate::new(256 * 1024, 4 * 1024 * 1024),
                joins_max: 100,
                idle_timeout: Duration::from_secs(60),
                expiry_grace: Duration::from_secs(5),
                refreshes_max: 128,
                close_timeout: Duration::from_secs(5),
                send_buffer_bytes: 128 * 1024,
            },
            outbox: OutboxLimits { queue_bytes_max: 4 * 1024 * 1024, queue_chunks_max: 4096 },
            tailer: TailerLimits::default(),
            doorbell: DoorbellLimits {
                watchdog_interval: Duration::from_secs(15),
                watchdog_timeout: Duration::from_secs(5),
            },
            look_up_timeout: Duration::from_secs(5),
            recent: RecentLimits { bytes_max: 64 * 1024 * 1024, org_bytes_max: 8 * 1024 * 1024 },
            replay: ReplayLimits {
                concurrent_reads_max: 2,
                waiting_max: 20_000,
                events_max: 50_000,
                bytes_max: 32 * 1024 * 1024,
                memory_bytes_max: 128 * 1024 * 1024,
                tailer_timeout: Duration::from_secs(60),
                wait_timeout: Duration::from_secs(60),
                log_read_timeout: Duration::from_secs(20),
                send_timeout: Duration::from_secs(60),
            },
            retention: RetentionLimits {
                keep: Duration::from_hours(24),
                bytes_max: 8 * 1024 * 1024 * 1024,
                interval: Duration::from_secs(30),
            },
            revocations: RevocationLimits {
                interval: Duration::from_secs(30),
                timeout: Duration::from_secs(10),
                retry_first: Duration::from_millis(50),
                retry_max: Duration::from_secs(2),
            },
            reconciler: ReconcilerLimits {
                interval: Duration::from_secs(30),
                timeout: Duration::from_secs(10),
                retry_first: Duration::from_millis(50),
                retry_max: Duration::from_secs(2),
            },
            fanout: FanoutLimits { org_bytes_max: 64 * 1024 * 1024, bytes_max: 256 * 1024 * 1024 },
            drain: DrainLimits { window: Duration::from_secs(5), sessions_per_second_min: 200 },
            tls_reload_interval: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

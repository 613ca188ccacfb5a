//! Limits of a gateway, with their defaults.
//!
//! The flags in the modules beside this one change some of them; tests change others. [`table`] lists all of
//! them, and the constants elsewhere, for `docs/limits.md`.

pub mod memory;
pub mod table;

use std::time::Duration;

use crate::auth::KeyLimits;
use crate::control::{CursorKeyLimits, ReconcilerLimits, RevocationLimits};
use crate::http::{AdmissionLimits, ServeLimits};
use crate::hub::{self, FanoutLimits, OutboxLimits};
use crate::log::DoorbellLimits;
use crate::publish::PublishLimits;
use crate::rate::Rate;
use crate::reading::ReadingLimits;
use crate::replay::{RecentLimits, ReplayLimits};
use crate::retention::RetentionLimits;
use crate::session::{self, SessionLimits};
use crate::tailer::TailerLimits;
use crate::watch_check::WatchCheckLimits;

/// All configurable limits of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory of everything above sessions. [`memory`] divides it.
    pub memory_bytes_max: usize,
    /// Publishing through HTTP.
    pub publish: PublishLimits,
    /// Connections, handshakes and sessions by address, organisation and user.
    pub admission: AdmissionLimits,
    /// A connection before its upgrade.
    pub serve: ServeLimits,
    /// Longest token that is parsed, in bytes.
    pub token_bytes_max: usize,
    /// Keys of token issuers.
    pub keys: KeyLimits,
    /// One session.
    pub session: SessionLimits,
    /// Bytes queued for one socket.
    pub outbox: OutboxLimits,
    /// The task that follows the log.
    pub tailer: TailerLimits,
    /// The connection that listens for notifications.
    pub doorbell: DoorbellLimits,
    /// Longest lookup of an organisation, for all requests that wait for it.
    pub look_up_timeout: Duration,
    /// Recent events in memory.
    pub recent: RecentLimits,
    /// Replays of missed events.
    pub replay: ReplayLimits,
    /// Reading rows.
    pub reading: ReadingLimits,
    /// The event log in the database.
    pub retention: RetentionLimits,
    /// Loading the keys of cursors.
    pub cursor_keys: CursorKeyLimits,
    /// Loading revocations.
    pub revocations: RevocationLimits,
    /// The search for organisations that were deleted without a log event.
    pub reconciler: ReconcilerLimits,
    /// The check of the watches.
    pub watch_check: WatchCheckLimits,
    /// Events queued in fan-out.
    pub fanout: FanoutLimits,
    /// Closing of sessions on shutdown.
    pub drain: DrainLimits,
    /// Interval at which the files of certificate and key are read again.
    pub tls_reload_interval: Duration,
    /// Time after which sessions that have not ended on shutdown are dropped.
    pub drain_timeout: Duration,
}

/// Limits of draining. Sessions that are closed at the same moment would reconnect at the same moment, so
/// they are closed evenly over a window.
#[derive(Clone, Copy, Debug)]
pub struct DrainLimits {
    /// Time after which the last session is closed.
    pub window: Duration,
    /// Lowest rate at which sessions are closed. Few sessions take less than the window.
    pub sessions_per_second_min: u32,
}

impl Limits {
    /// Limits for `warden dev` and for measurements, where all connections come from one address and few
    /// users.
    #[must_use]
    pub fn for_one_machine() -> Self {
        let mut limits = Self::default();
        let admission = &mut limits.admission;
        admission.handshakes_per_address = Rate::new(100_000, 100_000);
        admission.handshakes = admission.handshakes_per_address;
        admission.connection_rate_per_address = admission.handshakes_per_address;
        admission.pending_max = 4096;
        admission.pending_per_address_max = admission.pending_max;
        admission.reads_per_user = admission.handshakes_per_address;
        admission.reads_per_org = admission.handshakes_per_address;
        admission.publishes_per_org = admission.handshakes_per_address;
        admission.org_sessions_max = admission.sessions_max;
        admission.user_sessions_max = admission.sessions_max;
        limits.session.messages_per_org = Rate::new(1_000_000, 1_000_000);
        limits
    }

    /// Limits that clients can exceed, by their name in metrics and error bodies.
    #[must_use]
    pub fn by_metric_label(&self) -> Vec<(&'static str, usize)> {
        let (admission, session) = (&self.admission, &self.session);
        let burst = |rate: Rate| usize::try_from(rate.burst.get()).unwrap_or(usize::MAX);
        vec![
            ("arrivals_per_address", burst(admission.connection_rate_per_address)),
            ("pending_per_address", admission.pending_per_address_max),
            ("pending", admission.pending_max),
            ("handshakes_per_address", burst(admission.handshakes_per_address)),
            ("handshakes", burst(admission.handshakes)),
            ("revocations_per_org", burst(admission.revocations_per_org)),
            ("publishes_per_org", burst(admission.publishes_per_org)),
            ("reads_per_user", burst(admission.reads_per_user)),
            ("reads_per_org", burst(admission.reads_per_org)),
            ("node_connections", admission.sessions_max),
            ("org_connections", admission.org_sessions_max),
            ("user_connections", admission.user_sessions_max),
            ("addresses", admission.addresses_max),
            ("delayed", admission.delayed_max),
            ("delayed_per_address", admission.delayed_per_address_max),
            ("messages", burst(session.messages)),
            ("message_bytes", session.message_bytes_max),
            ("messages_per_org", burst(session.messages_per_org)),
            ("received_bytes", burst(session.received_bytes)),
            ("joins", session.joins_max),
            ("snapshots", session.snapshots_max),
            ("snapshots_per_org", self.reading.snapshots_per_org_max),
            ("resumes_per_org", self.replay.resumes_max / 2),
            ("questions", hub::SESSION_QUESTIONS_MAX),
            ("filters_per_socket", session::SESSION_FILTERS_MAX),
            ("filters_per_org", hub::ORG_FILTERS_MAX),
            ("scanned_filters_per_org", hub::ORG_SCANNED_FILTERS_MAX),
        ]
    }
}

impl Default for Limits {
    fn default() -> Self {
        let mut limits = Self {
            memory_bytes_max: 0,
            publish: Self::default_publish(),
            admission: Self::default_admission(),
            serve: ServeLimits {
                header_timeout: Duration::from_secs(10),
                headers_max: 64,
                head_bytes_max: 32 * 1024,
            },
            token_bytes_max: 8 * 1024,
            keys: Self::default_keys(),
            session: Self::default_session(),
            outbox: OutboxLimits {
                queue_bytes_max: 4 * 1024 * 1024,
                queue_chunks_max: 4096,
                memory_bytes_max: 0,
            },
            tailer: Self::default_tailer(),
            doorbell: DoorbellLimits {
                watchdog_interval: Duration::from_secs(15),
                watchdog_timeout: Duration::from_secs(5),
            },
            look_up_timeout: Duration::from_secs(5),
            recent: RecentLimits { bytes_max: 0, org_bytes_max: 0 },
            replay: Self::default_replay(),
            reading: Self::default_reading(),
            retention: RetentionLimits {
                keep: Duration::from_hours(24),
                bytes_max: 8 * 1024 * 1024 * 1024,
                org_bytes_max: 2 * 1024 * 1024 * 1024,
                interval: Duration::from_secs(30),
            },
            cursor_keys: CursorKeyLimits {
                interval: Duration::from_mins(1),
                wake_interval: Duration::from_secs(1),
                timeout: Duration::from_secs(10),
                retry_first: Duration::from_secs(1),
                retry_max: Duration::from_secs(30),
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
            watch_check: WatchCheckLimits {
                interval: Duration::from_secs(60),
                timeout: Duration::from_secs(10),
            },
            fanout: FanoutLimits { org_bytes_max: 0, bytes_max: 0 },
            drain: DrainLimits { window: Duration::from_secs(5), sessions_per_second_min: 200 },
            tls_reload_interval: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(20),
        };
        limits.share_memory(memory::BUDGET_DEFAULT);
        limits
    }
}

/// Defaults of the larger groups. Limits of memory are zero here: [`memory`] sets them.
impl Limits {
    fn default_admission() -> AdmissionLimits {
        AdmissionLimits {
            connection_rate_per_address: Rate::new(100, 1000),
            // An office of 200 people behind one address, with two pages each, reconnects at once.
            handshakes_per_address: Rate::new(50, 500),
            handshakes: Rate::new(2000, 10_000),
            addresses_max: 64 * 1024,
            revocations_per_org: Rate::new(5, 50),
            publishes_per_org: Rate::new(1000, 10_000),
            // A page that loads five tables, each in a few requests, and an office that does so at once.
            reads_per_user: Rate::new(20, 200),
            reads_per_org: Rate::new(100, 1000),
            readers_max: 4 * 1024,
            ipv6_prefix_bits: 64,
            pending_max: 0,
            pending_per_address_max: 256,
            sessions_max: 250_000,
            org_sessions_max: 10_000,
            user_sessions_max: 100,
            rejection_delay: Duration::from_secs(1),
            delayed_max: 512,
            delayed_per_address_max: 32,
            rejected_max: 64,
        }
    }

    fn default_publish() -> PublishLimits {
        PublishLimits {
            events_max: 1000,
            body_bytes_max: 1024 * 1024,
            memory_bytes_max: 0,
            timeout: Duration::from_secs(10),
        }
    }

    fn default_session() -> SessionLimits {
        SessionLimits {
            message_bytes_max: 64 * 1024,
            // A page that reconnects sends a hundred joins at once, and perhaps once more.
            messages: Rate::new(20, 250),
            rejected_messages: Rate::new(20, 50),
            // Ten thousand sessions that reconnect, each with ten topics.
            messages_per_org: Rate::new(20_000, 100_000),
            // Each of those joins may carry a cursor of up to 32 KiB.
            received_bytes: Rate::new(256 * 1024, 4 * 1024 * 1024),
            joins_max: 100,
            snapshots_max: 4,
            // Some clients send a heartbeat once a minute, and browsers slow the timers of pages in the
            // background down to that rate. Such a heartbeat may be half a minute late.
            idle_timeout: Duration::from_secs(90),
            expiry_grace: Duration::from_secs(5),
            refreshes_max: 128,
            backlog_timeout: Duration::from_mins(1),
            close_timeout: Duration::from_secs(5),
            send_buffer_bytes: 128 * 1024,
        }
    }

    fn default_tailer() -> TailerLimits {
        TailerLimits {
            page_rows_max: 5_000,
            page_bytes_max: 0,
            warm_rows_max: 10_000,
            warm_time_max: Duration::from_secs(1),
            poll_interval: Duration::from_secs(1),
            retry_first: Duration::from_millis(2),
            retry_max: Duration::from_millis(100),
            busy_interval: Duration::from_millis(3),
            cursor_interval: Duration::from_secs(600),
            read_timeout: Duration::from_secs(15),
            reconnect_first: Duration::from_millis(50),
            reconnect_max: Duration::from_secs(2),
        }
    }

    fn default_replay() -> ReplayLimits {
        ReplayLimits {
            concurrent_reads_max: 2,
            resumes_max: 40_000,
            cursor_bytes_max: 0,
            events_max: 50_000,
            bytes_max: 0,
            memory_bytes_max: 0,
            hold_min: Duration::from_secs(2),
            tailer_timeout: Duration::from_secs(60),
            wait_timeout: Duration::from_secs(60),
            log_read_timeout: Duration::from_secs(20),
            send_timeout: Duration::from_secs(60),
        }
    }

    fn default_reading() -> ReadingLimits {
        ReadingLimits {
            page_bytes_max: 1024 * 1024,
            memory_bytes_max: 0,
            requests_per_org_max: 64,
            wait_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(5),
            cost_max: 100_000,
            count_max: 100_000,
            snapshots_per_org_max: 32,
            snapshots_waiting_per_org_max: 1000,
            snapshot_page_bytes_max: 256 * 1024,
            snapshot_page_timeout: Duration::from_secs(30),
            snapshot_timeout: Duration::from_mins(10),
        }
    }

    fn default_keys() -> KeyLimits {
        KeyLimits {
            interval: Duration::from_mins(5),
            fetch_timeout: Duration::from_secs(5),
            bytes_max: 256 * 1024,
            cooldown: Duration::from_secs(5),
            wait: Duration::from_secs(3),
            waiting_max: 1000,
            stale_max: Duration::from_hours(24),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_mins(1),
        }
    }
}

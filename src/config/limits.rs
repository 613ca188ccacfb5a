//! Every limit of a gateway by name, with its default and unit.
//!
//! What can be set from outside is set in the module above; a limit that only tests change stands here too.

use std::time::Duration;

use crate::events::{DoorbellLimits, ReaderLimits, RecentLimits, ReplayLimits, RetentionLimits};
use crate::http::ServeLimits;
use crate::hub::{FanoutLimits, OutboxLimits};
use crate::session::SessionLimits;

/// Every limit of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of a connection before its upgrade.
    pub serve: ServeLimits,
    /// Of a session.
    pub session: SessionLimits,
    /// Of what waits for one socket.
    pub outbox: OutboxLimits,
    /// Of the reader.
    pub reader: ReaderLimits,
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
    /// Of events that wait for their turn in fan-out.
    pub fanout: FanoutLimits,
    /// Batches between reader and fan-out; beyond it the reader waits.
    pub batches_max: usize,
    /// How the sessions of a gateway that goes down are ended.
    pub drain: DrainLimits,
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

impl Default for Limits {
    fn default() -> Self {
        Self {
            serve: ServeLimits {
                header_timeout: Duration::from_secs(10),
                headers_max: 64,
                head_bytes_max: 32 * 1024,
            },
            session: SessionLimits {
                message_bytes_max: 64 * 1024,
                joins_max: 100,
                idle_timeout: Duration::from_secs(60),
                close_timeout: Duration::from_secs(5),
                send_buffer_bytes: 128 * 1024,
            },
            outbox: OutboxLimits { queue_bytes_max: 4 * 1024 * 1024, queue_chunks_max: 4096 },
            reader: ReaderLimits::default(),
            doorbell: DoorbellLimits {
                watchdog_interval: Duration::from_secs(15),
                watchdog_timeout: Duration::from_secs(5),
            },
            look_up_timeout: Duration::from_secs(5),
            recent: RecentLimits { bytes_max: 64 * 1024 * 1024, org_bytes_max: 8 * 1024 * 1024 },
            replay: ReplayLimits {
                from_log_max: 2,
                waiting_max: 20_000,
                events_max: 50_000,
                bytes_max: 32 * 1024 * 1024,
                memory_bytes_max: 128 * 1024 * 1024,
                timeout: Duration::from_secs(8),
                read_timeout: Duration::from_secs(60),
                turn_timeout: Duration::from_secs(20),
                send_timeout: Duration::from_secs(60),
            },
            retention: RetentionLimits {
                keep: Duration::from_hours(24),
                bytes_max: 8 * 1024 * 1024 * 1024,
                interval: Duration::from_secs(30),
            },
            fanout: FanoutLimits { org_bytes_max: 64 * 1024 * 1024, bytes_max: 256 * 1024 * 1024 },
            batches_max: 8,
            drain: DrainLimits { window: Duration::from_secs(5), sessions_per_second_min: 200 },
            drain_timeout: Duration::from_secs(20),
        }
    }
}

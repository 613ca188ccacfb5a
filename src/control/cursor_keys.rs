//! The keys with which this node seals cursors and transactions, loaded from the database.
//!
//! The tailer loads them whenever it connects, so before the node sends any cursor. A background service
//! loads them again at an interval, and when a client presents a cursor of an unknown key. Each load also
//! rotates the keys, if that is due. While the database is unreachable the keys in memory stay in use.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgPool;
use tokio::sync::Notify;

use crate::cursor::{CursorKey, KeyRing};
use crate::service::{Schedule, periodic};
use crate::sync::lock;

/// Limits of loading keys.
#[derive(Clone, Copy, Debug)]
pub struct CursorKeyLimits {
    /// Time between two loads.
    pub interval: Duration,
    /// Shortest time between two loads because of unknown keys.
    pub wake_interval: Duration,
    /// Longest load.
    pub timeout: Duration,
    /// First delay after a failed load.
    pub retry_first: Duration,
    /// Longest delay after a failed load.
    pub retry_max: Duration,
}

/// Keys of cursors, kept current from the database.
#[derive(Debug)]
pub struct CursorKeys {
    pool: PgPool,
    ring: Arc<KeyRing>,
    limits: CursorKeyLimits,
    woken: Notify,
    last_wake: std::sync::Mutex<Option<Instant>>,
    /// Held during a load: a slow load must not overwrite the result of a later one.
    loading: tokio::sync::Mutex<()>,
}

impl CursorKeys {
    /// No keys, before the first load.
    #[must_use]
    pub fn new(pool: PgPool, limits: CursorKeyLimits) -> Self {
        Self {
            pool,
            ring: Arc::default(),
            limits,
            woken: Notify::new(),
            last_wake: std::sync::Mutex::default(),
            loading: tokio::sync::Mutex::default(),
        }
    }

    /// The keys, which every load replaces.
    #[must_use]
    pub fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.ring)
    }

    /// Requests a load, because a client presented a cursor of an unknown key. Anybody can invent such a
    /// cursor, so most requests in a short time are ignored.
    pub fn wake(&self) {
        let now = Instant::now();
        let mut last = lock(&self.last_wake);
        if last.is_none_or(|last| now.duration_since(last) >= self.limits.wake_interval) {
            *last = Some(now);
            self.woken.notify_one();
        }
    }

    /// Loads the keys at the interval and when woken, for ever.
    pub async fn run(self: Arc<Self>) {
        let schedule = Schedule {
            interval: self.limits.interval,
            retry: (self.limits.retry_first, self.limits.retry_max),
            // The tailer loads the keys when it connects.
            starts_immediately: false,
        };
        periodic(schedule, &self.woken, |_| async {
            let load = tokio::time::timeout(self.limits.timeout, self.load()).await;
            load.unwrap_or(Err(sqlx::Error::PoolTimedOut)).inspect_err(|error| {
                tracing::warn!(%error, "loading cursor keys failed: the keys in memory remain in use");
            })
        })
        .await;
    }

    /// Loads the keys, after a rotation if one is due.
    ///
    /// # Errors
    /// When the query fails. The keys in memory remain.
    pub async fn load(&self) -> Result<(), sqlx::Error> {
        let _one = self.loading.lock().await;
        let keys = sqlx::query_as!(
            CursorKey,
            r#"select id as "id!", key as "key!", is_current as "is_current!" from warden.load_cursor_keys()"#
        );
        let keys = keys.fetch_all(&self.pool).await?;
        let transactions = sqlx::query_scalar!(r#"select warden.load_transaction_key() as "key!""#);
        let transactions = transactions.fetch_one(&self.pool).await?;
        self.ring.replace(&keys);
        self.ring.replace_transaction_key(&transactions);
        Ok(())
    }
}

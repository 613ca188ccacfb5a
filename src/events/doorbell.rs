//! The doorbell: a LISTEN connection whose notifications wake the reader.
//!
//! It says nothing but "look". When the connection breaks it is made anew, with backoff, and every
//! new connection rings once, for what may have been missed. Where no LISTEN is possible the reader
//! polls.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;

/// The channel on which `warden.ring()` notifies.
const CHANNEL: &str = "warden";

/// A new connection is tried after this, doubling up to the second.
const RECONNECT_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// See the module's documentation.
#[derive(Debug)]
pub struct Doorbell {
    pool: PgPool,
    ring: Arc<Notify>,
}

impl Doorbell {
    /// A doorbell that takes one connection of the pool for itself.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, ring: Arc::default() }
    }

    /// Woken by every ring; rings that come while nobody looks count as one.
    #[must_use]
    pub fn ring(&self) -> Arc<Notify> {
        Arc::clone(&self.ring)
    }

    /// Listens until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(RECONNECT_DELAYS.0, RECONNECT_DELAYS.1);
        loop {
            let ended = tokio::select! {
                () = cancel.cancelled() => return,
                ended = self.listen(&mut backoff) => ended,
            };
            tracing::warn!(error = %ended, "the doorbell is lost; until it is back the log is polled");
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    async fn listen(&self, backoff: &mut Backoff) -> sqlx::Error {
        let mut listener = match PgListener::connect_with(&self.pool).await {
            Ok(listener) => listener,
            Err(e) => return e,
        };
        // A silent reconnect inside the listener would hide that rings were missed.
        listener.eager_reconnect(false);
        if let Err(e) = listener.listen(CHANNEL).await {
            return e;
        }
        tracing::debug!("the doorbell is connected");
        backoff.reset();
        loop {
            self.ring.notify_one();
            match listener.try_recv().await {
                Ok(Some(_)) => {}
                Ok(None) => return sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
                Err(e) => return e,
            }
        }
    }
}

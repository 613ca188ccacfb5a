//! The doorbell: a LISTEN connection whose notifications wake the reader.
//!
//! It says nothing but "look". When the connection breaks it is made anew, with backoff, and every
//! new connection rings once, for what may have been missed. Where no LISTEN is possible the reader
//! polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::bell::{BELL_CHANNEL, BELL_SILENCED};
use crate::backoff::Backoff;

/// A new connection is tried after this, doubling up to the second.
const RECONNECT_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// After so long without a ring the connection is asked whether it is there.
const WATCHDOG_INTERVAL: Duration = Duration::from_secs(15);

/// It has so long to answer.
const WATCHDOG_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module's documentation.
#[derive(Debug)]
pub struct Doorbell {
    pool: PgPool,
    ring: Arc<Ring>,
}

/// What the doorbell tells the reader.
#[derive(Debug, Default)]
pub struct Ring {
    notify: Notify,
    silenced: AtomicBool,
}

impl Ring {
    /// Resolves when there may be something to read. Rings that come while nobody waits count as one.
    pub(super) async fn rung(&self) {
        self.notify.notified().await;
    }

    /// Somebody here wants the reader to look.
    pub(super) fn pull(&self) {
        self.notify.notify_one();
    }

    /// Whether a reader said, since the last call, that it silenced the bell.
    pub(super) fn take_silenced(&self) -> bool {
        self.silenced.swap(false, Ordering::Relaxed)
    }
}

impl Doorbell {
    /// A doorbell that takes one connection of the pool for itself.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, ring: Arc::default() }
    }

    /// Where the reader waits.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
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
        if let Err(e) = listener.listen(BELL_CHANNEL).await {
            return e;
        }
        tracing::debug!("the doorbell is connected");
        backoff.reset();
        // Its word that a reader silenced the bell may have been missed.
        self.ring.silenced.store(true, Ordering::Relaxed);
        self.ring.notify.notify_one();
        loop {
            let heard = match tokio::time::timeout(WATCHDOG_INTERVAL, listener.try_recv()).await {
                Ok(heard) => heard,
                // Silence may be a connection that is half gone: whoever is there answers.
                Err(_) => match tokio::time::timeout(WATCHDOG_TIMEOUT, ask(&mut listener)).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => Err(error),
                    Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
                },
            };
            match heard {
                // A hint and no more: anybody can notify, and it costs the reader a look.
                Ok(Some(heard)) => {
                    if heard.payload() == BELL_SILENCED {
                        self.ring.silenced.store(true, Ordering::Relaxed);
                    }
                    self.ring.notify.notify_one();
                }
                Ok(None) => return sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
                Err(e) => return e,
            }
        }
    }
}

async fn ask(listener: &mut PgListener) -> Result<(), sqlx::Error> {
    sqlx::query!(r#"select true as "there!""#).fetch_one(listener).await.map(|_| ())
}

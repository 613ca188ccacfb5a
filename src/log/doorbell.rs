//! The doorbell: a LISTEN connection whose notifications wake the tailer.
//!
//! A notification means "poll now" and carries no data. If the connection breaks, the doorbell reconnects
//! with backoff. Each new connection wakes the tailer once, because notifications may have been lost in
//! between. The doorbell connects to the primary that the tailer follows. If LISTEN is impossible there, the
//! tailer polls.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;

use super::silence::{DOORBELL_CHANNEL, SILENCED_PAYLOAD};
use crate::backoff::Backoff;
use crate::postgres::{BackendMode, Primary, PrimaryLocation, assume_gateway_role};

/// First and longest delay before the doorbell reconnects. The delay doubles from the first to the longest.
const RECONNECT_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Limits of the doorbell's connection.
#[derive(Clone, Copy, Debug)]
pub struct DoorbellLimits {
    /// Silence after which the connection is checked.
    pub watchdog_interval: Duration,
    /// Longest wait for the answer to that check, and for a new connection.
    pub watchdog_timeout: Duration,
}

/// The task that listens for notifications, on a connection of its own.
#[derive(Debug)]
pub struct Doorbell {
    primary: Arc<Primary>,
    signal: Arc<DoorbellSignal>,
    limits: DoorbellLimits,
}

/// The signal from the doorbell to the tailer.
#[derive(Debug, Default)]
pub struct DoorbellSignal {
    notify: Notify,
    silenced: AtomicBool,
}

impl DoorbellSignal {
    /// Waits until there may be something to read. Requests that arrive while nobody waits are merged into
    /// one.
    pub(crate) async fn wait(&self) {
        self.notify.notified().await;
    }

    /// Requests that the tailer polls the log.
    pub(crate) fn request_poll(&self) {
        self.notify.notify_one();
    }

    /// Whether a tailer may have silenced the doorbell since the last call.
    pub(crate) fn take_silenced(&self) -> bool {
        self.silenced.swap(false, Ordering::Relaxed)
    }

    fn mark_silenced(&self) {
        self.silenced.store(true, Ordering::Relaxed);
    }
}

impl Doorbell {
    /// Creates a doorbell at the primary that the tailer follows.
    #[must_use]
    pub fn new(primary: Arc<Primary>, limits: DoorbellLimits) -> Self {
        Self { primary, signal: Arc::default(), limits }
    }

    /// The signal on which the tailer waits.
    #[must_use]
    pub fn signal(&self) -> Arc<DoorbellSignal> {
        Arc::clone(&self.signal)
    }

    /// Listens until the future is dropped.
    pub async fn run(self) {
        let mut backoff = Backoff::new(RECONNECT_DELAYS.0, RECONNECT_DELAYS.1);
        let mut locations = self.primary.location();
        let mut logged = None;
        loop {
            let location = locations.borrow_and_update().clone();
            let error = tokio::select! {
                moved = locations.changed() => {
                    if moved.is_err() {
                        return;
                    }
                    backoff.reset();
                    continue;
                }
                error = self.listen_at(location, &mut backoff, &mut logged) => error,
            };
            // While the database is unreachable, every attempt fails. The same error is logged once.
            let error = error.to_string();
            if logged.as_ref() != Some(&error) {
                tracing::warn!(error, "doorbell connection lost: the log is polled until it is back");
            }
            logged = Some(error);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Listens until the connection fails. If LISTEN is impossible at this location, it never returns.
    async fn listen_at(
        &self,
        location: Option<PrimaryLocation>,
        backoff: &mut Backoff,
        logged: &mut Option<String>,
    ) -> sqlx::Error {
        match location {
            Some(location) if location.mode == BackendMode::Dedicated => {
                self.listen(&location, backoff, logged).await
            }
            Some(_) => {
                tracing::warn!(
                    "no LISTEN through a pooler in transaction mode: events are found by polling, up to one \
                     second late; set DATABASE_URL to the address of the database itself"
                );
                std::future::pending().await
            }
            // The tailer has not found the primary yet.
            None => std::future::pending().await,
        }
    }

    async fn listen(
        &self,
        location: &PrimaryLocation,
        backoff: &mut Backoff,
        logged: &mut Option<String>,
    ) -> sqlx::Error {
        let mut listener = match self.with_timeout(connect(location)).await {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        tracing::debug!("doorbell connected");
        backoff.reset();
        *logged = None;
        // A notification that a tailer silenced the doorbell may have been lost.
        self.signal.mark_silenced();
        self.signal.request_poll();
        loop {
            // Pinned here because the future is large, and would be moved through every layer around it.
            let next = tokio::time::timeout(self.limits.watchdog_interval, pin!(listener.try_recv())).await;
            let received = match next {
                Ok(received) => received,
                // Silence may mean that the connection is half open. A server that is alive answers the
                // check.
                Err(_) => match self.with_timeout(check(&mut listener)).await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            match received {
                // A notification is only a hint. Any role can send one, and it costs the tailer one poll.
                Ok(Some(notification)) => {
                    if notification.payload() == SILENCED_PAYLOAD {
                        self.signal.mark_silenced();
                    }
                    self.signal.request_poll();
                }
                Ok(None) => return sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into()),
                Err(error) => return error,
            }
        }
    }

    async fn with_timeout<T>(
        &self,
        request: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        match tokio::time::timeout(self.limits.watchdog_timeout, request).await {
            Ok(result) => result,
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

async fn connect(location: &PrimaryLocation) -> Result<PgListener, sqlx::Error> {
    let link = location.link.renewed().await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .after_connect(|connection, _| Box::pin(assume_gateway_role(connection, false)))
        .connect_lazy_with((*link).clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    // A silent reconnect inside the listener would hide that notifications were lost.
    listener.eager_reconnect(false);
    listener.listen(DOORBELL_CHANNEL).await?;
    Ok(listener)
}

async fn check(listener: &mut PgListener) -> Result<(), sqlx::Error> {
    sqlx::query!(r#"select true as "there!""#).fetch_one(listener).await.map(|_| ())
}

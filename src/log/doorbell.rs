//! The doorbell: a LISTEN connection whose notifications wake the reader.
//!
//! It says nothing but "look". When the connection breaks it is made anew, with backoff, and every
//! new connection rings once, for what may have been missed. It goes where the reader goes. Where no LISTEN is
//! possible the reader polls.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::silence::{BELL_CHANNEL, BELL_SILENCED};
use crate::backoff::Backoff;
use crate::postgres::{Primary, PrimaryLocation, Session, assume_gateway_role};

/// A new connection is tried after this, doubling up to the second.
const RECONNECT_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Limits of the doorbell's connection.
#[derive(Clone, Copy, Debug)]
pub struct DoorbellLimits {
    /// After so long without a ring the connection is asked whether it is there.
    pub watchdog_interval: Duration,
    /// It has so long to answer, and to come up.
    pub watchdog_timeout: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Doorbell {
    primary: Arc<Primary>,
    ring: Arc<DoorbellSignal>,
    limits: DoorbellLimits,
}

/// What the doorbell tells the reader.
#[derive(Debug, Default)]
pub struct DoorbellSignal {
    notify: Notify,
    silenced: AtomicBool,
}

impl DoorbellSignal {
    /// Resolves when there may be something to read. Rings that come while nobody waits count as one.
    pub(crate) async fn rung(&self) {
        self.notify.notified().await;
    }

    /// Somebody here wants the reader to look.
    pub(crate) fn pull(&self) {
        self.notify.notify_one();
    }

    /// Whether a reader said, since the last call, that it silenced the bell.
    pub(crate) fn take_silenced(&self) -> bool {
        self.silenced.swap(false, Ordering::Relaxed)
    }
}

impl Doorbell {
    /// A doorbell at the primary that the reader follows, on a connection of its own.
    #[must_use]
    pub fn new(primary: Arc<Primary>, limits: DoorbellLimits) -> Self {
        Self { primary, ring: Arc::default(), limits }
    }

    /// Where the reader waits.
    #[must_use]
    pub fn ring(&self) -> Arc<DoorbellSignal> {
        Arc::clone(&self.ring)
    }

    /// Listens until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&self) {
        let mut backoff = Backoff::new(RECONNECT_DELAYS.0, RECONNECT_DELAYS.1);
        let mut places = self.primary.place();
        let mut said = None;
        loop {
            let place = places.borrow_and_update().clone();
            let ended = tokio::select! {
                moved = places.changed() => {
                    if moved.is_err() {
                        return;
                    }
                    backoff.reset();
                    continue;
                }
                ended = self.listen_at(place, &mut backoff, &mut said) => ended,
            };
            // While the database is away it is tried again and again: the same is said once.
            let why = ended.to_string();
            if said.as_ref() != Some(&why) {
                tracing::warn!(error = why, "the doorbell is lost; until it is back the log is polled");
            }
            said = Some(why);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Returns with an error; where there is nothing to listen to it never does.
    async fn listen_at(
        &self,
        place: Option<PrimaryLocation>,
        backoff: &mut Backoff,
        said: &mut Option<String>,
    ) -> sqlx::Error {
        match place {
            Some(place) if place.session == Session::Own => self.listen(&place, backoff, said).await,
            Some(_) => {
                tracing::warn!(
                    "DATABASE_URL leads through a pooler in transaction mode, where LISTEN is not possible: events \
                     are found by polling, up to a second late. Name the database's own address"
                );
                std::future::pending().await
            }
            // The reader has not found the primary yet.
            None => std::future::pending().await,
        }
    }

    async fn listen(
        &self,
        place: &PrimaryLocation,
        backoff: &mut Backoff,
        said: &mut Option<String>,
    ) -> sqlx::Error {
        let connect = async {
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .after_connect(|connection, _| Box::pin(assume_gateway_role(connection, false)))
                .connect_lazy_with(place.options.clone());
            let mut listener = PgListener::connect_with(&pool).await?;
            // A silent reconnect inside the listener would hide that rings were missed.
            listener.eager_reconnect(false);
            listener.listen(BELL_CHANNEL).await?;
            Ok(listener)
        };
        let mut listener = match self.in_time(connect).await {
            Ok(listener) => listener,
            Err(error) => return error,
        };
        tracing::debug!("the doorbell is connected");
        backoff.reset();
        *said = None;
        // Its word that a reader silenced the bell may have been missed.
        self.ring.silenced.store(true, Ordering::Relaxed);
        self.ring.notify.notify_one();
        loop {
            // Pinned here: it is large, and would be moved with every layer around it.
            let next = tokio::time::timeout(self.limits.watchdog_interval, pin!(listener.try_recv())).await;
            let heard = match next {
                Ok(heard) => heard,
                // Silence may be a connection that is half gone: whoever is there answers.
                Err(_) => match self.in_time(ask(&mut listener)).await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
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

    async fn in_time<T>(&self, what: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        match tokio::time::timeout(self.limits.watchdog_timeout, what).await {
            Ok(result) => result,
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }
}

async fn ask(listener: &mut PgListener) -> Result<(), sqlx::Error> {
    sqlx::query!(r#"select true as "there!""#).fetch_one(listener).await.map(|_| ())
}

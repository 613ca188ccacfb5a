//! The tailer: the task that follows the event log and dispatches new events to the hub.
//!
//! The tailer polls the log
//! - when the doorbell rings;
//! - every few milliseconds under load, while the doorbell is silenced;
//! - after 2 ms, doubling to 100 ms, while its snapshot shows transactions in progress, because one of them
//!   may commit without ringing;
//! - once a second regardless.
//!
//! While the database is unreachable, the tailer keeps its position, and continues from there when it
//! reconnects.
//!
//! | file | job |
//! |---|---|
//! | `follow` | the loop over one connection |
//! | `start` | the first position on a connection, and the warm-up of recent events |
//! | `poll` | one poll: pages are read and dispatched |
//! | `wait` | the wait for the next poll; silencing the doorbell |
//! | `poll_schedule` | when to poll next, as plain state |
//! | `read_budget` | the bound on reads that find nothing, whatever requests them |
//! | `dispatch` | what the tailer hands to the hub and to the node itself |

mod dispatch;
mod follow;
mod limits;
mod poll;
mod poll_schedule;
mod position;
mod read_budget;
mod start;
mod wait;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::log::{DoorbellSignal, LogError, TailerProgress, TailerState};
use crate::postgres::Primary;
pub use dispatch::Dispatcher;
pub use limits::TailerLimits;
pub use read_budget::{EMPTY_READS, EMPTY_READS_PER_READ_WITH_EVENTS};

/// The task that follows the log.
pub struct LogTailer {
    primary: Arc<Primary>,
    doorbell: Arc<DoorbellSignal>,
    dispatcher: Dispatcher,
    state: watch::Sender<TailerState>,
    progress: watch::Sender<TailerProgress>,
    flooded_since: watch::Sender<Option<Instant>>,
    limits: TailerLimits,
}

impl LogTailer {
    /// Creates a tailer of this primary's log. It polls when the doorbell signals, and hands events to the
    /// dispatcher.
    #[must_use]
    pub fn new(
        primary: Arc<Primary>,
        doorbell: Arc<DoorbellSignal>,
        dispatcher: Dispatcher,
        limits: TailerLimits,
    ) -> Self {
        let state = watch::Sender::new(TailerState::Starting);
        Self {
            primary,
            doorbell,
            dispatcher,
            state,
            progress: watch::Sender::default(),
            flooded_since: watch::Sender::new(None),
            limits,
        }
    }

    /// State of the tailer, from which readiness is derived.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<TailerState> {
        self.state.subscribe()
    }

    /// Progress of the tailer, for resumes that wait for it.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<TailerProgress> {
        self.progress.subscribe()
    }

    /// Time since which reads of the log wait, because too many of them find nothing.
    #[must_use]
    pub fn flooded_since(&self) -> watch::Receiver<Option<Instant>> {
        self.flooded_since.subscribe()
    }

    /// Follows the log until the future is dropped.
    pub async fn run(mut self) {
        let mut position = None;
        let mut backoff = Backoff::new(self.limits.reconnect_first, self.limits.reconnect_max);
        loop {
            let Err(error) = self.follow(&mut position, &mut backoff).await;
            self.report_lost(&error);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    fn report_following(&self) {
        self.state.send_if_modified(|state| {
            std::mem::replace(state, TailerState::Following) != TailerState::Following
        });
    }

    /// Publishes whether reads wait because too many of them find nothing, and logs each change.
    fn report_flooded(&self, is_flooded: bool) {
        if self.flooded_since.borrow().is_some() == is_flooded {
            return;
        }
        self.flooded_since.send_replace(is_flooded.then(Instant::now));
        self.dispatcher.metrics.doorbell_flooded.set(i64::from(is_flooded));
        if is_flooded {
            tracing::warn!(
                reads_per_second_max = EMPTY_READS.per_second.get(),
                "too many reads of the log find nothing, so reads wait: a database role floods the channel \
                 warden with NOTIFY, holds the doorbell's advisory lock (see pg_locks), or fills the notification \
                 queue (see pg_notification_queue_usage())"
            );
        } else {
            tracing::info!("reads of the log no longer wait");
        }
    }

    /// Publishes that the tailer has lost the log, and the reason. Logs the reason if it is a new one.
    fn report_lost(&self, error: &LogError) {
        let lost = TailerState::Lost(error.to_string());
        if *self.state.borrow() != lost {
            tracing::warn!(%error, "cannot read the event log: reconnecting; no event is lost");
        }
        self.state.send_replace(lost);
    }

    /// Bounds a query by [`TailerLimits::read_timeout`].
    async fn with_timeout<T>(&self, query: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        match tokio::time::timeout(self.limits.read_timeout, query).await {
            Ok(result) => result,
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()),
        }
    }

    /// Loads the topics, because they or the watches have changed. No event is dispatched before the sessions
    /// are closed that may not receive it any more, or whose filter could misread it.
    async fn load_topics(&self) -> Result<(), LogError> {
        let load = async { Ok(self.dispatcher.directory.load_topics().await?) };
        let loaded = self.with_timeout(load).await;
        // Also if the topics cannot be loaded: then those in memory remain in use.
        self.dispatcher.filtered_tables.check().await;
        if loaded? {
            self.dispatcher.close_sessions_without_claims();
        }
        Ok(())
    }
}

//! The reader: keeps this node at the end of the log and feeds the hub.
//!
//! It reads on a ring (and under load, with the bell silenced, by itself every few milliseconds); then, while its snapshot shows transactions in progress, again after 2 ms,
//! doubling to 100 ms, because one of them may commit without ringing; and once a second in any case.
//! When the database is away it keeps its point and goes on from there.

mod dispatch;
mod poll_schedule;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::control::{Directory, Reconciler, Revocations};
use crate::hub::{FanoutSender, Hub};
use crate::log::cursor::{Cursor, Epoch, Point};
use crate::log::{DoorbellSignal, LogError, LogReader, TailerProgress, TailerState};
use crate::metrics::Metrics;
use crate::postgres::Primary;
use crate::replay::RecentEvents;
use poll_schedule::{DoorbellState, PollSchedule};

/// Delays of the reader, and how much it reads at a time.
#[derive(Clone, Copy, Debug)]
pub struct TailerLimits {
    /// Rows that one statement brings at the most, at least 1; what exceeds them is read page by page up to
    /// the same point, so that a bulk statement of any size takes bounded memory.
    pub page_rows_max: u32,
    /// When it begins it reads so many of the last rows into memory, for those who come back.
    pub warm_rows_max: u32,
    /// It gives that up where it takes longer: nobody is let in before.
    pub warm_time_max: Duration,
    /// A look at the log in any case.
    pub poll_interval: Duration,
    /// The first look after a read whose snapshot showed transactions in progress.
    pub retry_first: Duration,
    /// Looks at transactions in progress become no rarer than this.
    pub retry_max: Duration,
    /// Between reads under load, while the bell is silenced.
    pub busy_interval: Duration,
    /// Every topic gets a cursor so often, also where nothing happens.
    pub cursor_interval: Duration,
    /// A read that takes longer counts as a broken connection.
    pub read_timeout: Duration,
    /// The first delay before a new connection.
    pub reconnect_first: Duration,
    /// The longest delay before a new connection.
    pub reconnect_max: Duration,
}

impl Default for TailerLimits {
    fn default() -> Self {
        Self {
            page_rows_max: 5_000,
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
}

/// See the module's documentation.
pub struct LogTailer {
    /// The database.
    pub primary: Arc<Primary>,
    /// Rung when there may be something to read.
    pub ring: Arc<DoorbellSignal>,
    /// Told of each batch before the fan-out gets it.
    pub hub: Arc<Hub>,
    /// Kept current by the log.
    pub directory: Arc<Directory>,
    /// Loaded at each connection, and told when the log says that they changed.
    pub revocations: Arc<Revocations>,
    /// Told when the log does not tell which organisations are gone.
    pub sweep: Arc<Reconciler>,
    /// Keeps what was read for a while.
    pub recent: Arc<RecentEvents>,
    /// Told of each page, for those who wait for it.
    pub progress: watch::Sender<TailerProgress>,
    /// To the sockets.
    pub feed: FanoutSender,
    /// Where readiness looks.
    pub state: watch::Sender<TailerState>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Delays.
    pub limits: TailerLimits,
}

/// Where the reader stands; outlives connections.
#[derive(Clone)]
struct TailerPosition {
    epoch: Epoch,
    /// Everything that it covers was passed on.
    point: Arc<Point>,
    /// A read of several pages broke off: what this point covers was passed on up to this id.
    partial: Option<(Arc<Point>, i64)>,
}

impl LogTailer {
    /// Reads until cancelled.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut place = None;
        let mut backoff = Backoff::new(self.limits.reconnect_first, self.limits.reconnect_max);
        loop {
            let error = tokio::select! {
                () = cancel.cancelled() => return,
                error = self.follow(&mut place, &mut backoff) => error,
            };
            if *self.state.borrow() != TailerState::Lost(error.to_string()) {
                tracing::warn!(%error, "the log can't be read; trying again, nothing is lost");
            }
            self.state.send_replace(TailerState::Lost(error.to_string()));
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    async fn follow(&mut self, place: &mut Option<TailerPosition>, backoff: &mut Backoff) -> LogError {
        match self.try_follow(place, backoff).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_follow(
        &mut self,
        place: &mut Option<TailerPosition>,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, LogError> {
        let mut log = self.bounded(LogReader::connect(&self.primary, self.limits.page_rows_max)).await?;
        self.load_topics().await?;
        self.bounded(async { Ok(self.revocations.load().await?) }).await?;
        let lost = match place.as_ref() {
            None => None,
            Some(known) if known.epoch != log.epoch() => Some("epoch"),
            // Away for longer than the log is kept.
            Some(known) if self.bounded(log.is_truncated(&known.point)).await? => Some("too_old"),
            Some(_) => None,
        };
        let mut here = match place.clone() {
            Some(known) if lost.is_none() => known,
            _ => {
                // The first connection, or continuity is lost: what is open starts from the end.
                let point = Arc::new(self.bounded(log.end()).await?);
                self.directory.forget_all();
                self.recent.reset(Arc::clone(&point));
                if lost.is_none() {
                    self.warm_up(&mut log, &point).await?;
                }
                let cursor: Arc<str> = Cursor::at(log.epoch(), Arc::clone(&point)).to_string().into();
                self.hub.refresh(Arc::clone(&cursor));
                if let Some(reason) = lost {
                    self.announce_loss(reason, cursor);
                }
                TailerPosition { epoch: log.epoch(), point, partial: None }
            }
        };
        tracing::info!(epoch = ?here.epoch, "following the event log");
        let mut pace = PollSchedule::new(self.limits);
        // One for all looks: a timer that is set anew each time has the runtime wake itself by way of the kernel.
        let mut poll = pin!(tokio::time::sleep(self.limits.poll_interval));
        let mut last_cursor = Instant::now();
        // A slot may have been emptied since it was asked above, before the first read.
        let mut is_first = true;
        loop {
            let read = self.read(&mut log, &mut here, is_first).await;
            *place = Some(here.clone());
            let (found, is_settled) = read?;
            is_first = false;
            if last_cursor.elapsed() >= self.limits.cursor_interval {
                last_cursor = Instant::now();
                self.hand_out_cursor();
            }
            self.progress.send_modify(|progress| progress.reads += 1);
            backoff.reset();
            self.state.send_if_modified(|state| {
                let was = std::mem::replace(state, TailerState::Following);
                was != TailerState::Following
            });
            self.wait(&mut log, &mut pace, poll.as_mut(), found, is_settled).await?;
        }
    }

    /// Reads the last events before the node's first point into memory: those who lost their node by a restart
    /// come back all at once, and would all be served from the log.
    async fn warm_up(&self, log: &mut LogReader, to: &Arc<Point>) -> Result<(), LogError> {
        // Asked after `to` was taken: what `to` covers of the rows before is surely covered by it.
        let from = self.bounded(log.before_last(self.limits.warm_rows_max)).await?;
        let Some(from) = from.filter(|from| from.max_id < to.max_id).map(Arc::new) else { return Ok(()) };
        let mut after = from.max_id;
        let began = Instant::now();
        self.recent.reset(Arc::clone(&from));
        loop {
            let page = self.bounded(log.read_between(&from, to, after)).await?;
            self.recent.push(to, &page.events);
            after = page.last_id;
            if !page.has_more {
                break;
            }
            if began.elapsed() > self.limits.warm_time_max {
                self.recent.reset(Arc::clone(to));
                return Ok(());
            }
        }
        // A slot may have been emptied meanwhile.
        if self.bounded(log.is_truncated(&from)).await? {
            self.recent.reset(Arc::clone(to));
        }
        Ok(())
    }

    /// Until the next look. Under load the bell is silenced and the reader looks by itself: a writer's
    /// commit then costs no NOTIFY, and a read brings many events.
    async fn wait(
        &self,
        log: &mut LogReader,
        pace: &mut PollSchedule,
        mut poll: Pin<&mut Sleep>,
        found: bool,
        is_settled: bool,
    ) -> Result<(), LogError> {
        match pace.bell {
            DoorbellState::Silenced if found => tokio::time::sleep(self.limits.busy_interval).await,
            DoorbellState::Silenced => {
                self.bounded(log.release_bell()).await?;
                pace.bell = DoorbellState::MaybeSilent;
            }
            DoorbellState::MaybeSilent if found => {
                if self.bounded(log.silence_bell()).await? {
                    pace.bell = DoorbellState::Silenced;
                }
                tokio::time::sleep(self.limits.busy_interval).await;
            }
            DoorbellState::MaybeSilent => {
                // What was committed in silence did not ring: whether it rings now or not, look again.
                if self.bounded(log.bell_rings()).await? {
                    pace.bell = DoorbellState::Rings;
                    pace.rings_in_row = 0;
                    poll.reset(tokio::time::Instant::now() + self.limits.poll_interval);
                } else {
                    tokio::time::sleep(self.limits.busy_interval).await;
                }
            }
            DoorbellState::Rings if self.ring.take_silenced() || pace.is_overrun(found) => {
                pace.bell = DoorbellState::MaybeSilent;
            }
            DoorbellState::Rings => {
                let before = Instant::now();
                tokio::select! {
                    () = self.ring.rung() => pace.rung(before.elapsed()),
                    () = poll.as_mut() => {
                        poll.reset(tokio::time::Instant::now() + self.limits.poll_interval);
                        pace.polled(is_settled);
                    }
                    () = tokio::time::sleep(pace.retry), if !is_settled => pace.retried(),
                }
            }
        }
        Ok(())
    }

    /// Reads what is new, page by page, and passes it on.
    ///
    /// Where something may have been emptied before it was read, that is asked before what was read is passed on:
    /// with it go cursors that count what is gone as seen.
    async fn read(
        &mut self,
        log: &mut LogReader,
        here: &mut TailerPosition,
        mut is_unsure: bool,
    ) -> Result<(bool, bool), LogError> {
        let mut found = false;
        loop {
            let mut read = match here.partial.clone() {
                // Pinned here: it is large, and would be moved with every layer around it.
                None => self.bounded(pin!(log.read_since(&here.point))).await?,
                Some((to, after)) => self.bounded(log.read_between(&here.point, &to, after)).await?,
            };
            self.metrics.reads.inc();
            if (is_unsure || read.is_page) && self.bounded(log.is_truncated(&read.from)).await? {
                self.announce_loss("too_old", self.hub.cursor());
                self.load_topics().await?;
            }
            is_unsure = false;
            let cursor: Arc<str> = log.cursor_after(&read).into();
            if read.events.is_empty() {
                self.hub.refresh(cursor);
            } else {
                found = true;
                self.pass_on(&mut read, cursor).await;
            }
            if read.has_more {
                here.partial = Some((read.to, read.last_id));
                self.progress.send_modify(|progress| progress.pages += 1);
            } else {
                // After pages there may be more, committed meanwhile: the next read looks at once.
                let was_partial = here.partial.take().is_some();
                here.point = read.to;
                if !was_partial {
                    return Ok((found, read.is_settled));
                }
            }
        }
    }

    async fn load_topics(&self) -> Result<(), LogError> {
        self.bounded(async { Ok(self.directory.load_topics().await?) }).await
    }

    async fn bounded<T>(&self, read: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
        match tokio::time::timeout(self.limits.read_timeout, read).await {
            Ok(result) => result,
            Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()).into()),
        }
    }
}

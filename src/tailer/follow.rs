//! The loop over one connection: connect, find the position, then poll and wait until the connection fails.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Instant;

use super::LogTailer;
use super::poll_schedule::PollSchedule;
use super::position::TailerPosition;
use super::read_budget::ReadBudget;
use crate::backoff::Backoff;
use crate::log::{LogError, LogReader};

impl LogTailer {
    /// Follows the log on one connection. Returns when the connection fails, with the reason. `position` is
    /// the tailer's position, which this keeps current.
    pub(super) async fn follow(
        &mut self,
        position: &mut Option<TailerPosition>,
        backoff: &mut Backoff,
    ) -> Result<Infallible, LogError> {
        let mut log = self.connect().await?;
        let mut here = self.start_position(&mut log, position.as_ref()).await?;
        tracing::info!(epoch = ?here.epoch, "following the event log");
        let mut schedule = PollSchedule::new(&self.limits);
        let mut budget = ReadBudget::new(Instant::now());
        // One timer serves all polls. A new timer for each poll would make the runtime wake itself through
        // the kernel.
        let mut poll_timer = pin!(tokio::time::sleep(self.limits.poll_interval));
        let mut last_cursor = Instant::now();
        loop {
            let outcome = self.poll(&mut log, &mut here).await;
            // A failed poll may have dispatched some pages, so the position is kept in either case.
            *position = Some(here.clone());
            let outcome = outcome?;
            budget.record(outcome.found_events, Instant::now());
            if last_cursor.elapsed() >= self.limits.cursor_interval {
                last_cursor = Instant::now();
                self.dispatcher.broadcast_cursor();
            }
            self.progress.send_modify(|progress| progress.reads += 1);
            backoff.reset();
            self.report_following();
            self.wait(&mut log, &mut schedule, poll_timer.as_mut(), outcome).await?;
            let pause = budget.pause(Instant::now());
            self.report_flooded(budget.is_exhausted());
            if let Some(pause) = pause {
                self.dispatcher.metrics.reads_deferred.inc();
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Connects, and loads the state of the node that the log only announces changes of.
    async fn connect(&self) -> Result<LogReader, LogError> {
        let log = self.with_timeout(LogReader::connect(&self.primary, self.limits.page())).await?;
        self.load_topics().await?;
        self.with_timeout(async { Ok(self.dispatcher.revocations.load().await?) }).await?;
        self.with_timeout(async { Ok(self.dispatcher.cursor_keys.load().await?) }).await?;
        Ok(log)
    }
}

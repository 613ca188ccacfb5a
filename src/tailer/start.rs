//! The position at which the tailer starts on a new connection, and the warm-up of the recent events.

use std::sync::Arc;
use std::time::Instant;

use super::LogTailer;
use super::dispatch::ContinuityLoss;
use super::position::TailerPosition;
use crate::cursor::Cursor;
use crate::log::{LogError, LogPosition, LogReader, Truncated};

impl LogTailer {
    /// The position from which to follow the log: the known one, or the end of the log if there is none or if
    /// continuity is lost.
    pub(super) async fn start_position(
        &mut self,
        log: &mut LogReader,
        known: Option<&TailerPosition>,
    ) -> Result<TailerPosition, LogError> {
        let loss = self.continuity_loss(log, known).await?;
        if let (Some(known), None) = (known, loss) {
            return Ok(known.clone());
        }
        let at = self.with_timeout(log.end()).await?;
        // The log announces only changes after this position.
        self.load_topics().await?;
        self.dispatcher.directory.forget_all();
        self.dispatcher.recent.reset(Arc::clone(&at.point));
        if loss.is_none() {
            self.warm_up(log, &at).await?;
        }
        self.dispatcher.hub.update_cursor(Cursor::at(log.epoch(), Arc::clone(&at.point)));
        if let Some(loss) = loss {
            self.dispatcher.broadcast_resync(loss);
        }
        Ok(TailerPosition { epoch: log.epoch(), at, partial: None })
    }

    /// The reason why the tailer cannot continue from its known position, if there is one.
    async fn continuity_loss(
        &self,
        log: &mut LogReader,
        known: Option<&TailerPosition>,
    ) -> Result<Option<ContinuityLoss>, LogError> {
        let Some(known) = known else { return Ok(None) };
        if known.epoch != log.epoch() {
            return Ok(Some(ContinuityLoss::Epoch));
        }
        // The tailer may have been disconnected for longer than the log is kept.
        // If single organisations have lost events, the next poll finds that out too.
        let truncated = self.with_timeout(log.truncated_since(&known.at)).await?;
        Ok((truncated == Truncated::All).then_some(ContinuityLoss::TooOld))
    }

    /// Reads the last events before the node's first point into memory. Clients that lost their node by a
    /// restart reconnect all at once, and without this the log would have to serve all of them.
    async fn warm_up(&self, log: &mut LogReader, to: &LogPosition) -> Result<(), LogError> {
        let recent = &self.dispatcher.recent;
        // Queried after `to` was taken. So `from` certainly covers every older row that `to` covers, and the
        // pages below miss none.
        let from = self.with_timeout(log.point_before_last(self.limits.warm_rows_max)).await?;
        let Some(from) = from.filter(|from| from.max_id < to.point.max_id).map(Arc::new) else {
            return Ok(());
        };
        let mut after = from.max_id;
        let started = Instant::now();
        recent.reset(Arc::clone(&from));
        loop {
            let page = self.with_timeout(log.read_between(&from, to, after)).await?;
            recent.push(&to.point, &page.events);
            after = page.last_id;
            if !page.has_more {
                break;
            }
            if started.elapsed() > self.limits.warm_time_max {
                recent.reset(Arc::clone(&to.point));
                return Ok(());
            }
        }
        // Retention may have truncated a slot meanwhile.
        if self.with_timeout(log.is_truncated(&from)).await? {
            recent.reset(Arc::clone(&to.point));
        }
        Ok(())
    }
}

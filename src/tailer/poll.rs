//! One poll of the log: new events are read page by page and dispatched.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use super::LogTailer;
use super::dispatch::ContinuityLoss;
use super::poll_schedule::PollOutcome;
use super::position::{PartialRead, TailerPosition};
use crate::cursor::{Cursor, CursorPrefix};
use crate::log::{LogError, LogPage, LogReader, Truncated};

impl LogTailer {
    /// Reads new events page by page, and dispatches each page.
    ///
    /// If retention may have deleted events before a page was read, this method checks it before it
    /// dispatches the page. The cursors of the page would count deleted events as seen, so the clients must
    /// receive the resync before these cursors.
    pub(super) async fn poll(
        &mut self,
        log: &mut LogReader,
        here: &mut TailerPosition,
    ) -> Result<PollOutcome, LogError> {
        let mut found_events = false;
        loop {
            let mut page = match here.partial.clone() {
                // Pinned here because the future is large, and would be moved through every layer around it.
                None => self.with_timeout(pin!(log.read_since(&here.at))).await?,
                Some(PartialRead { to, last_id }) => {
                    self.with_timeout(log.read_between(&here.at.point, &to, last_id)).await?
                }
            };
            self.dispatcher.metrics.reads.inc();
            if page.needs_retention_check {
                let truncated = self.with_timeout(log.truncated_since(&here.at)).await?;
                self.report_truncated(&truncated, &page).await?;
            }
            let cursor = page.cursor();
            if page.events.is_empty() {
                self.dispatcher.update_cursor(cursor);
            } else {
                found_events = true;
                self.dispatch(&mut page, cursor).await;
            }
            if page.has_more {
                here.partial = Some(PartialRead { to: page.to, last_id: page.last_id });
                self.progress.send_modify(|progress| progress.pages += 1);
            } else {
                let was_partial = here.partial.take().is_some();
                here.at = page.to;
                // While pages were read, more may have been committed. So another read follows immediately.
                if !was_partial {
                    return Ok(PollOutcome { found_events, is_settled: page.is_settled });
                }
            }
        }
    }

    /// Sends a resync to the organisations that have lost events before this page.
    async fn report_truncated(&mut self, truncated: &Truncated, page: &LogPage) -> Result<(), LogError> {
        if *truncated == Truncated::Orgs(Vec::new()) {
            return Ok(());
        }
        // The deleted events are not in memory either: replays from before `to` must read the log, and resync
        // there.
        self.dispatcher.recent.reset(Arc::clone(&page.to.point));
        match truncated {
            Truncated::All => {
                self.dispatcher.broadcast_resync(ContinuityLoss::TooOld);
                self.load_topics().await?;
            }
            // Topics and revocations are announced by control events to all organisations, which are not
            // lost.
            Truncated::Orgs(orgs) => self.dispatcher.resync_orgs_beyond_share(orgs),
        }
        Ok(())
    }

    async fn dispatch(&mut self, page: &mut LogPage, cursor: Cursor) {
        let read_at = Instant::now();
        let points = Arc::new(CursorPrefix::new(page.epoch, &page.from, &page.to.point));
        let sorted = self.dispatcher.sort(page);
        // The topics are loaded before the hub announces the batch, so a client that learns of a topic from
        // an event can join it.
        if sorted.topics_changed {
            self.reload_topics().await;
        }
        // Nothing is awaited between this and the batch, so no load of the topics comes in between.
        let is_new = self.dispatcher.require_claims(&sorted.needing_claim);
        self.dispatcher.send(sorted.orgs, sorted.count, points, cursor, read_at);
        if is_new {
            // The events may be older than the present visibility of their topic.
            self.reload_topics().await;
        }
    }

    async fn reload_topics(&self) {
        if let Err(error) = self.load_topics().await {
            tracing::warn!(%error, "cannot load the topics: the topics in memory remain in use");
        }
    }
}

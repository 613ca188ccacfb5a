//! The wait for the next poll, and the protocol by which the tailer silences the doorbell.

use std::pin::Pin;
use std::time::Instant;

use tokio::time::Sleep;

use super::LogTailer;
use super::poll_schedule::{DoorbellState, PollOutcome, PollSchedule};
use crate::log::{LogError, LogReader};

impl LogTailer {
    /// Waits until the next poll is due.
    ///
    /// Under load the tailer silences the doorbell and polls by itself. A writer's commit then costs no
    /// NOTIFY, and one read returns many events.
    pub(super) async fn wait(
        &self,
        log: &mut LogReader,
        schedule: &mut PollSchedule,
        mut poll_timer: Pin<&mut Sleep>,
        outcome: PollOutcome,
    ) -> Result<(), LogError> {
        let PollOutcome { found_events, is_settled } = outcome;
        match schedule.doorbell {
            DoorbellState::Silenced if found_events => tokio::time::sleep(self.limits.busy_interval).await,
            DoorbellState::Silenced => {
                self.with_timeout(log.release_doorbell()).await?;
                schedule.doorbell = DoorbellState::MaybeSilenced;
            }
            DoorbellState::MaybeSilenced if found_events => {
                if self.with_timeout(log.silence_doorbell()).await? {
                    schedule.doorbell = DoorbellState::Silenced;
                }
                tokio::time::sleep(self.limits.busy_interval).await;
            }
            DoorbellState::MaybeSilenced => {
                // Commits during the silence did not ring. So another poll follows, whether the doorbell
                // rings or not.
                if self.with_timeout(log.try_ring_doorbell()).await? {
                    schedule.restored();
                    self.restart_poll_timer(poll_timer.as_mut());
                } else {
                    tokio::time::sleep(self.limits.busy_interval).await;
                }
            }
            DoorbellState::Rings
                if self.doorbell.take_silenced() || schedule.should_poll_continuously(found_events) =>
            {
                schedule.doorbell = DoorbellState::MaybeSilenced;
            }
            DoorbellState::Rings => {
                let before = Instant::now();
                tokio::select! {
                    () = self.doorbell.wait() => schedule.rang(before.elapsed()),
                    () = poll_timer.as_mut() => {
                        self.restart_poll_timer(poll_timer.as_mut());
                        schedule.polled(is_settled);
                    }
                    () = tokio::time::sleep(schedule.retry), if !is_settled => schedule.retried(),
                }
            }
        }
        Ok(())
    }

    fn restart_poll_timer(&self, poll_timer: Pin<&mut Sleep>) {
        poll_timer.reset(tokio::time::Instant::now() + self.limits.poll_interval);
    }
}

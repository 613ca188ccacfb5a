//! The loop of one session: it waits for the next event, handles it, and ends with a close code.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::loop_action::LoopAction;
use super::message_rate::RateDecision;
use super::message_reader::{MessageReader, discard_until_end};
use super::org_rate::{MESSAGE_UNITS, units_of};
use super::refresh::next_refreshed;
use super::resume::next_resumed;
use super::{Backlog, Session, SessionLimits};
use crate::hub::{CloseState, OUTBOXES_PER_ORG, Outbox, SessionCheck as _};
use crate::org::Incarnation;
use crate::wire::CloseCode;

impl Session {
    /// Runs the loop and closes the socket. Returns the code with which the session ended.
    pub(super) async fn serve(&mut self, reader: &mut MessageReader) -> CloseCode {
        // The upgrade checked organisation and token before this session was registered with the hub.
        // Whatever changed in between did not reach this session, so both are checked again.
        let incarnation = self.registration.seal().incarnation();
        let is_other = |found: Option<Incarnation>| found != Some(incarnation);
        if self.context.directory.incarnation(self.identity.org).await.is_ok_and(is_other) {
            self.outbox.close(CloseCode::ORG_GONE);
        }
        if let Some(close) = self.revocation_check.close_reason() {
            self.outbox.close(close);
        }
        let close = self.run_loop(reader).await;
        self.resuming.clear();
        self.refreshing.clear();
        for (topic, joined) in self.joined.take() {
            self.end_join(&topic, &joined);
        }
        self.outbox.close(close);
        // The hub may have closed the outbox a moment earlier. The client then receives that code, so it is
        // the one that is reported.
        let close = match self.outbox.close_state() {
            Some(CloseState::Closing(Some(sent))) => sent,
            _ => close,
        };
        close_socket(&self.outbox, reader, &self.context.limits).await;
        close
    }

    async fn run_loop(&mut self, reader: &mut MessageReader) -> CloseCode {
        let timer = tokio::time::sleep_until(self.deadline());
        tokio::pin!(timer);
        let rate = self.context.limits.received_bytes;
        loop {
            let outbox = Arc::clone(&self.outbox);
            let is_paused = self.paused_until > Instant::now();
            let action = tokio::select! {
                message = reader.next(&outbox, rate), if !is_paused => {
                    self.last_heard = Instant::now();
                    self.count_bytes(reader.take_read_bytes());
                    self.on_message(message)
                }
                closed = poll_fn(|cx| outbox.poll_until_closed(cx)) => match closed {
                    CloseState::Closing(close) => LoopAction::Close(close.unwrap_or(CloseCode::NORMAL)),
                    CloseState::Broken => LoopAction::Close(CloseCode::NORMAL),
                },
                outcome = next_resumed(&mut self.resuming), if !self.resuming.is_empty() => {
                    self.on_resumed(outcome);
                    LoopAction::Continue
                }
                outcome = next_refreshed(&mut self.refreshing), if !self.refreshing.is_empty() => {
                    self.on_refreshed(outcome)
                }
                () = &mut timer => self.on_timer(),
            };
            match action {
                LoopAction::Close(close) => return close,
                LoopAction::Continue if !timer.is_elapsed() && !self.must_reset_timer() => {}
                LoopAction::Continue | LoopAction::ResetTimer => timer.as_mut().reset(self.deadline()),
            }
        }
    }

    fn on_message(&mut self, message: Option<Result<Message, WsError>>) -> LoopAction {
        let decision = match &message {
            Some(Ok(_)) => {
                self.take_from_org(MESSAGE_UNITS);
                if self.registration.relieve_full_memory() > 0 {
                    self.context.metrics.limit_reached(OUTBOXES_PER_ORG);
                }
                self.message_rate.check(&self.context.limits, Instant::now())
            }
            _ => RateDecision::Accept,
        };
        if decision != RateDecision::Accept {
            self.context.metrics.limit_reached("messages");
        }
        match message {
            Some(Ok(_)) if decision == RateDecision::Close => LoopAction::Close(CloseCode::FLOOD),
            Some(Ok(Message::Text(text))) => self.on_text(&text, decision == RateDecision::Accept),
            Some(Ok(Message::Binary(_))) => LoopAction::Close(CloseCode::UNSUPPORTED),
            // The reader has already answered a ping. It has also answered a Close, and then the stream ends.
            Some(Ok(_)) => LoopAction::Continue,
            Some(Err(WsError::Io(error))) if error.kind() == ErrorKind::Interrupted => LoopAction::Continue,
            Some(Err(error)) => LoopAction::Close(self.close_code(&error)),
            None => LoopAction::Close(CloseCode::NORMAL),
        }
    }

    fn count_bytes(&mut self, bytes: usize) {
        if let units @ 1.. = units_of(bytes) {
            self.take_from_org(units);
        }
    }

    /// Counts what the session causes against the rate of its organisation. Beyond it, the session pauses.
    pub(super) fn take_from_org(&mut self, units: u32) {
        let now = Instant::now();
        let pause = self.org_rate.take(self.context.limits.messages_per_org, units, now);
        if !pause.is_zero() {
            self.paused_until = now + pause;
            self.context.metrics.limit_reached("messages_per_org");
        }
    }

    /// The close code for a socket that could not be read.
    fn close_code(&self, error: &WsError) -> CloseCode {
        match error {
            WsError::Capacity(CapacityError::MessageTooLong { .. }) => {
                self.context.metrics.limit_reached("message_bytes");
                CloseCode::TOO_BIG
            }
            WsError::Io(error) if error.kind() == ErrorKind::QuotaExceeded => {
                self.context.metrics.limit_reached("received_bytes");
                CloseCode::FLOOD
            }
            WsError::Utf8(_) => CloseCode::INVALID_UTF8,
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseCode::NORMAL,
            WsError::Protocol(_) => CloseCode::PROTOCOL_ERROR,
            _ => CloseCode::NORMAL,
        }
    }

    fn on_timer(&mut self) -> LoopAction {
        if self.is_stalled() {
            self.outbox.close_as_slow();
            LoopAction::Close(CloseCode::SLOW)
        } else if self.ends_in().is_zero() {
            LoopAction::Close(CloseCode::TOKEN_EXPIRED)
        } else if self.last_read().elapsed() >= self.context.limits.idle_timeout {
            LoopAction::Close(CloseCode::IDLE)
        } else {
            LoopAction::Continue
        }
    }

    /// Whether the queue of the outbox was not empty for too long. Only the timer checks it, so that sending
    /// costs nothing.
    fn is_stalled(&mut self) -> bool {
        let Some(drains) = self.outbox.drains() else {
            self.backlog = None;
            return false;
        };
        match self.backlog.filter(|backlog| backlog.drains == drains) {
            Some(backlog) => backlog.since.elapsed() >= self.context.limits.backlog_timeout,
            None => {
                self.backlog = Some(Backlog { since: Instant::now(), drains });
                false
            }
        }
    }

    /// The time of the timer's next check. A message does not reset the timer: when the timer fires, the loop
    /// checks whether the session has really been idle, and sleeps again if not.
    fn deadline(&self) -> Instant {
        let now = Instant::now();
        if self.paused_until > now {
            return self.paused_until.min(now + self.ends_in());
        }
        let idle = self.last_read() + self.context.limits.idle_timeout;
        let stalled = self.backlog.map(|backlog| backlog.since + self.context.limits.backlog_timeout);
        idle.min(now + self.ends_in()).min(stalled.unwrap_or(idle))
    }

    /// The time at which the client was last heard, or could have been heard.
    fn last_read(&self) -> Instant {
        self.last_heard.max(self.paused_until)
    }

    /// Whether the timer must be set again after a message.
    fn must_reset_timer(&self) -> bool {
        self.ends_in().is_zero() || self.paused_until > Instant::now()
    }

    /// The time at which the session ends if no further token arrives. A session whose fresh token waits for
    /// its key is not closed before the key server had its time to answer.
    fn ends_at(&self) -> SystemTime {
        let wait = if self.refreshing.is_empty() { Duration::ZERO } else { self.context.verifier.wait() };
        self.identity.expires_at + self.context.limits.expiry_grace + wait
    }

    fn ends_in(&self) -> Duration {
        self.ends_at().duration_since(SystemTime::now()).unwrap_or_default()
    }
}

/// Sends the queued frames including the Close frame, then waits for the peer's Close, both within the limit.
async fn close_socket(outbox: &Outbox, reader: &mut MessageReader, limits: &SessionLimits) {
    if outbox.close_state() == Some(CloseState::Broken) {
        return;
    }
    let closing = async {
        poll_fn(|cx| outbox.poll_flush(cx)).await;
        // The kernel resets a connection that is closed with unread bytes, and the reset may overtake our
        // Close frame. So everything up to the peer's Close or the end of the stream is read.
        while let Some(Ok(_)) = reader.next(outbox, limits.received_bytes).await {
            reader.take_read_bytes();
        }
        // After an unreadable frame the reader returns no more messages, but the socket may still have bytes.
        discard_until_end(outbox).await;
    };
    let _ = tokio::time::timeout(limits.close_timeout, closing).await;
}

//! A join with a cursor: missed events first, then live events, without a gap or an overlap.
//!
//! The order of the steps guarantees this: subscribe with a replay buffer, send the missed events up to the
//! node's position at that moment, then send the buffered events and continue live.
//!
//! A resume runs beside the session's loop, so several topics resume at the same time. It sends at the pace
//! at which the client reads, and ends when the client leaves the topic.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::json;

use super::join_options::Since;
use super::joined_topics::{JoinRequest, JoinState, JoinedTopic};
use super::pending::{ResumeEnd, ResumeOutcome, Resuming};
use super::revocation_check::RevocationCheck;
use super::{Session, SessionContext};
use crate::cursor::Cursor;
use crate::hub::{
    FilterHandle, OUTBOXES_PER_ORG, Outbox, Registration, Rendered, SessionCheck as _, Subscribed,
};
use crate::org::OrgId;
use crate::replay::{EventPosition, ReplayBatch, ReplayError, ResumePlace};
use crate::wire::{ClientMessage, Event, RESYNC_EVENT, Status, Topic, append_event_frame, push};

/// Approximate size of one write of missed events, in bytes. Each write waits until the previous one is on
/// the wire.
const CHUNK_BYTES: usize = 32 * 1024;

/// Interval at which a resume checks whether there is memory for its next write.
const ROOM_INTERVAL: Duration = Duration::from_millis(200);

/// Checks for memory before a write is sent nevertheless. What waits may be live events for this very client.
const ROOM_CHECKS: usize = 10;

/// Evaluations of a filter before other tasks may run, each for about [`BYTES_PER_EVALUATION`] of an event.
const EVALUATIONS_PER_TURN: usize = 256;

/// Bytes of an event that cost as much as one evaluation. Patterns read the whole text.
const BYTES_PER_EVALUATION: usize = 256;

/// Evaluations since other tasks could run.
#[derive(Default)]
struct EvaluationTurn(usize);

impl EvaluationTurn {
    /// Counts the evaluation of an event of this size. Returns whether other tasks must run now.
    fn ends_after(&mut self, event_bytes: usize) -> bool {
        self.0 += 1 + event_bytes / BYTES_PER_EVALUATION;
        let ends = self.0 >= EVALUATIONS_PER_TURN;
        self.0 *= usize::from(!ends);
        ends
    }
}

/// The parts of a session that one resume uses.
pub(super) struct Resume {
    pub(super) context: Arc<SessionContext>,
    pub(super) registration: Arc<Registration>,
    pub(super) outbox: Arc<Outbox>,
    /// Knows the session's current token.
    pub(super) check: Arc<RevocationCheck>,
    pub(super) org: OrgId,
    pub(super) topic: Topic,
    pub(super) topic_name: String,
    /// The channel of the join's filter.
    pub(super) filter: Option<Arc<FilterHandle>>,
    pub(super) since: Cursor,
    /// Position of the last page of rows that the client has, which the node must have reached too.
    pub(super) seen: Option<Cursor>,
    /// Whether the client gets marks.
    pub(super) marks: bool,
    /// Reason why the client has to resync.
    pub(super) resync: OnceLock<ReplayError>,
}

/// A subscription with a replay buffer. Dropping it unsubscribes, so a resume may end at any await point.
struct BufferedSubscription<'a> {
    resume: &'a Resume,
    subscribed: Option<Subscribed>,
}

impl Session {
    /// Starts to resume a join. Returns false if no gateway of this database issued the cursors for this
    /// organisation in the present epoch, or if the client had a filter.
    pub(super) fn resume(
        &mut self,
        topic: &Topic,
        message: &ClientMessage,
        since: &Since,
        marks: bool,
    ) -> bool {
        let encoded_since = &since.cursor;
        let opened = self.context.open_since(self.registration.seal(), since);
        let opened = opened.filter(|_| !since.is_of_another(None));
        let Some((since, seen)) = opened else { return false };
        let resume = Resume {
            context: Arc::clone(&self.context),
            registration: Arc::clone(&self.registration),
            outbox: Arc::clone(&self.outbox),
            check: Arc::clone(&self.revocation_check),
            org: self.identity.org,
            topic: topic.clone(),
            topic_name: message.topic.clone(),
            filter: None,
            since,
            seen,
            marks,
            resync: OnceLock::new(),
        };
        // The reply is sent first, because clients give up a join after about 10 s and the replay may take
        // longer.
        self.reply(message, Status::Ok, json!({"cursor": encoded_since}));
        let join_ref = message.join_ref.as_deref().map(Box::from);
        let request = JoinRequest { join_ref, marks, ..JoinRequest::default() };
        self.start_join(topic.clone(), request, JoinState::Resuming, async move {
            let subscribed = Some(resume.run().await);
            ResumeEnd { subscribed, resync: resume.resync.into_inner(), rejected: None }
        });
        true
    }

    /// Adds a join whose messages before live events are sent beside the session's loop. Ending the join
    /// drops `work`.
    pub(super) fn start_join(
        &mut self,
        topic: Topic,
        request: JoinRequest,
        state: JoinState,
        work: impl Future<Output = ResumeEnd> + Send + 'static,
    ) {
        let join_id = self.next_join_id();
        self.joined.insert(topic.clone(), JoinedTopic { join_id, request, state });
        self.resuming.push(Resuming { topic, join_id, work: Box::pin(work) });
    }

    pub(super) fn on_resumed(&mut self, ResumeOutcome { topic, join_id, end }: ResumeOutcome) {
        if let Some(error) = &end.resync
            && let Some(allowed) = self.take_log_line()
        {
            let unlogged = (allowed.unlogged > 0).then_some(allowed.unlogged);
            tracing::info!(%error, org.id = %self.identity.org, unlogged, "resume failed, client must resync");
        }
        let is_current = self.joined.get(&topic).is_some_and(|joined| joined.join_id == join_id);
        if let Some(reply) = &end.rejected
            && is_current
        {
            self.remove_join(&topic);
            self.send(reply);
        }
        let Some(subscribed) = end.subscribed else { return };
        match self.joined.get_mut(&topic) {
            Some(joined) if is_current => {
                let request = self.registration.mark_request(&topic, &subscribed);
                joined.state = JoinState::Live(subscribed);
                joined.request.reply = None;
                if let Some(request) = request {
                    self.context.questions.request_mark(request);
                }
                self.ask_pending(&topic);
            }
            // The client has left the topic, and may have joined it again. No join owns this subscription.
            _ => self.registration.unsubscribe(&topic, &subscribed),
        }
    }
}

/// Resolves when one of these resumes has finished, and removes it.
pub(super) fn next_resumed(resuming: &mut Vec<Resuming>) -> impl Future<Output = ResumeOutcome> {
    poll_fn(move |cx| {
        for n in 0..resuming.len() {
            if let Poll::Ready(end) = resuming[n].work.as_mut().poll(cx) {
                let Resuming { topic, join_id, .. } = resuming.swap_remove(n);
                return Poll::Ready(ResumeOutcome { topic, join_id, end });
            }
        }
        Poll::Pending
    })
}

impl Resume {
    pub(super) async fn run(&self) -> Subscribed {
        match self.context.replay.begin(self.org, self.cursors()) {
            Ok(place) => tokio::select! {
                biased;
                subscribed = self.run_with(&place) => subscribed,
                () = place.evicted() => self.join_with_resync(&ReplayError::TooManyResumes),
            },
            Err(error) => self.join_with_resync(&error),
        }
    }

    /// The cursors that the client has named, or that its pages have.
    fn cursors(&self) -> impl Iterator<Item = &Cursor> {
        std::iter::once(&self.since).chain(&self.seen)
    }

    /// Resumes, as long as the place is kept.
    async fn run_with(&self, place: &ResumePlace) -> Subscribed {
        let replay = &self.context.replay;
        for cursor in self.cursors() {
            if let Err(error) = replay.wait_until_reached(cursor, || self.context.hub.cursor()).await {
                return self.join_with_resync(&error);
            }
        }
        let mut position = None;
        let subscribed =
            self.registration.subscribe_for_replay(&self.topic, self.filter.as_ref(), self.marks, |cursor| {
                position = Some(cursor.clone()).filter(|position| position.epoch == self.since.epoch);
            });
        let mut buffered = BufferedSubscription { resume: self, subscribed: Some(subscribed) };
        let Some(position) = position else {
            drop(buffered);
            return self.join_with_resync(&ReplayError::Epoch);
        };
        match replay.missed_events(place, &self.topic, &self.since, &position).await {
            Ok(batch) => {
                if let Err(error) = self.send_in_time(&batch).await {
                    self.send_resync(&position, &error);
                }
            }
            Err(error) => self.send_resync(&position, &error),
        }
        let Some(subscribed) = buffered.subscribed.take() else {
            unreachable!("only this function takes the subscription")
        };
        self.registration.end_replay(&subscribed);
        subscribed
    }

    /// Joins for live events only and sends a resync, so that the client reads the current state again.
    pub(super) fn join_with_resync(&self, error: &ReplayError) -> Subscribed {
        self.record_resync(error);
        let resync = |cursor: &Cursor| self.resync_frame(cursor, error);
        self.registration.subscribe(&self.topic, self.filter.as_ref(), self.marks, resync)
    }

    /// Sends a resync instead of the missed events, or instead of the rest of them. Live events follow from
    /// `position`.
    fn send_resync(&self, position: &Cursor, error: &ReplayError) {
        self.record_resync(error);
        self.outbox.send(&self.resync_frame(position, error));
    }

    fn record_resync(&self, error: &ReplayError) {
        let _ = self.resync.set(error.clone());
        self.context.metrics.resyncs.inc();
    }

    fn resync_frame(&self, cursor: &Cursor, error: &ReplayError) -> Bytes {
        let payload = json!({"cursor": self.registration.seal().seal(cursor), "reason": reason(error)});
        push(None, None, &self.topic_name, RESYNC_EVENT, payload)
    }

    /// Sends missed events, as long as their memory may be used.
    async fn send_in_time(&self, batch: &ReplayBatch) -> Result<(), ReplayError> {
        tokio::select! {
            biased;
            sent = self.send(batch) => sent,
            () = batch.reclaimed() => Err(ReplayError::Reclaimed),
            () = tokio::time::sleep(self.context.replay.send_timeout()) => Err(ReplayError::TooMany),
        }
    }

    /// Sends missed events. An event that needs a claim is compared with the session's current token. It may
    /// be older than the present visibility of its topic, which the join was checked against.
    async fn send(&self, batch: &ReplayBatch) -> Result<(), ReplayError> {
        let mut frames = BytesMut::new();
        let filter = self.filter.as_deref();
        let render = move |event: &Event, position: &mut EventPosition<'_, '_>| match filter {
            None => {
                let (cursor, tx) = position.sealed();
                Rendered::Payload(event.payload(&cursor, tx))
            }
            Some(filter) => filter.render(event, || position.sealed()),
        };
        let mut turn = EvaluationTurn::default();
        for (event, rendered) in batch.rendered(self.registration.seal(), render) {
            // An event that is left out needs no claim.
            let is_sent = rendered != Rendered::Nothing;
            if is_sent && event.needs_claim && !self.check.names(event.topic.as_str()) {
                return Err(ReplayError::NeedsClaim);
            }
            if filter.is_some() && turn.ends_after(event.memory_bytes()) {
                // If nothing is written, nothing else lets other tasks run.
                tokio::task::yield_now().await;
            }
            let payload = match rendered {
                Rendered::Payload(payload) => payload,
                Rendered::Unknown => return Err(ReplayError::Filter),
                Rendered::Nothing => continue,
            };
            append_event_frame(&mut frames, &self.topic, event, &payload);
            if frames.len() >= CHUNK_BYTES {
                self.can_write().await;
                self.outbox.send(&frames.split().freeze());
            }
        }
        if !frames.is_empty() {
            self.can_write().await;
            self.outbox.send(&frames.freeze());
        }
        Ok(())
    }

    /// Waits until the former write is on the wire, and until the frames that wait for other clients of the
    /// organisation leave room for another one.
    async fn can_write(&self) {
        self.outbox.drained().await;
        for _ in 0..ROOM_CHECKS {
            if self.outbox.has_room() {
                break;
            }
            tokio::time::sleep(ROOM_INTERVAL).await;
        }
        if self.registration.relieve_full_memory() > 0 {
            self.context.metrics.limit_reached(OUTBOXES_PER_ORG);
        }
    }
}

impl Drop for BufferedSubscription<'_> {
    fn drop(&mut self) {
        if let Some(subscribed) = &self.subscribed {
            self.resume.registration.unsubscribe(&self.resume.topic, subscribed);
        }
    }
}

/// Reason code in the payload of `warden.resync`.
pub(super) fn reason(error: &ReplayError) -> &'static str {
    match error {
        ReplayError::TooMany | ReplayError::Reclaimed => "too_many",
        ReplayError::TooOld => "too_old",
        ReplayError::LogShare => "log_share",
        ReplayError::Epoch => "epoch",
        ReplayError::NeedsClaim => "needs_claim",
        ReplayError::Filter => "filter",
        ReplayError::Snapshot(_) => "snapshot",
        ReplayError::Log(_) | ReplayError::Timeout | ReplayError::TooManyResumes => "unavailable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_evaluations_is_shorter_for_large_events() {
        let turns = |event_bytes: usize| {
            let mut turn = EvaluationTurn::default();
            (0..1000).filter(|_| turn.ends_after(event_bytes)).count()
        };
        assert_eq!((turns(100), turns(60_000)), (1000 / 256, 500));
    }
}

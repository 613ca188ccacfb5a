//! A join with a cursor: register and hold what follows, tell what was missed, release what was held, go
//! on live. In that order there is neither a gap nor an overlap at the seam.
//!
//! It runs beside the session's loop (several topics resume together), at the pace at which the client
//! reads, and ends when the topic is left.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::joined_topics::{JoinState, JoinedTopic};
use super::{Session, SessionContext};
use crate::hub::{Outbox, Registration, Subscribed};
use crate::log::cursor::Cursor;
use crate::org::OrgId;
use crate::replay::{ReplayBatch, ReplayError};
use crate::wire::{
    ClientMessage, EncodedCursor, RESYNC_EVENT, Status, Topic, append_event_frame, push, reply,
};

/// Missed events go out in buffers of about so many bytes, each when the one before is on the wire.
const CHUNK_BYTES: usize = 32 * 1024;

/// A join that is being resumed.
pub(super) type ResumeFuture = Pin<Box<dyn Future<Output = ResumeOutcome> + Send>>;

/// One that is live now; or that was left meanwhile, and then there is nothing to end.
pub(super) struct ResumeOutcome {
    topic: Topic,
    join_id: u64,
    subscribed: Option<Subscribed>,
}

/// Everything that a resume needs of its session.
struct Resume {
    context: Arc<SessionContext>,
    registration: Arc<Registration>,
    outbox: Arc<Outbox>,
    org: OrgId,
    topic: Topic,
    topic_text: String,
    join_ref: Option<String>,
    reference: Option<String>,
    since: Cursor,
    since_text: String,
}

/// A held subscription, which ends when this is dropped on the way.
struct Hold<'a> {
    resume: &'a Resume,
    subscribed: Option<Subscribed>,
}

impl Session {
    /// Begins to resume a join. False where the cursor means nothing here.
    pub(super) fn resume(&mut self, topic: &Topic, message: &ClientMessage, since_text: &str) -> bool {
        let Ok(since) = since_text.parse::<Cursor>() else { return false };
        let epoch = self.context.hub.cursor().and_then(|now| decode(&now)).map(|now| now.epoch);
        if epoch != Some(since.epoch) {
            return false;
        }
        let join_id = self.next_join_id();
        let left = CancellationToken::new();
        let resume = Resume {
            context: Arc::clone(&self.context),
            registration: Arc::clone(&self.registration),
            outbox: Arc::clone(&self.outbox),
            org: self.identity.org,
            topic: topic.clone(),
            topic_text: message.topic.clone(),
            join_ref: message.join_ref.clone(),
            reference: message.reference.clone(),
            since,
            since_text: since_text.to_owned(),
        };
        let has_left = left.clone();
        self.resuming.push(Box::pin(async move {
            let subscribed = tokio::select! {
                biased;
                () = has_left.cancelled() => None,
                subscribed = resume.run() => Some(subscribed),
            };
            ResumeOutcome { topic: resume.topic, join_id, subscribed }
        }));
        let state = JoinState::Resuming(left);
        let join_ref = message.join_ref.as_deref().map(Box::from);
        self.joined.insert(topic.clone(), JoinedTopic { join_ref, join_id, state });
        true
    }

    pub(super) fn on_resumed(&mut self, outcome: ResumeOutcome) {
        let Some(subscribed) = outcome.subscribed else { return };
        match self.joined.get_mut(&outcome.topic) {
            Some(joined) if joined.join_id == outcome.join_id => joined.state = JoinState::Live(subscribed),
            // Left, and perhaps joined again: this subscription is nobody's.
            _ => self.registration.unsubscribe(&outcome.topic, &subscribed),
        }
    }
}

/// Resolves with the first of these that is through, and takes it out.
pub(super) fn next_resumed(resuming: &mut Vec<ResumeFuture>) -> impl Future<Output = ResumeOutcome> {
    poll_fn(move |cx| {
        for n in 0..resuming.len() {
            if let Poll::Ready(resumed) = resuming[n].as_mut().poll(cx) {
                drop(resuming.swap_remove(n));
                return Poll::Ready(resumed);
            }
        }
        Poll::Pending
    })
}

impl Resume {
    async fn run(&self) -> Subscribed {
        // At once: clients give a join up after some 10 s, and what it waits for may take longer.
        self.outbox.send(&self.reply(json!({"cursor": self.since_text})));
        if let Err(error) = self.context.replay.wait_until_reached(&self.since, || self.position()).await {
            return self.give_up(&error);
        }
        let mut at = None;
        let subscribed = self.registration.subscribe_for_replay(&self.topic, |cursor| {
            at = decode(cursor).filter(|at| at.epoch == self.since.epoch);
        });
        let mut hold = Hold { resume: self, subscribed: Some(subscribed) };
        let Some(at) = at else {
            drop(hold);
            return self.give_up(&ReplayError::Epoch);
        };
        match self.context.replay.missed_events(self.org, &self.topic, &self.since, &at).await {
            Ok(missed) => {
                let late = tokio::time::timeout(self.context.replay.send_timeout(), self.send(&missed)).await;
                if late.is_err() {
                    self.resync(&at, &ReplayError::TooMany);
                }
            }
            Err(error) => self.resync(&at, &error),
        }
        let Some(subscribed) = hold.subscribed.take() else { unreachable!("taken only here") };
        self.registration.end_replay(&subscribed);
        subscribed
    }

    /// The join without what was missed: the client reads its state anew.
    fn give_up(&self, error: &ReplayError) -> Subscribed {
        tracing::info!(%error, org.id = %self.org, "a resume could not be served: resync");
        self.context.metrics.resyncs.inc();
        self.registration.subscribe(&self.topic, |cursor| self.resync_frame(cursor.as_str(), error))
    }

    /// What was missed can't be told, or not all of it: the client goes on from `at`.
    fn resync(&self, at: &Cursor, error: &ReplayError) {
        tracing::info!(%error, org.id = %self.org, "a resume could not be served: resync");
        self.context.metrics.resyncs.inc();
        self.outbox.send(&self.resync_frame(&at.to_string(), error));
    }

    fn resync_frame(&self, cursor: &str, error: &ReplayError) -> Bytes {
        let payload = json!({"cursor": cursor, "reason": reason(error)});
        push(None, None, &self.topic_text, RESYNC_EVENT, payload)
    }

    async fn send(&self, missed: &ReplayBatch) {
        let mut frames = BytesMut::new();
        for (event, cursor) in missed.iter() {
            append_event_frame(&mut frames, &self.topic, event, &event.payload_at(&cursor));
            if frames.len() >= CHUNK_BYTES {
                self.outbox.drained().await;
                self.outbox.send(&frames.split().freeze());
            }
        }
        if !frames.is_empty() {
            self.outbox.drained().await;
            self.outbox.send(&frames.freeze());
        }
    }

    fn position(&self) -> Option<Cursor> {
        self.context.hub.cursor().and_then(|cursor| decode(&cursor))
    }

    fn reply(&self, response: serde_json::Value) -> Bytes {
        reply(self.join_ref.as_deref(), self.reference.as_deref(), &self.topic_text, Status::Ok, response)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if let Some(subscribed) = &self.subscribed {
            self.resume.registration.unsubscribe(&self.resume.topic, subscribed);
        }
    }
}

/// Decodes a cursor that this node encoded, so it is always valid.
fn decode(cursor: &EncodedCursor) -> Option<Cursor> {
    cursor.as_str().parse().ok()
}

/// For the client, in the payload of `warden.resync`.
fn reason(error: &ReplayError) -> &'static str {
    match error {
        ReplayError::TooMany => "too_many",
        ReplayError::TooOld => "too_old",
        ReplayError::Epoch => "epoch",
        ReplayError::Log(_) | ReplayError::Timeout => "unavailable",
    }
}

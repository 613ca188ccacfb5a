//! Work that a session runs beside its loop: resumes, verifications of fresh tokens that wait for a key, and
//! questions that wait for a resume.

use std::pin::Pin;

use bytes::Bytes;
use serde_json::Value;

use crate::audit_trail::TokenHash;
use crate::auth::{AuthError, Identity};
use crate::hub::{CoverageTarget, Subscribed};
use crate::replay::ReplayError;
use crate::wire::{ClientMessage, Status, Topic, reply};

/// A join whose messages before live events are still being sent. Dropping it ends the work, with its permits
/// and its subscription.
pub(super) struct Resuming {
    pub(super) topic: Topic,
    pub(super) join_id: u64,
    pub(super) work: Pin<Box<dyn Future<Output = ResumeEnd> + Send>>,
}

/// A join whose messages before live events have been sent, or that ended.
pub(super) struct ResumeOutcome {
    pub(super) topic: Topic,
    pub(super) join_id: u64,
    pub(super) end: ResumeEnd,
}

/// Result of a resume.
#[derive(Default)]
pub(super) struct ResumeEnd {
    /// None if the session was closed, or if the join was rejected.
    pub(super) subscribed: Option<Subscribed>,
    /// Failure for which the client had to resync.
    pub(super) resync: Option<ReplayError>,
    /// The reply to a join whose snapshot is rejected.
    pub(super) rejected: Option<Bytes>,
}

/// Pending verification of a fresh token, which waits for the token's key.
pub(super) type RefreshFuture = Pin<Box<dyn Future<Output = RefreshOutcome> + Send>>;

/// Result of a token's verification.
pub(super) struct RefreshOutcome {
    pub(super) message: ClientMessage,
    pub(super) token: TokenHash,
    pub(super) verified: Result<Identity, AuthError>,
}

/// A question on a topic whose rows or missed events are still being sent.
pub(super) struct PendingQuestion {
    pub(super) topic: Topic,
    pub(super) target: CoverageTarget,
    pub(super) refs: MessageRefs,
}

/// The parts of the message that its reply repeats.
pub(super) struct MessageRefs {
    join_ref: Option<String>,
    reference: Option<String>,
    topic: String,
}

impl From<ClientMessage> for MessageRefs {
    fn from(message: ClientMessage) -> Self {
        Self { join_ref: message.join_ref, reference: message.reference, topic: message.topic }
    }
}

impl From<&ClientMessage> for MessageRefs {
    fn from(message: &ClientMessage) -> Self {
        let ClientMessage { join_ref, reference, topic, .. } = message;
        Self { join_ref: join_ref.clone(), reference: reference.clone(), topic: topic.clone() }
    }
}

impl MessageRefs {
    /// References of a push on a topic, which no reply names.
    pub(super) fn of_push(join_ref: Option<&str>, topic: &Topic) -> Self {
        Self { join_ref: join_ref.map(str::to_owned), reference: None, topic: topic.to_string() }
    }

    pub(super) fn join_ref(&self) -> Option<&str> {
        self.join_ref.as_deref()
    }

    pub(super) fn reply(&self, status: Status, response: Value) -> Bytes {
        reply(self.join_ref.as_deref(), self.reference.as_deref(), &self.topic, status, response)
    }
}

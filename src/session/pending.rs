//! Work that a session runs beside its loop: resumes, and verifications of fresh tokens that wait for a key.

use std::pin::Pin;

use bytes::Bytes;

use crate::audit_trail::TokenHash;
use crate::auth::{AuthError, Identity};
use crate::hub::Subscribed;
use crate::replay::ReplayError;
use crate::wire::{ClientMessage, Topic};

/// A resume in progress.
pub(super) type ResumeFuture = Pin<Box<dyn Future<Output = ResumeOutcome> + Send>>;

/// Result of a resume. The subscription is None if the client left the topic before the resume ended.
pub(super) struct ResumeOutcome {
    pub(super) topic: Topic,
    pub(super) join_id: u64,
    pub(super) subscribed: Option<Subscribed>,
    /// Reason why the client had to resync.
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

//! The check whether a session's token was revoked, which the hub runs on every session after a revocation.

use std::sync::{Arc, Mutex};

use crate::auth::Identity;
use crate::control::{Revocations, Revoked, TokenSubject};
use crate::hub::SessionCheck;
use crate::sync::lock;
use crate::wire::CloseCode;

/// The claims of a verified token that revocations are compared with.
#[must_use]
pub fn token_subject(identity: &Identity) -> TokenSubject<'_> {
    TokenSubject {
        org: identity.org,
        issuer: identity.issuer.as_deref(),
        user: &identity.subject,
        session: identity.session_id.as_deref(),
        issued_at: identity.issued_at,
    }
}

/// A session's current token and the revocations that may concern it.
#[derive(Debug)]
pub(super) struct RevocationCheck {
    identity: Mutex<Arc<Identity>>,
    revocations: Arc<Revocations>,
}

impl RevocationCheck {
    pub(super) fn new(identity: Arc<Identity>, revocations: Arc<Revocations>) -> Self {
        Self { identity: Mutex::new(identity), revocations }
    }

    /// The identity of the current token.
    pub(super) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&lock(&self.identity))
    }

    /// Replaces the token. The caller must then call [`SessionCheck::close_reason`].
    ///
    /// A revocation first replaces the entries and then checks every session. So it either finds the new
    /// token here, or the caller's check finds the new entries: no revocation is missed.
    pub(super) fn replace(&self, identity: Arc<Identity>) {
        *lock(&self.identity) = identity;
    }
}

impl SessionCheck for RevocationCheck {
    fn names(&self, topic: &str) -> bool {
        lock(&self.identity).topics.names(topic)
    }

    fn close_reason(&self) -> Option<CloseCode> {
        let identity = self.identity();
        self.revocations.check(&token_subject(&identity)).map(|revoked| match revoked {
            Revoked::Token => CloseCode::REVOKED,
            Revoked::Suspended => CloseCode::ORG_SUSPENDED,
        })
    }
}

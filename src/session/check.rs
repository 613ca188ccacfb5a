//! Whether a session may stay when something was revoked: what the hub asks of each.

use std::sync::{Arc, Mutex};

use crate::auth::Identity;
use crate::control::{Revocations, Revoked, TokenSubject};
use crate::hub::SessionCheck;
use crate::sync::lock;
use crate::wire::CloseCode;

/// What a token says of itself, for the question whether it was revoked.
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

/// A session's present token, where the hub can ask for it.
#[derive(Debug)]
pub(super) struct Bearer {
    identity: Mutex<Arc<Identity>>,
    revocations: Arc<Revocations>,
}

impl Bearer {
    pub(super) fn new(identity: Arc<Identity>, revocations: Arc<Revocations>) -> Self {
        Self { identity: Mutex::new(identity), revocations }
    }

    /// The token was replaced. Who then asks [`SessionCheck::fallen`] misses no revocation: either the walk over
    /// all sessions saw this token, or the walk's entries are seen now.
    pub(super) fn replace(&self, identity: Arc<Identity>) {
        *lock(&self.identity) = identity;
    }
}

impl SessionCheck for Bearer {
    fn close_reason(&self) -> Option<CloseCode> {
        let identity = Arc::clone(&lock(&self.identity));
        self.revocations.check(&token_subject(&identity)).map(|revoked| match revoked {
            Revoked::Token => CloseCode::REVOKED,
            Revoked::Suspended => CloseCode::ORG_SUSPENDED,
        })
    }
}

//! The check whether a session's token was revoked, which the hub runs on every session after a revocation.

use std::fmt;
use std::sync::Arc;

use super::SessionContext;
use super::current_token::CurrentToken;
use crate::auth::Identity;
use crate::control::{Revoked, TokenSubject};
use crate::hub::{JoinableTopics, NamedTopics, SessionCheck};
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

/// A session's current token, and the state that it is compared with.
pub(super) struct RevocationCheck {
    token: CurrentToken<Identity>,
    context: Arc<SessionContext>,
}

impl RevocationCheck {
    pub(super) fn new(identity: Arc<Identity>, context: Arc<SessionContext>) -> Self {
        Self { token: CurrentToken::new(identity), context }
    }

    /// The identity of the current token.
    pub(super) fn identity(&self) -> Arc<Identity> {
        self.token.get()
    }

    /// Replaces the token. The caller must then call [`SessionCheck::close_reason`].
    ///
    /// A revocation first replaces the entries and then checks every session. So it either finds the new
    /// token here, or the caller's check finds the new entries: no revocation is missed.
    pub(super) fn replace(&self, identity: Arc<Identity>) {
        self.token.replace(identity);
    }
}

impl fmt::Debug for RevocationCheck {
    /// Leaves out the context, because its hub contains this check.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RevocationCheck").field("token", &self.token).finish_non_exhaustive()
    }
}

impl SessionCheck for RevocationCheck {
    fn names(&self, topic: &str) -> bool {
        self.identity().access().names(topic)
    }

    fn is_carried(&self, topics: &NamedTopics) -> bool {
        let identity = self.identity();
        !identity.filters.is_present()
            || topics.iter().any(|topic| identity.filters.of(topic.as_str()).is_some())
    }

    fn joinable(&self, topics: &Arc<NamedTopics>) -> JoinableTopics {
        self.token.joinable(topics, |token, topic| self.context.check_topic(token.access(), topic).is_ok())
    }

    fn close_reason(&self) -> Option<CloseCode> {
        let identity = self.identity();
        self.context.revocations.check(&token_subject(&identity)).map(|revoked| match revoked {
            Revoked::Token => CloseCode::REVOKED,
            Revoked::Suspended => CloseCode::ORG_SUSPENDED,
        })
    }
}

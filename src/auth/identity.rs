//! The result of verification.

use std::sync::Arc;
use std::time::SystemTime;

use super::topics::TopicClaim;
use crate::org::OrgId;

/// Somebody whose token was verified. Its organisation is fixed for the life of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// From `app_metadata.org_id` of the token, and from nowhere else.
    pub org: OrgId,
    /// The issuer by whose keys the token was verified; none where only a secret without an issuer is
    /// configured. The same `sub` of two issuers is two people.
    pub issuer: Option<Arc<str>>,
    /// The `sub` claim.
    pub subject: String,
    /// The `session_id` claim: the login that the token belongs to.
    pub session_id: Option<String>,
    /// The `iat` claim: when the token was made.
    pub issued_at: Option<SystemTime>,
    /// When the token's time runs out.
    pub expires_at: SystemTime,
    /// The claim that limits topics.
    pub topics: TopicClaim,
    /// Whether the claim `role` is the one by which its issuer names back ends. It gives rights within the
    /// organisation, and never beyond it.
    pub is_service: bool,
}

impl Identity {
    /// Whether another token is of the same user, in the same organisation, by the same issuer.
    #[must_use]
    pub fn is_same_user(&self, other: &Self) -> bool {
        (self.org, &self.issuer, &self.subject) == (other.org, &other.issuer, &other.subject)
    }
}

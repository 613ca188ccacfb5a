//! The identity that a verified token proves.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::access::TopicAccess;
use super::filters::FilterClaim;
use super::topics::TopicClaim;
use crate::org::OrgId;

/// All claims of a verified token, as JSON, for row-level security. They contain personal data, so `Debug`
/// prints `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct ClaimsJson(Arc<str>);

impl ClaimsJson {
    pub(super) fn new(json: &str) -> Self {
        Self(json.into())
    }

    /// The JSON.
    #[must_use]
    pub fn json(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for ClaimsJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Claims of a verified token. The organisation is fixed for the life of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Organisation, from `app_metadata.org_id` of the token and from nowhere else.
    pub org: OrgId,
    /// Issuer whose key verified the token. None if only a secret without an issuer is configured. The same
    /// `sub` of two issuers means two users.
    pub issuer: Option<Arc<str>>,
    /// User, from the `sub` claim.
    pub subject: String,
    /// Login session that the token belongs to, from the `session_id` claim.
    pub session_id: Option<String>,
    /// Time at which the token was issued, from the `iat` claim.
    pub issued_at: Option<SystemTime>,
    /// Time at which the token expires, from the `exp` claim.
    pub expires_at: SystemTime,
    /// Topics that the token is limited to.
    pub topics: TopicClaim,
    /// Rows of topics that the token is limited to.
    pub filters: FilterClaim,
    /// Whether the claim `role` marks the token as one of a back end. This role grants rights within the
    /// organisation only.
    pub is_service: bool,
    /// Whether the token is valid for requests of back ends only, because its issuer issues no others.
    pub backends_only: bool,
    /// All claims, for the transactions that read rows as this user.
    pub claims: ClaimsJson,
}

impl Identity {
    /// The claims that limit the token's topics.
    #[must_use]
    pub fn access(&self) -> TopicAccess<'_> {
        TopicAccess { topics: &self.topics, filters: &self.filters }
    }

    /// Whether another token belongs to the same user of the same organisation and issuer.
    #[must_use]
    pub fn is_same_user(&self, other: &Self) -> bool {
        (self.org, &self.issuer, &self.subject) == (other.org, &other.issuer, &other.subject)
    }
}

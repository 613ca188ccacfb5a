//! Who connects: finding the one credential of a request, and verifying it.
//!
//! Everything a session may do follows from the [`Identity`] made here; nothing else makes one.
//!
//! A token chooses nothing but among what is configured: its `iss` names one issuer, its `alg` and `kid`
//! one of that issuer's keys ([`Verifier`]). Keys come from the configuration or from a key server, which
//! may be down, slow or wrong without taking anybody down ([`keys`]).

mod claims;
mod credential;
mod fetch;
mod issuer;
mod jwk;
mod keys;
mod parts;
mod topics;
mod verifier;

pub use claims::ClaimError;
pub use credential::{
    CookieName, CredentialError, PHOENIX_SUBPROTOCOL, Presented, TOKEN_BYTES_MAX, TOKEN_SUBPROTOCOL_PREFIX,
    find,
};
pub use fetch::{FetchError, KeyServerUrl};
pub use issuer::{IssuerConfig, IssuerRules, SERVICE_ROLE};
pub use jwk::{Alg, JWKS_KEYS_MAX, Jwks, JwksError, KID_BYTES_MAX, KeyError, PublicKey};
pub use keys::KeyLimits;
pub use topics::{ALL_CALLS, TopicClaim, is_topic};
pub use verifier::{AuthError, Readiness, Verifier, VerifierConfig};

use std::sync::Arc;
use std::time::SystemTime;

use crate::audit_trail::TokenHash;
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

/// A token as it was presented. It prints as stars, so that it ends in no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Wraps a token.
    #[must_use]
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// What may be logged of it.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        TokenHash::of(&self.0)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

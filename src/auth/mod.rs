//! Who connects: finding the one credential of a request, and verifying it.
//!
//! Everything a session may do follows from the [`Identity`] made here; nothing else makes one.

mod claims;
mod credential;
mod verifier;

pub use claims::ClaimError;
pub use credential::{
    CookieName, CredentialError, PHOENIX_SUBPROTOCOL, Presented, TOKEN_SUBPROTOCOL_PREFIX, find,
};
pub use verifier::{AuthError, Verifier, VerifierConfig};

use std::time::SystemTime;

use crate::audit::TokenHash;
use crate::org::OrgId;

/// Somebody whose token was verified. Its organisation is fixed for the life of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// From `app_metadata.org_id` of the token, and from nowhere else.
    pub org: OrgId,
    /// The `sub` claim.
    pub subject: String,
    /// When the token's time runs out.
    pub expires_at: SystemTime,
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

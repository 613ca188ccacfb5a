//! Who connects: finding the one credential of a request, and verifying it.
//!
//! Everything a session may do follows from the [`Identity`] made here; nothing else makes one.
//!
//! A token chooses nothing but among what is configured: its `iss` names one issuer, its `alg` and `kid`
//! one of that issuer's keys ([`Verifier`]). Keys come from the configuration or from a key server, which
//! may be down, slow or wrong without taking anybody down ([`keys`]).

mod alg;
mod claims;
mod credential;
mod error;
mod fetch;
mod identity;
mod issuer;
mod json;
mod jwks;
mod keys;
mod token;
mod topics;
mod unverified;
mod verifier;

pub use alg::{Alg, KID_BYTES_MAX};
pub use claims::ClaimError;
pub use credential::{
    CookieName, CredentialError, PHOENIX_SUBPROTOCOL, Presented, TOKEN_SUBPROTOCOL_PREFIX, find,
};
pub use error::AuthError;
pub use fetch::{FetchError, KeyServerUrl};
pub use identity::Identity;
pub use issuer::{IssuerConfig, IssuerRules, SERVICE_ROLE};
pub use jwks::{JWKS_KEYS_MAX, Jwks, JwksError, KeyError, PublicKey};
pub use keys::KeyLimits;
pub use token::{TOKEN_BYTES_MAX, Token};
pub use topics::{TopicClaim, is_topic, names_kind_of};
pub use verifier::{Readiness, Verifier, VerifierConfig};

//! Authentication: finds the one credential of a request and verifies it.
//!
//! Everything that a session may do follows from its [`Identity`], and only this module creates one.
//!
//! A token can only select among configured things: its `iss` selects one issuer, its `alg` and `kid` select
//! one of that issuer's keys ([`Verifier`]). Keys come from the configuration or from a key server. A key
//! server that is down, slow or wrong affects only tokens that need a key from it (`key_server`).

mod access;
mod alg;
mod claims;
mod clock;
mod credential;
mod error;
mod fetch;
mod filters;
mod identity;
mod issuer;
mod json;
mod jwks;
mod key_server;
mod numeric_date;
mod token;
mod topics;
mod unverified;
mod verifier;

pub use access::TopicAccess;
pub use alg::{Alg, KID_BYTES_MAX};
pub use credential::{
    CookieName, CredentialError, PHOENIX_SUBPROTOCOL, Presented, TOKEN_SUBPROTOCOL_PREFIX, find,
};
pub use error::{AuthError, ClaimError};
pub use fetch::{FetchError, KeyServerUrl};
pub use filters::{FilterClaim, FilterClaimError, SignedFilter, SignedRows, TopicRule};
pub(crate) use filters::{SIGNED_FILTER_BYTES_MAX, SIGNED_FILTERS_MAX, SIGNED_VALUE_BYTES_MAX};
pub use identity::{ClaimsJson, Identity};
pub use issuer::{IssuerConfig, IssuerRules, SERVICE_ROLE};
pub use jwks::{JWKS_KEYS_MAX, Jwks, JwksError, KeyError, PublicKey};
pub(crate) use jwks::{RSA_BITS_MAX, RSA_BITS_MIN};
pub use key_server::KeyLimits;
pub use token::Token;
pub(crate) use topics::TOPICS_MAX;
pub use topics::{TopicClaim, is_topic, names_kind_of};
pub use verifier::{Readiness, Verifier, VerifierConfig};

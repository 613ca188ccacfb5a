//! Why a token is rejected.

use super::claims::ClaimError;

/// Why a token is refused. The text is safe to show: it never holds anything of the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Its time ran out.
    #[error("the token has expired: get a fresh one")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet: compare the clocks (claim nbf)")]
    Immature,
    /// Signed with another key or another algorithm, or not at all.
    #[error("the token's signature is not valid for this gateway")]
    Signature,
    /// Its `alg` and `kid` are those of no key.
    #[error("the token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// The key server has to be asked, and does not answer.
    #[error("the keys of the token's issuer can't be had just now: try again")]
    KeysUnavailable,
    /// For somebody else.
    #[error("the token's claim {0} is not the one expected here")]
    Foreign(&'static str),
    /// Not an access token.
    #[error("the token is not of the expected type (header typ)")]
    Type,
    /// The configuration wants a claim otherwise.
    #[error("the token's claim {0} is not one that is taken from its issuer here")]
    Rule(Box<str>),
    /// Its issuer may not speak for its organisation.
    #[error("the token's issuer does not speak for the token's organisation here")]
    OrgOfAnother,
    /// Verified, but a claim does not say what it must.
    #[error("the token is not usable: {0}")]
    Claims(#[from] ClaimError),
    /// Not a token, or a claim is missing or of the wrong type.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
}

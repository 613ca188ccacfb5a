//! Verifying a token: the server chooses the algorithm and the key, never the token.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};

use super::claims::{ClaimError, Claims};
use super::{Identity, Token};

/// Clocks of issuer and gateway may differ by so much, in seconds, before a token counts as not valid
/// yet. Its end is taken to the letter: a session that begins after it would be closed at once.
const LEEWAY_SECONDS: u64 = 5;

/// What tokens must be.
#[derive(Clone)]
pub struct VerifierConfig {
    /// The HS256 secret.
    pub secret: String,
    /// `aud`; required.
    pub audience: String,
    /// `iss`; required where set.
    pub issuer: Option<String>,
}

/// Why a token is refused. The text is safe to show: it never holds the token.
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
    /// For somebody else.
    #[error("the token's claim {0} is not the one expected here")]
    Foreign(&'static str),
    /// Verified, but it names no organisation, or no user.
    #[error(transparent)]
    Claims(#[from] ClaimError),
    /// Not a token, or a claim is missing or of the wrong type.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
}

/// See the module's documentation.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier of HS256 tokens.
    #[must_use]
    pub fn new(config: &VerifierConfig) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        // The library lets a token live through the very second of `exp`; RFC 7519 ends it there, and the
        // session does. `phoenix`, which comes back after 10 ms, was let in again dozens of times.
        validation.reject_tokens_expiring_in_less_than = LEEWAY_SECONDS + 1;
        validation.validate_exp = true;
        validation.validate_nbf = true;
        validation.validate_aud = true;
        validation.set_audience(&[&config.audience]);
        let mut required = vec!["exp", "sub", "aud"];
        if let Some(issuer) = &config.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Self { key: DecodingKey::from_secret(config.secret.as_bytes()), validation }
    }

    /// Who the token is.
    ///
    /// # Errors
    /// When it is not a token of this gateway, not valid now, or names no organisation.
    pub fn verify(&self, token: &Token) -> Result<Identity, AuthError> {
        let data =
            decode::<Claims>(token.expose(), &self.key, &self.validation).map_err(|error| {
                match error.kind() {
                    ErrorKind::ExpiredSignature => AuthError::Expired,
                    ErrorKind::ImmatureSignature => AuthError::Immature,
                    ErrorKind::InvalidSignature
                    | ErrorKind::InvalidAlgorithm
                    | ErrorKind::InvalidAlgorithmName
                    | ErrorKind::InvalidKeyFormat => AuthError::Signature,
                    ErrorKind::InvalidAudience => AuthError::Foreign("aud"),
                    ErrorKind::InvalidIssuer => AuthError::Foreign("iss"),
                    ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
                        "exp" => AuthError::Malformed("the claim exp is missing, or not a number"),
                        "aud" => AuthError::Malformed("the claim aud is missing"),
                        "iss" => AuthError::Malformed("the claim iss is missing"),
                        _ => AuthError::Malformed("the claim sub is missing"),
                    },
                    ErrorKind::Json(_) => AuthError::Malformed("a claim is missing or has the wrong type"),
                    _ => AuthError::Malformed("not a signed JSON Web Token"),
                }
            })?;
        Ok(data.claims.identity()?)
    }
}

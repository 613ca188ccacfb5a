//! Reasons for which a token is rejected.

use std::fmt;
use std::time::Duration;

use super::filters::FilterClaimError;

/// Reason for which a token is rejected. Its message may be shown to anyone: it never contains a string from
/// the token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The token has expired, this long ago.
    #[error(
        "token expired {0} ago: get a new one and try again; if a new one has expired too, the clock of its issuer or of \
         this gateway is wrong"
    )]
    Expired(Elapsed),
    /// The claim `iat` is in the future by this time.
    #[error(
        "token was issued {0} in the future (claim iat): the clock of its issuer or of this gateway is wrong"
    )]
    IssuedInFuture(Elapsed),
    /// The claim `nbf` is in the future.
    #[error("token is not valid yet (claim nbf): compare the clocks of its issuer and of this gateway")]
    Immature,
    /// The token is not signed, or its algorithm or key is not one of its issuer's.
    #[error("token signature does not match any secret or key of its issuer: check which issuer signed it")]
    Signature,
    /// The issuer publishes no key with the token's `alg` and `kid`.
    #[error("token names a signing key (kid) that its issuer does not publish: get a new token")]
    UnknownKey,
    /// The token's key is not in memory, and the key server did not answer.
    #[error("the key server of the token's issuer is unavailable: try again in a few seconds")]
    KeysUnavailable,
    /// This claim does not have the configured value.
    #[error("token claim {0} is not the value that this gateway expects: get a token for this gateway")]
    UnexpectedClaim(&'static str),
    /// The token is not an access token.
    #[error("token type (header typ) is not accepted from its issuer: send an access token")]
    Type,
    /// This claim violates a configured rule of the issuer.
    #[error("token claim {0} violates the rules that this gateway has for its issuer")]
    ClaimRule(Box<str>),
    /// The issuer may not issue tokens for the token's organisation.
    #[error("the token's issuer may not issue tokens for the token's organisation on this gateway")]
    OrgNotAllowed,
    /// The signature is valid, but a claim is not.
    #[error("token is not usable: {0}")]
    Claims(#[from] ClaimError),
    /// The token has more bytes than this limit.
    #[error("token is longer than {0} bytes: issue shorter tokens, or raise WARDEN_TOKEN_BYTES")]
    TooLong(usize),
    /// The token cannot be parsed, or a claim is missing or has the wrong type.
    #[error("token is malformed: {0}")]
    Malformed(&'static str),
}

/// Claim that makes a correctly signed token unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// `sub` is empty or too long, or contains U+0000.
    #[error("claim sub must have 1 to 256 bytes, without U+0000")]
    Subject,
    /// `exp` is missing.
    #[error("claim exp is missing")]
    NoExpiry,
    /// This time is not a number, is negative, or is later than the year 9999.
    #[error(
        "claim {0} must be a number of seconds since 1970, before the year 10000; it may have a fraction"
    )]
    Time(&'static str),
    /// `session_id` is empty or too long, or contains U+0000.
    #[error("claim session_id must have 1 to 256 bytes, without U+0000")]
    SessionId,
    /// `app_metadata.warden_topics` is present and not a list of topics.
    #[error("claim app_metadata.warden_topics must be a list of topics, such as [\"calls\", \"call:*\"]")]
    Topics,
    /// `app_metadata.warden_filters` is present and not valid.
    #[error("claim app_metadata.warden_filters {0}")]
    Filters(FilterClaimError),
    /// `app_metadata.org_id` is not a UUID string.
    #[error("claim app_metadata.org_id must be the UUID of an organisation, as a string of 36 characters")]
    Org,
}

/// Time since or until an event, printed in its largest whole unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed(pub(super) Duration);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (count, unit) = match seconds {
            0..60 => (seconds, "second"),
            60..3600 => (seconds / 60, "minute"),
            3600..86400 => (seconds / 3600, "hour"),
            _ => (seconds / 86400, "day"),
        };
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elapsed_time_is_printed_in_its_largest_whole_unit() {
        for (seconds, printed) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "1 minute"),
            (200, "3 minutes"),
            (3600, "1 hour"),
            (172_799, "1 day"),
            (172_800, "2 days"),
        ] {
            assert_eq!(Elapsed(Duration::from_secs(seconds)).to_string(), printed);
        }
    }
}

//! The claims of a token, strictly typed: a claim of the wrong type rejects the token and never becomes a
//! default.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

use super::topics::TopicClaim;
use crate::org::OrgId;

/// Longest `sub`, in bytes.
const SUBJECT_BYTES_MAX: usize = 256;

/// Longest `session_id`, in bytes.
const SESSION_ID_BYTES_MAX: usize = 256;

/// Latest accepted time, in seconds since 1970: the end of the year 9999. Later times overflow clocks.
const TIME_MAX: u64 = 253_402_300_799;

/// Claims that the gateway reads. Times must be whole numbers: a string or a fraction is rejected here, even
/// if the verifying library would ignore the claim (CVE-2026-25537).
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    sub: String,
    exp: u64,
    #[serde(default, deserialize_with = "number")]
    #[expect(dead_code, reason = "the verifying library checks the value; only the type is checked here")]
    nbf: Option<u64>,
    #[serde(default, deserialize_with = "number")]
    iat: Option<u64>,
    #[serde(default, deserialize_with = "string")]
    session_id: Option<String>,
    /// Any type is accepted, because some issuers write a list and their users need no role here. Only a
    /// string has a meaning.
    #[serde(default)]
    role: Value,
    #[serde(default)]
    app_metadata: Value,
}

/// Deserialises an optional claim that must not be `null`.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    u64::deserialize(deserializer).map(Some)
}

/// Deserialises an optional claim that must not be `null`.
fn string<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// Checked claims, from which an identity is created.
pub(super) struct CheckedClaims {
    pub(super) org: OrgId,
    pub(super) subject: String,
    pub(super) session_id: Option<String>,
    pub(super) issued_at: Option<SystemTime>,
    pub(super) expires_at: SystemTime,
    pub(super) topics: TopicClaim,
    pub(super) role: Option<String>,
}

/// Claim that makes a correctly signed token unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// `sub` is empty or too long.
    #[error("claim sub must have 1 to 256 bytes")]
    Subject,
    /// `exp` is later than the year 9999.
    #[error("claim exp must be a time before the year 10000")]
    Expiry,
    /// `iat` is later than the year 9999.
    #[error("claim iat must be a time before the year 10000")]
    IssuedAt,
    /// `session_id` is empty or too long.
    #[error("claim session_id must have 1 to 256 bytes")]
    SessionId,
    /// `app_metadata.warden_topics` is present and not a list of topics.
    #[error("claim app_metadata.warden_topics must be a list of topics, such as [\"calls\", \"call:*\"]")]
    Topics,
    /// `app_metadata.org_id` is not a UUID string.
    #[error("claim app_metadata.org_id must be the UUID of an organisation, as a string of 36 characters")]
    Org,
}

impl Claims {
    /// Checks the claims that the verifying library does not know.
    pub(super) fn check(self) -> Result<CheckedClaims, ClaimError> {
        if self.sub.is_empty() || self.sub.len() > SUBJECT_BYTES_MAX {
            return Err(ClaimError::Subject);
        }
        if self.session_id.as_ref().is_some_and(|id| id.is_empty() || id.len() > SESSION_ID_BYTES_MAX) {
            return Err(ClaimError::SessionId);
        }
        let metadata = self.app_metadata.as_object();
        let org = metadata
            .and_then(|metadata| metadata.get("org_id"))
            .and_then(Value::as_str)
            .and_then(OrgId::from_claim)
            .ok_or(ClaimError::Org)?;
        let topics = match metadata.and_then(|metadata| metadata.get("warden_topics")) {
            None => TopicClaim::default(),
            Some(list) => TopicClaim::from_claim(list).ok_or(ClaimError::Topics)?,
        };
        Ok(CheckedClaims {
            org,
            subject: self.sub,
            session_id: self.session_id,
            issued_at: self.iat.map(|iat| time(iat).ok_or(ClaimError::IssuedAt)).transpose()?,
            expires_at: time(self.exp).ok_or(ClaimError::Expiry)?,
            topics,
            role: match self.role {
                Value::String(role) => Some(role),
                _ => None,
            },
        })
    }
}

fn time(seconds: u64) -> Option<SystemTime> {
    (seconds <= TIME_MAX).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

//! The claims of a token, strictly typed: a claim of the wrong type is a refusal, never a default.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

use super::topics::TopicClaim;
use crate::org::OrgId;

/// Longest `sub`, in bytes.
const SUBJECT_BYTES_MAX: usize = 256;

/// Longest `session_id`, in bytes.
const SESSION_ID_BYTES_MAX: usize = 256;

/// The latest time, in seconds since 1970: the year 9999. Beyond it clocks overflow.
const TIME_MAX: u64 = 253_402_300_799;

/// What is read of a token. `exp` and the like are whole numbers: a string or a fraction is refused
/// here, also where the verifying library would pass over it (CVE-2026-25537).
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    sub: String,
    exp: u64,
    #[serde(default, deserialize_with = "whole_number")]
    #[expect(dead_code, reason = "only its type is checked here; its value is checked by the verifier")]
    nbf: Option<u64>,
    #[serde(default, deserialize_with = "whole_number")]
    iat: Option<u64>,
    #[serde(default, deserialize_with = "text")]
    session_id: Option<String>,
    /// Only a text says anything: some issuers write a list, and their users' sockets need no role.
    #[serde(default)]
    role: Value,
    #[serde(default)]
    app_metadata: Value,
}

/// An absent claim is none; a present one is a number, and not null.
fn whole_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    u64::deserialize(deserializer).map(Some)
}

/// The same for texts.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// What verified claims say.
pub(super) struct Verified {
    pub(super) org: OrgId,
    pub(super) subject: String,
    pub(super) session_id: Option<String>,
    pub(super) issued_at: Option<SystemTime>,
    pub(super) expires_at: SystemTime,
    pub(super) topics: TopicClaim,
    pub(super) role: Option<String>,
}

/// Why claims give no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// `sub` is empty or too long.
    #[error("the claim sub is empty or too long")]
    Subject,
    /// `exp` is beyond all reason.
    #[error("the claim exp is not a time")]
    Expiry,
    /// `iat` is beyond all reason.
    #[error("the claim iat is not a time")]
    IssuedAt,
    /// `session_id` is empty or too long.
    #[error("the claim session_id is empty or too long")]
    SessionId,
    /// `app_metadata.warden_topics` is there and is no list of topics.
    #[error("the claim app_metadata.warden_topics is not a list of topics, such as [\"calls\", \"call:*\"]")]
    Topics,
    /// `app_metadata.org_id` is not a UUID string.
    #[error("the claim app_metadata.org_id is not the UUID of an organisation")]
    Org,
}

impl Claims {
    pub(super) fn verified(self) -> Result<Verified, ClaimError> {
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
        Ok(Verified {
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

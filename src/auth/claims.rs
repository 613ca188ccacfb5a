//! The claims of a token, strictly typed: a claim of the wrong type is a refusal, never a default.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

use super::Identity;
use crate::org::OrgId;

/// Longest `sub`, in bytes.
const SUBJECT_BYTES_MAX: usize = 256;

/// The latest `exp`, in seconds since 1970: the year 9999. Beyond it clocks overflow.
const EXP_MAX: u64 = 253_402_300_799;

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
    #[expect(dead_code, reason = "only its type is checked here")]
    iat: Option<u64>,
    #[serde(default)]
    app_metadata: Value,
}

/// An absent claim is none; a present one is a number, and not null.
fn whole_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    u64::deserialize(deserializer).map(Some)
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
    /// `app_metadata.org_id` is not a UUID string.
    #[error("the claim app_metadata.org_id is not the UUID of an organisation")]
    Org,
}

impl Claims {
    pub(super) fn identity(self) -> Result<Identity, ClaimError> {
        if self.sub.is_empty() || self.sub.len() > SUBJECT_BYTES_MAX {
            return Err(ClaimError::Subject);
        }
        if self.exp > EXP_MAX {
            return Err(ClaimError::Expiry);
        }
        let org = self
            .app_metadata
            .as_object()
            .and_then(|metadata| metadata.get("org_id"))
            .and_then(Value::as_str)
            .and_then(OrgId::from_claim)
            .ok_or(ClaimError::Org)?;
        let expires_at = SystemTime::UNIX_EPOCH + Duration::from_secs(self.exp);
        Ok(Identity { org, subject: self.sub, expires_at })
    }
}

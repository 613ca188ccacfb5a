//! The claims of a token, strictly typed: a claim of the wrong type rejects the token and never becomes a
//! default.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::error::{AuthError, ClaimError, Elapsed};
use super::filters::{FilterClaim, NamedClaims};
use super::numeric_date;
use super::topics::TopicClaim;
use crate::org::OrgId;

/// Longest `sub`, in bytes.
const SUBJECT_BYTES_MAX: usize = 256;

/// Longest `session_id`, in bytes.
const SESSION_ID_BYTES_MAX: usize = 256;

/// Difference between the clocks of issuer and gateway that `nbf` and `iat` tolerate. `exp` tolerates none,
/// because a session that began after it would be closed immediately.
const LEEWAY: Duration = Duration::from_secs(5);

/// Claims that the gateway reads.
///
/// Times are kept as JSON and checked here. The verifying library rounds them to whole seconds, and has
/// ignored times of the wrong type (CVE-2026-25537).
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    sub: String,
    #[serde(default, deserialize_with = "raw")]
    exp: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "raw")]
    nbf: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "raw")]
    iat: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "string")]
    session_id: Option<String>,
    /// Any type is accepted, because some issuers write a list and their users need no role here. Only a
    /// string has a meaning.
    #[serde(default)]
    role: Value,
    #[serde(default)]
    app_metadata: Value,
}

/// Whether `warden.revoke()` can name this user or login. PostgreSQL stores no U+0000.
fn is_revocable(id: &str, bytes_max: usize) -> bool {
    !id.is_empty() && id.len() <= bytes_max && !id.contains('\0')
}

/// Keeps a present claim as JSON, `null` included.
fn raw<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
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
    pub(super) topics: TopicClaim,
    pub(super) filters: FilterClaim,
    pub(super) role: Option<String>,
}

/// Times of a token.
pub(super) struct Validity {
    pub(super) issued_at: Option<SystemTime>,
    not_before: Option<SystemTime>,
    pub(super) expires_at: SystemTime,
}

impl Validity {
    /// Checks that the token is valid at this time. It ends at the beginning of its `exp` (RFC 7519, section
    /// 4.1.4).
    pub(super) fn check(&self, now: SystemTime) -> Result<(), AuthError> {
        // Before `exp`: revocations compare `iat` with their own time, so such a token would outlive them.
        if let Some(ahead) = self.issued_at.and_then(|at| at.duration_since(now + LEEWAY).ok())
            && !ahead.is_zero()
        {
            return Err(AuthError::IssuedInFuture(Elapsed(ahead + LEEWAY)));
        }
        if let Ok(since) = now.duration_since(self.expires_at) {
            return Err(AuthError::Expired(Elapsed(since)));
        }
        if self.not_before.is_some_and(|not_before| not_before > now + LEEWAY) {
            return Err(AuthError::Immature);
        }
        Ok(())
    }
}

impl Claims {
    /// Reads the times.
    pub(super) fn validity(&self) -> Result<Validity, ClaimError> {
        let time = |name, claim: &Option<Box<RawValue>>| match claim {
            None => Ok(None),
            Some(claim) => numeric_date::parse(claim).map(Some).ok_or(ClaimError::Time(name)),
        };
        Ok(Validity {
            issued_at: time("iat", &self.iat)?,
            not_before: time("nbf", &self.nbf)?,
            expires_at: time("exp", &self.exp)?.ok_or(ClaimError::NoExpiry)?,
        })
    }

    /// Checks the claims that the verifying library does not know.
    pub(super) fn check(self) -> Result<CheckedClaims, ClaimError> {
        if !is_revocable(&self.sub, SUBJECT_BYTES_MAX) {
            return Err(ClaimError::Subject);
        }
        if self.session_id.as_ref().is_some_and(|id| !is_revocable(id, SESSION_ID_BYTES_MAX)) {
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
        let role = match self.role {
            Value::String(role) => Some(role),
            _ => None,
        };
        let filters = match metadata.and_then(|metadata| metadata.get("warden_filters")) {
            None => FilterClaim::default(),
            Some(filters) => {
                let claims = NamedClaims {
                    sub: &self.sub,
                    session_id: self.session_id.as_deref(),
                    role: role.as_deref(),
                    app_metadata: &self.app_metadata,
                };
                FilterClaim::from_claim(filters, &claims).map_err(ClaimError::Filters)?
            }
        };
        Ok(CheckedClaims { org, subject: self.sub, session_id: self.session_id, topics, filters, role })
    }
}

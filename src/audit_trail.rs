//! The audit trail: who was let in, who was not and why, and how each session ended. Log events of the
//! target `warden::audit_trail` with fixed messages and fields (`docs/security.md` has the table), told in one
//! place each. It never sees a token, only a [`TokenHash`].

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::org::OrgId;

/// Where the events go; `WARDEN_LOG=warden::audit_trail=info` lets through nothing else.
pub const TARGET: &str = "warden::audit_trail";

/// Bytes of a token's hash that are kept: enough to tell tokens apart in a log.
const HASH_BYTES: usize = 8;

/// The beginning of a token's SHA-256: tells whether two events had the same token, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash([u8; HASH_BYTES]);

impl TokenHash {
    /// The hash of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        let mut bytes = [0; HASH_BYTES];
        bytes.copy_from_slice(&Sha256::digest(token)[..HASH_BYTES]);
        Self(bytes)
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A session as the trail names it.
#[derive(Clone, Copy, Debug)]
pub struct AuditSubject<'a> {
    /// Of this one session, in all of its events.
    pub session: Uuid,
    /// The `sub` of its token. (As a string it is logged with its control characters escaped.)
    pub user: &'a str,
    /// Its organisation.
    pub org: OrgId,
    /// Where it came from.
    pub address: IpAddr,
}

/// A refusal as the trail names it. `reason` never repeats what was sent.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'a> {
    /// Where the request came from.
    pub address: IpAddr,
    /// The code in the answer's body.
    pub code: &'static str,
    /// The HTTP status of the answer.
    pub status: u16,
    /// For people.
    pub reason: &'a str,
    /// Of the token, where exactly one was sent.
    pub token: Option<TokenHash>,
    /// Refusals before this one that were not told, because they were too many.
    pub untold: u64,
    /// Whether a revocation was asked for, and no upgrade.
    pub is_revocation: bool,
}

/// A revocation as the trail names it.
#[derive(Clone, Copy, Debug)]
pub struct Revocation<'a> {
    /// Of the row in `warden.revocations`.
    pub id: i64,
    /// The claim `session_id` that is revoked.
    pub session: Option<&'a str>,
    /// The `sub` that is revoked.
    pub user: Option<&'a str>,
    /// The organisation that is revoked, or in which the others are.
    pub org: Option<OrgId>,
    /// The issuer of whose tokens alone this holds.
    pub issuer: Option<&'a str>,
    /// Whether nothing of the organisation counts until it is resumed.
    pub is_suspension: bool,
    /// The database role that did it.
    pub by: &'a str,
    /// The `sub` of the back end that asked for it through HTTP.
    pub requested_by: Option<&'a str>,
}

/// This node has learnt of a revocation, and applied it.
pub fn revoked(revocation: Revocation<'_>) {
    let org = revocation.org.map(tracing::field::display);
    tracing::info!(target: TARGET, action = "revoke", revocation.id = revocation.id,
        login.id = revocation.session, user.id = revocation.user, org.id = org,
        issuer = revocation.issuer, suspended = revocation.is_suspension, by = revocation.by,
        requested_by = revocation.requested_by, "tokens revoked");
}

/// A back end asked this node through HTTP for a revocation, which stands now.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Of the row in `warden.revocations`.
    pub id: i64,
    /// The `sub` of its token.
    pub user: &'a str,
    /// Its organisation, beyond which it can revoke nothing.
    pub org: OrgId,
    /// Where it came from.
    pub address: IpAddr,
    /// Of its token.
    pub token: TokenHash,
}

/// A back end has revoked something. What, [`revoked`] tells by the same id on every node.
pub fn revocation_requested(request: Request<'_>) {
    tracing::info!(target: TARGET, action = "revoke_request", revocation.id = request.id,
        user.id = request.user, org.id = %request.org, address = %request.address,
        token.hash = %request.token, "revocation requested");
}

/// A session begins.
pub fn accepted(who: AuditSubject<'_>, token: TokenHash) {
    tracing::info!(target: TARGET, action = "accept", session.id = %who.session, user.id = who.user,
        org.id = %who.org, address = %who.address, token.hash = %token, "upgrade accepted");
}

/// A request was refused.
pub fn refused(refused: Refused<'_>) {
    let token = refused.token.map(tracing::field::display);
    let untold = (refused.untold > 0).then_some(refused.untold);
    if refused.is_revocation {
        tracing::info!(target: TARGET, action = "revoke_refuse", address = %refused.address,
            code = refused.code, http.status = refused.status, reason = refused.reason, token.hash = token,
            untold, "revocation refused");
    } else {
        tracing::info!(target: TARGET, action = "refuse", address = %refused.address, code = refused.code,
            http.status = refused.status, reason = refused.reason, token.hash = token, untold,
            "upgrade refused");
    }
}

/// A session got a fresh token.
pub fn refreshed(who: AuditSubject<'_>, token: TokenHash) {
    tracing::info!(target: TARGET, action = "refresh", session.id = %who.session, user.id = who.user,
        org.id = %who.org, address = %who.address, token.hash = %token, "token refreshed");
}

/// A session was sent a token that is none for it.
pub fn refresh_refused(who: AuditSubject<'_>, reason: &str, token: TokenHash) {
    tracing::info!(target: TARGET, action = "refresh_refuse", session.id = %who.session,
        user.id = who.user, org.id = %who.org, address = %who.address, reason,
        token.hash = %token, "token refresh refused");
}

/// A session ended with this close code.
pub fn ended(who: AuditSubject<'_>, code: u16, reason: &str, lasted: Duration) {
    tracing::info!(target: TARGET, action = "end", session.id = %who.session, user.id = who.user,
        org.id = %who.org, address = %who.address, code, reason,
        duration_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX), "session ended");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_beginning_of_sha_256() {
        // The example of FIPS 180-2.
        assert_eq!(TokenHash::of("abc").to_string(), "ba7816bf8f01cfea");
    }
}

//! The audit trail: log events for accepted, rejected, refreshed, revoked and ended sessions.
//!
//! Every event has the target `warden::audit_trail`, a constant message and fields; `docs/security.md`
//! documents them. Each event is emitted by one function here. The trail never sees a token, only a
//! [`TokenHash`]. Events that clients cause are limited for each session and organisation ([`LogShares`]).

mod share;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::org::OrgId;
pub use share::{LineAllowed, LogShares, ORG_LINES, ORG_SESSION_LINES, SESSION_LINES, SessionShare};

/// Log target of the events. `WARDEN_LOG=warden::audit_trail=info` logs nothing else.
pub const TARGET: &str = "warden::audit_trail";

/// Bytes of a token's hash that are logged: enough to distinguish tokens.
const HASH_BYTES: usize = 8;

/// First bytes of a token's SHA-256. They show whether two events had the same token, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenHash([u8; HASH_BYTES]);

impl TokenHash {
    /// Hash of a token.
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

/// Session that an event is about.
#[derive(Clone, Copy, Debug)]
pub struct AuditSubject<'a> {
    /// Id of the session, the same in all of its events.
    pub session: Uuid,
    /// `sub` of its token. Control characters are escaped in the log, because it is logged as a string.
    pub user: &'a str,
    /// Organisation of the session.
    pub org: OrgId,
    /// Address of the client.
    pub address: IpAddr,
}

/// Request that was rejected.
#[derive(Clone, Copy, Debug)]
pub struct Rejected<'a> {
    /// Address of the client.
    pub address: IpAddr,
    /// Code in the answer's body.
    pub code: &'static str,
    /// HTTP status of the answer.
    pub status: u16,
    /// Message in the answer's body. It never repeats what the client sent.
    pub reason: &'a str,
    /// Hash of the token, if the request contained exactly one.
    pub token: Option<TokenHash>,
    /// Rejections before this one that were not logged, because they were too many.
    pub unlogged: u64,
    /// Kind of the request.
    pub request: Request,
}

/// Kind of a rejected request.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// An upgrade, a path that does not exist, or another method of the socket or of a probe.
    Upgrade,
    /// A revocation.
    Revocation,
    /// Events to publish.
    Publish,
    /// Rows to read, a question about a cursor, or the OpenAPI document.
    Read,
}

/// Revocation that this node applied.
#[derive(Clone, Copy, Debug)]
pub struct Revocation<'a> {
    /// Id of the row in `warden.revocations`.
    pub id: i64,
    /// Revoked login: the claim `session_id`.
    pub session: Option<&'a str>,
    /// Revoked user: the claim `sub`.
    pub user: Option<&'a str>,
    /// Revoked organisation, or the organisation of the revoked login or user.
    pub org: Option<OrgId>,
    /// Issuer to whose tokens the revocation is limited.
    pub issuer: Option<&'a str>,
    /// Whether the organisation is suspended until it is resumed.
    pub is_suspension: bool,
    /// Database role that revoked.
    pub by: &'a str,
    /// `sub` of the back end that requested it through HTTP.
    pub requested_by: Option<&'a str>,
}

/// Request of a back end to this node that created or renewed a revocation.
#[derive(Clone, Copy, Debug)]
pub struct RevocationRequest<'a> {
    /// Id of the row in `warden.revocations`.
    pub id: i64,
    /// `sub` of the back end's token.
    pub user: &'a str,
    /// Organisation of the back end, beyond which it cannot revoke.
    pub org: OrgId,
    /// Address of the back end.
    pub address: IpAddr,
    /// Hash of the back end's token.
    pub token: TokenHash,
}

/// Logs a revocation that this node applied.
pub fn revoked(revocation: Revocation<'_>) {
    let org = revocation.org.map(tracing::field::display);
    tracing::info!(target: TARGET, action = "revoke", revocation.id = revocation.id,
        login.id = revocation.session, user.id = revocation.user, org.id = org,
        issuer = revocation.issuer, suspended = revocation.is_suspension, by = revocation.by,
        requested_by = revocation.requested_by, "tokens revoked");
}

/// Logs a successful revocation request. Every node logs the revocation itself with [`revoked`], under the
/// same id.
pub fn revocation_requested(request: RevocationRequest<'_>) {
    tracing::info!(target: TARGET, action = "revoke_request", revocation.id = request.id,
        user.id = request.user, org.id = %request.org, address = %request.address,
        token.hash = %request.token, "revocation requested");
}

/// The number of lines that were left out, as an optional field.
fn unlogged(allowed: LineAllowed) -> Option<u64> {
    (allowed.unlogged > 0).then_some(allowed.unlogged)
}

/// Logs the begin of a session.
///
/// `filters` is the claim `warden_filters` as it is in the token, without the values of other claims.
pub fn accepted(subject: AuditSubject<'_>, token: TokenHash, filters: Option<&str>, allowed: LineAllowed) {
    tracing::info!(target: TARGET, action = "accept", session.id = %subject.session,
        user.id = subject.user, org.id = %subject.org, address = %subject.address,
        token.hash = %token, filters, unlogged = unlogged(allowed), "upgrade accepted");
}

/// Logs a rejected request.
pub fn rejected(rejected: Rejected<'_>) {
    let token = rejected.token.map(tracing::field::display);
    let unlogged = (rejected.unlogged > 0).then_some(rejected.unlogged);
    macro_rules! log {
        ($action:literal, $message:literal) => {
            tracing::info!(target: TARGET, action = $action, address = %rejected.address,
                code = rejected.code, http.status = rejected.status, reason = rejected.reason,
                token.hash = token, unlogged, $message)
        };
    }
    match rejected.request {
        Request::Upgrade => log!("reject", "upgrade rejected"),
        Request::Revocation => log!("revoke_reject", "revocation rejected"),
        Request::Publish => log!("publish_reject", "publishing rejected"),
        Request::Read => log!("read_reject", "reading rejected"),
    }
}

/// Logs that a session received a new token.
///
/// `filters` is as for [`accepted`].
pub fn refreshed(subject: AuditSubject<'_>, token: TokenHash, filters: Option<&str>, allowed: LineAllowed) {
    tracing::info!(target: TARGET, action = "refresh", session.id = %subject.session,
        user.id = subject.user, org.id = %subject.org, address = %subject.address,
        token.hash = %token, filters, unlogged = unlogged(allowed), "token refreshed");
}

/// Logs that a session received a token that it cannot use.
pub fn refresh_rejected(subject: AuditSubject<'_>, reason: &str, token: TokenHash, allowed: LineAllowed) {
    tracing::info!(target: TARGET, action = "refresh_reject", session.id = %subject.session,
        user.id = subject.user, org.id = %subject.org, address = %subject.address, reason,
        token.hash = %token, unlogged = unlogged(allowed), "token refresh rejected");
}

/// Logs the end of a session with its close code.
pub fn ended(subject: AuditSubject<'_>, code: u16, reason: &str, lasted: Duration, allowed: LineAllowed) {
    tracing::info!(target: TARGET, action = "end", session.id = %subject.session,
        user.id = subject.user, org.id = %subject.org, address = %subject.address, code, reason,
        duration_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
        unlogged = unlogged(allowed), "session ended");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_hash_is_the_beginning_of_its_sha_256() {
        // Example of FIPS 180-2.
        assert_eq!(TokenHash::of("abc").to_string(), "ba7816bf8f01cfea");
    }
}

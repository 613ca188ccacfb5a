//! One revocation on behalf of a back end: a call of `warden.revoke_within()`.
//!
//! The function is the only privilege of the gateway's role to write revocations. A revocation never reaches
//! beyond the organisation of the caller's token.

use std::time::Duration;

use time::OffsetDateTime;

use super::revocations::Revocations;
use crate::org::OrgId;

/// Default of the longest lifetime of a token. `warden.revoke()` has the same.
pub const MAX_TOKEN_AGE_DEFAULT: Duration = Duration::from_hours(7 * 24);

/// SQLSTATE of a call with invalid arguments.
const INVALID_PARAMETER: &str = "22023";
/// SQLSTATE of a call beyond the limit of active revocations.
const LIMIT_EXCEEDED: &str = "54000";

/// Tokens to revoke, within one organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// Tokens of one login, by the claim `session_id`.
    Session(&'a str),
    /// Tokens of one user, by the claim `sub`.
    User(&'a str),
    /// All tokens of the organisation.
    Org,
}

/// Request of a back end.
#[derive(Clone, Copy, Debug)]
pub struct RevokeRequest<'a> {
    /// Organisation of the back end's verified token.
    pub org: OrgId,
    /// Claim `sub` of that token.
    pub requested_by: &'a str,
    /// Tokens to revoke.
    pub subject: Subject<'a>,
    /// Issuer to whose tokens the revocation is limited.
    pub issuer: Option<&'a str>,
    /// Reason, for people.
    pub reason: &'a str,
    /// Longest lifetime of a token, after which the revocation expires.
    pub max_token_age: Duration,
}

/// Stored revocation.
#[derive(Clone, Copy, Debug)]
pub struct NewRevocation {
    /// Id of the row.
    pub id: i64,
    /// Time of the revocation. Tokens issued up to the end of this second are revoked.
    pub revoked_at: OffsetDateTime,
    /// Time at which the revocation expires, because every revoked token has expired by then.
    pub expires_at: OffsetDateTime,
}

/// Reason why a revocation was not stored.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The database function rejects the arguments.
    #[error("the arguments of the revocation are invalid")]
    Invalid,
    /// The limit of active revocations is reached.
    #[error("too many active revocations")]
    TooMany,
    /// The query failed. It is unknown whether the revocation was stored; repeating it is harmless.
    #[error(transparent)]
    Database(sqlx::Error),
}

impl Revocations {
    /// Stores a revocation. Every node, this one included, applies it when it reads the event in the log.
    ///
    /// # Errors
    /// When the database rejects it, or the query fails.
    pub async fn revoke(&self, request: RevokeRequest<'_>) -> Result<NewRevocation, RevokeError> {
        let (session, user) = match request.subject {
            Subject::Session(session) => (Some(session), None),
            Subject::User(user) => (None, Some(user)),
            Subject::Org => (None, None),
        };
        let query = sqlx::query_as!(
            NewRevocation,
            r#"
            select id as "id!", revoked_at as "revoked_at!", expires_at as "expires_at!"
            from warden.revoke_within(
              org_id => $1, requested_by => $2, session_id => $3, user_id => $4, reason => $5,
              max_token_age => make_interval(secs => $6), issuer => $7)
            "#,
            request.org.as_uuid(),
            request.requested_by,
            session,
            user,
            request.reason,
            request.max_token_age.as_secs_f64(),
            request.issuer,
        )
        .fetch_one(&self.pool);
        let stored = tokio::time::timeout(self.limits.timeout, query).await;
        stored.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(|error| {
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            match code.as_deref() {
                Some(INVALID_PARAMETER) => RevokeError::Invalid,
                Some(LIMIT_EXCEEDED) => RevokeError::TooMany,
                _ => RevokeError::Database(error),
            }
        })
    }
}

//! Revoking on behalf of a back end: one call of `warden.revoke_within()`, the one right that the gateway's role
//! has to write revocations. Nothing here reaches beyond the organisation that the caller's token names.

use std::time::Duration;

use time::OffsetDateTime;

use super::revocations::Revocations;
use crate::org::OrgId;

/// The longest time for which a token is valid, where the caller does not say; as in `warden.revoke()`.
pub const MAX_TOKEN_AGE_DEFAULT: Duration = Duration::from_hours(7 * 24);

/// SQLSTATE of a call that says nothing that can be revoked.
const INVALID_PARAMETER: &str = "22023";
/// SQLSTATE where as many entries stand as there may be.
const LIMIT_EXCEEDED: &str = "54000";

/// Whose tokens are to count no longer, within one organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// Those of one login: the claim `session_id`.
    Session(&'a str),
    /// Those of one user: the claim `sub`.
    User(&'a str),
    /// All of the organisation.
    Org,
}

/// What a back end asks for.
#[derive(Clone, Copy, Debug)]
pub struct RevokeRequest<'a> {
    /// Its organisation, by its verified token.
    pub org: OrgId,
    /// Its `sub`.
    pub requested_by: &'a str,
    /// Whose tokens.
    pub subject: Subject<'a>,
    /// Only those of this issuer.
    pub issuer: Option<&'a str>,
    /// For people.
    pub reason: &'a str,
    /// The entry stands for so long.
    pub max_token_age: Duration,
}

/// A revocation that stands.
#[derive(Clone, Copy, Debug)]
pub struct NewRevocation {
    /// Of its row.
    pub id: i64,
    /// Tokens made up to the end of this second count no longer.
    pub revoked_at: OffsetDateTime,
    /// Until then; no token from before is alive by that time.
    pub expires_at: OffsetDateTime,
}

/// Why nothing was revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The database function refuses it.
    #[error("it says nothing that can be revoked")]
    Invalid,
    /// As many entries stand as there may be.
    #[error("as many revocations stand as there may be")]
    TooMany,
    /// The database can't be asked. Whether the entry stands is not known; asking again does no harm.
    #[error(transparent)]
    Database(sqlx::Error),
}

impl Revocations {
    /// Makes the entry; every node, this one too, learns of it by the log.
    ///
    /// # Errors
    /// When the database refuses it, or can't be asked.
    pub async fn revoke(&self, request: RevokeRequest<'_>) -> Result<NewRevocation, RevokeError> {
        let (session, user) = match request.subject {
            Subject::Session(session) => (Some(session), None),
            Subject::User(user) => (None, Some(user)),
            Subject::Org => (None, None),
        };
        let asked = sqlx::query_as!(
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
        let asked = tokio::time::timeout(self.limits.timeout, asked).await;
        asked.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(|error| {
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            match code.as_deref() {
                Some(INVALID_PARAMETER) => RevokeError::Invalid,
                Some(LIMIT_EXCEEDED) => RevokeError::TooMany,
                _ => RevokeError::Database(error),
            }
        })
    }
}

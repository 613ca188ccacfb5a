//! `POST /v1/revocations`: a back end revokes tokens of its organisation, which also ends their sessions.
//!
//! The caller is checked before the body is read: only a verified token of a back end may revoke. A
//! revocation stays within the organisation of that token, whatever the body contains. Revoking across
//! organisations needs SQL.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;
use uuid::Uuid;

use super::back_end::{self, BackEnd};
use super::body::{check_json, parse_object, read, string};
use super::error::Rejection;
use super::gatekeeper::{Gatekeeper, RequestKind};
use super::openapi;
use crate::audit_trail;
use crate::auth::Identity;
use crate::control::{MAX_TOKEN_AGE_DEFAULT, NewRevocation, RevokeError, RevokeRequest, Subject};

/// Longest body, in bytes: room for every field at its maximum, with escapes.
pub(crate) const BODY_BYTES_MAX: usize = 8 * 1024;
/// Longest `session_id`, `user_id` and `issuer`, in bytes. Claims have the same limit.
pub(crate) const TEXT_BYTES_MAX: usize = 256;
/// Longest `reason`, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 500;
/// Longest `max_token_age_seconds`: ten years.
pub(crate) const TOKEN_AGE_SECONDS_MAX: u32 = 10 * 365 * 24 * 3600;

/// Tokens to revoke: those of a session, of a user or of the whole organisation. Strings have no U+0000.
// A present field must be a string. If `null` were accepted for `user_id`, a request that names a user and an
// organisation would revoke the whole organisation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RevocationBody {
    /// Claim `session_id` of the tokens, at most 256 bytes.
    #[serde(default, deserialize_with = "string")]
    #[schema(nullable = false, min_length = 1, max_length = 256)]
    session_id: Option<String>,
    /// Claim `sub` of the tokens, at most 256 bytes.
    #[serde(default, deserialize_with = "string")]
    #[schema(nullable = false, min_length = 1, max_length = 256)]
    user_id: Option<String>,
    /// The organisation of the caller's token.
    #[serde(default, deserialize_with = "string")]
    #[schema(nullable = false, format = "uuid")]
    org_id: Option<String>,
    /// Issuer of the tokens, if only those of one issuer are revoked, at most 256 bytes.
    #[serde(default, deserialize_with = "string")]
    #[schema(nullable = false, min_length = 1, max_length = 256)]
    issuer: Option<String>,
    /// Reason for operators, at most 500 bytes.
    #[serde(default)]
    #[schema(max_length = 500)]
    reason: String,
    /// Longest validity of the tokens, after which the revocation is deleted.
    #[serde(default = "default_token_age")]
    #[schema(minimum = 1, maximum = 315_360_000)]
    max_token_age_seconds: u32,
}

/// A revocation that was created or renewed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Revocation)]
pub(super) struct Created<'a> {
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    user_id: Option<&'a str>,
    #[schema(value_type = String, format = "uuid")]
    org_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    issuer: Option<&'a str>,
    /// Tokens that were issued before are rejected.
    #[schema(format = DateTime)]
    revoked_at: String,
    /// Time of the deletion of the revocation.
    #[schema(format = DateTime)]
    expires_at: String,
}

fn default_token_age() -> u32 {
    u32::try_from(MAX_TOKEN_AGE_DEFAULT.as_secs()).unwrap_or(TOKEN_AGE_SECONDS_MAX)
}

/// Revokes tokens of the organisation of the caller's token, and ends their sessions.
///
/// Repeating a revocation renews it.
#[utoipa::path(
    post,
    path = "/v1/revocations",
    operation_id = "revokeTokens",
    tag = openapi::BACK_ENDS,
    request_body = RevocationBody,
    responses(
        (status = 201, description = "The revocation", body = Created<'_>),
        openapi::RevocationErrors,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn revoke(State(gatekeeper): State<Arc<Gatekeeper>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, ());
    let address = gatekeeper.address(&request);
    match handle(&gatekeeper, address, &request, body).await {
        Ok(response) => response,
        Err(rejection) => gatekeeper.reject(address, &request, rejection, RequestKind::Revocation).await,
    }
}

async fn handle(
    gatekeeper: &Gatekeeper,
    address: IpAddr,
    request: &Request<()>,
    body: Body,
) -> Result<Response, Rejection> {
    let timeout = gatekeeper.timeout;
    let decided = tokio::time::timeout(timeout, back_end(gatekeeper, address, request)).await;
    let BackEnd { identity, token } = decided.unwrap_or(Err(Rejection::Unavailable))?;
    gatekeeper.admission.revocation(identity.org).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
    let body = read(body, BODY_BYTES_MAX, timeout).await?;
    let body = RevocationBody::parse(&body)?;
    let created = store(gatekeeper, &identity, &body).await?;
    gatekeeper.metrics.revocations_requested.inc();
    audit_trail::revocation_requested(audit_trail::RevocationRequest {
        id: created.id,
        user: &identity.subject,
        org: identity.org,
        address,
        token,
    });
    let answer = Created {
        id: created.id,
        session_id: body.session_id.as_deref(),
        user_id: body.user_id.as_deref(),
        org_id: identity.org.as_uuid(),
        issuer: body.issuer.as_deref(),
        revoked_at: rfc3339(created.revoked_at),
        expires_at: rfc3339(created.expires_at),
    };
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// Checks the caller. Reads nothing of the body.
async fn back_end(
    gatekeeper: &Gatekeeper,
    address: IpAddr,
    request: &Request<()>,
) -> Result<BackEnd, Rejection> {
    gatekeeper.check_ready()?;
    gatekeeper.admission.request(address).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
    let caller = back_end::verify(gatekeeper, request).await?;
    check_json(request.headers())?;
    Ok(caller)
}

async fn store(
    gatekeeper: &Gatekeeper,
    identity: &Identity,
    body: &RevocationBody,
) -> Result<NewRevocation, Rejection> {
    let request = RevokeRequest {
        org: identity.org,
        requested_by: &identity.subject,
        subject: body.subject(identity)?,
        issuer: body.issuer.as_deref(),
        reason: &body.reason,
        max_token_age: Duration::from_secs(body.max_token_age_seconds.into()),
    };
    gatekeeper.revocations.revoke(request).await.map_err(|error| match error {
        RevokeError::Invalid => Rejection::Revocation("the database rejects this revocation as invalid"),
        RevokeError::TooMany => Rejection::TooManyRevocations,
        RevokeError::Database(error) => {
            tracing::warn!(%error, org.id = %identity.org, "revocation not stored");
            Rejection::RevocationUnavailable
        }
    })
}

fn rfc3339(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

impl RevocationBody {
    fn parse(body: &[u8]) -> Result<Self, Rejection> {
        const SHAPE: &str = "the body must be a JSON object with one of session_id, user_id and org_id as a string, \
                             and optionally issuer, reason and max_token_age_seconds";
        let parsed: Self = parse_object(body).ok_or(Rejection::Revocation(SHAPE))?;
        let texts = [&parsed.session_id, &parsed.user_id, &parsed.issuer];
        if texts.into_iter().flatten().any(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX) {
            return Err(Rejection::Revocation("session_id, user_id and issuer must have 1 to 256 bytes"));
        }
        if parsed.reason.len() > REASON_BYTES_MAX {
            return Err(Rejection::Revocation("reason must have at most 500 bytes"));
        }
        if texts.into_iter().flatten().chain([&parsed.reason]).any(|text| text.contains('\0')) {
            return Err(Rejection::Revocation("strings must not contain the character U+0000"));
        }
        if !(1..=TOKEN_AGE_SECONDS_MAX).contains(&parsed.max_token_age_seconds) {
            return Err(Rejection::Revocation("max_token_age_seconds must be between 1 second and 10 years"));
        }
        Ok(parsed)
    }

    /// Subject of the revocation. Exactly one of the three fields must be present.
    fn subject(&self, identity: &Identity) -> Result<Subject<'_>, Rejection> {
        match (self.session_id.as_deref(), self.user_id.as_deref(), self.org_id.as_deref()) {
            (Some(session), None, None) => Ok(Subject::Session(session)),
            (None, Some(user), None) => Ok(Subject::User(user)),
            (None, None, Some(org)) => match Uuid::try_parse(org) {
                Ok(id) if id == identity.org.as_uuid() => Ok(Subject::Org),
                Ok(_) => Err(Rejection::OtherOrg),
                Err(_) => Err(Rejection::Revocation("org_id is not a UUID")),
            },
            _ => Err(Rejection::Revocation("name exactly one of session_id, user_id and org_id")),
        }
    }
}

//! `POST /v1/revocations`: a back end ends sessions of its organisation, and has their tokens refused.
//!
//! Who may is decided before the body is read: a verified token of a back end. What is revoked lies within the
//! organisation that this token names, whatever the body says; beyond it there is only SQL.

use std::error::Error as _;
use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Version, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::HttpState;
use super::caller::{self, Asked};
use super::error::Refusal;
use crate::audit_trail::{self, TokenHash};
use crate::auth::{self, Identity};
use crate::control::{MAX_TOKEN_AGE_DEFAULT, RevokeError, RevokeRequest, Subject};

/// Longest body, in bytes: the longest of each text, with room for escapes.
const BODY_BYTES_MAX: usize = 8 * 1024;
/// Longest `session_id`, `user_id` and `issuer`, in bytes, as in claims.
const TEXT_BYTES_MAX: usize = 256;
/// Longest `reason`, in bytes.
const REASON_BYTES_MAX: usize = 500;
/// Longest time for which a token may be valid: ten years.
const TOKEN_AGE_SECONDS_MAX: u32 = 10 * 365 * 24 * 3600;

/// What is asked for. Every text is one, where it is there: `null` for a user, beside an organisation, must not
/// become the whole organisation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default, deserialize_with = "text")]
    session_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    user_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    org_id: Option<String>,
    #[serde(default, deserialize_with = "text")]
    issuer: Option<String>,
    #[serde(default)]
    reason: String,
    #[serde(default = "default_token_age")]
    max_token_age_seconds: u32,
}

/// What stands now, and until when.
#[derive(Debug, Serialize)]
struct Revoked<'a> {
    id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    org_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    revoked_at: String,
    expires_at: String,
}

fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

fn default_token_age() -> u32 {
    u32::try_from(MAX_TOKEN_AGE_DEFAULT.as_secs()).unwrap_or(TOKEN_AGE_SECONDS_MAX)
}

/// `POST /v1/revocations`
pub(super) async fn revoke(State(state): State<HttpState>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, ());
    let address = caller::address(&state, &request);
    match handle(&state, address, &request, body).await {
        Ok(response) => response,
        Err(refusal) => caller::refuse(&state, address, &request, refusal, Asked::Revocation).await,
    }
}

async fn handle(
    state: &HttpState,
    address: IpAddr,
    request: &Request<()>,
    body: Body,
) -> Result<Response, Refusal> {
    let limit = state.handshake_timeout;
    let decided = tokio::time::timeout(limit, back_end(state, address, request)).await;
    let (identity, token) = decided.unwrap_or(Err(Refusal::Unavailable))?;
    state.admission.revocation(identity.org).map_err(|(reached, wait)| Refusal::Limit(reached, wait))?;
    let body = tokio::time::timeout(limit, read(body)).await.unwrap_or(Err(Refusal::BodyTimeout))?;
    let wanted = Wanted::parse(&body)?;
    let asked = RevokeRequest {
        org: identity.org,
        requested_by: &identity.subject,
        subject: wanted.subject(&identity)?,
        issuer: wanted.issuer.as_deref(),
        reason: &wanted.reason,
        max_token_age: Duration::from_secs(wanted.max_token_age_seconds.into()),
    };
    let standing = state.shared.revocations.revoke(asked).await.map_err(|error| match error {
        RevokeError::Invalid => Refusal::Revocation("the database refuses it"),
        RevokeError::TooMany => Refusal::TooManyRevocations,
        RevokeError::Database(error) => {
            tracing::warn!(%error, org.id = %identity.org, "a revocation could not be made");
            Refusal::RevocationUnavailable
        }
    })?;
    state.shared.metrics.revocations_requested.inc();
    audit_trail::revocation_requested(audit_trail::Request {
        id: standing.id,
        user: &identity.subject,
        org: identity.org,
        address,
        token,
    });
    let revoked = Revoked {
        id: standing.id,
        session_id: wanted.session_id.as_deref(),
        user_id: wanted.user_id.as_deref(),
        org_id: identity.org.as_uuid(),
        issuer: wanted.issuer.as_deref(),
        revoked_at: utc(standing.revoked_at),
        expires_at: utc(standing.expires_at),
    };
    Ok((StatusCode::CREATED, Json(revoked)).into_response())
}

/// Who asks, if it is one who may; nothing of the body was read by then.
async fn back_end(
    state: &HttpState,
    address: IpAddr,
    request: &Request<()>,
) -> Result<(Identity, TokenHash), Refusal> {
    if state.draining.is_cancelled() {
        return Err(Refusal::ShuttingDown);
    }
    // Before that revocations are not known, and a revoked token would count.
    if !state.shared.hub.has_position() {
        return Err(Refusal::NotFollowing);
    }
    state.admission.request(address).map_err(|(reached, wait)| Refusal::Limit(reached, wait))?;
    let headers = request.headers();
    // Cookies never count here: what a browser sends by itself must not revoke.
    let found = auth::find(request.uri(), headers, None);
    if let Err(error @ auth::CredentialError::InUrl(_)) = found {
        return Err(error.into());
    }
    if request.method() != Method::POST {
        return Err(Refusal::Method);
    }
    if request.version() != Version::HTTP_11 || headers.get_all(header::HOST).iter().count() != 1 {
        return Err(Refusal::Ambiguous);
    }
    caller::check_origin(headers, &state.allowed_origins)?;
    let token = found?.token;
    let identity = caller::verified(state, &token).await?;
    if !identity.is_service {
        return Err(Refusal::NotABackEnd);
    }
    caller::has_org(state, identity.org).await?;
    if !is_json(headers) {
        return Err(Refusal::MediaType);
    }
    Ok((identity, token.hash()))
}

fn utc(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.and_then(|value| value.split(';').next());
    media_type.is_some_and(|name| name.trim().eq_ignore_ascii_case("application/json"))
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    to_bytes(body, BODY_BYTES_MAX).await.map_err(|error| match error.source() {
        Some(source) if source.is::<LengthLimitError>() => Refusal::BodyTooLong,
        _ => Refusal::Revocation("the body broke off"),
    })
}

impl Wanted {
    fn parse(body: &[u8]) -> Result<Self, Refusal> {
        const SHAPE: &str = "the body is not a JSON object with session_id, user_id or org_id as a text, and, if \
                             wanted, issuer, reason and max_token_age_seconds";
        // serde takes a list for a struct as well, field by field.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(Refusal::Revocation(SHAPE));
        }
        let wanted: Self = serde_json::from_slice(body).map_err(|_| Refusal::Revocation(SHAPE))?;
        let texts = [&wanted.session_id, &wanted.user_id, &wanted.issuer];
        if texts.into_iter().flatten().any(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX) {
            return Err(Refusal::Revocation("session_id, user_id and issuer have 1 to 256 bytes"));
        }
        if wanted.reason.len() > REASON_BYTES_MAX {
            return Err(Refusal::Revocation("the reason has more than 500 bytes"));
        }
        let all = texts.into_iter().flatten().chain([&wanted.reason]);
        if all.into_iter().any(|text| text.contains('\0')) {
            return Err(Refusal::Revocation("a text has the character U+0000, which no claim can have here"));
        }
        if !(1..=TOKEN_AGE_SECONDS_MAX).contains(&wanted.max_token_age_seconds) {
            return Err(Refusal::Revocation("max_token_age_seconds is not between one second and ten years"));
        }
        Ok(wanted)
    }

    /// Exactly one, within the caller's organisation.
    fn subject(&self, identity: &Identity) -> Result<Subject<'_>, Refusal> {
        match (self.session_id.as_deref(), self.user_id.as_deref(), self.org_id.as_deref()) {
            (Some(session), None, None) => Ok(Subject::Session(session)),
            (None, Some(user), None) => Ok(Subject::User(user)),
            (None, None, Some(org)) => match Uuid::try_parse(org) {
                Ok(id) if id == identity.org.as_uuid() => Ok(Subject::Org),
                Ok(_) => Err(Refusal::OtherOrg),
                Err(_) => Err(Refusal::Revocation("org_id is not a UUID")),
            },
            _ => Err(Refusal::Revocation("say what to revoke: session_id, user_id or org_id, one of them")),
        }
    }
}

//! Rejections of requests: a status, a code for programs, and a message for people, as a problem
//! document (RFC 9457).

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::admission::LimitExceeded;
use crate::auth::{AuthError, ClaimError, CredentialError};
use crate::publish::{BodyError, FORBIDDEN_TOPIC, Problem};
use crate::reading::ReadError;
use crate::session::ForbiddenTopic;

/// Media type of a problem document.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Code of a request whose head exceeds a limit, also in metrics.
pub(super) const HEAD_TOO_LONG: &str = "head_too_long";

/// Reason why a request is rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    Token(#[from] AuthError),
    #[error("the token was revoked: sign in again")]
    Revoked,
    #[error("the token's organisation is suspended")]
    OrgSuspended,
    #[error("the token's organisation does not exist")]
    UnknownOrg,
    #[error("origin not allowed: add it to WARDEN_ALLOWED_ORIGINS")]
    Origin,
    #[error("a token in a cookie needs an Origin header, because browsers send cookies for any page")]
    CookieWithoutOrigin,
    #[error("{0}")]
    Limit(LimitExceeded, Duration),
    #[error("the head of the request is longer than {0} bytes: send less, or raise WARDEN_HEAD_BYTES")]
    HeadTooLong(usize),
    #[error(
        "the admin listener does not answer to this Host: use an address, or add the name to WARDEN_ADMIN_HOSTS"
    )]
    AdminHost,
    #[error("path not found: the socket is at /socket/websocket")]
    NotFound,
    #[error("not a WebSocket handshake: send `Upgrade: websocket` with a valid Sec-WebSocket-Key")]
    NotWebSocket,
    #[error("ambiguous upgrade: send HTTP/1.1 with one Host, one key, one version and no body")]
    Ambiguous,
    #[error("unsupported WebSocket version: Sec-WebSocket-Version must be 13")]
    WebSocketVersion,
    #[error(
        "unsupported protocol version: the query must contain vsn=2.0.0, as phoenix 1.4 and later send it"
    )]
    ProtocolVersion,
    #[error("organisation lookup failed: try again")]
    Unavailable,
    #[error("the gateway has just started and does not follow the event log yet: try again")]
    NotFollowing,
    #[error(
        "not a back end's token: its claim `role` must be service_role, or the role in its issuer's configuration"
    )]
    NotABackEnd,
    #[error("a back end's token: its issuer issues tokens for requests of back ends only")]
    BackEndOnly,
    #[error("a token revokes within its own organisation only: use a token of that organisation, or SQL")]
    OtherOrg,
    #[error("method not allowed: the header Allow lists the methods of this path")]
    Method,
    #[error(transparent)]
    Read(ReadError),
    #[error(transparent)]
    ForbiddenTopic(ForbiddenTopic),
    #[error("the body must be a JSON object with cursor, and either tx or page, as strings")]
    Covers,
    #[error("unsupported media type: Content-Type must be application/json")]
    MediaType,
    #[error("the body is longer than {0} bytes")]
    BodyTooLong(usize),
    #[error("the body is incomplete")]
    BodyIncomplete,
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("{0}")]
    Revocation(&'static str),
    #[error("too many active revocations: revoke users or the organisation instead of single sessions")]
    TooManyRevocations,
    #[error("the database is unavailable: try again; repeating a revocation is harmless")]
    RevocationUnavailable,
    #[error(
        "unsupported media type: Content-Type must be application/json, application/cloudevents+json or \
         application/cloudevents-batch+json, in UTF-8; a CloudEvent in headers may have any JSON type"
    )]
    EventMediaType,
    #[error("unsupported Content-Encoding: send the body without compression")]
    ContentEncoding,
    #[error("send one Idempotency-Key with 1 to 255 printable ASCII characters")]
    IdempotencyKey,
    #[error("a CloudEvent's source and id are its idempotency key: omit Idempotency-Key")]
    KeyOfCloudEvent,
    #[error("{0}")]
    Body(BodyError),
    #[error("nothing was published: {} of {events} events are not valid, see errors", distinct(problems))]
    Events { events: usize, problems: Vec<Problem> },
    #[error("nothing was published: the idempotency key was used for other events")]
    KeyReused(Vec<Problem>),
    #[error("this organisation has too many idempotency keys: publish more events with each key")]
    TooManyKeys(Duration),
    #[error("too many requests of this organisation, or of all, are in progress: try again")]
    Busy,
    #[error(
        "the database is unavailable: try again with the same idempotency key, or events may be published twice"
    )]
    PublishUnavailable,
    #[error("the gateway is shutting down: connect to another node, or retry in a moment")]
    ShuttingDown,
}

impl Rejection {
    /// Status and code. `docs/protocol.md` lists them.
    pub(super) fn code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Credential(error) => credential_code(error),
            Self::Token(AuthError::TooLong(_)) => (StatusCode::UNAUTHORIZED, "token_too_long"),
            Self::Token(AuthError::Expired(_)) => (StatusCode::UNAUTHORIZED, "token_expired"),
            Self::Token(AuthError::IssuedInFuture(_)) => (StatusCode::UNAUTHORIZED, "token_from_future"),
            Self::Token(AuthError::Claims(ClaimError::Org)) => (StatusCode::FORBIDDEN, "no_organisation"),
            Self::Token(AuthError::OrgNotAllowed) => {
                (StatusCode::FORBIDDEN, "organisation_of_another_issuer")
            }
            Self::Token(AuthError::KeysUnavailable) => (StatusCode::SERVICE_UNAVAILABLE, "keys_unavailable"),
            Self::Token(_) => (StatusCode::UNAUTHORIZED, "invalid_token"),
            Self::Revoked => (StatusCode::UNAUTHORIZED, "token_revoked"),
            Self::OrgSuspended => (StatusCode::FORBIDDEN, "organisation_suspended"),
            Self::UnknownOrg => (StatusCode::FORBIDDEN, "unknown_organisation"),
            Self::Origin => (StatusCode::FORBIDDEN, "origin_not_allowed"),
            Self::CookieWithoutOrigin => (StatusCode::FORBIDDEN, "origin_required"),
            Self::Limit(limit, _) => (StatusCode::TOO_MANY_REQUESTS, limit.code()),
            Self::HeadTooLong(_) => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, HEAD_TOO_LONG),
            Self::AdminHost => (StatusCode::MISDIRECTED_REQUEST, "host_not_allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::NotWebSocket => (StatusCode::BAD_REQUEST, "not_a_websocket"),
            Self::Ambiguous => (StatusCode::BAD_REQUEST, "ambiguous_request"),
            Self::WebSocketVersion => (StatusCode::UPGRADE_REQUIRED, "websocket_version"),
            Self::ProtocolVersion => (StatusCode::BAD_REQUEST, "protocol_version"),
            Self::NotABackEnd => (StatusCode::FORBIDDEN, "not_a_backend"),
            Self::BackEndOnly => (StatusCode::FORBIDDEN, "backend_token"),
            Self::OtherOrg => (StatusCode::FORBIDDEN, "other_organisation"),
            Self::Read(error) => (read_status(error), error.code()),
            Self::ForbiddenTopic(_) => (StatusCode::FORBIDDEN, "forbidden_topic"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json"),
            Self::BodyTooLong(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_long"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::BodyIncomplete => (StatusCode::BAD_REQUEST, "body_incomplete"),
            Self::EventMediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
            Self::ContentEncoding => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding"),
            Self::IdempotencyKey | Self::KeyOfCloudEvent => {
                (StatusCode::BAD_REQUEST, "invalid_idempotency_key")
            }
            Self::Body(BodyError::Utf8 | BodyError::Syntax { .. }) => {
                (StatusCode::BAD_REQUEST, "invalid_json")
            }
            Self::Body(BodyError::Shape(_)) => (StatusCode::BAD_REQUEST, "invalid_events"),
            Self::Body(BodyError::TooMany { .. }) => (StatusCode::PAYLOAD_TOO_LARGE, "too_many_events"),
            Self::Events { problems, .. } => {
                let mut codes = problems.iter().map(|problem| problem.code);
                match codes.all(|code| code == FORBIDDEN_TOPIC) {
                    true => (StatusCode::FORBIDDEN, FORBIDDEN_TOPIC),
                    false => (StatusCode::BAD_REQUEST, "invalid_events"),
                }
            }
            Self::KeyReused(_) => (StatusCode::CONFLICT, "idempotency_key_reused"),
            Self::TooManyKeys(_) => (StatusCode::TOO_MANY_REQUESTS, "idempotency_keys"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Self::Revocation(_) => (StatusCode::BAD_REQUEST, "invalid_revocation"),
            Self::Covers => (StatusCode::BAD_REQUEST, "invalid_question"),
            Self::TooManyRevocations => (StatusCode::CONFLICT, "too_many_revocations"),
            Self::Unavailable
            | Self::NotFollowing
            | Self::RevocationUnavailable
            | Self::PublishUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
        }
    }

    /// Whole seconds after which a retry may succeed.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Limit(_, wait) | Self::TooManyKeys(wait) => {
                Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
            }
            Self::Token(AuthError::KeysUnavailable)
            | Self::Unavailable
            | Self::NotFollowing
            | Self::RevocationUnavailable
            | Self::PublishUnavailable
            | Self::Busy
            | Self::Read(
                ReadError::OrgBusy | ReadError::Busy | ReadError::NotReadable(_) | ReadError::Database(_),
            )
            | Self::ShuttingDown => Some(1),
            _ => None,
        }
    }

    /// Problems of single events.
    fn problems(&self) -> &[Problem] {
        match self {
            Self::Events { problems, .. } | Self::KeyReused(problems) => problems,
            _ => &[],
        }
    }

    /// Whether the client caused the rejection. Only such answers are delayed.
    pub(super) fn is_client_fault(&self) -> bool {
        self.code().0.is_client_error()
    }
}

/// A problem document (RFC 9457). Its type is `about:blank`, so its title is that of the status.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// Phrase of the status.
    title: &'a str,
    status: u16,
    /// Reason for people.
    detail: &'a str,
    /// Reason for programs.
    code: &'a str,
    /// Problems of single events.
    #[serde(skip_serializing_if = "<[Problem]>::is_empty")]
    #[schema(value_type = Vec<Problem>, required = false)]
    errors: &'a [Problem],
}

/// A problem document as JSON.
pub(super) fn document(status: StatusCode, code: &str, detail: &str, errors: &[Problem]) -> String {
    let title = status.canonical_reason().unwrap_or_default();
    // Serialising strings and numbers does not fail.
    serde_json::to_string(&Document { title, status: status.as_u16(), detail, code, errors })
        .unwrap_or_default()
}

/// Number of events with a problem.
fn distinct(problems: &[Problem]) -> usize {
    problems.chunk_by(|a, b| a.index == b.index).count()
}

/// Status of a request for rows.
fn read_status(error: &ReadError) -> StatusCode {
    match error {
        ReadError::Query(_) => StatusCode::BAD_REQUEST,
        ReadError::UnknownTopic | ReadError::UnknownRow => StatusCode::NOT_FOUND,
        ReadError::RowTooLarge(_) => StatusCode::UNPROCESSABLE_ENTITY,
        ReadError::Forbidden | ReadError::FilterNotApplicable { .. } => StatusCode::FORBIDDEN,
        ReadError::OrgBusy => StatusCode::TOO_MANY_REQUESTS,
        ReadError::Busy | ReadError::NotReadable(_) | ReadError::Database(_) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

/// Status and code of a request whose token was not found.
fn credential_code(error: &CredentialError) -> (StatusCode, &'static str) {
    match error {
        CredentialError::InUrl(_) => (StatusCode::BAD_REQUEST, "credential_in_url"),
        CredentialError::Missing => (StatusCode::UNAUTHORIZED, "no_token"),
        CredentialError::Several => (StatusCode::BAD_REQUEST, "several_tokens"),
        CredentialError::Malformed(_) => (StatusCode::UNAUTHORIZED, "malformed_credential"),
        CredentialError::Subprotocol => (StatusCode::BAD_REQUEST, "unknown_subprotocol"),
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let (status, code) = self.code();
        let body = document(status, code, &self.to_string(), self.problems());
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::UPGRADE_REQUIRED => {
                headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            _ => {}
        }
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

//! Rejections of the public listener: a status, a code for programs, and a message for people.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::admission::LimitExceeded;
use crate::auth::{AuthError, ClaimError, CredentialError};

/// Code of a request whose head exceeds a limit, also in metrics.
pub(super) const HEAD_TOO_LONG: &str = "head_too_long";

/// Reason why an upgrade or a request of a back end is rejected.
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
    #[error("a token revokes within its own organisation only: use a token of that organisation, or SQL")]
    OtherOrg,
    #[error("method not allowed: send a POST request")]
    Method,
    #[error("unsupported media type: Content-Type must be application/json")]
    MediaType,
    #[error("the body is longer than 8 KiB")]
    BodyTooLong,
    #[error("the body did not arrive in time")]
    BodyTimeout,
    #[error("{0}")]
    Revocation(&'static str),
    #[error("too many active revocations: revoke users or the organisation instead of single sessions")]
    TooManyRevocations,
    #[error("the database is unavailable: try again; repeating a revocation is harmless")]
    RevocationUnavailable,
    #[error("the gateway is shutting down: connect to another node, or retry in a moment")]
    ShuttingDown,
}

impl Rejection {
    /// Status and code. `docs/protocol.md` lists them.
    pub(super) fn code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Credential(CredentialError::InUrl(_)) => (StatusCode::BAD_REQUEST, "credential_in_url"),
            Self::Credential(CredentialError::Missing) => (StatusCode::UNAUTHORIZED, "no_token"),
            Self::Credential(CredentialError::Several) => (StatusCode::BAD_REQUEST, "several_tokens"),
            Self::Credential(CredentialError::Malformed(_)) => {
                (StatusCode::UNAUTHORIZED, "malformed_credential")
            }
            Self::Credential(CredentialError::Subprotocol) => {
                (StatusCode::BAD_REQUEST, "unknown_subprotocol")
            }
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
            Self::OtherOrg => (StatusCode::FORBIDDEN, "other_organisation"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json"),
            Self::BodyTooLong => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_long"),
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::Revocation(_) => (StatusCode::BAD_REQUEST, "invalid_revocation"),
            Self::TooManyRevocations => (StatusCode::CONFLICT, "too_many_revocations"),
            Self::Unavailable | Self::NotFollowing | Self::RevocationUnavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            Self::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
        }
    }

    /// Whole seconds after which a retry may succeed.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::Limit(_, wait) => Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0)),
            Self::Token(AuthError::KeysUnavailable)
            | Self::Unavailable
            | Self::NotFollowing
            | Self::RevocationUnavailable
            | Self::ShuttingDown => Some(1),
            _ => None,
        }
    }

    /// Whether the client caused the rejection. Only such answers are delayed.
    pub(super) fn is_client_fault(&self) -> bool {
        self.code().0.is_client_error()
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let (status, code) = self.code();
        let body = Json(json!({"error": {"code": code, "message": self.to_string()}}));
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
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

//! `POST /v1/events`: a back end publishes events within its organisation.
//!
//! The caller is checked before the body is read, and memory is reserved for the body. The answer is sent
//! after the commit. The events go to the organisation of the token, whatever the body contains.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::back_end::{self, BackEnd, media_type};
use super::error::Rejection;
use super::gatekeeper::{Gatekeeper, RequestKind};
use crate::publish::{self, Caller, EventBatch, IdempotencyKey, PublishError, Published, Publisher};

/// The idempotency key of a whole request.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// State of the route.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// Checks that all routes share.
    pub gatekeeper: Arc<Gatekeeper>,
    /// Publishes.
    pub publisher: Arc<Publisher>,
}

/// Body of the answer.
#[derive(Debug, Serialize)]
struct Accepted {
    events: Vec<AcceptedEvent>,
    tx: String,
    cursor: String,
}

/// One event of the answer.
#[derive(Debug, Serialize)]
struct AcceptedEvent {
    id: i64,
    /// True if an earlier request published the event under the same key.
    #[serde(skip_serializing_if = "Option::is_none")]
    duplicate: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tx: Option<String>,
}

/// Handles `POST /v1/events`.
pub(super) async fn publish(State(state): State<Publishing>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, ());
    let gatekeeper = &state.gatekeeper;
    let address = gatekeeper.address(&request);
    match handle(&state, address, &request, body).await {
        Ok(response) => response,
        Err(rejection) => {
            // A rejected request counts as a handshake. If the rate is exceeded, the next one is rejected.
            let _ = gatekeeper.admission.request(address);
            gatekeeper.reject(address, &request, rejection, RequestKind::Publish).await
        }
    }
}

async fn handle(
    state: &Publishing,
    address: IpAddr,
    request: &Request<()>,
    body: Body,
) -> Result<Response, Rejection> {
    let Publishing { gatekeeper, publisher } = state;
    let (headers, limits) = (request.headers(), publisher.limits());
    let decided = tokio::time::timeout(gatekeeper.timeout, back_end(gatekeeper, address, request)).await;
    let identity = decided.unwrap_or(Err(Rejection::Unavailable))?.identity;
    check_encoding(headers)?;
    check_media_type(headers)?;
    let key = idempotency_key(headers)?;
    let limit = |(limit, wait)| Rejection::Limit(limit, wait);
    gatekeeper.admission.publish(identity.org, 1).map_err(limit)?;

    // A body of unknown length may have any.
    let length = body.size_hint().exact().and_then(|length| usize::try_from(length).ok());
    let length = length.unwrap_or(limits.body_bytes_max);
    if length > limits.body_bytes_max {
        return Err(Rejection::BodyTooLong(limits.body_bytes_max));
    }
    let reservation = publisher.reserve(identity.org, length).ok_or(Rejection::Busy)?;
    let body = back_end::read(body, limits.body_bytes_max, gatekeeper.timeout).await?;
    let mut batch = publish::parse_json(&body, limits.events_max).map_err(Rejection::Body)?;
    gatekeeper.admission.publish(identity.org, batch.len() - 1).map_err(limit)?;
    if let Some(key) = key {
        batch.set_key(key);
    }
    let caller = Caller { org: identity.org, topics: &identity.topics };
    let published = publisher.publish(caller, &batch, &reservation).await;
    let published = published.map_err(|error| rejection(error, &batch, &identity))?;
    Ok(accepted(gatekeeper, published))
}

/// Checks the caller. Reads nothing of the body.
async fn back_end(
    gatekeeper: &Gatekeeper,
    address: IpAddr,
    request: &Request<()>,
) -> Result<BackEnd, Rejection> {
    gatekeeper.check_ready()?;
    gatekeeper.admission.check_rate(address).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
    back_end::verify(gatekeeper, request).await
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Rejection> {
    let is_identity = |value: &axum::http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity) {
        true => Ok(()),
        false => Err(Rejection::ContentEncoding),
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Rejection> {
    let (name, parameters) = media_type(headers).ok_or(Rejection::EventMediaType)?;
    let is_utf8 =
        parameters.is_empty() || matches!(parameters.as_str(), "charset=utf-8" | "charset=\"utf-8\"");
    if name == "application/json" && is_utf8 { Ok(()) } else { Err(Rejection::EventMediaType) }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Rejection> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(key), None) => {
            IdempotencyKey::of_request(key.as_bytes()).map(Some).map_err(|_| Rejection::IdempotencyKey)
        }
        _ => Err(Rejection::IdempotencyKey),
    }
}

fn accepted(gatekeeper: &Gatekeeper, published: Published) -> Response {
    let Published { events, tx, cursor } = published;
    let new = events.iter().filter(|event| event.earlier_tx.is_none()).count();
    gatekeeper.metrics.published.inc_by(new as u64);
    let events = events.into_iter().map(|event| AcceptedEvent {
        id: event.id,
        duplicate: event.earlier_tx.is_some().then_some(true),
        tx: event.earlier_tx,
    });
    let body = Accepted { events: events.collect(), tx, cursor };
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

fn rejection(error: PublishError, batch: &EventBatch, identity: &crate::auth::Identity) -> Rejection {
    match error {
        PublishError::Invalid(problems) => Rejection::Events { events: batch.len(), problems },
        PublishError::KeyReused(problems) => Rejection::KeyReused(problems),
        PublishError::TooManyKeys(wait) => Rejection::TooManyKeys(wait),
        PublishError::UnknownOrg => Rejection::UnknownOrg,
        PublishError::Database(error) => {
            tracing::warn!(%error, org.id = %identity.org, "events not published");
            Rejection::PublishUnavailable
        }
    }
}

//! `POST /v1/events`: a back end publishes events within its organisation.
//!
//! The caller is checked before the body is read, and memory is reserved for the body. The answer is sent
//! after the commit. The events go to the organisation of the token, whatever the body contains.
//!
//! The media type and the headers decide how a body is read, never the body itself. So no body is taken for
//! one of another form.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::back_end::{self, BackEnd};
use super::body::media_type;
use super::error::Rejection;
use super::gatekeeper::{Gatekeeper, RequestKind};
use super::openapi;
use crate::publish::{
    self, BodyError, Caller, EventBatch, IdempotencyKey, PublishError, Published, Publisher, Reservation,
    cloudevents,
};

/// The idempotency key of a whole request.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The trace context of a request (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Beginning of the headers that carry attributes of a CloudEvent.
const ATTRIBUTE_PREFIX: &str = "ce-";

/// Form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The gateway's own JSON.
    Own,
    /// A CloudEvent as JSON.
    Structured,
    /// A list of CloudEvents as JSON.
    Batched,
    /// The data of a CloudEvent, whose attributes are headers.
    Binary,
}

/// State of the route.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// Checks that all routes share.
    pub gatekeeper: Arc<Gatekeeper>,
    /// Publishes.
    pub publisher: Arc<Publisher>,
}

/// Committed events.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Accepted {
    /// The events, in the order of the request.
    events: Vec<AcceptedEvent>,
    /// Transaction that published the events, as an opaque string.
    tx: String,
    /// A cursor that covers the events.
    cursor: String,
}

/// One committed event.
#[derive(Debug, Serialize, ToSchema)]
struct AcceptedEvent {
    /// Number of the event, which its subscribers receive too.
    id: i64,
    /// True if an earlier request published the event under the same key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    duplicate: Option<bool>,
    /// Transaction of that earlier request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    tx: Option<String>,
}

/// Publishes events within the organisation of the token.
///
/// All events are published in their order and in one transaction, or none. A CloudEvent in the binary mode
/// has its attributes in headers that begin with `ce-`, and its data as the body of any JSON type. It needs
/// `ce-specversion`, `ce-id`, `ce-source`, `ce-type` and `ce-subject`, and may have other extensions than
/// those that are listed. With the media types of CloudEvents, these headers are ignored.
#[utoipa::path(
    post,
    path = "/v1/events",
    operation_id = "publishEvents",
    tag = openapi::BACK_ENDS,
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Identifies what the request publishes. A \
            repeated request publishes nothing. Not for CloudEvents, which have `source` and `id`",
            min_length = 1, max_length = 255, pattern = "^[ -~]+$"),
        ("traceparent" = Option<String>, Header, description = "Trace context (W3C Trace Context) of events without \
            their own. The events carry it. One that is not valid is ignored"),
        ("ce-specversion" = Option<String>, Header, description = "Version of CloudEvents", example = "1.0"),
        ("ce-id" = Option<String>, Header, description = "Id of the event. With `ce-source` it identifies the event: a \
            repeated request publishes nothing", example = "42"),
        ("ce-source" = Option<String>, Header, description = "Source of the event", example = "/billing"),
        ("ce-type" = Option<String>, Header, description = "Name of the event", example = "invoice.paid"),
        ("ce-subject" = Option<String>, Header, description = "Topic of the event", example = "invoices"),
        ("ce-time" = Option<String>, Header, description = "RFC 3339 timestamp. It is checked, and not delivered"),
        ("ce-dataschema" = Option<String>, Header, description = "Schema of the data. It is not delivered"),
        ("ce-traceparent" = Option<String>, Header, description = "Trace context of the event. It has precedence \
            over `traceparent`"),
    ),
    request_body(
        description = "One event or several, at most 1 MiB",
        content(
            (ref("#/components/schemas/Events") = "application/json"),
            (ref("#/components/schemas/CloudEvent") = "application/cloudevents+json"),
            (ref("#/components/schemas/CloudEvents") = "application/cloudevents-batch+json"),
        ),
    ),
    responses(
        (status = 202, description = "The events are committed", body = Accepted),
        openapi::PublishErrors,
    ),
    security(("bearer" = [])),
)]
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
    let form = form(headers)?;
    let key = idempotency_key(headers)?;
    if key.is_some() && form != Form::Own {
        return Err(Rejection::KeyOfCloudEvent);
    }
    let limit = |(limit, wait)| Rejection::Limit(limit, wait);
    gatekeeper.admission.publish(identity.org, 1).map_err(limit)?;

    // Of a body of unknown length, each part is reserved when it arrives.
    let length = body.size_hint().exact().map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
    if length > limits.body_bytes_max {
        return Err(Rejection::BodyTooLong(limits.body_bytes_max));
    }
    let mut reservation = publisher.reserve(identity.org, length).ok_or(Rejection::Busy)?;
    let read = read(body, limits.body_bytes_max, &mut reservation);
    let body = tokio::time::timeout(gatekeeper.timeout, read).await.unwrap_or(Err(Rejection::BodyTimeout))?;
    let mut batch = form.parse(headers, &body, limits.events_max).map_err(Rejection::Body)?;
    gatekeeper.admission.publish(identity.org, batch.len() - 1).map_err(limit)?;
    if let Some(key) = key {
        batch.set_key(key);
    }
    if let Some(traceparent) = traceparent(headers) {
        batch.set_traceparent(traceparent);
    }
    let caller = Caller { org: identity.org, access: identity.access() };
    let count = batch.len();
    let published = publisher.publish(caller, batch, reservation).await;
    let published = published.map_err(|error| rejection(error, count, &identity))?;
    Ok(accepted(gatekeeper, published))
}

/// Reads a body of at most this many bytes, and reserves what exceeds the announced length.
async fn read(mut body: Body, bytes_max: usize, reservation: &mut Reservation) -> Result<Vec<u8>, Rejection> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Rejection::BodyIncomplete)?;
        let Some(part) = frame.data_ref() else { continue };
        let length = bytes.len() + part.len();
        if length > bytes_max {
            return Err(Rejection::BodyTooLong(bytes_max));
        }
        if !reservation.cover(length) {
            return Err(Rejection::Busy);
        }
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
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

/// Form of the body, by media type and headers.
fn form(headers: &HeaderMap) -> Result<Form, Rejection> {
    let is_cloud_event = headers.keys().any(|name| name.as_str().starts_with(ATTRIBUTE_PREFIX));
    let Some((name, parameters)) = media_type(headers) else {
        // The official SDK for Python names no media type for data that is JSON.
        let is_absent = !headers.contains_key(header::CONTENT_TYPE);
        return if is_absent && is_cloud_event { Ok(Form::Binary) } else { Err(Rejection::EventMediaType) };
    };
    if !parameters.is_empty() && !matches!(parameters.as_str(), "charset=utf-8" | "charset=\"utf-8\"") {
        return Err(Rejection::EventMediaType);
    }
    match name.as_str() {
        "application/cloudevents+json" => Ok(Form::Structured),
        "application/cloudevents-batch+json" => Ok(Form::Batched),
        // Another format of CloudEvents, also one that ends in +json.
        name if name.starts_with("application/cloudevents") => Err(Rejection::EventMediaType),
        "application/json" if !is_cloud_event => Ok(Form::Own),
        name if is_cloud_event && (name == "application/json" || name.ends_with("+json")) => Ok(Form::Binary),
        _ => Err(Rejection::EventMediaType),
    }
}

impl Form {
    fn parse(self, headers: &HeaderMap, body: &[u8], events_max: usize) -> Result<EventBatch, BodyError> {
        match self {
            Self::Own => publish::parse_json(body, events_max),
            Self::Structured => cloudevents::parse_structured(body),
            Self::Batched => cloudevents::parse_batch(body, events_max),
            Self::Binary => {
                let attributes = headers.iter().filter_map(|(name, value)| {
                    Some((name.as_str().strip_prefix(ATTRIBUTE_PREFIX)?, value.as_bytes()))
                });
                cloudevents::parse_binary(attributes, body)
            }
        }
    }
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

/// The trace context of a request. If the header occurs more than once, it is ignored.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::to_owned),
        _ => None,
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

fn rejection(error: PublishError, events: usize, identity: &crate::auth::Identity) -> Rejection {
    match error {
        PublishError::Invalid(problems) => Rejection::Events { events, problems },
        PublishError::KeyReused(problems) => Rejection::KeyReused(problems),
        PublishError::TooManyKeys(wait) => Rejection::TooManyKeys(wait),
        PublishError::UnknownOrg => Rejection::UnknownOrg,
        PublishError::Database(error) => {
            tracing::warn!(%error, org.id = %identity.org, "events not published");
            Rejection::PublishUnavailable
        }
    }
}

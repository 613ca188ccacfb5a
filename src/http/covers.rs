//! `POST /v1/covers`: whether a client with a cursor has seen a transaction, or the rows of a page.
//!
//! The answer is computed from the strings that the client presents, without a query. Users and back ends may
//! ask about their own organisation.

use std::net::IpAddr;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{check_json, parse_object, read, string};
use super::error::Rejection;
use super::gatekeeper::{Gatekeeper, RequestKind};
use super::rows::Rows;
use super::{cors, openapi};
use crate::org::{Incarnation, OrgId};
use crate::session::CoversQuestion;

/// Longest body, in bytes: two cursors, and room for names and white space.
pub(crate) const COVERS_BODY_BYTES_MAX: usize = 65 * 1024;

/// A cursor, and either a transaction or the cursor of a page.
// A present field must be a string, as in the document: `null` does not omit a field.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CoversBody {
    /// The cursor of the client.
    cursor: String,
    /// The `tx` of an event or of a publishing answer.
    #[serde(default, deserialize_with = "string")]
    #[schema(nullable = false)]
    tx: Option<String>,
    /// The `cursor` of a page of rows.
    #[serde(default, deserialize_with = "string")]
    #[schema(nullable = false)]
    page: Option<String>,
}

/// The answer to a question: `covered`, or `resync` and `reason` if a string was not issued for the
/// organisation in the present epoch.
#[derive(Serialize, ToSchema)]
#[schema(as = Covers)]
pub(super) struct Answer {
    /// Whether a client with the cursor has seen the transaction, or the rows of the page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    covered: Option<bool>,
    /// True if the question cannot be answered: read the current state again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    resync: Option<bool>,
    /// The string that is unknown: `unknown_cursor`, `unknown_tx` or `unknown_page`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<&'static str>,
}

/// Answers whether a client with a cursor has seen a transaction, or the rows of a page.
///
/// The answer needs no query.
#[utoipa::path(
    post,
    path = "/v1/covers",
    operation_id = "askCoverage",
    tag = openapi::TRANSACTIONS,
    request_body = CoversBody,
    responses(
        (status = 200, description = "The answer", body = Answer),
        openapi::CoversErrors,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn covers(State(rows): State<Rows>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts, ());
    let gatekeeper = &rows.gatekeeper;
    let address = gatekeeper.address(&request);
    let response = match handle(&rows, address, &request, body).await {
        Ok(response) => response,
        Err(rejection) => gatekeeper.reject(address, &request, rejection, RequestKind::Read).await,
    };
    cors::expose(gatekeeper, request.headers(), response)
}

async fn handle(
    rows: &Rows,
    address: IpAddr,
    request: &Request<()>,
    body: Body,
) -> Result<Response, Rejection> {
    let gatekeeper = &rows.gatekeeper;
    let verified = tokio::time::timeout(gatekeeper.timeout, verify(rows, address, request)).await;
    let (org, incarnation) = verified.unwrap_or(Err(Rejection::Unavailable))?;
    let body = read(body, COVERS_BODY_BYTES_MAX, gatekeeper.timeout).await?;
    let body: CoversBody = parse_object(&body).ok_or(Rejection::Covers)?;
    let question = match (&body.tx, &body.page) {
        (Some(tx), None) => CoversQuestion::Transaction(tx),
        (None, Some(page)) => CoversQuestion::Page(page),
        _ => return Err(Rejection::Covers),
    };
    let answer = match rows.sessions.covers(org, incarnation, &body.cursor, question) {
        Ok(is_covered) => Answer { covered: Some(is_covered), resync: None, reason: None },
        Err(reason) => Answer { covered: None, resync: Some(true), reason: Some(reason) },
    };
    Ok(Json(answer).into_response())
}

/// Checks the caller, and returns its organisation. Reads nothing of the body.
async fn verify(
    rows: &Rows,
    address: IpAddr,
    request: &Request<()>,
) -> Result<(OrgId, Incarnation), Rejection> {
    let gatekeeper: &Gatekeeper = &rows.gatekeeper;
    gatekeeper.check_ready()?;
    gatekeeper.admission.request(address).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
    let identity = gatekeeper.verify_any(address, &gatekeeper.bearer_token(request)?).await?;
    let incarnation = gatekeeper.check_org(identity.org).await?;
    gatekeeper.admission.read(&identity).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
    check_json(request.headers())?;
    Ok((identity.org, incarnation))
}

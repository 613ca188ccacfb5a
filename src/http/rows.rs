//! `GET /v1/<topic>` and `GET /v1/<topic>/<id>`: the rows of a watched table, as the caller may see them.
//!
//! The caller is checked as for an upgrade, and may read the topics that it may join. Everything else is
//! decided by [`crate::reading`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::error::Rejection;
use super::gatekeeper::{Gatekeeper, RequestKind};
use super::{cors, openapi};
use crate::auth::{Identity, TopicRule};
use crate::metrics::RejectionLabels;
use crate::org::Incarnation;
use crate::reading::{Caller, Page, PageMemory, ReadError, Reader, RowRequest, Target, with_position};
use crate::session::SessionContext;
use crate::wire::Topic;

/// Header with the cursor of a single row, whose body is the row alone.
const CURSOR_HEADER: &str = "warden-cursor";

/// Smallest body that is compressed.
const COMPRESSED_BYTES_MIN: usize = 1024;

/// Bytes of a hash in an `ETag`.
const ETAG_BYTES: usize = 16;

/// State of the handler.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Checks callers.
    pub gatekeeper: Arc<Gatekeeper>,
    /// Knows which topics a token may join.
    pub sessions: Arc<SessionContext>,
    /// Reads rows.
    pub reader: Arc<Reader>,
}

/// A caller whose token was verified.
struct Verified {
    identity: Identity,
    incarnation: Incarnation,
}

/// Reads a page of the rows of a watched table.
///
/// The rows are those of the token's organisation that the token's user may see, in the bytes of the `data`
/// of events. A parameter that is not listed is a filter on the column with that name. Follow `next` without
/// changing it.
#[utoipa::path(
    get,
    path = "/v1/{topic}",
    operation_id = "readRows",
    tag = openapi::ROWS,
    params(
        ("topic" = String, Path, description = "Topic of a watched table, such as `calls`"),
        ("select" = Option<String>, Query, description = "Columns to send, separated by commas", example = "id,status"),
        ("order" = Option<String>, Query, description = "Columns that order the rows, each with `.asc` or `.desc`, \
            and then `.nullsfirst` or `.nullslast`", example = "started_at.desc,id"),
        ("limit" = Option<u32>, Query, description = "Most rows of the page (100 by default)",
            minimum = 1, maximum = 1000),
        ("after" = Option<String>, Query, description = "Position of the page, as the URL in `next` contains it"),
        ("and" = Option<String>, Query, description = "Conditions that all hold", example = "(price.gt.1,price.lt.2)"),
        ("or" = Option<String>, Query, description = "Conditions of which one holds",
            example = "(status.eq.queued,status.eq.ringing)"),
        ("filters" = inline(Option<HashMap<String, String>>), Query, style = Form, explode,
            description = "Conditions on columns: the name of a column, with an operator and its value such as \
            `eq.completed`", example = json!({"status": "eq.completed"})),
        ("Prefer" = Option<String>, Header, description = "`count=exact` asks for the total"),
    ),
    responses(
        (status = 200, description = "A page", body = ref("#/components/schemas/Page"),
            content_type = "application/json", headers(
            ("Link" = String, description = "URL of the next page, with `rel=\"next\"`"),
            ("Preference-Applied" = String, description = "`count=exact` if the total was asked for"),
        )),
        openapi::PageErrors,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn read_page(State(rows): State<Rows>, request: Request) -> Response {
    respond(&rows, request.map(drop)).await
}

/// Reads one row of a watched table.
///
/// The id of another organisation's row, and of one that a policy hides, is answered like an id that does not
/// exist.
#[utoipa::path(
    get,
    path = "/v1/{topic}/{id}",
    operation_id = "readRow",
    tag = openapi::ROWS,
    params(
        ("topic" = String, Path, description = "Topic of a watched table, such as `calls`"),
        ("id" = String, Path, description = "Key of the row. Commas separate the values of a key with several \
            columns"),
        ("select" = Option<String>, Query, description = "Columns to send, separated by commas", example = "id,status"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` that the client has"),
    ),
    responses(
        (status = 200, description = "The row", body = ref("#/components/schemas/Row"),
            content_type = "application/json", headers(
            ("ETag" = String, description = "Identifies the content of the row"),
            ("Warden-Cursor" = String, description = "Position in the event log at which the row was read"),
        )),
        (status = 304, description = "The row has not changed", headers(
            ("ETag" = String, description = "Identifies the content of the row"),
            ("Warden-Cursor" = String, description = "Position in the event log at which the row was read"),
        )),
        openapi::RowErrors,
    ),
    security(("bearer" = [])),
)]
pub(super) async fn read_row(State(rows): State<Rows>, request: Request) -> Response {
    respond(&rows, request.map(drop)).await
}

async fn respond(rows: &Rows, request: Request<()>) -> Response {
    let response = read(rows, &request).await;
    cors::expose(&rows.gatekeeper, request.headers(), response)
}

async fn read(rows: &Rows, request: &Request<()>) -> Response {
    let Rows { gatekeeper, .. } = rows;
    let address = gatekeeper.address(request);
    let verified = tokio::time::timeout(gatekeeper.timeout, verify(gatekeeper, address, request)).await;
    let caller = match verified.unwrap_or(Err(Rejection::Unavailable)) {
        Ok(caller) => caller,
        Err(rejection) => return gatekeeper.reject(address, request, rejection, RequestKind::Read).await,
    };
    match rows.answer(&caller, request).await {
        Ok(response) => response,
        // Without delay: the caller is known, and its rates are limited.
        Err(rejection) => {
            let (_, code) = rejection.code();
            gatekeeper.metrics.reads_rejected.get_or_create(&RejectionLabels { code }).inc();
            rejection.into_response()
        }
    }
}

/// Checks the caller.
async fn verify(
    gatekeeper: &Gatekeeper,
    address: IpAddr,
    request: &Request<()>,
) -> Result<Verified, Rejection> {
    gatekeeper.check_ready()?;
    gatekeeper.admission.request(address).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
    let identity = gatekeeper.verify(address, &gatekeeper.bearer_token(request)?).await?;
    let incarnation = gatekeeper.check_org(identity.org).await?;
    gatekeeper.admission.read(&identity).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
    Ok(Verified { identity, incarnation })
}

impl Rows {
    async fn answer(&self, caller: &Verified, request: &Request<()>) -> Result<Response, Rejection> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let path = path.strip_prefix("/v1/").unwrap_or_default();
        let (topic, id) = path.split_once('/').map_or((path, None), |(topic, id)| (topic, Some(id)));
        // Only named topics belong to tables, and `org`.
        let parsed = Topic::parse(topic).filter(|topic| !topic.is_entity());
        let parsed = parsed.ok_or(Rejection::Read(ReadError::UnknownTopic))?;
        self.sessions.check_read(caller.identity.access(), &parsed).map_err(Rejection::ForbiddenTopic)?;
        let headers = request.headers();
        let with_count = prefers_count(headers);
        let target = match id {
            None => Target::Rows { with_count, bytes_max: self.reader.limits().page_bytes_max },
            Some(id) => Target::Row(id.to_owned()),
        };
        let Verified { identity, incarnation } = caller;
        let who = Caller { org: identity.org, incarnation: *incarnation, claims: identity.claims.json() };
        let parsed_query = match id {
            None => RowRequest::parse(query),
            Some(_) => RowRequest::parse_of_row(query),
        };
        let mut parameters = parsed_query.map_err(ReadError::Query)?;
        match identity.filters.rule(&parsed) {
            TopicRule::Whole => {}
            TopicRule::Rows(rows) => parameters.signed = rows.conditions.to_vec(),
            // No table has an aggregate topic, and any other topic was rejected above.
            TopicRule::Aggregate(_) | TopicRule::Nothing => return Err(ReadError::UnknownTopic.into()),
        }
        let mut page = self.reader.read(who, topic, parameters, target).await?;
        match id {
            None => {
                let next = page.next.take().map(|position| with_position(query, &position));
                page_response(page, topic, next, headers, with_count)
            }
            Some(_) => row_response(page, headers),
        }
    }
}

impl From<ReadError> for Rejection {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// Whether the client asks for the total.
fn prefers_count(headers: &HeaderMap) -> bool {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split([',', ';'])).any(|entry| entry.trim() == "count=exact")
}

/// Everything of a page behind its rows.
#[derive(Serialize)]
struct Rest<'a> {
    cursor: &'a str,
    next: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<Option<usize>>,
    #[serde(skip_serializing_if = "<[usize]>::is_empty")]
    truncated: &'a [usize],
}

fn page_response(
    page: Page,
    topic: &str,
    next: Option<String>,
    headers: &HeaderMap,
    with_count: bool,
) -> Result<Response, Rejection> {
    let next = next.map(|query| format!("/v1/{topic}?{query}"));
    let rest = Rest {
        cursor: &page.cursor,
        next: next.as_deref(),
        total: with_count.then_some(page.total),
        truncated: &page.truncated,
    };
    // Strings and numbers can always be serialised.
    let rest = serde_json::to_string(&rest).unwrap_or_default();
    let body = format!("{{\"rows\":[{}],{}", page.json, &rest[1..]);
    let mut response = body_response(body.into_bytes(), headers, page.memory);
    let response_headers = response.headers_mut();
    if let Some(next) = next
        && let Ok(link) = HeaderValue::from_bytes(format!("<{next}>; rel=\"next\"").as_bytes())
    {
        response_headers.insert(header::LINK, link);
    }
    if with_count {
        response_headers.insert("preference-applied", HeaderValue::from_static("count=exact"));
    }
    Ok(response)
}

fn row_response(page: Page, headers: &HeaderMap) -> Result<Response, Rejection> {
    let hash = Sha256::digest(page.json.as_bytes());
    // Weak, because the same row may be sent with and without compression.
    let etag = format!("W/\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..ETAG_BYTES]));
    let mut response = if is_known(headers, &etag) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        set_cache_headers(response.headers_mut());
        response
    } else {
        body_response(page.json.into_bytes(), headers, page.memory)
    };
    for (name, value) in [(header::ETAG.as_str(), &etag), (CURSOR_HEADER, &page.cursor)] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response
                .headers_mut()
                .insert(name.parse::<header::HeaderName>().map_err(|_| Rejection::NotFound)?, value);
        }
    }
    Ok(response)
}

/// Sets the headers for caches, which an answer and its 304 have in common (RFC 9110, section 15.4.5). No
/// shared cache may keep rows, and a private one must ask again.
fn set_cache_headers(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("authorization, accept-encoding"));
}

/// Whether the client has a row with this tag.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|tag| tag.trim() == "*" || weak(tag) == weak(etag))
}

/// Bytes of a body, with the memory that is reserved for them.
struct ReservedBody {
    bytes: Vec<u8>,
    _memory: Option<PageMemory>,
}

impl AsRef<[u8]> for ReservedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn body_response(bytes: Vec<u8>, headers: &HeaderMap, memory: Option<PageMemory>) -> Response {
    let compressed = (bytes.len() >= COMPRESSED_BYTES_MIN && accepts_gzip(headers)).then(|| compress(&bytes));
    let is_compressed = compressed.is_some();
    let body = ReservedBody { bytes: compressed.unwrap_or(bytes), _memory: memory };
    // The memory stays reserved until the last of these bytes was written to the socket.
    let mut response = Body::from(Bytes::from_owner(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    set_cache_headers(headers);
    if is_compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Whether the client accepts gzip, with any weight above zero.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|entry| {
        let (coding, weight) = entry.split_once(';').unwrap_or((entry, ""));
        let is_zero = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0_f32));
        matches!(coding.trim(), "gzip" | "x-gzip") && !is_zero
    })
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    // Writing to a vector does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).expect("a value"))])
    }

    #[test]
    fn gzip_is_used_only_if_it_is_accepted() {
        for (value, accepts) in
            [("gzip", true), ("br, gzip;q=0.5", true), ("gzip;q=0", false), ("br", false), ("", false)]
        {
            assert_eq!(accepts_gzip(&headers(header::ACCEPT_ENCODING, value)), accepts, "{value}");
        }
    }

    #[test]
    fn a_known_tag_is_found_in_a_list() {
        for (value, is_in) in
            [("W/\"a\"", true), ("\"b\", \"a\"", true), ("*", true), ("\"b\"", false), ("a", false)]
        {
            assert_eq!(is_known(&headers(header::IF_NONE_MATCH, value), "W/\"a\""), is_in, "{value}");
        }
    }
}

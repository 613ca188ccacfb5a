//! CORS: which pages of other origins may read the answers of a route (WHATWG Fetch).
//!
//! The origins are those that may open sockets. Tokens are in `Authorization`, so cookies are never allowed.
//! Errors carry the headers too; otherwise a page could not read the problem document.
//!
//! The usual layers for CORS answer every OPTIONS request, also from an origin that is not allowed. Here such
//! a request is rejected and counted as on all other routes.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::error::Rejection;
use super::gatekeeper::{Gatekeeper, RequestKind};

/// Methods of the routes that pages may read.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");

/// Headers that pages may send to these routes. Browsers set `Accept-Encoding` themselves.
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, if-none-match, prefer");

/// Headers of answers that pages may read, beside those that every page may read.
const RESPONSE_HEADERS: HeaderValue =
    HeaderValue::from_static("etag, link, preference-applied, retry-after, warden-cursor");

/// Time for which a browser remembers the answer to a preflight request: two hours, the most that browsers
/// accept.
const MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("7200");

const ORIGIN: HeaderValue = HeaderValue::from_static("origin");

/// Handles the OPTIONS request that a browser sends before a request with a token.
pub(super) async fn preflight(State(gatekeeper): State<Arc<Gatekeeper>>, request: Request) -> Response {
    let request = request.map(drop);
    let headers = request.headers();
    let is_preflight =
        headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let response = match gatekeeper.check_origin(headers) {
        Ok(()) if is_preflight => {
            let allowed: [(HeaderName, HeaderValue); 3] = [
                (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
                (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS),
            ];
            (StatusCode::NO_CONTENT, allowed).into_response()
        }
        Ok(()) => gatekeeper.reject_counted(&request, Rejection::Method, RequestKind::Read).await,
        Err(rejection) => gatekeeper.reject_counted(&request, rejection, RequestKind::Read).await,
    };
    expose(&gatekeeper, headers, response)
}

/// Lets the page of an allowed origin read an answer.
pub(super) fn expose(gatekeeper: &Gatekeeper, request: &HeaderMap, mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.append(header::VARY, ORIGIN);
    if let Some(origin) = request.get(header::ORIGIN)
        && gatekeeper.check_origin(request).is_ok()
    {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    }
    response
}

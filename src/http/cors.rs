//! CORS: which pages of other origins may read the answers of a route (WHATWG Fetch).
//!
//! The origins are those that may open sockets. Tokens are in `Authorization`, so cookies are never allowed.
//! Rejections by these routes carry the headers too; otherwise a page could not read the problem document.
//!
//! The usual layers for CORS answer every OPTIONS request, also from an origin that is not allowed. Here an
//! OPTIONS request counts as a handshake, and is rejected if its URL has a credential or its origin is not
//! allowed.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::gatekeeper::{Gatekeeper, RequestKind};

/// Methods of requests that pages may send to these routes.
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

/// Answers an OPTIONS request. A browser sends one, a preflight request, before a request with a token.
/// Others ask for the methods of the path.
pub(super) async fn options(gatekeeper: &Gatekeeper, request: Request, allow: &'static str) -> Response {
    let request = request.map(drop);
    let headers = request.headers();
    let is_preflight =
        headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let response = match gatekeeper.check_without_token(&request) {
        Ok(()) => {
            let mut response = (StatusCode::NO_CONTENT, [(header::ALLOW, allow)]).into_response();
            if is_preflight {
                response.headers_mut().extend([
                    (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
                    (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
                    (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECONDS),
                ]);
            }
            response
        }
        Err(rejection) => {
            let address = gatekeeper.address(&request);
            gatekeeper.reject(address, &request, rejection, RequestKind::Read).await
        }
    };
    expose(gatekeeper, headers, response)
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

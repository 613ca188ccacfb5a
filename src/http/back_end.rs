//! Checks and reads that the routes for back ends share.
//!
//! The caller is checked before the body is read. This module must not know what a route does.

use std::error::Error as _;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Version, header};
use bytes::Bytes;
use http_body_util::LengthLimitError;

use super::error::Rejection;
use super::gatekeeper::{Gatekeeper, check_url};
use crate::audit_trail::TokenHash;
use crate::auth::{self, Identity};

/// A verified back end.
pub(super) struct BackEnd {
    pub(super) identity: Identity,
    pub(super) token: TokenHash,
}

/// Checks that the request has the valid token of a back end whose organisation exists. Reads nothing of the
/// body.
pub(super) async fn verify(gatekeeper: &Gatekeeper, request: &Request<()>) -> Result<BackEnd, Rejection> {
    let headers = request.headers();
    // Cookies are never accepted here: a page could make a browser send them.
    let found = auth::find(request.uri(), headers, None);
    check_url(&found)?;
    if request.version() != Version::HTTP_11 || headers.get_all(header::HOST).iter().count() != 1 {
        return Err(Rejection::Ambiguous);
    }
    gatekeeper.check_origin(headers)?;
    let token = found?.token;
    let identity = gatekeeper.verify_back_end(&token).await?;
    gatekeeper.check_org(identity.org).await?;
    Ok(BackEnd { identity, token: token.hash() })
}

/// Reads a body of at most this many bytes, within this time.
pub(super) async fn read(body: Body, bytes_max: usize, timeout: Duration) -> Result<Bytes, Rejection> {
    let read = tokio::time::timeout(timeout, to_bytes(body, bytes_max));
    let read = read.await.map_err(|_| Rejection::BodyTimeout)?;
    read.map_err(|error| match error.source() {
        Some(source) if source.is::<LengthLimitError>() => Rejection::BodyTooLong(bytes_max),
        _ => Rejection::BodyIncomplete,
    })
}

/// The media type of a body in lower case, and its parameters. None if there is none, or several.
pub(super) fn media_type(headers: &HeaderMap) -> Option<(String, String)> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let value = value.to_str().ok()?.to_ascii_lowercase();
    let (name, parameters) = value.split_once(';').unwrap_or((&value, ""));
    Some((name.trim().to_owned(), parameters.trim().to_owned()))
}

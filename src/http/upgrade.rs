//! The upgrade: everything is decided before the 101 is sent. A socket that is open is authenticated.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::HttpState;
use super::error::Refusal;
use crate::auth::{self, Identity, PHOENIX_SUBPROTOCOL};
use crate::metrics::RefusalLabels;
use crate::session;

/// The version of the Phoenix protocol that is spoken: `2.` and whatever follows.
const VSN_MAJOR: &str = "2";

/// Length of a decoded `Sec-WebSocket-Key`, in bytes.
const KEY_BYTES: usize = 16;

/// An upgrade that may go on.
struct Accepted {
    identity: Identity,
    accept_key: String,
    wants_phoenix: bool,
}

/// `GET /socket/websocket`
pub(super) async fn upgrade(State(state): State<HttpState>, request: Request) -> Response {
    // The body is dropped: an upgrade has none, and it is not Sync.
    let mut request = request.map(drop);
    match accept(&state, &request).await {
        Ok(accepted) => {
            state.shared.metrics.accepted.inc();
            tracing::debug!(org.id = %accepted.identity.org, "upgrade accepted");
            let on_upgrade = hyper::upgrade::on(&mut request);
            let identity = accepted.identity.clone();
            state.sessions.spawn(begin_session(state.clone(), on_upgrade, identity));
            switching_protocols(&accepted)
        }
        Err(refusal) => {
            let (status, code) = refusal.code();
            state.shared.metrics.refused.get_or_create(&RefusalLabels { code }).inc();
            // The refusal's text never repeats what was sent; the URL is not logged at all.
            tracing::info!(refusal.code = code, http.status = status.as_u16(), reason = %refusal, "upgrade refused");
            refusal.into_response()
        }
    }
}

/// Every other path. A URL may carry a credential in its path, so the one thing told here is that.
pub(super) async fn not_found(State(state): State<HttpState>, request: Request) -> Response {
    let refusal = match auth::find(request.uri(), request.headers()) {
        Err(error @ auth::CredentialError::InUrl(_)) => error.into(),
        _ => Refusal::NotFound,
    };
    let (_, code) = refusal.code();
    state.shared.metrics.refused.get_or_create(&RefusalLabels { code }).inc();
    refusal.into_response()
}

async fn accept(state: &HttpState, request: &Request<()>) -> Result<Accepted, Refusal> {
    let headers = request.headers();
    // First of all, so that a credential in a URL is always told of as that.
    let found = auth::find(request.uri(), headers);
    if let Err(error @ auth::CredentialError::InUrl(_)) = found {
        return Err(error.into());
    }
    let accept_key = websocket_accept_key(request.method(), headers)?;
    check_origin(headers, &state.allowed_origins)?;
    check_protocol_version(request.uri().query())?;
    let presented = found?;
    if state.draining.is_cancelled() {
        return Err(Refusal::ShuttingDown);
    }
    let identity = state.shared.verifier.verify(&presented.token).await?;
    // A client that comes back within milliseconds of a restart must not join before topics are known and
    // the log is followed. Where the log is lost later on, sessions begin: they get what they miss.
    if !state.shared.hub.has_position() {
        return Err(Refusal::NotFollowing);
    }
    match state.shared.directory.has_org(identity.org).await {
        Ok(true) => Ok(Accepted { identity, accept_key, wants_phoenix: presented.wants_phoenix }),
        Ok(false) => Err(Refusal::UnknownOrg),
        Err(error) => {
            tracing::warn!(%error, org.id = %identity.org, "an organisation could not be looked up");
            Err(Refusal::Unavailable)
        }
    }
}

/// RFC 6455, section 4.2.1.
fn websocket_accept_key(method: &Method, headers: &HeaderMap) -> Result<String, Refusal> {
    if method != Method::GET
        || !has_token(headers, &header::CONNECTION, "upgrade")
        || !has_token(headers, &header::UPGRADE, "websocket")
    {
        return Err(Refusal::NotWebSocket);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(b"13") {
        return Err(Refusal::WebSocketVersion);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(Refusal::NotWebSocket)?;
    match STANDARD.decode(key.as_bytes()) {
        Ok(bytes) if bytes.len() == KEY_BYTES => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Refusal::NotWebSocket),
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|entry| entry.trim().eq_ignore_ascii_case(token))
}

/// Browsers always send an Origin, and a page cannot forge it, so it must be on the list, to the letter.
/// Who sends none is no browser: a page in some victim's browser cannot leave it out.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Refusal> {
    let is_allowed = |origin: &HeaderValue| allowed.iter().any(|a| a.as_bytes() == origin.as_bytes());
    if headers.get_all(header::ORIGIN).iter().all(is_allowed) { Ok(()) } else { Err(Refusal::Origin) }
}

/// A client without `vsn` expects version 1 of the protocol, whose frames are other ones.
fn check_protocol_version(query: Option<&str>) -> Result<(), Refusal> {
    let vsn = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("vsn="));
    match vsn.map(|vsn| vsn.split('.').next()) {
        Some(Some(VSN_MAJOR)) => Ok(()),
        _ => Err(Refusal::ProtocolVersion),
    }
}

fn switching_protocols(accepted: &Accepted) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let key = HeaderValue::from_str(&accepted.accept_key).expect("base64 is a header value");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    if accepted.wants_phoenix {
        // The token's entry is never echoed.
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PHOENIX_SUBPROTOCOL));
    }
    response
}

async fn begin_session(state: HttpState, on_upgrade: OnUpgrade, identity: Identity) {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        // The client went away between its request and our 101.
        Err(error) => return tracing::debug!(%error, "a connection ended before its upgrade"),
    };
    match into_tcp(upgraded) {
        Some((stream, received)) => {
            session::run(state.shared, stream, received, identity, state.shutdown).await;
        }
        None => tracing::error!("an upgraded connection is no TCP stream: this is a defect of Warden"),
    }
}

/// The TCP stream itself, and what was read of it already.
fn into_tcp(upgraded: Upgraded) -> Option<(TcpStream, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

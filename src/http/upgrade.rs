//! The upgrade: everything is decided before the 101 is sent. A socket that is open is authenticated.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use uuid::Uuid;

use super::HttpState;
use super::admission::SessionPermit;
use super::caller::{self, Asked};
use super::error::Refusal;
use super::serve::Peer;
use crate::audit_trail::{self, AuditSubject, TokenHash};
use crate::auth::{self, Identity, PHOENIX_SUBPROTOCOL};
use crate::session::{self, Admitted};

/// The version of the Phoenix protocol that is spoken: `2.` and whatever follows.
const VSN_MAJOR: &str = "2";

/// Length of a decoded `Sec-WebSocket-Key`, in bytes.
const KEY_BYTES: usize = 16;

/// An upgrade that may go on.
struct Accepted {
    identity: Identity,
    seat: SessionPermit,
    token: TokenHash,
    accept_key: String,
    wants_phoenix: bool,
}

/// `GET /socket/websocket`
pub(super) async fn upgrade(State(state): State<HttpState>, request: Request) -> Response {
    // The body is dropped: an upgrade has none, and it is not Sync.
    let request = request.map(drop);
    let address = caller::address(&state, &request);
    let accepted = tokio::time::timeout(state.handshake_timeout, accept(&state, address, &request)).await;
    match accepted.unwrap_or(Err(Refusal::Unavailable)) {
        Ok(accepted) => {
            state.shared.metrics.accepted.inc();
            let id = Uuid::new_v4();
            let identity = &accepted.identity;
            audit_trail::accepted(
                AuditSubject { session: id, user: &identity.subject, org: identity.org, address },
                accepted.token,
            );
            let response = switching_protocols(&accepted);
            let Accepted { identity, seat, .. } = accepted;
            let begin = move |transport, received| {
                let admitted =
                    Box::new(Admitted { id, address, identity, permit: seat, transport, received });
                state.sessions.spawn(session::run(state.shared, admitted, state.shutdown));
            };
            if let Some(peer) = request.extensions().get::<Peer>() {
                peer.after_upgrade(Box::new(begin));
            }
            response
        }
        Err(refusal) => caller::refuse(&state, address, &request, refusal, Asked::Upgrade).await,
    }
}

/// Every other path. A URL may carry a credential in its path, so the one thing told here is that.
pub(super) async fn not_found(State(state): State<HttpState>, request: Request) -> Response {
    let request = request.map(drop);
    let address = caller::address(&state, &request);
    let refusal = match state.admission.handshake(address) {
        Err((reached, wait)) => Refusal::Limit(reached, wait),
        Ok(()) => match auth::find(request.uri(), request.headers(), None) {
            Err(error @ auth::CredentialError::InUrl(_)) => error.into(),
            _ => Refusal::NotFound,
        },
    };
    caller::refuse(&state, address, &request, refusal, Asked::Upgrade).await
}

/// The checks, cheapest first.
async fn accept(state: &HttpState, address: IpAddr, request: &Request<()>) -> Result<Accepted, Refusal> {
    if state.draining.is_cancelled() {
        return Err(Refusal::ShuttingDown);
    }
    // A client that comes back within milliseconds of a restart must not join before topics are known and
    // the log is followed. Where the log is lost later on, sessions begin: they get what they miss. Such
    // attempts are none of the client's allowance: all who come back make some.
    if !state.shared.hub.has_position() {
        return Err(Refusal::NotFollowing);
    }
    state.admission.handshake(address).map_err(|(reached, wait)| Refusal::Limit(reached, wait))?;
    let headers = request.headers();
    // Before the rest of the request, so that a credential in a URL is always told of as that.
    let found = auth::find(request.uri(), headers, state.auth_cookie.as_ref());
    if let Err(error @ auth::CredentialError::InUrl(_)) = found {
        return Err(error.into());
    }
    if !has_one_reading(request.version(), headers) {
        return Err(Refusal::Ambiguous);
    }
    let accept_key = websocket_accept_key(request.method(), headers)?;
    caller::check_origin(headers, &state.allowed_origins)?;
    check_protocol_version(request.uri().query())?;
    let presented = found?;
    // Any page can make a browser send its cookies; that the page is one of ours only the Origin says,
    // which here must be there. (That it is allowed if it is there was checked above.)
    if presented.is_cookie && !headers.contains_key(header::ORIGIN) {
        return Err(Refusal::CookieWithoutOrigin);
    }
    let identity = caller::verified(state, &presented.token).await?;
    let seat = state.admission.seat(&identity).map_err(|(reached, wait)| Refusal::Limit(reached, wait))?;
    let token = presented.token.hash();
    caller::has_org(state, identity.org).await?;
    Ok(Accepted { identity, seat, token, accept_key, wants_phoenix: presented.wants_phoenix })
}

/// Whether a proxy in front reads the same as we do: where it took a body, a second Host or another key for the
/// one that counts, it would hold for a request what here are a socket's frames, or the other way round.
fn has_one_reading(version: Version, headers: &HeaderMap) -> bool {
    let count = |name: &HeaderName| headers.get_all(name).iter().count();
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
    version == Version::HTTP_11
        && !has_body
        && count(&header::HOST) == 1
        && count(&header::SEC_WEBSOCKET_KEY) <= 1
        && count(&header::SEC_WEBSOCKET_VERSION) <= 1
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

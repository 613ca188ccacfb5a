//! The upgrade to a WebSocket. Every check comes before the 101, so an open socket is always authenticated.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::admission::SessionPermit;
use super::error::Rejection;
use super::gatekeeper::{Gatekeeper, RequestKind, check_url};
use super::serve::Peer;
use crate::audit_trail::{self, AuditSubject, TokenHash};
use crate::auth::{self, Identity, PHOENIX_SUBPROTOCOL};
use crate::org::Incarnation;
use crate::session::{self, Admitted};

/// Major version of the Phoenix protocol that the gateway speaks.
const VSN_MAJOR: &str = "2";

/// Length of a decoded `Sec-WebSocket-Key`, in bytes.
const KEY_BYTES: usize = 16;

/// Tasks of the sessions that upgrades begin.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// State that all sessions share.
    pub shared: Arc<session::SessionContext>,
    /// Tracks every session's task.
    pub tasks: TaskTracker,
    /// Cancelled when open sessions must end. A session that begins later ends at once.
    pub shutdown: CancellationToken,
}

/// State of the upgrade's handler.
#[derive(Clone)]
pub(super) struct Upgrades {
    pub(super) gatekeeper: Arc<Gatekeeper>,
    pub(super) sessions: Sessions,
}

/// An upgrade that passed every check.
struct Accepted {
    identity: Identity,
    incarnation: Incarnation,
    permit: SessionPermit,
    token: TokenHash,
    accept_key: String,
    wants_phoenix: bool,
}

/// Handles `GET /socket/websocket`.
pub(super) async fn upgrade(State(state): State<Upgrades>, request: Request) -> Response {
    let Upgrades { gatekeeper, sessions } = state;
    // An upgrade has no body, and the type of the body is not Sync.
    let request = request.map(drop);
    let address = gatekeeper.address(&request);
    let accepted = accept(&gatekeeper, &sessions.shared, address, &request);
    let accepted = tokio::time::timeout(gatekeeper.timeout, accepted).await;
    match accepted.unwrap_or(Err(Rejection::Unavailable)) {
        Ok(accepted) => {
            gatekeeper.metrics.accepted.inc();
            let id = Uuid::new_v4();
            let identity = &accepted.identity;
            if let Some(allowed) = sessions.shared.log_shares.take_for_session(identity.org, Instant::now()) {
                let subject =
                    AuditSubject { session: id, user: &identity.subject, org: identity.org, address };
                audit_trail::accepted(subject, accepted.token, identity.filters.json(), allowed);
            }
            let response = switching_protocols(&accepted);
            let Accepted { identity, incarnation, permit, .. } = accepted;
            let begin = move |transport, received| {
                let admitted =
                    Box::new(Admitted { id, address, identity, incarnation, permit, transport, received });
                sessions.tasks.spawn(session::run(sessions.shared, admitted, sessions.shutdown));
            };
            if let Some(peer) = request.extensions().get::<Peer>() {
                peer.after_upgrade(Box::new(begin));
            }
            response
        }
        Err(rejection) => gatekeeper.reject(address, &request, rejection, RequestKind::Upgrade).await,
    }
}

/// Handles every other path. The path may contain a credential, so the answer never repeats it.
pub(super) async fn not_found(gatekeeper: Arc<Gatekeeper>, request: Request) -> Response {
    gatekeeper.reject_counted(&request.map(drop), Rejection::NotFound, RequestKind::Upgrade).await
}

/// Rejects another method of the socket or of a probe.
pub(super) async fn reject_method(gatekeeper: Arc<Gatekeeper>, request: Request) -> Response {
    gatekeeper.reject_counted(&request.map(drop), Rejection::Method, RequestKind::Upgrade).await
}

/// Runs the checks of an upgrade, the cheapest first.
async fn accept(
    gatekeeper: &Gatekeeper,
    shared: &session::SessionContext,
    address: IpAddr,
    request: &Request<()>,
) -> Result<Accepted, Rejection> {
    // Before the rate limits: clients that reconnect within milliseconds of a restart must not use up their
    // allowance.
    gatekeeper.check_ready()?;
    gatekeeper.admission.handshake(address).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
    let headers = request.headers();
    let found = auth::find(request.uri(), headers, gatekeeper.auth_cookie.as_ref());
    check_url(&found)?;
    if is_ambiguous(request.version(), headers) {
        return Err(Rejection::Ambiguous);
    }
    let accept_key = websocket_accept_key(request.method(), headers)?;
    gatekeeper.check_origin(headers)?;
    check_protocol_version(request.uri().query())?;
    let presented = found?;
    // Any page can make a browser send its cookies. Only the Origin proves that an allowed page opened the
    // socket; that a present Origin is allowed was checked above.
    if presented.is_cookie && !headers.contains_key(header::ORIGIN) {
        return Err(Rejection::CookieWithoutOrigin);
    }
    let identity = gatekeeper.verify(address, &presented.token).await?;
    let permit =
        gatekeeper.admission.session(&identity).map_err(|(limit, wait)| Rejection::Limit(limit, wait))?;
    let token = presented.token.hash();
    let incarnation = gatekeeper.check_org(identity.org).await?;
    // Until then this node may still send events of a deleted organisation that had the same id.
    shared.wait_for(incarnation).await.map_err(|_| Rejection::Unavailable)?;
    Ok(Accepted { identity, incarnation, permit, token, accept_key, wants_phoenix: presented.wants_phoenix })
}

/// Whether a proxy in front might read the request differently (request smuggling).
///
/// If a proxy and the gateway disagree about a body, the Host or the key, one of them takes the frames of a
/// socket for an HTTP request.
fn is_ambiguous(version: Version, headers: &HeaderMap) -> bool {
    let count = |name: &HeaderName| headers.get_all(name).iter().count();
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get_all(header::CONTENT_LENGTH).iter().any(|length| length.as_bytes() != b"0");
    version != Version::HTTP_11
        || has_body
        || count(&header::HOST) != 1
        || count(&header::SEC_WEBSOCKET_KEY) > 1
        || count(&header::SEC_WEBSOCKET_VERSION) > 1
}

/// Checks the handshake as RFC 6455, section 4.2.1 requires, and returns the value of `Sec-WebSocket-Accept`.
fn websocket_accept_key(method: &Method, headers: &HeaderMap) -> Result<String, Rejection> {
    if method != Method::GET
        || !has_token(headers, &header::CONNECTION, "upgrade")
        || !has_token(headers, &header::UPGRADE, "websocket")
    {
        return Err(Rejection::NotWebSocket);
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes) != Some(b"13") {
        return Err(Rejection::WebSocketVersion);
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(Rejection::NotWebSocket)?;
    match STANDARD.decode(key.as_bytes()) {
        Ok(bytes) if bytes.len() == KEY_BYTES => Ok(derive_accept_key(key.as_bytes())),
        _ => Err(Rejection::NotWebSocket),
    }
}

/// Whether a comma-separated header contains this token.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|entry| entry.trim().eq_ignore_ascii_case(token))
}

/// Checks the parameter `vsn`. A client that omits it expects version 1, whose frames have another format.
fn check_protocol_version(query: Option<&str>) -> Result<(), Rejection> {
    let vsn = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("vsn="));
    match vsn.map(|vsn| vsn.split('.').next()) {
        Some(Some(VSN_MAJOR)) => Ok(()),
        _ => Err(Rejection::ProtocolVersion),
    }
}

/// The 101.
fn switching_protocols(accepted: &Accepted) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let key = HeaderValue::from_str(&accepted.accept_key).expect("base64 is a valid header value");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    if accepted.wants_phoenix {
        // Only `phoenix` is echoed, never the entry that contains the token.
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PHOENIX_SUBPROTOCOL));
    }
    response
}

//! The public listener. Its routes:
//!
//! | route | answers |
//! |---|---|
//! | `GET /socket/websocket` | 101, or why not |
//! | `POST /v1/revocations` | 201 with what was revoked, for back ends; or why not |
//! | `GET /livez` | 200 while the process runs |
//! | `GET /readyz` | 200 while the node follows the event log and can verify tokens, with a line more where an operator should look; else 503 and why |
//!
//! The admin listener, which is not for the public, has `GET /metrics` as well.

mod admission;
mod caller;
mod error;
mod revocations;
mod serve;
mod tls;
mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{any, get};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use admission::{Admission, AdmissionLimits, ForwardedHeader, Proxies, parse_network};
pub use serve::{Listening, ServeLimits, serve};
pub use tls::{Tls, TlsError, TlsFiles};

use crate::auth::CookieName;
use crate::auth::Readiness;
use crate::log::TailerState;
use crate::metrics::Metrics;
use crate::session;

/// What handlers may touch.
#[derive(Clone, Debug)]
pub struct HttpState {
    /// For the sessions that upgrades begin.
    pub shared: Arc<session::SessionContext>,
    /// Exact origins of browsers that may connect.
    pub allowed_origins: Arc<[String]>,
    /// The cookie that may carry a token, where one may.
    pub auth_cookie: Option<CookieName>,
    /// How much anybody may use.
    pub admission: Arc<Admission>,
    /// A handshake is decided within so long.
    pub handshake_timeout: Duration,
    /// Whether the node follows the log.
    pub reader: watch::Receiver<TailerState>,
    /// Since when retention can't be done.
    pub retention_late: watch::Receiver<Option<Instant>>,
    /// Every session's task.
    pub sessions: TaskTracker,
    /// Cancelled when the gateway begins to go down.
    pub draining: CancellationToken,
    /// Cancelled when sessions that are left must end.
    pub shutdown: CancellationToken,
}

/// The routes of the public listener.
pub fn public(state: HttpState) -> Router {
    Router::new()
        .route("/socket/websocket", get(upgrade::upgrade))
        // Every method, so that a credential in the URL is told of as that, and errors have one form.
        .route("/v1/revocations", any(revocations::revoke))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .fallback(upgrade::not_found)
        .with_state(state)
}

/// The routes of the admin listener.
pub fn admin(state: HttpState) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz_with_reason))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(state): State<HttpState>) -> (StatusCode, String) {
    if state.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n".to_owned());
    }
    let keys = state.shared.verifier.readiness();
    if keys == Readiness::NotReady {
        let text = "the keys that tokens are verified with can't be fetched; see the gateway's log\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
    }
    match &*state.reader.borrow() {
        TailerState::Following => (StatusCode::OK, following(*state.retention_late.borrow(), keys)),
        TailerState::Starting => {
            (StatusCode::SERVICE_UNAVAILABLE, "connecting to the event log\n".to_owned())
        }
        // The reason is in the log, which is not public.
        TailerState::Lost(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the event log can't be read; see the gateway's log\n".to_owned(),
        ),
    }
}

/// As [`readyz`], with the reason, which names addresses of the database: not for the public.
async fn readyz_with_reason(State(state): State<HttpState>) -> (StatusCode, String) {
    let (status, text) = readyz(State(state.clone())).await;
    match &*state.reader.borrow() {
        TailerState::Lost(reason) if !state.draining.is_cancelled() => {
            (status, format!("the event log can't be read: {reason}\n"))
        }
        _ => (status, text),
    }
}

/// A log that grows, or a key server that fails, is the same for every node: turning them all away would end
/// the service for its sake. So these are warnings, and the node stays ready.
fn following(retention_late: Option<Instant>, keys: Readiness) -> String {
    let mut text = "ok\n".to_owned();
    if let Some(since) = retention_late {
        text.push_str(&format!(
            "warning: retention of the event log is late by {} s, and the log grows; see the gateway's log\n",
            since.elapsed().as_secs()
        ));
    }
    if keys == Readiness::Degraded {
        text.push_str("warning: a key server fails, and keys from before are used; see the gateway's log\n");
    }
    text
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    let metrics: &Metrics = &state.shared.metrics;
    state.admission.observe();
    metrics.following.set(u64::from(*state.reader.borrow() == TailerState::Following));
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.encode())
}

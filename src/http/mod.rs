//! The public listener. Its routes:
//!
//! | route | answers |
//! |---|---|
//! | `GET /socket/websocket` | 101, or why not |
//! | `GET /livez` | 200 while the process runs |
//! | `GET /readyz` | 200 while the node follows the event log, with a line more where an operator should look; else 503 and why |
//!
//! The admin listener, which is not for the public, has `GET /metrics` as well.

mod error;
mod serve;
mod upgrade;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use serve::{ServeLimits, serve};

use crate::events::ReaderState;
use crate::metrics::Metrics;
use crate::session;

/// What handlers may touch.
#[derive(Clone, Debug)]
pub struct HttpState {
    /// For the sessions that upgrades begin.
    pub shared: Arc<session::Shared>,
    /// Exact origins of browsers that may connect.
    pub allowed_origins: Arc<[String]>,
    /// Whether the node follows the log.
    pub reader: watch::Receiver<ReaderState>,
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
    match &*state.reader.borrow() {
        ReaderState::Following => (StatusCode::OK, following(*state.retention_late.borrow())),
        ReaderState::Starting => {
            (StatusCode::SERVICE_UNAVAILABLE, "connecting to the event log\n".to_owned())
        }
        // The reason is in the log, which is not public.
        ReaderState::Lost(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the event log can't be read; see the gateway's log\n".to_owned(),
        ),
    }
}

/// As [`readyz`], with the reason, which names addresses of the database: not for the public.
async fn readyz_with_reason(State(state): State<HttpState>) -> (StatusCode, String) {
    let (status, text) = readyz(State(state.clone())).await;
    match &*state.reader.borrow() {
        ReaderState::Lost(reason) if !state.draining.is_cancelled() => {
            (status, format!("the event log can't be read: {reason}\n"))
        }
        _ => (status, text),
    }
}

/// A log that grows is the same for every node: turning them all away would end the service for the sake of
/// the disk. So this is a warning, and the node stays ready.
fn following(retention_late: Option<Instant>) -> String {
    match retention_late {
        None => "ok\n".to_owned(),
        Some(since) => format!(
            "ok\nwarning: retention of the event log is late by {} s, and the log grows; see the gateway's log\n",
            since.elapsed().as_secs()
        ),
    }
}

async fn metrics(State(state): State<HttpState>) -> impl IntoResponse {
    let metrics: &Metrics = &state.shared.metrics;
    metrics.following.set(u64::from(*state.reader.borrow() == ReaderState::Following));
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], metrics.encode())
}

//! HTTP: the listeners, TLS, admission, the routes, and the upgrade to a WebSocket.
//!
//! | route | listener | answer |
//! |---|---|---|
//! | `GET /socket/websocket` | public | 101, or the reason for the rejection |
//! | `POST /v1/revocations` | public | 201 and the revocation, or the reason for the rejection |
//! | `POST /v1/events` | public | 202 and the ids of the published events, or the reason for the rejection |
//! | `GET /v1/<topic>`, `GET /v1/<topic>/<id>` | public | 200 and rows of a watched table, or the reason |
//! | `POST /v1/covers` | public | 200 and whether a cursor covers a transaction, or the reason for the rejection |
//! | `GET /v1/openapi.json` | public | the OpenAPI document of the routes of this listener |
//! | `GET /livez` | both | 200 while the process runs |
//! | `GET /readyz` | both | 200 while the node follows the log and can verify tokens; otherwise 503 with the reason |
//! | `GET /metrics` | admin | metrics for Prometheus, under an allowed `Host` |
//!
//! The admin listener does not authenticate, so it must be private. This module holds no business rules: it
//! hands sockets to [`crate::session`].

mod admin_host;
mod admission;
mod back_end;
mod body;
mod cors;
mod covers;
mod error;
mod events;
mod gatekeeper;
mod health;
mod openapi;
mod request_line;
mod revocations;
mod routes;
mod rows;
mod serve;
mod tls;
mod upgrade;
mod write_timeout;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;

pub use admin_host::AdminHosts;
pub use admission::{Admission, AdmissionLimits, ForwardedHeader, Proxies, parse_network};
pub(crate) use admission::{HOPS_MAX, KNOWN_TIME, LOGGED_REJECTIONS};
pub(crate) use covers::COVERS_BODY_BYTES_MAX;
pub use events::Publishing;
pub use gatekeeper::Gatekeeper;
pub use health::{Health, MetricsPage};
pub(crate) use revocations::{BODY_BYTES_MAX, REASON_BYTES_MAX, TEXT_BYTES_MAX, TOKEN_AGE_SECONDS_MAX};
pub use rows::Rows;
pub(crate) use serve::{ACCEPT_RETRY_DELAY, REJECT_BYTES_MAX, REJECT_TIMEOUT, SHUTDOWN_GRACE};
pub use serve::{Listening, ServeLimits, serve};
pub use tls::{Tls, TlsError, TlsFiles};
pub use upgrade::Sessions;
pub(crate) use write_timeout::WRITE_TIMEOUT;

/// Routes of the public listener.
pub fn public(publishing: Publishing, rows: Rows, sessions: Sessions, health: Health) -> Router {
    let gatekeeper = Arc::clone(&publishing.gatekeeper);
    let for_methods = Arc::clone(&gatekeeper);
    let upgrades = Router::new()
        .route("/socket/websocket", get(upgrade::upgrade))
        .with_state(upgrade::Upgrades { gatekeeper: Arc::clone(&gatekeeper), sessions });
    routes::router(routes::RouteState { publishing, rows, health })
        .merge(upgrades)
        .method_not_allowed_fallback(move |request| upgrade::reject_method(Arc::clone(&for_methods), request))
        .fallback(move |request| upgrade::not_found(Arc::clone(&gatekeeper), request))
}

/// Routes of the admin listener.
pub fn admin(health: Health, metrics_page: MetricsPage, hosts: AdminHosts) -> Router {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz_with_reason).with_state((health, hosts.clone())))
        .route("/metrics", get(health::metrics).with_state(metrics_page))
        .layer(from_fn_with_state(hosts, admin_host::check))
}

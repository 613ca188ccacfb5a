//! `GET /livez`, `GET /readyz` and `GET /metrics`: the state of the node, for balancers and operators.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{AdminHosts, Admission, openapi};
use crate::auth::{Readiness, Verifier};
use crate::log::TailerState;
use crate::metrics::Metrics;

/// Everything that decides whether the node is ready.
#[derive(Clone, Debug)]
pub struct Health {
    /// Whether the node follows the log.
    pub tailer: watch::Receiver<TailerState>,
    /// Time since which retention has been due without success.
    pub retention_late: watch::Receiver<Option<Instant>>,
    /// Watched tables that no longer fit their watch.
    pub unfit_watches: watch::Receiver<Vec<String>>,
    /// Time since which reads of the log wait, because too many of them find nothing.
    pub doorbell_flooded: watch::Receiver<Option<Instant>>,
    /// Whether tokens can be verified.
    pub verifier: Arc<Verifier>,
    /// Cancelled when the gateway begins to shut down.
    pub draining: CancellationToken,
}

/// Sources of the metrics page.
#[derive(Clone, Debug)]
pub struct MetricsPage {
    /// All counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Admission of the public listener, which sets its gauges when it is asked.
    pub admission: Arc<Admission>,
    /// Whether the node follows the log.
    pub tailer: watch::Receiver<TailerState>,
}

/// Answers while the process runs.
#[utoipa::path(
    get,
    path = "/livez",
    operation_id = "livez",
    tag = openapi::PROBES,
    responses((status = 200, description = "The process runs", body = String), openapi::ProbeErrors),
    security(()),
)]
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Reports whether the node follows the event log and can verify tokens.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = openapi::PROBES,
    responses(
        (status = 200, description = "The node is ready; the text may contain warnings", body = String),
        (status = 503, description = "The node is not ready, for the reason in the text", body = String),
        openapi::ProbeErrors,
    ),
    security(()),
)]
pub(super) async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    health.readiness()
}

/// Readiness with the reason for a lost log, and the names of tables that do not fit their watches. Both
/// describe the database, so only the admin listener shows them, and only under an allowed `Host`.
pub(super) async fn readyz_with_reason(
    State((health, hosts)): State<(Health, AdminHosts)>,
    request: Request,
) -> (StatusCode, String) {
    let (status, mut text) = health.readiness();
    if !hosts.allow(&request) {
        return (status, text);
    }
    if status == StatusCode::OK {
        for table in health.unfit_watches.borrow().iter() {
            // Writing to a String does not fail.
            let _ = writeln!(text, "warning: the watch does not fit {table}");
        }
    }
    match &*health.tailer.borrow() {
        TailerState::Lost(reason) if !health.draining.is_cancelled() => {
            (status, format!("the event log cannot be read: {reason}\n"))
        }
        _ => (status, text),
    }
}

pub(super) async fn metrics(State(page): State<MetricsPage>) -> impl IntoResponse {
    page.admission.observe();
    page.metrics.following.set(u64::from(*page.tailer.borrow() == TailerState::Following));
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], page.metrics.encode())
}

impl Health {
    fn readiness(&self) -> (StatusCode, String) {
        let not_ready = |text: &str| (StatusCode::SERVICE_UNAVAILABLE, text.to_owned());
        if self.draining.is_cancelled() {
            return not_ready("shutting down\n");
        }
        let keys = self.verifier.readiness();
        if keys == Readiness::NotReady {
            return not_ready("keys to verify tokens cannot be fetched: see the gateway's log\n");
        }
        match &*self.tailer.borrow() {
            TailerState::Following => (StatusCode::OK, self.warnings(keys)),
            TailerState::Starting => not_ready("connecting to the event log\n"),
            // The log of the gateway has the reason.
            TailerState::Lost(_) => not_ready("the event log cannot be read: see the gateway's log\n"),
        }
    }

    /// `ok`, and one line for each warning.
    ///
    /// A growing log and a failing key server affect every node alike. If nodes became unready because of
    /// them, the whole service would be down.
    fn warnings(&self, keys: Readiness) -> String {
        let mut text = "ok\n".to_owned();
        if let Some(since) = *self.retention_late.borrow() {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "warning: retention of the event log is late by {} s, and the log grows: see the gateway's log",
                since.elapsed().as_secs()
            );
        }
        if let Some(since) = *self.doorbell_flooded.borrow() {
            let _ = writeln!(
                text,
                "warning: for {} s too many reads of the event log have found nothing, so reads wait up to 20 ms: \
                 see the gateway's log",
                since.elapsed().as_secs()
            );
        }
        if keys == Readiness::Degraded {
            text.push_str(
                "warning: a key server fails, and its last known keys are used: see the gateway's log\n",
            );
        }
        let unfit = self.unfit_watches.borrow().len();
        if unfit > 0 {
            let _ = writeln!(
                text,
                "warning: {unfit} watched tables no longer fit their watches, so events may be truncated or missing: \
                 run `warden audit`"
            );
        }
        text
    }
}

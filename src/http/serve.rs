//! Accepting connections: HTTP/1.1 until a connection is upgraded or done.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Limits of a connection before it is upgraded.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// A client may take so long for the head of a request.
    pub header_timeout: Duration,
    /// Headers in one request.
    pub headers_max: usize,
    /// Bytes of one request's head.
    pub head_bytes_max: usize,
}

/// Pause after an `accept` that failed, as when file descriptors ran out: the listener stays ready, and
/// without the pause the loop would spin.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Connections that are not upgraded have so long to finish on shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Serves a listener until `shutdown`; requests under way are finished, upgraded connections are no
/// business of this function any more.
pub async fn serve(listener: TcpListener, routes: Router, limits: ServeLimits, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, routes.clone(), limits, shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, routes: Router, limits: ServeLimits, shutdown: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(limits.headers_max)
        .max_buf_size(limits.head_bytes_max)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes))
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Who has not sent a whole request by then has none under way that is worth waiting for.
            tokio::time::timeout(SHUTDOWN_GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended before its upgrade");
    }
}

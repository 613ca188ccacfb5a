//! Accept loop: HTTP/1.1, over TLS if there is a certificate, until a connection is upgraded or closed.
//!
//! Every wait has a limit: the TLS handshake, the head of a request, and the pause between two requests.
//! Connections beyond admission's limits get a 429 and are closed.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, LimitExceeded, Pending};
use super::error::{HEAD_TOO_LONG, PROBLEM_JSON, Rejection, document};
use super::request_line::{FragmentSeen, RequestLines};
use super::tls::Tls;
use super::write_timeout::WriteTimeout;
use crate::auth::CredentialError;
use crate::metrics::{Metrics, RejectionLabels};
use crate::session::Transport;
use crate::sync::lock;

/// Limits of a connection before it is upgraded.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Longest time for the TLS handshake, for the head of each request, and between two requests.
    pub header_timeout: Duration,
    /// Headers of one request.
    pub headers_max: usize,
    /// Bytes in the head of one request.
    pub head_bytes_max: usize,
}

/// State that all connections of a listener share.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Limits by address and in total.
    pub admission: Arc<Admission>,
    /// Certificate. Without one the listener speaks plain text.
    pub tls: Option<Arc<Tls>>,
    /// Limits of each connection.
    pub limits: ServeLimits,
    /// Counters of accept errors.
    pub metrics: Arc<Metrics>,
}

/// Takes over a stream after the 101 was sent, with the bytes that were read behind the request.
pub(super) type Upgrade = Box<dyn FnOnce(Transport, Bytes) + Send>;

/// Other end of a connection, stored in a request's extensions.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    upgrade: Arc<Mutex<Option<Upgrade>>>,
}

impl Peer {
    /// Registers the function that takes over the stream. The answer to the request must be a 101.
    pub(super) fn after_upgrade(&self, upgrade: Upgrade) {
        *lock(&self.upgrade) = Some(upgrade);
    }
}

/// Pause after a failed `accept`, as when file descriptors run out. The listener stays readable, so the loop
/// would spin without it.
pub(crate) const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Shortest time between two warnings about a failed `accept`.
const ACCEPT_WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Time that connections without an upgrade have to finish on shutdown.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// Longest time to send the answer to a connection beyond the limits.
pub(crate) const REJECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes that are read from such a connection meanwhile. Closing a socket with unread bytes would reset it,
/// and the client would not receive the answer.
pub(crate) const REJECT_BYTES_MAX: u64 = 64 * 1024;

/// Value of Retry-After for such a connection, in seconds.
const REJECT_RETRY_SECONDS: u32 = 1;

/// Serves a listener until `shutdown`. Requests in progress are finished; upgraded connections are no longer
/// tracked here.
pub async fn serve(listener: TcpListener, routes: Router, listening: Listening, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let mut warned: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => admit(stream, peer, &routes, &listening, &connections, &shutdown),
            Err(error) => {
                listening.metrics.accept_errors.inc();
                if warned.is_none_or(|at| at.elapsed() >= ACCEPT_WARNING_INTERVAL) {
                    warned = Some(Instant::now());
                    tracing::warn!(
                        %error,
                        "accepting a connection failed; if file descriptors ran out, raise `ulimit -n` or lower \
                         WARDEN_CONNECTIONS_MAX"
                    );
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Serves a new connection, or rejects it if a limit is exceeded.
fn admit(
    stream: TcpStream,
    peer: SocketAddr,
    routes: &Router,
    listening: &Listening,
    connections: &TaskTracker,
    shutdown: &CancellationToken,
) {
    match listening.admission.enter(peer.ip()) {
        Ok(pending) => {
            let connection = Connection { peer: peer.ip(), pending, shutdown: shutdown.clone() };
            connections.spawn(connection.run(stream, routes.clone(), listening.clone()));
        }
        // Over TLS the connection is dropped, because an answer would cost a TLS handshake, the most
        // expensive part.
        Err(limit) => {
            if listening.tls.is_none()
                && let Some(permit) = listening.admission.reject()
            {
                connections.spawn(reject(stream, limit, permit));
            }
        }
    }
}

/// Answers 429 in plain HTTP, and waits a moment for the client to read it.
async fn reject(mut stream: TcpStream, limit: LimitExceeded, _permit: Pending) {
    let body = document(StatusCode::TOO_MANY_REQUESTS, limit.code(), &limit.to_string(), &[]);
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\n\
         retry-after: {REJECT_RETRY_SECONDS}\r\nconnection: close\r\n\r\n{body}",
        body.len(),
    );
    let send = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(REJECT_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // Neither an error nor a timeout matters: the connection is closed in both cases.
    let _ = tokio::time::timeout(REJECT_TIMEOUT, send).await;
}

/// Room in hyper's buffer for the punctuation of a head, which [`head_bytes`] does not count.
const PUNCTUATION_BYTES: usize = 1024;

/// Bytes in a request's head, without punctuation.
///
/// Counted here because hyper's own limit is that of its buffer, which holds up to twice as much if a head
/// arrives in one piece.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    request
        .headers()
        .iter()
        .fold(path + authority, |sum, (name, value)| sum + name.as_str().len() + value.len())
}

fn count(metrics: &Metrics, code: &'static str) {
    metrics.rejected.get_or_create(&RejectionLabels { code }).inc();
}

/// Checks what only the connection knows: the length of the head, and a fragment, which the URL of the parsed
/// request no longer has.
fn check_head<B>(
    request: &Request<B>,
    limits: ServeLimits,
    fragment: &FragmentSeen,
) -> Result<(), Rejection> {
    if head_bytes(request) > limits.head_bytes_max {
        return Err(Rejection::HeadTooLong(limits.head_bytes_max));
    }
    if fragment.is_set() {
        return Err(CredentialError::InUrl("something behind #".to_owned()).into());
    }
    Ok(())
}

/// One connection until it is upgraded or ends.
struct Connection {
    peer: IpAddr,
    /// Released when the connection is upgraded.
    pending: Pending,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, routes: Router, listening: Listening) {
        let Listening { tls, limits, metrics, .. } = listening;
        let Some(tls) = tls else {
            return self.http(stream, Transport::plain, routes, limits, &metrics).await;
        };
        let handshake = tokio::select! {
            () = self.shutdown.cancelled() => return,
            handshake = tokio::time::timeout(limits.header_timeout, tls.accept(stream)) => handshake,
        };
        match handshake {
            Ok(Ok(stream)) => self.http(stream, Transport::tls, routes, limits, &metrics).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake timed out"),
        }
    }

    async fn http<S>(
        self,
        stream: S,
        into_transport: fn(S) -> Transport,
        routes: Router,
        limits: ServeLimits,
        metrics: &Metrics,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = Peer { address: self.peer, upgrade: Arc::default() };
        let upgrade = Arc::clone(&peer.upgrade);
        let routes = TowerToHyperService::new(routes);
        let fragment = FragmentSeen::default();
        let has_fragment = fragment.clone();
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let answer = match check_head(&request, limits, &has_fragment) {
                Ok(()) => Ok(routes.call(request)),
                Err(rejection) => {
                    count(metrics, rejection.code().1);
                    Err(rejection)
                }
            };
            Box::pin(async move {
                match answer {
                    Ok(answer) => answer.await,
                    Err(rejection) => Ok(rejection.into_response()),
                }
            })
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_headers(limits.headers_max)
            .max_buf_size(limits.head_bytes_max + PUNCTUATION_BYTES)
            .serve_connection(TokioIo::new(RequestLines::new(WriteTimeout::new(stream), fragment)), service);
        let served = tokio::select! {
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => served,
            () = self.shutdown.cancelled() => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                let served = poll_fn(|cx| connection.poll_without_shutdown(cx));
                // A client that has not sent a whole request by then is dropped.
                let Ok(served) = tokio::time::timeout(SHUTDOWN_GRACE, served).await else { return };
                served
            }
        };
        drop(self.pending);
        if let Err(error) = served {
            // hyper has answered such a head with 431 and without a body.
            if error.is_parse_too_large() {
                count(metrics, HEAD_TOO_LONG);
            }
            return tracing::debug!(%error, "connection ended before its upgrade");
        }
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner().into_inner().into_inner();
        let upgrade = lock(&upgrade).take();
        match upgrade {
            // Copied, because a slice would keep hyper's whole buffer alive.
            Some(upgrade) => upgrade(into_transport(stream), Bytes::copy_from_slice(&parts.read_buf)),
            // An error means that the connection is closed already.
            None => drop(stream.shutdown().await),
        }
    }
}

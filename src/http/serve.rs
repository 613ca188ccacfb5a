//! Accepting connections: HTTP/1.1, over TLS where there is a certificate, until a connection is upgraded
//! or done.
//!
//! Nothing here waits without an end: not for TLS, not for a request's head, not for the next request of a
//! connection. Connections beyond what admission allows are told so and closed.

use std::future::poll_fn;
use std::net::IpAddr;
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
use super::tls::Tls;
use crate::metrics::Metrics;
use crate::session::Transport;
use crate::sync::lock;

/// Limits of a connection before it is upgraded.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// A client may take so long for TLS, and then for the head of each request; so long it may rest
    /// between two requests.
    pub header_timeout: Duration,
    /// Headers in one request.
    pub headers_max: usize,
    /// Bytes of one request's head.
    pub head_bytes_max: usize,
}

/// What all connections of a listener share.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Who may come in.
    pub admission: Arc<Admission>,
    /// Without it everything is plain text.
    pub tls: Option<Arc<Tls>>,
    /// Of each connection.
    pub limits: ServeLimits,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// What is to be done with a stream whose 101 is out, and with what was read behind the request.
pub(super) type Upgrade = Box<dyn FnOnce(Transport, Bytes) + Send>;

/// A connection's other end, among a request's extensions.
#[derive(Clone)]
pub(super) struct Peer {
    /// Its address.
    pub(super) address: IpAddr,
    upgrade: Arc<Mutex<Option<Upgrade>>>,
}

impl Peer {
    /// The answer to this request is a 101; this comes after it.
    pub(super) fn after_upgrade(&self, upgrade: Upgrade) {
        *lock(&self.upgrade) = Some(upgrade);
    }
}

/// Pause after an `accept` that failed, as when file descriptors ran out: the listener stays ready, and
/// without the pause the loop would spin.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Failures of `accept` are told no more often than this.
const ACCEPT_WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Connections that are not upgraded have so long to finish on shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

/// A connection that is one too many has so long to read that.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// And so many bytes of its request are read meanwhile: unread ones would reset it.
const TURN_AWAY_BYTES: u64 = 64 * 1024;

/// Seconds after which it should come again.
const TURN_AWAY_RETRY_SECONDS: u32 = 1;

/// Serves a listener until `shutdown`; requests under way are finished, upgraded connections are no
/// business of this function any more.
pub async fn serve(listener: TcpListener, routes: Router, listening: Listening, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let mut warned: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match listening.admission.enter(peer.ip()) {
                Ok(pending) => {
                    let connection = Connection { peer: peer.ip(), pending, shutdown: shutdown.clone() };
                    connections.spawn(connection.run(stream, routes.clone(), listening.clone()));
                }
                Err(reached) => {
                    // TLS would have to be spoken first, which costs more than all the rest.
                    if listening.tls.is_none()
                        && let Some(place) = listening.admission.turn_away()
                    {
                        connections.spawn(turn_away(stream, reached, place));
                    }
                }
            },
            Err(error) => {
                listening.metrics.accept_errors.inc();
                if warned.is_none_or(|at| at.elapsed() >= ACCEPT_WARNING_INTERVAL) {
                    warned = Some(Instant::now());
                    tracing::warn!(
                        %error,
                        "a connection could not be accepted; if file descriptors ran out, raise `ulimit -n`, or \
                         lower WARDEN_CONNECTIONS_MAX"
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

/// Bytes of a request's head, without its punctuation. hyper's limit is that of its buffer, which holds up to
/// twice as much when a head comes in one piece.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    request
        .headers()
        .iter()
        .fold(path + authority, |sum, (name, value)| sum + name.as_str().len() + value.len())
}

/// Tells a connection that there are too many, in HTTP, and waits a moment until that was read.
async fn turn_away(mut stream: TcpStream, reached: LimitExceeded, _place: Pending) {
    let body =
        serde_json::json!({"error": {"code": reached.code(), "message": reached.to_string()}}).to_string();
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: {TURN_AWAY_RETRY_SECONDS}\r\nconnection: close\r\n\r\n{body}",
        body.len(),
    );
    let tell = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(TURN_AWAY_BYTES), &mut tokio::io::sink()).await
    };
    // Whether it worked is of no importance to anybody here.
    let _ = tokio::time::timeout(TURN_AWAY_TIMEOUT, tell).await;
}

/// One connection until it is upgraded, or ends.
struct Connection {
    peer: IpAddr,
    /// Given up when the connection is upgraded.
    pending: Pending,
    shutdown: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, routes: Router, listening: Listening) {
        let limits = listening.limits;
        let Some(tls) = listening.tls else {
            return self.http(stream, Transport::plain, routes, limits).await;
        };
        let handshake = tokio::select! {
            () = self.shutdown.cancelled() => return,
            handshake = tokio::time::timeout(limits.header_timeout, tls.accept(stream)) => handshake,
        };
        match handshake {
            Ok(Ok(stream)) => self.http(stream, Transport::tls, routes, limits).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn http<S>(self, stream: S, into_transport: fn(S) -> Transport, routes: Router, limits: ServeLimits)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = Peer { address: self.peer, upgrade: Arc::default() };
        let upgrade = Arc::clone(&peer.upgrade);
        let routes = TowerToHyperService::new(routes);
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer.clone());
            let answer = (head_bytes(&request) <= limits.head_bytes_max).then(|| routes.call(request));
            Box::pin(async {
                match answer {
                    Some(answer) => answer.await,
                    None => Ok(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE.into_response()),
                }
            })
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_headers(limits.headers_max)
            .max_buf_size(limits.head_bytes_max)
            .serve_connection(TokioIo::new(stream), service);
        let served = tokio::select! {
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => served,
            () = self.shutdown.cancelled() => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                let served = poll_fn(|cx| connection.poll_without_shutdown(cx));
                // Who has not sent a whole request by then has none under way that is worth waiting for.
                let Ok(served) = tokio::time::timeout(SHUTDOWN_GRACE, served).await else { return };
                served
            }
        };
        drop(self.pending);
        if let Err(error) = served {
            return tracing::debug!(%error, "a connection ended before its upgrade");
        }
        let parts = connection.into_parts();
        let mut stream = parts.io.into_inner();
        let upgrade = lock(&upgrade).take();
        match upgrade {
            // Copied, because hyper's buffer would live as long as what was read into it.
            Some(upgrade) => upgrade(into_transport(stream), Bytes::copy_from_slice(&parts.read_buf)),
            // An error means that it is gone already.
            None => drop(stream.shutdown().await),
        }
    }
}

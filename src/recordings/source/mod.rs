//! The source of a recording: one GET request, with redirects, limits, and checks of every address.
//!
//! - `address` decides which addresses may be reached; `target` checks a URL and resolves its host;
//!   `body` reads the answer within the limits.
//!
//! A name is resolved once for each request, and the connection goes to an address that was checked, so a
//! name that later leads elsewhere has no effect. No proxy of the environment is used.

mod address;
mod body;
mod target;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HOST, LOCATION, RETRY_AFTER, USER_AGENT};
use axum::http::{HeaderValue, Request, StatusCode};
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_rustls::ConfigBuilderExt as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

pub use address::AddressPolicy;
pub(super) use body::Body;
pub use target::Resolve;
use target::{SystemResolver, Target};

use super::failure::Failure;

/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Longest time until another attempt that a source may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Limits of one source.
#[derive(Clone, Copy, Debug)]
pub struct SourceLimits {
    /// Longest time to connect to one address, TLS included.
    pub connect: Duration,
    /// Longest time without a byte.
    pub silence: Duration,
    /// Longest time of all.
    pub total: Duration,
    /// Most bytes of a recording.
    pub bytes_max: u64,
}

/// A user and a password for the source.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user, such as the account's id.
    pub user: String,
    /// The password.
    pub password: String,
}

/// Shows no secret.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Fetches recordings.
#[derive(Clone, Debug)]
pub struct Fetcher {
    policy: AddressPolicy,
    allows_http: bool,
    limits: SourceLimits,
    resolver: Arc<dyn Resolve>,
    tls: Arc<ClientConfig>,
}

impl Fetcher {
    /// A fetcher with the system's certificate authorities.
    ///
    /// # Errors
    /// If the system has none.
    pub fn new(policy: AddressPolicy, allows_http: bool, limits: SourceLimits) -> std::io::Result<Self> {
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .with_native_roots()?
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { policy, allows_http, limits, resolver: Arc::new(SystemResolver), tls: Arc::new(tls) })
    }

    /// Replaces the way to resolve names, and the certificate authorities, for tests.
    #[must_use]
    pub fn with_network(mut self, resolver: Arc<dyn Resolve>, tls: Option<Arc<ClientConfig>>) -> Self {
        self.resolver = resolver;
        if let Some(tls) = tls {
            self.tls = tls;
        }
        self
    }

    /// Longest time of one recording.
    #[must_use]
    pub fn time_max(&self) -> Duration {
        self.limits.total
    }

    /// Requests a recording. The credentials are sent to the origin of this URL, and to no other one.
    ///
    /// # Errors
    /// If the source cannot be reached, may not be reached, or does not answer with a recording.
    pub async fn fetch(&self, url: &str, credentials: Option<&Credentials>) -> Result<Body, Failure> {
        let first = Target::parse(url, self.allows_http)?;
        let mut target = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let secret = credentials.filter(|_| target.origin() == first.origin());
            let response = self.request(&target, secret).await?;
            match response.status() {
                StatusCode::OK => return Body::new(response, &self.limits),
                status if status.is_redirection() => {
                    target = redirected(&target, &response, self.allows_http)?;
                }
                status => return Err(rejected(status, &response, secret.is_some())),
            }
        }
        Err(Failure::permanent(format!("the source redirects more than {REDIRECTS_MAX} times")))
    }

    async fn request(
        &self,
        target: &Target,
        credentials: Option<&Credentials>,
    ) -> Result<axum::http::Response<Incoming>, Failure> {
        let addresses = target.resolve(&*self.resolver, &self.policy, self.limits.connect).await?;
        let stream = self.connect(target, &addresses).await?;
        let mut request = Request::get(target.path_and_query())
            .header(HOST, target.authority())
            .header(USER_AGENT, concat!("warden/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "audio/*, application/octet-stream;q=0.9, */*;q=0.1")
            // A compressed body would have another length and hash.
            .header(ACCEPT_ENCODING, "identity");
        if let Some(Credentials { user, password }) = credentials {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
            let mut value = HeaderValue::from_str(&format!("Basic {pair}"))
                .map_err(|_| Failure::permanent("the credentials cannot be sent in a header"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .map_err(|_| Failure::permanent("the address of the source cannot be requested"))?;
        let exchange = async {
            let (mut sender, connection) =
                http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(stream).await?;
            // It ends when the answer was read, or dropped: hyper then closes the connection, also if the
            // source sends nothing.
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        match timeout(self.limits.silence, exchange).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Failure::temporary(format!("{}: no HTTP answer: {error}", target.host()))),
            Err(_) => Err(Failure::temporary(format!("{}: no answer in time", target.host()))),
        }
    }

    /// Connects to the first address that accepts.
    async fn connect(&self, target: &Target, addresses: &[SocketAddr]) -> Result<TokioIo<Stream>, Failure> {
        let mut last = Failure::temporary(format!("{}: no address", target.host()));
        for address in addresses {
            match timeout(self.limits.connect, self.connect_to(target, *address)).await {
                Ok(Ok(stream)) => return Ok(TokioIo::new(stream)),
                Ok(Err(error)) => {
                    last = Failure::temporary(format!("{}: cannot connect: {error}", target.host()));
                }
                Err(_) => last = Failure::temporary(format!("{}: cannot connect in time", target.host())),
            }
        }
        Err(last)
    }

    async fn connect_to(&self, target: &Target, address: SocketAddr) -> std::io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        if !target.is_https() {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(target.host().to_owned()).map_err(std::io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?))
    }
}

/// A connection, with or without TLS.
type Stream = Box<dyn Connection>;

trait Connection: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Connection for T {}

fn redirected<B>(
    from: &Target,
    response: &axum::http::Response<B>,
    allows_http: bool,
) -> Result<Target, Failure> {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| {
        Failure::temporary(format!(
            "{}: status {} without a location",
            from.host(),
            response.status().as_u16()
        ))
    })?;
    let target = from.join(location, allows_http)?;
    if from.is_https() && !target.is_https() {
        return Err(Failure::permanent(format!("{}: redirects from https to http", from.host())));
    }
    Ok(target)
}

/// Failure for a status without a recording.
fn rejected<B>(status: StatusCode, response: &axum::http::Response<B>, has_credentials: bool) -> Failure {
    let says = |what: &str| format!("the source answers {}{what}", status.as_u16());
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if has_credentials => {
            Failure::permanent(says(": it does not accept the credentials of the account"))
        }
        StatusCode::UNAUTHORIZED => {
            Failure::permanent(says(": it needs credentials, and no account has any for it"))
        }
        // A recording may not be ready yet.
        StatusCode::NOT_FOUND
        | StatusCode::FORBIDDEN
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::CONFLICT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => {
            Failure::Temporary { reason: says(""), after: retry_after(response) }
        }
        status if status.is_server_error() || status.is_success() => {
            Failure::Temporary { reason: says(""), after: retry_after(response) }
        }
        _ => Failure::permanent(says("")),
    }
}

/// The delay that the source asks for, in seconds or as a date.
fn retry_after<B>(response: &axum::http::Response<B>) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date =
                time::OffsetDateTime::parse(value, &time::format_description::well_known::Rfc2822).ok()?;
            Duration::try_from(date - time::OffsetDateTime::now_utc()).ok()?
        }
    };
    Some(delay.min(RETRY_AFTER_MAX))
}

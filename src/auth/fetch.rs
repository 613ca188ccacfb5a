//! One request to a key server, limited in time and size.
//!
//! The configured address alone decides where keys come from, so redirects are not followed. Each request
//! opens its own connection, because there is only one request every few minutes.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use axum::http::uri::Scheme;
use axum::http::{HeaderValue, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::jwks::{JwksError, KeyError};

/// Largest head of a response, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

const NOT_AN_ADDRESS: &str = "not an address: write https://host/path";

/// Address of an issuer's key set: https, or http on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyServerUrl(Uri);

impl KeyServerUrl {
    /// Parses an address. `allow_http` also allows plain http to other machines. Anyone between here and
    /// there can then replace the keys and sign any token.
    ///
    /// # Errors
    /// Fails if this is not such an address. The message names the reason.
    pub fn parse(text: &str, allow_http: bool) -> Result<Self, &'static str> {
        // The parser would silently drop a fragment.
        if text.contains('#') {
            return Err("the address of a key server must not have a fragment (#)");
        }
        let uri = Uri::from_str(text).map_err(|_| NOT_AN_ADDRESS)?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(NOT_AN_ADDRESS)?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("the address of a key server must not contain a user or password");
        }
        let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => Ok(Self(uri)),
            Some(scheme) if *scheme == Scheme::HTTP && (is_local || allow_http) => Ok(Self(uri)),
            Some(scheme) if *scheme == Scheme::HTTP => Err(
                "keys sent over plain http can be replaced on the way: use https, or set WARDEN_JWKS_ALLOW_HTTP=true if the connection is secured by other means",
            ),
            _ => Err(NOT_AN_ADDRESS),
        }
    }
}

/// Shows no query, because some key servers expect an API key there.
impl fmt::Display for KeyServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        let query = if self.0.query().is_some() { "?***" } else { "" };
        write!(f, "{scheme}://{authority}{}{query}", self.0.path())
    }
}

impl fmt::Debug for KeyServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reason for which no keys were fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection (including TLS) was made, or it broke.
    #[error("key server is unreachable: {0}")]
    Unreachable(String),
    /// The server did not respond in time.
    #[error("key server did not respond within {0:?}")]
    Timeout(Duration),
    /// The server redirects.
    #[error("key server redirects ({0}), and redirects are not followed: configure the target address")]
    Redirect(StatusCode),
    /// The status is not 200.
    #[error("key server responded with {0}")]
    Status(StatusCode),
    /// The response is too long.
    #[error("key server's response is longer than {0} bytes")]
    TooLong(usize),
    /// The response is not a key set.
    #[error(transparent)]
    NotKeys(#[from] JwksError),
    /// The key set has no accepted key. The first was skipped for this reason.
    #[error("key server publishes no usable key for RS256, ES256 or EdDSA{}", reason(*.0))]
    NoKeys(Option<KeyError>),
}

/// Reason why the first key of a document was skipped, for a message.
fn reason(first: Option<KeyError>) -> String {
    first.map_or_else(String::new, |error| format!("; its first key was skipped: {error}"))
}

/// HTTP client for key servers.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    timeout: Duration,
    bytes_max: usize,
}

impl Fetcher {
    /// Creates a client that trusts the certificates of the system, or those of `SSL_CERT_FILE` and
    /// `SSL_CERT_DIR`.
    pub(super) fn new(timeout: Duration, bytes_max: usize) -> anyhow::Result<Self> {
        // The choice is explicit, because rustls cannot choose if the features of other crates enable several
        // libraries.
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .context("cannot read the system's certificates, which are needed to verify key servers: install ca-certificates, or set SSL_CERT_FILE")?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector);
        Ok(Self { client, timeout, bytes_max })
    }

    /// Fetches the body at this address.
    pub(super) async fn get(&self, url: &KeyServerUrl) -> Result<Bytes, FetchError> {
        tokio::time::timeout(self.timeout, self.request(url))
            .await
            .unwrap_or(Err(FetchError::Timeout(self.timeout)))
    }

    async fn request(&self, url: &KeyServerUrl) -> Result<Bytes, FetchError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.0.clone();
        let headers = request.headers_mut();
        headers
            .insert(header::ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("warden/", env!("CARGO_PKG_VERSION"))),
        );
        let response =
            self.client.request(request).await.map_err(|error| FetchError::Unreachable(causes(&error)))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(FetchError::Redirect(status));
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status(status));
        }
        match Limited::new(response.into_body(), self.bytes_max).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLong(self.bytes_max)),
            Err(error) => Err(FetchError::Unreachable(causes(&*error))),
        }
    }
}

/// An error with its causes. hyper's own message only says that something failed.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_servers_must_use_https_or_be_on_this_machine() {
        for valid in [
            "https://project.supabase.co/auth/v1/.well-known/jwks.json",
            "http://127.0.0.1:9000/jwks",
            "http://localhost/jwks",
            "http://[::1]:9000/",
        ] {
            assert!(KeyServerUrl::parse(valid, false).is_ok(), "{valid}");
        }
        for invalid in [
            "",
            "jwks.json",
            "/jwks.json",
            "file:///etc/passwd",
            "ftp://host/x",
            "http://keys.example/jwks",
            "http://localhost.example/jwks",
            "http://127.0.0.1.example/",
            "http://127.0.0.1@keys.example/",
            "https://user:password@keys.example/",
            "https://keys.example/#x",
            "https:///x",
            "host:80",
        ] {
            assert!(KeyServerUrl::parse(invalid, false).is_err(), "{invalid}");
        }
        assert!(KeyServerUrl::parse("http://keys.example/jwks", true).is_ok());
        assert!(KeyServerUrl::parse("file:///etc/passwd", true).is_err());
    }
}

//! One request to a key server: a limited body within a limited time, from the configured address alone.
//!
//! Redirects are not followed, so no answer decides where keys come from. Each request has a connection of
//! its own: there is one every few minutes.

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

use super::jwks::JwksError;

/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Where an issuer's keys are: https, or http on this machine.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyServerUrl(Uri);

impl KeyServerUrl {
    /// Reads an address. `allow_http` lets plain http leave this machine: then whoever is on the way can
    /// put in keys of his own, and with them any token.
    ///
    /// # Errors
    /// When it is no such address; the text says why.
    pub fn parse(text: &str, allow_http: bool) -> Result<Self, &'static str> {
        // Before a parser drops it.
        if text.contains('#') {
            return Err("the address of a key server has no fragment (#)");
        }
        let uri = Uri::from_str(text).map_err(|_| "not an address: write https://host/path")?;
        let host =
            uri.host().filter(|host| !host.is_empty()).ok_or("not an address: write https://host/path")?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("the address of a key server carries no user or password");
        }
        let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
        match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => Ok(Self(uri)),
            Some(scheme) if *scheme == Scheme::HTTP && (is_local || allow_http) => Ok(Self(uri)),
            Some(scheme) if *scheme == Scheme::HTTP => Err(
                "keys that come over plain http can be replaced on the way: use https (or set WARDEN_JWKS_ALLOW_HTTP=true where the way is secured otherwise)",
            ),
            _ => Err("not an address: write https://host/path"),
        }
    }
}

impl fmt::Display for KeyServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for KeyServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why no keys came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke; TLS included.
    #[error("the key server can't be reached: {0}")]
    Unreachable(String),
    /// It took too long.
    #[error("the key server did not answer within {0:?}")]
    Timeout(Duration),
    /// It leads elsewhere.
    #[error("the key server redirects ({0}), which is not followed: configure the address that it leads to")]
    Redirect(StatusCode),
    /// It answered something else.
    #[error("the key server answered {0}")]
    Status(StatusCode),
    /// Its answer is too long.
    #[error("the key server's answer has more than {0} bytes")]
    TooLong(usize),
    /// No key set.
    #[error(transparent)]
    NotKeys(#[from] JwksError),
    /// Not one that can be used.
    #[error("the key server publishes no key for RS256, ES256 or EdDSA")]
    NoKeys,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub(super) struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    timeout: Duration,
    bytes_max: usize,
}

impl Fetcher {
    /// A client that trusts the certificates of the system (`SSL_CERT_FILE` and `SSL_CERT_DIR` change
    /// which these are).
    pub(super) fn new(timeout: Duration, bytes_max: usize) -> anyhow::Result<Self> {
        // One chosen library, however many others features of other crates may bring.
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(provider)
            .context("the system's certificates can't be read, which key servers are checked by: install ca-certificates, or set SSL_CERT_FILE")?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector);
        Ok(Self { client, timeout, bytes_max })
    }

    /// What is at the address.
    pub(super) async fn get(&self, url: &KeyServerUrl) -> Result<Bytes, FetchError> {
        tokio::time::timeout(self.timeout, self.answer(url))
            .await
            .unwrap_or(Err(FetchError::Timeout(self.timeout)))
    }

    async fn answer(&self, url: &KeyServerUrl) -> Result<Bytes, FetchError> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.0.clone();
        let headers = request.headers_mut();
        headers
            .insert(header::ACCEPT, HeaderValue::from_static("application/jwk-set+json, application/json"));
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("warden/", env!("CARGO_PKG_VERSION"))),
        );
        let answer =
            self.client.request(request).await.map_err(|error| FetchError::Unreachable(causes(&error)))?;
        let status = answer.status();
        if status.is_redirection() {
            return Err(FetchError::Redirect(status));
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status(status));
        }
        match Limited::new(answer.into_body(), self.bytes_max).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLong(self.bytes_max)),
            Err(error) => Err(FetchError::Unreachable(causes(&*error))),
        }
    }
}

/// An error with what caused it: hyper's own text says only that something failed.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_servers_are_reached_by_https_or_on_this_machine() {
        for good in [
            "https://project.supabase.co/auth/v1/.well-known/jwks.json",
            "http://127.0.0.1:9000/jwks",
            "http://localhost/jwks",
            "http://[::1]:9000/",
        ] {
            assert!(KeyServerUrl::parse(good, false).is_ok(), "{good}");
        }
        for bad in [
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
            assert!(KeyServerUrl::parse(bad, false).is_err(), "{bad}");
        }
        assert!(KeyServerUrl::parse("http://keys.example/jwks", true).is_ok());
        assert!(KeyServerUrl::parse("file:///etc/passwd", true).is_err());
    }
}

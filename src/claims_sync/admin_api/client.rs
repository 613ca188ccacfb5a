//! The HTTP client of the admin API, which repeats what can be repeated.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::http::{HeaderMap, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::super::user::AuthUser;
use super::ApiOptions;
use super::pace::Pace;
use super::retry_after::retry_after;
use crate::backoff::Backoff;

/// First and longest delay before another attempt, unless the server names a longer one.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// Longest `Retry-After` that the command waits for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// Longest answer, in bytes. A user has metadata of any size.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest message of the server in an error, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// Why a request was not successful.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The user does not exist.
    #[error("the user does not exist")]
    NotFound,
    /// This request cannot succeed.
    #[error("{0}")]
    Rejected(String),
    /// No request can succeed.
    #[error("{0}: check the service key and the URL")]
    Unauthorized(String),
}

/// A page of users.
pub(crate) struct Page {
    pub(crate) users: Vec<AuthUser>,
    /// Number of all users.
    pub(crate) total: u64,
}

#[derive(Deserialize)]
struct UserList {
    users: Vec<AuthUser>,
}

/// An error of Supabase Auth.
#[derive(Default, Deserialize)]
struct ErrorAnswer {
    #[serde(default)]
    error_code: String,
    #[serde(default)]
    msg: String,
}

/// Result of one attempt that was not successful.
enum Attempt {
    Final(ApiError),
    Again { reason: String, delay: Option<Duration> },
}

pub(crate) struct AdminApi<'a> {
    options: &'a ApiOptions,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    pace: Pace,
    requests: AtomicU64,
}

impl<'a> AdminApi<'a> {
    pub(crate) fn new(options: &'a ApiOptions) -> anyhow::Result<Self> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = if options.url.scheme() == "https" {
            HttpsConnectorBuilder::new().with_provider_and_native_roots(provider).context(
                "cannot read the system's certificates: install ca-certificates, or set SSL_CERT_FILE",
            )?
        } else {
            let config = rustls::ClientConfig::builder_with_provider(provider.into())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(config)
        };
        let client =
            Client::builder(TokioExecutor::new()).build(connector.https_or_http().enable_http1().build());
        Ok(Self { options, client, pace: Pace::new(options.rate), requests: AtomicU64::new(0) })
    }

    /// Number of requests since the last call.
    pub(crate) fn take_requests(&self) -> u64 {
        self.requests.swap(0, Ordering::Relaxed)
    }

    /// Reads one page. The oldest users are on page 1.
    pub(crate) async fn page(&self, page: u64, page_size: u32) -> Result<Page, ApiError> {
        let path = format!("admin/users?page={page}&per_page={page_size}&sort=created_at%20asc");
        let (list, headers): (UserList, _) = self.send(&Method::GET, &path, Bytes::new()).await?;
        let total = headers.get("x-total-count").and_then(|value| value.to_str().ok()?.parse().ok());
        let total = total.ok_or_else(|| {
            ApiError::Rejected("the answer has no x-total-count: the URL is not that of Supabase Auth".into())
        })?;
        Ok(Page { users: list.users, total })
    }

    pub(crate) async fn user(&self, user: Uuid) -> Result<AuthUser, ApiError> {
        Ok(self.send(&Method::GET, &format!("admin/users/{user}"), Bytes::new()).await?.0)
    }

    /// Writes the organisation. Repeating the request changes nothing.
    pub(crate) async fn set_organization(&self, user: Uuid, org: Uuid) -> Result<AuthUser, ApiError> {
        let body = json!({"app_metadata": {"org_id": org}}).to_string();
        Ok(self.send(&Method::PUT, &format!("admin/users/{user}"), body.into()).await?.0)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<(T, HeaderMap), ApiError> {
        let mut backoff = Backoff::new(RETRY_DELAYS.0, RETRY_DELAYS.1);
        let mut attempts = 0;
        loop {
            self.pace.acquire().await;
            self.requests.fetch_add(1, Ordering::Relaxed);
            attempts += 1;
            let attempt = self.attempt(method, path, body.clone());
            let (reason, delay) = match tokio::time::timeout(self.options.timeout, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Attempt::Final(error))) => return Err(error),
                Ok(Err(Attempt::Again { reason, delay })) => (reason, delay),
                Err(_) => (format!("no answer within {} s", self.options.timeout.as_secs()), None),
            };
            if attempts >= self.options.attempts || delay.is_some_and(|delay| delay > RETRY_AFTER_MAX) {
                return Err(ApiError::Rejected(reason));
            }
            if let Some(delay) = delay {
                self.pace.pause(delay);
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
    ) -> Result<(T, HeaderMap), Attempt> {
        let again = |reason: String| Attempt::Again { reason: self.shown(&reason), delay: None };
        let rejected = |reason: String| Attempt::Final(ApiError::Rejected(self.shown(&reason)));
        let base = self.options.url.as_str().trim_end_matches('/');
        let uri: Uri =
            format!("{base}/{path}").parse().map_err(|_| rejected("the URL is not valid".into()))?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("apikey", self.options.key.header(""))
            .header(header::AUTHORIZATION, self.options.key.header("Bearer "))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| rejected(error.to_string()))?;
        let response = self.client.request(request).await.map_err(|error| {
            // The message names no address, so that equal failures are counted together.
            again(if error.is_connect() { "cannot connect" } else { "the connection broke" }.to_owned())
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| {
            let is_long = error.is::<http_body_util::LengthLimitError>();
            again(
                if is_long {
                    "the answer is too long: lower --page-size"
                } else {
                    "the answer is incomplete"
                }
                .to_owned(),
            )
        })?;
        let body = body.to_bytes();
        if status == StatusCode::OK {
            let answer = serde_json::from_slice(&body);
            return answer
                .map(|answer| (answer, headers))
                .map_err(|_| again("the answer is not that of Supabase Auth".to_owned()));
        }
        Err(self.failed(status, &headers, &body))
    }

    /// The meaning of an answer that is not a success.
    fn failed(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Attempt {
        let error: ErrorAnswer = serde_json::from_slice(body).unwrap_or_default();
        let text = self.shown(&format!("{status}: {} {}", error.error_code, error.msg));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Attempt::Final(ApiError::Unauthorized(text)),
            StatusCode::NOT_FOUND if error.error_code == "user_not_found" => {
                Attempt::Final(ApiError::NotFound)
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Attempt::Again { reason: text, delay: retry_after(headers, OffsetDateTime::now_utc()) }
            }
            status if status.is_server_error() => {
                Attempt::Again { reason: text, delay: retry_after(headers, OffsetDateTime::now_utc()) }
            }
            _ => Attempt::Final(ApiError::Rejected(text)),
        }
    }

    /// A message that may be shown: short, on one line, and without the key.
    fn shown(&self, text: &str) -> String {
        let text = self.options.key.hide_in(text);
        let text: String = text.chars().filter(|char| !char.is_control()).take(MESSAGE_CHARS_MAX).collect();
        text.trim().to_owned()
    }
}

//! The HTTP client of `warden publish`. It repeats a request under the same idempotency key until the gateway
//! accepts or rejects it, or the time is over.

use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::Instant;
use url::Url;
#[cfg(feature = "dev")]
use uuid::Uuid;

#[cfg(feature = "dev")]
use warden_devkit::token::{TokenClaims, sign};

#[cfg(feature = "dev")]
use crate::auth::SERVICE_ROLE;
use crate::backoff::Backoff;
#[cfg(feature = "dev")]
use crate::config::BACKEND_ISSUER;
use crate::config::DEFAULT_URL;

/// Longest time of one attempt. The gateway gives up earlier.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);

/// First and longest delay before another attempt, unless the gateway names a longer one.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// Media type of the gateway's errors.
const PROBLEM_JSON: &str = "application/problem+json";

/// Validity of a token that is signed for one attempt.
#[cfg(feature = "dev")]
const TOKEN_TTL: Duration = Duration::from_secs(300);

/// Source of the token of a request.
pub(super) enum TokenSource {
    /// The operator gave it.
    Fixed(String),
    /// It is signed for each attempt.
    #[cfg(feature = "dev")]
    Signed {
        /// Organisation.
        org: Uuid,
        /// Secret of back ends.
        secret: String,
    },
}

/// The gateway's answer to published events.
pub(super) struct Answer {
    pub(super) json: Value,
    /// Events that an earlier request with the key published.
    pub(super) duplicates: usize,
}

/// Why a request was not successful.
#[derive(Default)]
pub(super) struct Failure {
    pub(super) text: String,
    /// Positions of the events that are not valid, with the reasons.
    pub(super) problems: Vec<(usize, String)>,
    /// Whether an attempt may have published the events, because the gateway did not answer that it rejects
    /// them.
    pub(super) may_be_published: bool,
    /// Whether the key was used for other events.
    pub(super) is_key_reused: bool,
}

/// Result of one attempt that was not successful.
enum Attempt {
    Final(Failure),
    /// Another attempt may succeed after at least this delay.
    Again(Failure, Duration),
}

/// Publishes through one gateway.
pub(super) struct EventsClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    address: String,
    token: TokenSource,
    retry_for: Duration,
}

impl EventsClient {
    /// A client of the gateway with this URL, which may be that of the socket.
    pub(super) fn new(url: &str, token: TokenSource, retry_for: Duration) -> anyhow::Result<Self> {
        let (uri, address) = events_uri(url)
            .with_context(|| format!("WARDEN_URL is not the URL of a gateway: write e.g. {DEFAULT_URL}"))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let connector = if uri.scheme_str() == Some("https") {
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
        Ok(Self { client, uri, address, token, retry_for })
    }

    /// Publishes a body under this key.
    pub(super) async fn publish(&self, body: String, key: &str) -> Result<Answer, Failure> {
        let body = Bytes::from(body);
        let started = Instant::now();
        let mut backoff = Backoff::new(RETRY_DELAYS.0, RETRY_DELAYS.1);
        // A rejection says nothing about an earlier attempt whose answer was lost.
        let mut may_be_published = false;
        loop {
            let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt(body.clone(), key)).await;
            let too_late = || Err(unanswered(format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())));
            let (failure, delay) = match attempt.unwrap_or_else(|_| too_late()) {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Final(failure)) => {
                    may_be_published |= failure.may_be_published;
                    return Err(Failure { may_be_published, ..failure });
                }
                Err(Attempt::Again(failure, delay)) => (failure, delay.max(backoff.next())),
            };
            may_be_published |= failure.may_be_published;
            if started.elapsed().saturating_add(delay) > self.retry_for {
                let seconds = self.retry_for.as_secs();
                let text =
                    format!("no attempt succeeded within {seconds} s (--retry-seconds): {}", failure.text);
                return Err(Failure { text, may_be_published, ..failure });
            }
            tokio::time::sleep(delay).await;
        }
    }

    async fn attempt(&self, body: Bytes, key: &str) -> Result<Answer, Attempt> {
        let request = self
            .request(body, key)
            .map_err(|error| Attempt::Final(Failure { text: format!("{error:#}"), ..Failure::default() }))?;
        let response = self.client.request(request).await.map_err(|error| {
            let reason = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
            let text = format!("{reason}; is the gateway at {} running?", self.address);
            // Without a connection nothing was sent.
            let may_be_published = !error.is_connect();
            Attempt::Again(Failure { text, may_be_published, ..Failure::default() }, Duration::ZERO)
        })?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| unanswered(format!("the answer is incomplete: {error}")))?;
        let document: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        if status == StatusCode::ACCEPTED && document["events"].is_array() {
            return Ok(Answer { duplicates: duplicates(&document), json: document });
        }
        Err(self.failed(status, &headers, &document))
    }

    /// The meaning of an answer that is not a success.
    fn failed(&self, status: StatusCode, headers: &HeaderMap, document: &Value) -> Attempt {
        let text = match document["detail"].as_str() {
            Some(detail) => format!("{status}: {detail}"),
            None => format!("{status}: the server at {} is not a Warden gateway", self.address),
        };
        // A proxy can answer after it has forwarded the request.
        let is_gateways = headers.get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_JSON)
            && document["code"].is_string();
        let is_rejection = is_gateways && status.is_client_error();
        let failure = Failure {
            text,
            problems: problems(document),
            may_be_published: !is_rejection,
            is_key_reused: is_rejection && document["code"] == "idempotency_key_reused",
        };
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds =
                    headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                Attempt::Again(failure, Duration::from_secs(seconds.unwrap_or(0)))
            }
            // A proxy in front of the gateway has no answer.
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Attempt::Again(failure, Duration::ZERO),
            _ => Attempt::Final(failure),
        }
    }

    fn request(&self, body: Bytes, key: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let token = self.token.token()?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {token}"))
            .context("WARDEN_TOKEN contains a character that a header cannot carry")?;
        authorization.set_sensitive(true);
        Ok(Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", key)
            .body(Full::new(body))?)
    }
}

impl TokenSource {
    fn token(&self) -> anyhow::Result<String> {
        match self {
            Self::Fixed(token) => Ok(token.clone()),
            #[cfg(feature = "dev")]
            Self::Signed { org, secret } => {
                let claims = TokenClaims {
                    org: *org,
                    sub: "warden-publish",
                    role: SERVICE_ROLE,
                    ttl: TOKEN_TTL,
                    audience: BACKEND_ISSUER,
                    issuer: Some(BACKEND_ISSUER),
                    topics: None,
                    filters: None,
                };
                sign(&claims, secret)
            }
        }
    }
}

/// An attempt whose answer did not arrive.
fn unanswered(text: String) -> Attempt {
    Attempt::Again(Failure { text, may_be_published: true, ..Failure::default() }, Duration::ZERO)
}

/// The address of `POST /v1/events` on the gateway whose socket has this URL, and host and port for messages.
fn events_uri(url: &str) -> anyhow::Result<(Uri, String)> {
    let url = Url::parse(url).ok().context("it cannot be parsed")?;
    let scheme = match url.scheme() {
        "ws" | "http" => "http",
        "wss" | "https" => "https",
        _ => bail!("its scheme is not ws, wss, http or https"),
    };
    let host = url.host_str().context("it has no host")?;
    let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix("/websocket").unwrap_or(path);
    let path = path.strip_suffix("/socket").unwrap_or(path);
    Ok((format!("{scheme}://{authority}{path}/v1/events").parse()?, authority))
}

fn duplicates(answer: &Value) -> usize {
    let events = answer["events"].as_array().into_iter().flatten();
    events.filter(|event| event["duplicate"] == true).count()
}

/// The problems of single events in a problem document.
fn problems(document: &Value) -> Vec<(usize, String)> {
    let errors = document["errors"].as_array().into_iter().flatten();
    let problem = |error: &Value| {
        let index = usize::try_from(error["index"].as_u64()?).ok()?;
        let detail = error["detail"].as_str()?;
        let hint = error["hint"].as_str().map(|hint| format!(" ({hint})")).unwrap_or_default();
        Some((index, format!("{detail}{hint}")))
    };
    errors.filter_map(problem).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_is_found_beside_the_socket() {
        for (url, expected) in [
            ("ws://127.0.0.1:4000/socket", "http://127.0.0.1:4000/v1/events"),
            ("wss://realtime.example.com/socket/websocket", "https://realtime.example.com/v1/events"),
            ("https://example.com/warden/", "https://example.com/warden/v1/events"),
            ("http://[::1]:4000", "http://[::1]:4000/v1/events"),
        ] {
            let (uri, _) = events_uri(url).expect(url);
            assert_eq!(uri.to_string(), expected);
        }
        for url in ["", "localhost:4000", "ftp://example.com", "postgres://user:secret@example.com/db"] {
            let error = events_uri(url).expect_err(url);
            assert!(!format!("{error:#}").contains("secret"), "{error:#}");
        }
    }
}

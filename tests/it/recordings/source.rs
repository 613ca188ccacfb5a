//! A server with sources of every kind: each path says how it behaves.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

/// Times that a source of the kind `flaky` fails before it works.
const FLAKY_FAILURES: u32 = 2;

/// Counts of requests by path, and their credentials.
#[derive(Debug, Default)]
pub struct Requests {
    counts: HashMap<String, u32>,
    /// Paths, each with the header Authorization of its last request.
    pub authorizations: HashMap<String, Option<String>>,
}

/// The server, which ends with the test's runtime.
#[derive(Clone, Debug)]
pub struct Sources {
    pub addr: SocketAddr,
    pub requests: Arc<Mutex<Requests>>,
}

/// A WAV file of about this many bytes, which no other number has.
pub fn wav(number: usize, bytes: usize) -> Vec<u8> {
    let mut data: Vec<u8> = Vec::with_capacity(bytes + 44);
    let size = u32::try_from(bytes).expect("small");
    data.extend_from_slice(b"RIFF");
    data.extend_from_slice(&(size + 36).to_le_bytes());
    data.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x40\x1f\0\0\x01\0\x08\0data");
    data.extend_from_slice(&size.to_le_bytes());
    let mut random = fastrand::Rng::with_seed(u64::try_from(number).expect("small"));
    data.extend(std::iter::repeat_with(|| random.u8(..)).take(bytes));
    data
}

impl Sources {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("is bound");
        let sources = Self { addr, requests: Arc::default() };
        let router = Router::new().fallback(answer).with_state(sources.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        sources
    }

    /// URL of a source: its kind, and the number of its recording.
    pub fn url(&self, kind: &str, number: usize) -> String {
        format!("http://{}/{kind}/{number}", self.addr)
    }

    pub fn count(&self, path: &str) -> u32 {
        self.requests.lock().expect("no panic").counts.get(path).copied().unwrap_or(0)
    }
}

/// Size of a recording in bytes: most are small, some have several parts of an upload.
pub fn size(number: usize) -> usize {
    if number % 50 == 7 { 9 * 1024 * 1024 } else { 2_000 + number % 977 }
}

async fn answer(State(sources): State<Sources>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let tried = {
        let authorization = request.headers().get(header::AUTHORIZATION);
        let authorization = authorization.map(|value| value.to_str().expect("text").to_owned());
        let mut requests = sources.requests.lock().expect("no panic");
        requests.authorizations.insert(path.clone(), authorization);
        let count = requests.counts.entry(path.clone()).or_default();
        *count += 1;
        *count
    };
    let (kind, number) = path.trim_start_matches('/').split_once('/').unwrap_or(("none", "0"));
    let number: usize = number.parse().unwrap_or(0);
    let whole = || wav(number, size(number));
    let audio = [(header::CONTENT_TYPE, "audio/wav")];
    match kind {
        "good" => (audio, whole()).into_response(),
        "slow" => {
            let whole = whole();
            let pieces: Vec<Bytes> = whole.chunks(whole.len() / 8).map(Bytes::copy_from_slice).collect();
            let pieces = stream::unfold(pieces.into_iter(), async |mut rest| {
                tokio::time::sleep(Duration::from_millis(20)).await;
                rest.next().map(|piece| (Ok::<_, Infallible>(piece), rest))
            });
            (audio, Body::from_stream(pieces)).into_response()
        }
        "flaky" if tried <= FLAKY_FAILURES => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        "flaky" => (audio, whole()).into_response(),
        "silent" => std::future::pending().await,
        "gone" => StatusCode::GONE.into_response(),
        "broken" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "truncated" => {
            // Half of the file, under the length of the whole.
            let whole = whole();
            let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
            // Without the pause, nothing would be sent.
            let body = futures_util::StreamExt::chain(
                stream::iter([Ok(half)]),
                stream::once(async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err(std::io::Error::other("cut"))
                }),
            );
            (audio, [(header::CONTENT_LENGTH, whole.len())], Body::from_stream(body)).into_response()
        }
        "short" => {
            let mut whole = whole();
            whole.truncate(1000);
            (audio, whole).into_response()
        }
        "endless" => {
            let first = stream::iter([Ok::<_, Infallible>(Bytes::from(whole()))]);
            let rest = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 64 * 1024])));
            (audio, Body::from_stream(futures_util::StreamExt::chain(first, rest))).into_response()
        }
        "page" => ([(header::CONTENT_TYPE, "audio/wav")], "<!DOCTYPE html><title>no</title>").into_response(),
        "compressed" => (audio, [(header::CONTENT_ENCODING, "gzip")], whole()).into_response(),
        "empty" => (audio, "").into_response(),
        "moved" => redirect(&format!("/good/{number}")),
        "private" => redirect("http://169.254.169.254/latest/meta-data/"),
        "inward" => redirect("http://10.0.0.1/"),
        "file" => redirect("file:///etc/passwd"),
        "loop" => redirect(&format!("/loop/{number}")),
        "away" => redirect(&format!("http://localhost:{}/good/{number}", sources.addr.port())),
        "secret" => match request.headers().get(header::AUTHORIZATION) {
            Some(_) => redirect(&format!("http://localhost:{}/good/{number}", sources.addr.port())),
            None => StatusCode::UNAUTHORIZED.into_response(),
        },
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn redirect(location: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, location.to_owned())]).into_response()
}

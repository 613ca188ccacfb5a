//! The body of a source's answer: chunks within the limits, and an error if it is cut.

use axum::http::Response;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, TRANSFER_ENCODING};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use super::SourceLimits;
use crate::recordings::failure::Failure;

/// The bytes of a recording, as they arrive.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    limits: SourceLimits,
    deadline: Instant,
    received: u64,
}

impl Body {
    /// Checks the head of an answer.
    pub(super) fn new(response: Response<Incoming>, limits: &SourceLimits) -> Result<Self, Failure> {
        let headers = response.headers();
        let mut encodings =
            headers.get_all(CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or_default());
        if encodings.any(|encoding| !encoding.trim().eq_ignore_ascii_case("identity")) {
            return Err(Failure::permanent("the source sends a compressed answer, which was not asked for"));
        }
        // hyper notices that a body is cut by one of the two.
        if !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING) {
            return Err(Failure::permanent("the source does not say where the recording ends"));
        }
        let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limits.bytes_max) {
            return Err(too_large(limits));
        }
        Ok(Self {
            incoming: response.into_body(),
            limits: *limits,
            deadline: Instant::now() + limits.total,
            received: 0,
        })
    }

    /// The next bytes. None at the end of a whole recording.
    ///
    /// # Errors
    /// If the recording is cut, too large, or too slow.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::temporary("the recording did not arrive in time"));
            }
            let frame = match timeout(left.min(self.limits.silence), self.incoming.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(_))) => return Err(Failure::temporary("the recording was cut")),
                Ok(None) => return Ok(None),
                Err(_) => return Err(Failure::temporary("the source stopped sending")),
            };
            let Ok(chunk) = frame.into_data() else { continue };
            self.received += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if self.received > self.limits.bytes_max {
                return Err(too_large(&self.limits));
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }
}

fn too_large(limits: &SourceLimits) -> Failure {
    Failure::permanent(format!("the recording has more than {} MiB", limits.bytes_max / 1024 / 1024))
}

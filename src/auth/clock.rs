//! Comparison of an issuer's clock with the gateway's, by the claim `iat` of tokens with a valid signature.
//!
//! A wrong clock looks like many clients with bad tokens. The log line and the metrics here name the cause.
//! This module decides about no token.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::error::{AuthError, Elapsed};
use crate::metrics::{IssuerLabels, Metrics};
use crate::sync::lock;

/// Time since `exp` after which an expired token is no longer merely late.
const LATE: Duration = Duration::from_mins(10);

/// Shortest time between two warnings about one issuer.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// Clock of one issuer, compared with the gateway's.
pub(super) struct IssuerClock {
    labels: IssuerLabels,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Latest `iat` of a signed token, as far as it is not in the future.
    newest: Option<SystemTime>,
    warned: Option<Instant>,
}

impl IssuerClock {
    pub(super) fn new(issuer: Option<&str>, metrics: Arc<Metrics>) -> Self {
        let labels = IssuerLabels { issuer: issuer.unwrap_or_default().to_owned() };
        Self { labels, metrics, state: Mutex::default() }
    }

    /// Records the `iat` of a token with a valid signature, and whether the token is valid at this time.
    pub(super) fn observe(&self, issued_at: SystemTime, now: SystemTime, checked: &Result<(), AuthError>) {
        let mut state = lock(&self.state);
        let earlier = state.newest;
        let is_newest = earlier.is_none_or(|newest| issued_at > newest);
        let is_ahead = matches!(checked, Err(AuthError::IssuedInFuture(_)));
        if is_newest {
            state.newest = Some(issued_at.min(now));
            self.metrics.issuer_clock_offset.get_or_create(&self.labels).set(offset_seconds(issued_at, now));
        }
        // Tokens are often old. Tokens that are each younger than all before, and expired all the same, are
        // not.
        let is_behind = is_newest
            && earlier.is_some()
            && matches!(checked, Err(AuthError::Expired(Elapsed(since))) if *since >= LATE);
        if is_ahead {
            self.metrics.issued_in_future.get_or_create(&self.labels).inc();
        }
        if (is_ahead || is_behind) && state.warned.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
            state.warned = Some(Instant::now());
            let issuer = &self.labels.issuer;
            let offset_seconds = offset_seconds(issued_at, now);
            if is_ahead {
                tracing::warn!(issuer, offset_seconds, "issuer clock ahead: its tokens are rejected");
            } else {
                tracing::warn!(
                    issuer,
                    offset_seconds,
                    "issuer clock behind: even its newest tokens have expired"
                );
            }
        }
    }
}

/// Difference between a token's `iat` and this time; negative if the token was issued before it.
fn offset_seconds(issued_at: SystemTime, now: SystemTime) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match issued_at.duration_since(now) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}

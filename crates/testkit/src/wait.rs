//! Waiting with a deadline, so that a test fails with a message instead of hanging.

use std::time::Duration;

/// Longest wait before a test fails. Everything takes far less; machines that run tests are busy.
pub const DEADLINE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Awaits a future, at most for [`DEADLINE`].
///
/// # Panics
/// If the future does not complete in time.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// Polls a condition until it holds, at most for [`DEADLINE`].
///
/// # Panics
/// If the condition does not hold in time.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    within(what, async {
        let mut interval = tokio::time::interval(POLL_INTERVAL);
        while !condition().await {
            interval.tick().await;
        }
    })
    .await;
}

//! Draining: when a gateway shuts down, it closes its sessions over a period, not all at once.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::DrainLimits;
use crate::hub::Hub;
use crate::wire::CloseCode;

/// Sessions that are due within this time are closed together: Tokio's timers have a granularity of a
/// millisecond.
const TICK: Duration = Duration::from_millis(5);

/// Closes every session with 1012, evenly over the window, in random order.
///
/// The order is random because sessions that connected together would otherwise reconnect together.
pub(super) async fn close_over_window(hub: &Hub, limits: DrainLimits) {
    let mut outboxes = hub.outboxes();
    fastrand::shuffle(&mut outboxes);
    let Ok(count) = u32::try_from(outboxes.len()) else { return };
    let shortest = Duration::from_secs(1) * count / limits.sessions_per_second_min.max(1);
    let window = limits.window.min(shortest);
    let started = Instant::now();
    for (n, outbox) in (0_u32..).zip(outboxes) {
        let due = started + window * n / count.max(1);
        if due > Instant::now() + TICK {
            tokio::time::sleep_until(due).await;
        }
        outbox.close(CloseCode::RESTART);
    }
}

/// Closes every session that is open now, immediately.
pub(super) fn close_all(hub: &Hub) {
    for outbox in hub.outboxes() {
        outbox.close(CloseCode::RESTART);
    }
}

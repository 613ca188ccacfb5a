//! The threads of fan-out.

use std::sync::Arc;

use crate::hub::{FanoutLimits, FanoutSender, HELPERS_MAX, Hub, fanout};
use crate::metrics::Metrics;
use crate::service::Services;

/// Starts the worker and its helpers. They end when the returned sender is dropped and every queued event is
/// written.
pub(super) fn start(
    services: &Services,
    hub: &Arc<Hub>,
    metrics: &Arc<Metrics>,
    limits: FanoutLimits,
) -> FanoutSender {
    let (sender, worker) = fanout(Arc::clone(hub), limits, Arc::clone(metrics));
    for _ in 0..helper_count() {
        services.spawn_thread("fanout_helper", worker.helper());
    }
    // A thread and not a task: the worker never awaits, and among the runtime's tasks it would wait behind
    // thousands of sessions that drain their outboxes.
    services.spawn_thread("fanout", move || worker.run());
    sender
}

/// Threads that help with large broadcasts, if there are cores for them beside those of fan-out and
/// everything else.
///
/// On two cores a helper added no delivery, and small organisations waited for it (`benches/fairness.rs`: p99
/// of 9.5 ms instead of 2.5 ms).
fn helper_count() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores.saturating_sub(2) / 2).min(HELPERS_MAX)
}

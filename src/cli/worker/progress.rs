//! Progress of a worker: a line that changes on a terminal. Without a terminal, the log has a line for each
//! recording.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::recordings::Counters;

/// Interval of the line.
const TICK: Duration = Duration::from_millis(200);

/// The line, until it is finished.
pub(super) struct Progress {
    counters: Arc<Counters>,
    shown: Option<(ProgressBar, tokio::task::JoinHandle<()>)>,
}

impl Progress {
    pub(super) fn start(counters: Arc<Counters>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { counters, shown: None };
        }
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
                .unwrap_or_else(|_| ProgressStyle::default_spinner()),
        );
        let (shown, of_task) = (bar.clone(), Arc::clone(&counters));
        let task = tokio::spawn(async move {
            loop {
                shown.set_message(summary(&of_task));
                shown.tick();
                tokio::time::sleep(TICK).await;
            }
        });
        Self { counters, shown: Some((bar, task)) }
    }

    /// Ends the line, and prints what was done.
    pub(super) fn finish(self) {
        if let Some((bar, task)) = self.shown {
            task.abort();
            bar.finish_and_clear();
        }
        eprintln!("{}", summary(&self.counters));
    }
}

fn summary(counters: &Counters) -> String {
    let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut text = format!(
        "recordings stored: {} ({}), running: {}, to retry: {}, failed: {}",
        get(&counters.stored),
        HumanBytes(get(&counters.bytes)),
        get(&counters.running),
        get(&counters.retried),
        get(&counters.failed),
    );
    for (name, count) in
        [("of other organisations", &counters.foreign), ("taken over by others", &counters.lost)]
    {
        if get(count) > 0 {
            text.push_str(&format!(", {name}: {}", get(count)));
        }
    }
    text
}

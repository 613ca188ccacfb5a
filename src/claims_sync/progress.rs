//! Progress on standard error: a bar on a terminal, JSON lines otherwise.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

/// Interval between JSON lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    last_line: Instant,
    users: u64,
}

impl Progress {
    pub(super) fn to_stderr() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style =
                ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} users, {per_sec}, {eta} left");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        Self { bar, begun: Instant::now(), last_line: Instant::now(), users: 0 }
    }

    /// Adds users that are done. `left` is the number of users that the pass has not reached.
    pub(super) fn add(&mut self, users: usize, left: u64) {
        self.users += users as u64;
        if let Some(bar) = &self.bar {
            bar.set_length(self.users + left);
            bar.set_position(self.users);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let rate = self.users as f64 / self.begun.elapsed().as_secs_f64();
            let seconds_left = (left as f64 / rate.max(f64::MIN_POSITIVE)).round();
            let line = json!({
                "users": self.users, "left": left, "users_per_second": rate.round(), "seconds_left": seconds_left,
            });
            eprintln!("{line}");
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

//! Progress of an audit on standard error, if a rule takes long. Standard output is for the report.

use std::io::{IsTerminal as _, Write as _};
use std::pin::pin;
use std::time::{Duration, Instant};

/// A rule that takes longer than this is shown.
const SHOW_AFTER: Duration = Duration::from_secs(2);
/// Interval between lines without a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress output of an audit: the rule that is being checked, if it takes long.
#[derive(Debug)]
pub struct AuditProgress {
    mode: Mode,
    last_line: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Terminal,
    Lines,
    Silent,
}

impl AuditProgress {
    /// One changing line if standard error is a terminal, otherwise separate lines.
    #[must_use]
    pub fn to_stderr() -> Self {
        let mode = if std::io::stderr().is_terminal() { Mode::Terminal } else { Mode::Lines };
        Self { mode, last_line: None }
    }

    /// No output.
    #[must_use]
    pub fn silent() -> Self {
        Self { mode: Mode::Silent, last_line: None }
    }

    /// Awaits a future, and shows `label` if that takes long.
    pub(super) async fn during<T>(&mut self, label: &str, future: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let mut future = pin!(future);
        loop {
            tokio::select! {
                value = &mut future => return value,
                () = tokio::time::sleep(SHOW_AFTER) => self.show(label, begun.elapsed()),
            }
        }
    }

    fn show(&mut self, label: &str, took: Duration) {
        match self.mode {
            Mode::Terminal => {
                eprint!("\r\x1b[Kchecking {label} ({} s)", took.as_secs());
                // An audit continues if its progress cannot be shown.
                let _ = std::io::stderr().flush();
                self.last_line = Some(Instant::now());
            }
            Mode::Lines if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) => {
                eprintln!("checking {label} ({} s)", took.as_secs());
                self.last_line = Some(Instant::now());
            }
            Mode::Lines | Mode::Silent => {}
        }
    }

    /// Erases the last line.
    pub(super) fn finish(&mut self) {
        if self.mode == Mode::Terminal && self.last_line.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

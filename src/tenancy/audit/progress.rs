//! What the operator sees while an audit takes long, on standard error: results alone go to standard output.

use std::io::{IsTerminal as _, Write as _};
use std::pin::pin;
use std::time::{Duration, Instant};

/// A rule that takes longer than this is named.
const NAME_AFTER: Duration = Duration::from_secs(2);
/// Where there is no terminal: a line this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Names what takes long.
#[derive(Debug)]
pub struct Progress {
    mode: Mode,
    last_line: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Terminal,
    Lines,
    Silent,
}

impl Progress {
    /// One line that changes where standard error is a terminal, lines where it is not.
    #[must_use]
    pub fn to_stderr() -> Self {
        let mode = if std::io::stderr().is_terminal() { Mode::Terminal } else { Mode::Lines };
        Self { mode, last_line: None }
    }

    /// Nothing at all.
    #[must_use]
    pub fn silent() -> Self {
        Self { mode: Mode::Silent, last_line: None }
    }

    /// Awaits, and says what is awaited when that takes long.
    pub(super) async fn during<T>(&mut self, what: &str, future: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let mut future = pin!(future);
        loop {
            tokio::select! {
                value = &mut future => return value,
                () = tokio::time::sleep(NAME_AFTER) => self.say(what, begun.elapsed()),
            }
        }
    }

    fn say(&mut self, what: &str, took: Duration) {
        match self.mode {
            Mode::Terminal => {
                eprint!("\r\x1b[K{what} ({} s)", took.as_secs());
                // What can't be shown is no reason to end.
                let _ = std::io::stderr().flush();
                self.last_line = Some(Instant::now());
            }
            Mode::Lines if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) => {
                eprintln!("looking at {what} ({} s)", took.as_secs());
                self.last_line = Some(Instant::now());
            }
            Mode::Lines | Mode::Silent => {}
        }
    }

    /// Leaves no line behind.
    pub(super) fn finish(&mut self) {
        if self.mode == Mode::Terminal && self.last_line.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

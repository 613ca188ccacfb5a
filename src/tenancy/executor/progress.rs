//! Progress of a run for the operator: a bar on a terminal, plain lines otherwise. It goes to standard error,
//! because standard output is for results.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Interval between lines without a terminal, while rows are filled or a lock is awaited.
const LINE_EVERY: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(120);

/// Progress output of an adoption run: one live line at the bottom, and permanent lines above it.
#[derive(Debug)]
pub struct AdoptionProgress {
    mode: Mode,
    step: String,
    last_line: Instant,
    last_wait: String,
}

#[derive(Debug)]
enum Mode {
    Bar(ProgressBar),
    Lines,
    Silent,
}

impl AdoptionProgress {
    /// Bars if standard error is a terminal, otherwise lines.
    #[must_use]
    pub fn to_stderr() -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(TICK);
            Self::with(Mode::Bar(bar))
        } else {
            Self::with(Mode::Lines)
        }
    }

    /// No output, for callers that read the outcome.
    #[must_use]
    pub fn silent() -> Self {
        Self::with(Mode::Silent)
    }

    fn with(mode: Mode) -> Self {
        Self { mode, step: String::new(), last_line: Instant::now(), last_wait: String::new() }
    }

    /// Prints a permanent line.
    pub(super) fn print(&mut self, line: &str) {
        match &self.mode {
            Mode::Bar(bar) => bar.suspend(|| eprintln!("{line}")),
            Mode::Lines => eprintln!("{line}"),
            Mode::Silent => {}
        }
    }

    /// Begins a step. [`AdoptionProgress::done`] turns it into a permanent line.
    pub(super) fn begin(&mut self, step: &str) {
        step.clone_into(&mut self.step);
        self.last_line = Instant::now();
        if let Mode::Bar(bar) = &self.mode {
            if bar.is_finished() {
                bar.reset();
                bar.enable_steady_tick(TICK);
            }
            bar.set_style(spinner());
            bar.set_message(step.to_owned());
        }
    }

    /// Reports the backfill: blocks read of all blocks, and rows filled so far.
    pub(super) fn rows(&mut self, blocks: u64, blocks_total: u64, rows: u64) {
        let total = blocks_total.max(1);
        match &self.mode {
            Mode::Bar(bar) => {
                bar.set_style(style("{msg} [{bar:30}] {percent:>3}% {prefix}, {eta} left"));
                bar.set_length(total);
                bar.set_position(blocks);
                bar.set_prefix(format!("{} rows", grouped(rows)));
            }
            Mode::Lines if self.last_line.elapsed() > LINE_EVERY => {
                self.last_line = Instant::now();
                eprintln!("{}: {} %, {} rows", self.step, blocks * 100 / total, grouped(rows));
            }
            Mode::Lines | Mode::Silent => {}
        }
    }

    /// Reports what the current step is waiting for, or how far a long statement is.
    pub(super) fn wait(&mut self, line: &str) {
        match &self.mode {
            Mode::Bar(bar) => bar.set_message(format!("{}: {line}", self.step)),
            Mode::Lines if self.last_wait != line || self.last_line.elapsed() > LINE_EVERY => {
                self.last_line = Instant::now();
                line.clone_into(&mut self.last_wait);
                eprintln!("{}: {line}", self.step);
            }
            Mode::Lines | Mode::Silent => {}
        }
    }

    pub(super) fn clear_wait(&mut self) {
        self.last_wait.clear();
        if let Mode::Bar(bar) = &self.mode {
            bar.set_message(self.step.clone());
        }
    }

    /// Ends the step, and prints how long it took.
    pub(super) fn done(&mut self, took: Duration) {
        let line = format!("{} ({})", self.step, human(took));
        self.print(&line);
        self.step.clear();
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Mode::Bar(bar) = &self.mode {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn spinner() -> ProgressStyle {
    style("{spinner} {msg}")
}

/// A number with separators: 1,000,000.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration with a readable unit: 12 ms, 3.4 s, 5 min 6 s.
pub(crate) fn human(time: Duration) -> String {
    let (ms, s) = (time.as_millis(), time.as_secs());
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{} min {} s", s / 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn durations_have_a_readable_unit() {
        for (ms, text) in [(12, "12 ms"), (3_400, "3.4 s"), (306_000, "5 min 6 s")] {
            assert_eq!(human(Duration::from_millis(ms)), text);
        }
    }
}

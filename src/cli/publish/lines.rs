//! The run of `warden publish` over the lines of standard input.
//!
//! An error states which lines are published, and the flags with which the command publishes the others. The
//! key of a request contains the number of its first line, so these flags repeat exactly the request that
//! may have been successful.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::{anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::client::{Answer, EventsClient, Failure};
use super::input::{Batch, Lines};
use super::key;

/// Interval between updates of the progress on a terminal.
const TICK: Duration = Duration::from_millis(120);

/// A run over the lines of standard input.
pub(super) struct LinesRun {
    lines: Lines,
    batch_lines: usize,
    key: String,
    /// Whether the operator gave the key, so that a repeated run must divide the lines in the same way.
    is_given_key: bool,
    /// First line that is neither published nor in flight.
    next_line: usize,
    /// A batch that may have been published.
    in_flight: Option<Batch>,
    events: usize,
    duplicates: usize,
    last: Option<Value>,
    bar: Option<ProgressBar>,
}

impl LinesRun {
    /// A run with the operator's key, or a random one.
    pub(super) fn new(from_line: usize, batch_lines: usize, key: Option<&str>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {human_pos} events published, {per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            lines: Lines::of_stdin(from_line),
            batch_lines,
            key: key.map_or_else(key::random, ToOwned::to_owned),
            is_given_key: key.is_some(),
            next_line: from_line,
            in_flight: None,
            events: 0,
            duplicates: 0,
            last: None,
            bar,
        }
    }

    pub(super) async fn publish(&mut self, client: &EventsClient) -> anyhow::Result<()> {
        loop {
            let next = self.lines.next_batch(self.batch_lines, !self.is_given_key).await;
            let next = next.map_err(|error| self.error(&format!("{error:#}")))?;
            let Some(batch) = next else { return Ok(()) };
            let key = format!("{}:{}", self.key, batch.first_line());
            let batch = self.in_flight.insert(batch);
            match client.publish(batch.body(), &key).await {
                Ok(answer) => self.count(answer),
                Err(failure) => {
                    let reason = failed_lines(batch, &failure);
                    if failure.may_be_published {
                        return Err(self.error(&format!("gave up: {reason}")));
                    }
                    self.in_flight = None;
                    if failure.is_key_reused {
                        bail!(
                            "{reason}; {}an earlier run with this key had other lines or another --batch. Repeat it as it was, or publish other events under another key",
                            self.published()
                        );
                    }
                    return Err(self.error(&reason));
                }
            }
        }
    }

    /// Counts the batch in flight as published.
    fn count(&mut self, answer: Answer) {
        let Some(batch) = self.in_flight.take() else { return };
        self.events += batch.len();
        self.duplicates += answer.duplicates;
        self.next_line = batch.last_line() + 1;
        self.last = Some(answer.json);
        if let Some(bar) = &self.bar {
            bar.set_position(self.events as u64);
        }
    }

    /// An error with this reason. It states what is published, and the flags that publish the rest.
    pub(super) fn error(&self, reason: &str) -> anyhow::Error {
        let (published, next, key) = (self.published(), self.next_line, key::flag(&self.key));
        match &self.in_flight {
            // A pause of the input may have ended this batch. Its number of lines makes the same request
            // again.
            Some(batch) => anyhow!(
                "{reason}; {published}{} may be published. Within 24 hours, repeat the command with the same input and --from-line {} --batch {} {key}: it publishes what is missing, and nothing twice",
                batch.text(),
                batch.first_line(),
                batch.len()
            ),
            None if self.events == 0 => anyhow!("{reason}; this run published nothing"),
            None => anyhow!(
                "{reason}; {published}this run published nothing after them. To publish the rest, repeat the command with --from-line {next} --batch {} {key}",
                self.batch_lines
            ),
        }
    }

    /// Number of published events, as the beginning of a list.
    fn published(&self) -> String {
        match self.events {
            0 => String::new(),
            1 => format!("1 event up to line {} is published, and ", self.next_line - 1),
            events => format!("{events} events up to line {} are published, and ", self.next_line - 1),
        }
    }

    /// The result of a successful run.
    pub(super) fn summary(self) -> Value {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let last = self.last.unwrap_or_default();
        json!({
            "events": self.events, "duplicates": self.duplicates, "tx": last["tx"], "cursor": last["cursor"],
        })
    }
}

/// Why a request failed, with the numbers of the lines that are not valid.
fn failed_lines(batch: &Batch, failure: &Failure) -> String {
    if failure.problems.is_empty() {
        return format!("{}: {}", batch.text(), failure.text);
    }
    let problem = |(index, problem): &(usize, String)| format!("line {}: {problem}", batch.line(*index));
    failure.problems.iter().map(problem).collect::<Vec<_>>().join("; ")
}

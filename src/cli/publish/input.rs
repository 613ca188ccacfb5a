//! Standard input of `warden publish`: one event per line, in batches.

use std::io::{BufRead as _, Read as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

/// Longest line, and largest batch, in bytes. A request has at most 1 MiB.
const BYTES_MAX: usize = 1024 * 1024 - 1024;

/// Lines that are read ahead.
const AHEAD_MAX: usize = 1000;

/// Pause of the input after which an incomplete batch is sent.
const PAUSE: Duration = Duration::from_millis(100);

type Line = std::io::Result<Vec<u8>>;

/// Lines of standard input with their numbers.
pub(super) struct Lines {
    receiver: mpsc::Receiver<Line>,
    number: usize,
    /// First line to return.
    from_line: usize,
    /// A line that did not fit into the former batch.
    next: Option<(usize, String)>,
}

/// Events of one request.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Numbers of the lines, and the events.
    events: Vec<(usize, String)>,
    bytes: usize,
}

impl Lines {
    /// Reads standard input on a thread of its own. A read cannot be cancelled, and the runtime would wait
    /// for it at its end, but not for this thread.
    pub(super) fn of_stdin(from_line: usize) -> Self {
        let (sender, receiver) = mpsc::channel(AHEAD_MAX);
        std::thread::spawn(move || {
            let mut input = std::io::stdin().lock();
            loop {
                let mut line = Vec::new();
                let read = (&mut input).take(BYTES_MAX as u64 + 2).read_until(b'\n', &mut line);
                let is_end = matches!(read, Ok(0) | Err(_));
                if matches!(read, Ok(0)) || sender.blocking_send(read.map(|_| line)).is_err() || is_end {
                    return;
                }
            }
        });
        Self { receiver, number: 0, from_line, next: None }
    }

    /// The next batch of at most this many lines; none at the end. If `may_pause`, a batch also ends when the
    /// input pauses.
    ///
    /// # Errors
    /// If a line is too long, or is not a JSON object. The lines before it in the same batch are discarded,
    /// as if the gateway had rejected the batch. If they were published, the batch with the corrected line
    /// would have other events under the same key.
    pub(super) async fn next_batch(
        &mut self,
        lines_max: usize,
        may_pause: bool,
    ) -> anyhow::Result<Option<Batch>> {
        let mut batch = Batch::default();
        while batch.len() < lines_max {
            let line = if batch.is_empty() || !may_pause || self.next.is_some() {
                self.next_line().await
            } else {
                match tokio::time::timeout(PAUSE, self.next_line()).await {
                    Ok(line) => line,
                    Err(_) => break,
                }
            };
            let Some((number, event)) = line? else { break };
            if !batch.is_empty() && batch.bytes + event.len() >= BYTES_MAX {
                self.next = Some((number, event));
                break;
            }
            batch.push(number, event);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// The next line that is not blank, from the first line to return on.
    async fn next_line(&mut self) -> anyhow::Result<Option<(usize, String)>> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        while let Some(line) = self.receiver.recv().await {
            self.number += 1;
            let number = self.number;
            let line = line.context("cannot read standard input")?;
            let line = line.trim_ascii();
            if line.len() > BYTES_MAX {
                bail!("line {number} is longer than {BYTES_MAX} bytes");
            }
            if number >= self.from_line && !line.is_empty() {
                return Ok(Some((number, event(line).with_context(|| format!("line {number}"))?)));
            }
        }
        Ok(None)
    }
}

/// Checks that a line is a JSON object. The gateway checks its fields.
fn event(line: &[u8]) -> anyhow::Result<String> {
    const EXPECTED: &str = "expected {\"topic\": \"...\", \"event\": \"...\", \"data\": ...}";
    let text = std::str::from_utf8(line).context("it is not UTF-8")?;
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) if text.starts_with('{') => Ok(text.to_owned()),
        Ok(_) => bail!("it is not a JSON object: {EXPECTED}"),
        Err(error) => bail!("it is not JSON (column {}): {EXPECTED}", error.column()),
    }
}

impl Batch {
    fn push(&mut self, number: usize, event: String) {
        self.bytes += event.len() + 1;
        self.events.push((number, event));
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The body of the request.
    pub(super) fn body(&self) -> String {
        let events: Vec<&str> = self.events.iter().map(|(_, event)| event.as_str()).collect();
        format!("[{}]", events.join(","))
    }

    pub(super) fn first_line(&self) -> usize {
        self.events.first().map_or(0, |(number, _)| *number)
    }

    pub(super) fn last_line(&self) -> usize {
        self.events.last().map_or(0, |(number, _)| *number)
    }

    /// Number of the line of an event.
    pub(super) fn line(&self, index: usize) -> usize {
        self.events.get(index).map_or(0, |(number, _)| *number)
    }

    /// The lines of the batch, for a message.
    pub(super) fn text(&self) -> String {
        match (self.first_line(), self.last_line()) {
            (first, last) if first == last => format!("line {first}"),
            (first, last) => format!("lines {first} to {last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Lines {
        let (sender, receiver) = mpsc::channel(lines.len().max(1));
        for line in lines {
            sender.try_send(Ok(line.as_bytes().to_vec())).expect("has room");
        }
        Lines { receiver, number: 0, from_line: 1, next: None }
    }

    async fn batches(mut lines: Lines, max: usize) -> Vec<(String, String)> {
        let mut batches = Vec::new();
        while let Some(batch) = lines.next_batch(max, false).await.expect("valid lines") {
            batches.push((batch.text(), batch.body()));
        }
        batches
    }

    #[tokio::test]
    async fn lines_become_batches_with_their_numbers() {
        let input = lines(&["{\"a\":1}\n", "\n", " {\"a\":2} \r\n", "{\"a\":3}"]);
        let expected = [("lines 1 to 3", "[{\"a\":1},{\"a\":2}]"), ("line 4", "[{\"a\":3}]")];
        let found = batches(input, 2).await;
        assert_eq!(found, expected.map(|(text, body)| (text.to_owned(), body.to_owned())));
        assert_eq!(batches(lines(&[]), 2).await, []);
        // A batch fits into one request.
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(BYTES_MAX / 2));
        assert_eq!(batches(lines(&[&large, &large, "{}"]), 9).await.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_a_batch_only_if_it_may() {
        let (sender, receiver) = mpsc::channel(4);
        let mut lines = Lines { receiver, number: 0, from_line: 1, next: None };
        sender.try_send(Ok(b"{}".to_vec())).expect("has room");
        assert_eq!(lines.next_batch(9, true).await.expect("valid").expect("a batch").len(), 1);
        let late = async {
            sender.send(Ok(b"{}".to_vec())).await.expect("is read");
            tokio::time::sleep(2 * PAUSE).await;
            sender.send(Ok(b"{}".to_vec())).await.expect("is read");
            drop(sender);
        };
        let (batch, ()) = tokio::join!(lines.next_batch(9, false), late);
        assert_eq!(batch.expect("valid").expect("a batch").text(), "lines 2 to 3");
    }

    #[tokio::test]
    async fn a_wrong_line_is_named() {
        let long = "x".repeat(BYTES_MAX + 1);
        for (line, shown) in [
            ("[1]", "line 2: it is not a JSON object"),
            ("{\"a\":}", "line 2: it is not JSON (column 6)"),
            ("{} {}", "line 2: it is not JSON (column 4)"),
            (long.as_str(), "line 2 is longer than"),
        ] {
            let error = lines(&["{}", line]).next_batch(9, false).await.expect_err("is wrong");
            assert!(format!("{error:#}").starts_with(shown), "{error:#}");
        }
    }
}

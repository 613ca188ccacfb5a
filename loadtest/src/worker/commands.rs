//! Commands from standard input. Commands about changes go into the ledger immediately; other commands wait
//! for the event loop.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read as _, stdin};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, bail};

use crate::check::Ledger;
use crate::message::{Command, WorkerTask};

const READ_BYTES: usize = 64 * 1024;

/// Reads commands without blocking.
pub(super) struct CommandReader {
    input: File,
    /// Bytes of a line that is not complete yet.
    buffer: Vec<u8>,
    /// Commands for the event loop.
    pub(super) waiting: VecDeque<Command>,
    /// Whether standard input has ended: the main process is gone.
    pub(super) ended: bool,
}

impl CommandReader {
    /// Waits for the task. Later reads do not block.
    pub(super) fn start() -> anyhow::Result<(Self, WorkerTask)> {
        // Unbuffered, because epoll does not report bytes that a buffered reader already holds.
        let input = File::from(stdin().as_fd().try_clone_to_owned()?);
        let mut reader = Self { input, buffer: Vec::new(), waiting: VecDeque::new(), ended: false };
        let end = loop {
            if let Some(end) = reader.buffer.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            if reader.read()? == 0 {
                bail!(
                    "`worker` is started by warden-loadtest itself, not by hand: see `warden-loadtest --help`"
                );
            }
        };
        let task = serde_json::from_slice(&reader.buffer[..end])
            .ok()
            .context("cannot parse the task on standard input")?;
        reader.buffer.drain(..=end);
        rustix::io::ioctl_fionbio(&reader.input, true)?;
        Ok((reader, task))
    }

    fn read(&mut self) -> std::io::Result<usize> {
        let before = self.buffer.len();
        self.buffer.resize(before + READ_BYTES, 0);
        let read = self.input.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Reads everything that was written so far. A change is announced here before its COMMIT is sent. A
    /// caller that first reads an event from a socket and then calls this therefore knows the event's change.
    pub(super) fn read_available(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        while !self.ended {
            match self.read() {
                Ok(0) => self.ended = true,
                Ok(_) => self.parse_lines(ledger)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read commands from standard input"),
            }
        }
        Ok(())
    }

    fn parse_lines(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        for line in self.buffer[..end].split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line).context("cannot parse a command")? {
                Command::Announce(change) => ledger.announce(&change),
                Command::SetOutcome { org, number, outcome } => ledger.set_outcome(org, number, outcome),
                command => self.waiting.push_back(command),
            }
        }
        self.buffer.drain(..=end);
        Ok(())
    }
}

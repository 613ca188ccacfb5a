//! The holder's ear: orders from standard input. Those about changes go into the ledger at once, whoever
//! reads them; the others wait for the loop. It opens nothing and judges nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Read as _, stdin};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, bail};

use crate::check::Ledger;
use crate::message::{Order, Task};

const READ_BYTES: usize = 64 * 1024;

pub(crate) struct Orders {
    input: File,
    /// What was read and is no whole line yet.
    buffer: Vec<u8>,
    pub(crate) waiting: VecDeque<Order>,
    /// Who directs the run is gone.
    pub(crate) ended: bool,
}

impl Orders {
    /// Waits for the task; from then on nothing waits.
    pub(crate) fn begin() -> anyhow::Result<(Self, Task)> {
        // Unbuffered: what a reader holds back would never wake the loop.
        let input = File::from(stdin().as_fd().try_clone_to_owned()?);
        let mut orders = Self { input, buffer: Vec::new(), waiting: VecDeque::new(), ended: false };
        let end = loop {
            if let Some(end) = orders.buffer.iter().position(|byte| *byte == b'\n') {
                break end;
            }
            if orders.read()? == 0 {
                bail!("this is started by warden-loadtest itself, not by hand: see `warden-loadtest --help`");
            }
        };
        let task = serde_json::from_slice(&orders.buffer[..end]).ok().context("the task can't be read")?;
        orders.buffer.drain(..=end);
        rustix::io::ioctl_fionbio(&orders.input, true)?;
        Ok((orders, task))
    }

    fn read(&mut self) -> std::io::Result<usize> {
        let before = self.buffer.len();
        self.buffer.resize(before + READ_BYTES, 0);
        let read = self.input.read(&mut self.buffer[before..]);
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        read
    }

    /// Takes in all that was written until now. Whoever reads from a socket first and calls this then
    /// knows of every change whose event it read: a change is written here before its COMMIT is sent.
    pub(crate) fn take_in(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        while !self.ended {
            match self.read() {
                Ok(0) => self.ended = true,
                Ok(_) => self.lines(ledger)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read orders"),
            }
        }
        Ok(())
    }

    fn lines(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        let Some(end) = self.buffer.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        for line in self.buffer[..end].split(|byte| *byte == b'\n') {
            match serde_json::from_slice(line).context("an order can't be read")? {
                Order::Sent(sent) => ledger.sent(&sent),
                Order::Ended { org, n, outcome } => ledger.ended(org, n, outcome),
                order => self.waiting.push_back(order),
            }
        }
        self.buffer.drain(..=end);
        Ok(())
    }
}

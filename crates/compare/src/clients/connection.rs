//! One socket of a client: how it is opened, and how events are counted in the bytes that it receives. It
//! parses neither frames nor JSON, because that would take CPU time from the publishers and PostgreSQL, which
//! run on the same core.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use bench_support::handshake::{self, Answer};
use bench_support::{connect, frames};
use mio::net::TcpStream;

use super::protocol::Dial;
use crate::plan::MARK;

/// Characters that an error shows of what was received.
const RECEIVED_CHARS_MAX: usize = 300;
/// Bytes that may arrive before the socket is open.
const OPENING_BYTES_MAX: usize = 16 * 1024;

enum Stage {
    /// Bytes of the answer to the upgrade.
    Upgrading(Vec<u8>),
    /// Bytes after the 101.
    Joining(Vec<u8>),
    Open,
}

pub(super) struct Connection {
    stream: TcpStream,
    stage: Stage,
    dial: Option<Dial>,
    /// Whether the last byte was the first half of a mark.
    half_mark: bool,
    pub(super) events: u64,
    pub(super) bytes: u64,
}

impl Connection {
    /// Starts to connect.
    pub(super) fn connect(server: SocketAddr, source: Option<IpAddr>, dial: Dial) -> anyhow::Result<Self> {
        let stream = TcpStream::from_std(connect::connect(server, source)?);
        let (stage, dial) = (Stage::Upgrading(Vec::new()), Some(dial));
        Ok(Self { stream, stage, dial, half_mark: false, events: 0, bytes: 0 })
    }

    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Sends the upgrade request when the connection becomes writable for the first time.
    pub(super) fn send_request(&mut self) -> anyhow::Result<()> {
        let Some(dial) = &mut self.dial else { return Ok(()) };
        let request = std::mem::take(&mut dial.request);
        if request.is_empty() {
            return Ok(());
        }
        if let Some(error) = self.stream.take_error()? {
            bail!("cannot connect: {error}");
        }
        self.send(request.as_bytes())
    }

    /// Sends a few bytes, which fit into the kernel's buffer.
    pub(super) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let sent = (&self.stream).write(bytes).context("cannot send to the server")?;
        ensure!(sent == bytes.len(), "the server does not read");
        Ok(())
    }

    /// Reads everything that has arrived. False if the server has closed the connection.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> anyhow::Result<bool> {
        loop {
            let read = match (&self.stream).read(scratch) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot read from the server"),
            };
            match self.stage {
                Stage::Open => {
                    self.bytes += read as u64;
                    self.events += count_marks(&scratch[..read], &mut self.half_mark);
                }
                Stage::Upgrading(_) | Stage::Joining(_) => self.advance(&scratch[..read])?,
            }
            // The buffer was not filled, so nothing is left; epoll reports the next byte.
            if read < scratch.len() {
                return Ok(true);
            }
        }
    }

    /// Processes bytes that arrive before the socket is open.
    fn advance(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let (Stage::Upgrading(received) | Stage::Joining(received)) = &mut self.stage else { return Ok(()) };
        received.extend_from_slice(bytes);
        ensure!(
            received.len() <= OPENING_BYTES_MAX,
            "the server sent more than {OPENING_BYTES_MAX} bytes before the socket was open"
        );
        if matches!(self.stage, Stage::Upgrading(_)) {
            self.finish_upgrade()?;
        }
        let (Stage::Joining(received), Some(dial)) = (&self.stage, &self.dial) else { return Ok(()) };
        let is_ready = dial.ready.as_ref().is_none_or(|(text, times)| {
            memchr::memmem::find_iter(received, text.as_bytes()).count() >= *times
        });
        if is_ready {
            self.stage = Stage::Open;
            self.dial = None;
        }
        Ok(())
    }

    /// Sends the first messages once the 101 has arrived.
    fn finish_upgrade(&mut self) -> anyhow::Result<()> {
        let Stage::Upgrading(received) = &mut self.stage else { return Ok(()) };
        let head_bytes = match handshake::parse_answer(received, false)? {
            Answer::Incomplete => return Ok(()),
            Answer::Rejected(rejection) => bail!("the server rejected the upgrade: {rejection}"),
            Answer::Upgraded { head_bytes } => head_bytes,
        };
        let rest = received.split_off(head_bytes);
        self.stage = Stage::Joining(rest);
        let hello = self.dial.as_mut().map(|dial| std::mem::take(&mut dial.hello)).unwrap_or_default();
        let mut bytes = Vec::new();
        for text in &hello {
            frames::append_client(frames::TEXT, text.as_bytes(), &mut bytes);
        }
        if bytes.is_empty() { Ok(()) } else { self.send(&bytes) }
    }

    /// The beginning of what the server has sent so far, for errors.
    pub(super) fn received(&self) -> String {
        match &self.stage {
            Stage::Upgrading(received) | Stage::Joining(received) => {
                String::from_utf8_lossy(received).chars().take(RECEIVED_CHARS_MAX).collect()
            }
            Stage::Open => String::new(),
        }
    }
}

/// Counts the marks in bytes that were read. A mark may be split between two reads.
fn count_marks(bytes: &[u8], half_mark: &mut bool) -> u64 {
    let [first, second] = MARK;
    let split = *half_mark && bytes.first() == Some(&second);
    *half_mark = bytes.last() == Some(&first);
    let within = memchr::memchr_iter(first, bytes).filter(|at| bytes.get(at + 1) == Some(&second)).count();
    within as u64 + u64::from(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_split_between_two_reads_is_counted_once() {
        let bytes = b"^!a^^!b!^c^!^!";
        for cut in 0..=bytes.len() {
            let (mut half_mark, (left, right)) = (false, bytes.split_at(cut));
            let mut sum = count_marks(left, &mut half_mark);
            if !right.is_empty() {
                sum += count_marks(right, &mut half_mark);
            }
            assert_eq!(sum, 4, "cut at {cut}");
        }
    }
}

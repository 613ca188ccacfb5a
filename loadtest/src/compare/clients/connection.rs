//! One socket of the client side: how it is opened, and the counting of events in what it receives. It parses no
//! frames and no JSON, because the machine's other core has better things to do.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use mio::net::TcpStream;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use super::{Dial, masked_text};
use crate::floor::MARK;

/// Of a refusal, what is shown.
const REFUSAL_CHARS_MAX: usize = 300;
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Where a socket stands on its way to being open.
enum Stage {
    /// What the server said so far.
    Upgrade(Vec<u8>),
    /// The same, after the 101.
    Ready(Vec<u8>),
    Open,
}

pub(super) struct Connection {
    stream: TcpStream,
    stage: Stage,
    dial: Option<Dial>,
    /// The last byte read may be the first half of a mark.
    half: bool,
    pub(super) events: u64,
    pub(super) bytes: u64,
}

impl Connection {
    /// Connects; loopback answers at once, and the kernel finishes the rest.
    pub(super) fn connect(server: SocketAddr, source: Ipv4Addr, dial: Dial) -> anyhow::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
            .context("cannot open a socket: raise `ulimit -n`")?;
        if server.ip().is_loopback() {
            bind(&socket, &SocketAddr::from((source, 0)))
                .with_context(|| format!("cannot connect from {source}"))?;
        }
        match connect(&socket, &server) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => bail!("cannot connect to {server} from {source}: {error}"),
        }
        let stream = TcpStream::from_std(std::net::TcpStream::from(socket));
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            stage: Stage::Upgrade(Vec::new()),
            dial: Some(dial),
            half: false,
            events: 0,
            bytes: 0,
        })
    }

    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// The connection can be written to for the first time.
    pub(super) fn request(&mut self) -> anyhow::Result<()> {
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

    /// A few bytes, which fit into the kernel's buffer.
    pub(super) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let sent = (&self.stream).write(bytes).context("cannot send")?;
        ensure!(sent == bytes.len(), "the server does not read");
        Ok(())
    }

    /// Reads all that is there. False when the server has hung up.
    pub(super) fn read(&mut self, scratch: &mut [u8]) -> anyhow::Result<bool> {
        loop {
            let read = match (&self.stream).read(scratch) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context("cannot read"),
            };
            match self.stage {
                Stage::Open => {
                    self.bytes += read as u64;
                    self.events += marks(&scratch[..read], &mut self.half);
                }
                Stage::Upgrade(_) | Stage::Ready(_) => self.opening(&scratch[..read])?,
            }
            // Less than asked for: nothing is left, and the next byte wakes us.
            if read < scratch.len() {
                return Ok(true);
            }
        }
    }

    fn opening(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let (Stage::Upgrade(said) | Stage::Ready(said)) = &mut self.stage else { return Ok(()) };
        said.extend_from_slice(bytes);
        ensure!(said.len() <= HEAD_BYTES_MAX, "too long an answer to the upgrade");
        if matches!(self.stage, Stage::Upgrade(_)) {
            self.upgraded()?;
        }
        let (Stage::Ready(said), Some(dial)) = (&self.stage, &self.dial) else { return Ok(()) };
        let is_ready = dial
            .ready
            .as_ref()
            .is_none_or(|(text, times)| memchr::memmem::find_iter(said, text.as_bytes()).count() >= *times);
        if is_ready {
            self.stage = Stage::Open;
            self.dial = None;
        }
        Ok(())
    }

    /// Says hello once the 101 is there.
    fn upgraded(&mut self) -> anyhow::Result<()> {
        let Stage::Upgrade(said) = &mut self.stage else { return Ok(()) };
        let Some(end) = memchr::memmem::find(said, b"\r\n\r\n") else { return Ok(()) };
        if !said.starts_with(b"HTTP/1.1 101 ") {
            let refusal: String = String::from_utf8_lossy(said).chars().take(REFUSAL_CHARS_MAX).collect();
            bail!("the server refused the upgrade: {refusal}");
        }
        let rest = said.split_off(end + 4);
        self.stage = Stage::Ready(rest);
        let hello = self.dial.as_mut().map(|dial| std::mem::take(&mut dial.hello)).unwrap_or_default();
        let mut frames = Vec::new();
        for text in &hello {
            frames.extend(masked_text(text)?);
        }
        if frames.is_empty() { Ok(()) } else { self.send(&frames) }
    }

    /// What it said last, where it never became open.
    pub(super) fn said(&self) -> String {
        match &self.stage {
            Stage::Upgrade(said) | Stage::Ready(said) => {
                String::from_utf8_lossy(said).chars().take(REFUSAL_CHARS_MAX).collect()
            }
            Stage::Open => String::new(),
        }
    }
}

/// Marks in what was read; one may lie across two reads.
fn marks(bytes: &[u8], half: &mut bool) -> u64 {
    let [first, second] = MARK;
    let across = *half && bytes.first() == Some(&second);
    *half = bytes.last() == Some(&first);
    let within = memchr::memchr_iter(first, bytes).filter(|at| bytes.get(at + 1) == Some(&second)).count();
    within as u64 + u64::from(across)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_counted_wherever_reads_end() {
        let bytes = b"^!a^^!b!^c^!^!";
        for cut in 0..=bytes.len() {
            let (mut half, (left, right)) = (false, bytes.split_at(cut));
            let mut sum = marks(left, &mut half);
            if !right.is_empty() {
                sum += marks(right, &mut half);
            }
            assert_eq!(sum, 4, "cut at {cut}");
        }
    }
}

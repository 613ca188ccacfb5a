//! One socket of the floor: the least of an upgrade, and the bytes that the kernel did not take. It reads what
//! clients send and looks at none of it.

use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::{Context as _, ensure};
use mio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A request longer than this is none of ours.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// A socket for which more than this waits is dropped: it does not read.
const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What became of a socket.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    Stays,
    /// The upgrade has just been answered; the socket belongs to this group.
    Opened(usize),
    Left,
}

pub(super) struct Socket {
    stream: TcpStream,
    /// The request until it is whole; nothing afterwards.
    head: Option<Vec<u8>>,
    backlog: Vec<u8>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, head: Some(Vec::new()), backlog: Vec::new() }
    }

    pub(super) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// One write, unless earlier bytes still wait. Whether the kernel took it at once and whole.
    pub(super) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<bool> {
        let taken = if self.backlog.is_empty() { self.write(bytes)? } else { 0 };
        if taken == bytes.len() {
            return Ok(true);
        }
        ensure!(self.backlog.len() < BACKLOG_BYTES_MAX, "a socket does not read");
        self.backlog.extend_from_slice(&bytes[taken..]);
        Ok(false)
    }

    pub(super) fn is_backlogged(&self) -> bool {
        !self.backlog.is_empty()
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            match (&self.stream).write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                result => return result,
            }
        }
    }

    /// Something happened on the socket: sends what waits, and reads what came.
    pub(super) fn ready(&mut self, scratch: &mut [u8]) -> anyhow::Result<Fate> {
        if !self.backlog.is_empty() {
            let backlog = std::mem::take(&mut self.backlog);
            let taken = self.write(&backlog)?;
            self.backlog = backlog;
            self.backlog.drain(..taken);
        }
        loop {
            let read = match (&self.stream).read(scratch) {
                Ok(0) => return Ok(Fate::Left),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Fate::Stays),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(head) = &mut self.head {
                head.extend_from_slice(&scratch[..read]);
                ensure!(head.len() <= HEAD_BYTES_MAX, "a request that does not end");
                if head.ends_with(b"\r\n\r\n") {
                    let (answer, group) = answer(head)?;
                    self.head = None;
                    self.send(answer.as_bytes())?;
                    return Ok(Fate::Opened(group));
                }
            }
        }
    }
}

/// The answer to an upgrade, and the group that its path names.
fn answer(head: &[u8]) -> anyhow::Result<(String, usize)> {
    let head = std::str::from_utf8(head).context("a request that is no text")?;
    let mut lines = head.split("\r\n");
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).context("a request without a path")?;
    let group = path.rsplit('/').next().and_then(|last| last.parse().ok()).unwrap_or(0);
    let key = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .context("a request that asks for no WebSocket")?
        .1
        .trim();
    let accept = derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok((answer, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_answered_as_the_standard_has_it() {
        let head =
            b"GET /socket/17 HTTP/1.1\r\nHost: x\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let (text, group) = answer(head).unwrap();
        // The example of RFC 6455.
        assert!(text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
        assert_eq!(group, 17);
        assert!(answer(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
    }
}

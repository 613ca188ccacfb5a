//! One socket of the baseline: a minimal upgrade, and the bytes that the kernel has not accepted. It discards
//! everything that clients send after the upgrade.

use std::io::{ErrorKind, Read as _, Write as _};

use anyhow::{Context as _, ensure};
use bench_support::handshake;
use mio::net::TcpStream;

/// Longest request that is accepted.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// A socket with a larger backlog is dropped: its client does not read.
const BACKLOG_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The result of handling a socket that is ready.
#[derive(Debug, PartialEq)]
pub(super) enum Readiness {
    Unchanged,
    /// The upgrade has just been answered.
    Opened {
        /// Group of the socket.
        group: usize,
    },
    Closed,
}

pub(super) struct Socket {
    stream: TcpStream,
    /// The request that is being read; `None` after the upgrade.
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

    /// Sends bytes with one write, or queues them behind a backlog. True if the kernel accepted all of them.
    pub(super) fn send(&mut self, bytes: &[u8]) -> anyhow::Result<bool> {
        let accepted = if self.backlog.is_empty() { self.write(bytes)? } else { 0 };
        if accepted == bytes.len() {
            return Ok(true);
        }
        ensure!(self.backlog.len() < BACKLOG_BYTES_MAX, "the client does not read");
        self.backlog.extend_from_slice(&bytes[accepted..]);
        Ok(false)
    }

    pub(super) fn has_backlog(&self) -> bool {
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

    /// Sends the backlog, and reads everything that has arrived.
    pub(super) fn ready(&mut self, scratch: &mut [u8]) -> anyhow::Result<Readiness> {
        if !self.backlog.is_empty() {
            let backlog = std::mem::take(&mut self.backlog);
            let accepted = self.write(&backlog)?;
            self.backlog = backlog;
            self.backlog.drain(..accepted);
        }
        loop {
            let read = match (&self.stream).read(scratch) {
                Ok(0) => return Ok(Readiness::Closed),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Readiness::Unchanged),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(head) = &mut self.head {
                head.extend_from_slice(&scratch[..read]);
                ensure!(head.len() <= HEAD_BYTES_MAX, "the request is longer than {HEAD_BYTES_MAX} bytes");
                if head.ends_with(b"\r\n\r\n") {
                    let (answer, group) = answer(head)?;
                    self.head = None;
                    self.send(answer.as_bytes())?;
                    return Ok(Readiness::Opened { group });
                }
            }
        }
    }
}

/// The answer to an upgrade request, and the group that its path names.
fn answer(head: &[u8]) -> anyhow::Result<(String, usize)> {
    let head = std::str::from_utf8(head).context("the request is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).context("the request has no path")?;
    let group = path.rsplit('/').next().and_then(|last| last.parse().ok()).unwrap_or(0);
    let (_, key) = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .context("the request has no Sec-WebSocket-Key")?;
    let accept = handshake::accept_key(key.trim());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    Ok((answer, group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_answered_with_the_accept_key_of_the_standard() {
        let head =
            b"GET /socket/17 HTTP/1.1\r\nHost: x\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let (text, group) = answer(head).unwrap();
        // The example of RFC 6455.
        assert!(text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
        assert_eq!(group, 17);
        assert!(answer(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").is_err());
    }
}

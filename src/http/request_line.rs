//! Detection of a fragment in the target of a request. The HTTP library drops what follows `#`, so this
//! module looks at the bytes of the request line.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whether a connection has sent a request with a fragment.
#[derive(Clone, Debug, Default)]
pub(super) struct FragmentSeen(Arc<AtomicBool>);

impl FragmentSeen {
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// End of a request line, without the last digit of the version.
const LINE_END: &[u8] = b" HTTP/1.";

/// A part of a line between spaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Word {
    #[default]
    Empty,
    WithoutFragment,
    WithFragment,
}

/// The current line of a connection.
#[derive(Debug, Default)]
struct Line {
    /// The word before the current one: of a request line, the target.
    previous: Word,
    current: Word,
    /// Length of the beginning of [`LINE_END`] with which the line ends, before its last byte if that is
    /// complete.
    matched: usize,
    /// Bytes behind [`LINE_END`], without line ends.
    behind: usize,
}

impl Line {
    /// Adds a byte. Returns whether it ends a request line with a fragment. Such a line in a body would count
    /// too, and nobody sends one.
    ///
    /// The end of a body and the next request line are one line here. Only the word of the target decides,
    /// because a target has no spaces and a body may contain `#`.
    fn add(&mut self, byte: u8) -> bool {
        match byte {
            b'\n' => {
                let is_request = self.matched == LINE_END.len() && self.behind == 1;
                return std::mem::take(self).previous == Word::WithFragment && is_request;
            }
            b'\r' => return false,
            b'#' => self.current = Word::WithFragment,
            b' ' if self.current != Word::Empty => self.previous = std::mem::take(&mut self.current),
            _ if byte != b' ' && self.current == Word::Empty => self.current = Word::WithoutFragment,
            _ => {}
        }
        if self.matched == LINE_END.len() && self.behind == 0 && byte != b' ' {
            self.behind = 1;
        } else if self.matched < LINE_END.len() && byte == LINE_END[self.matched] {
            self.matched += 1;
        } else {
            self.behind = 0;
            // Only the first byte of the pattern is a space, so no other beginning can match.
            self.matched = usize::from(byte == LINE_END[0]);
        }
        false
    }
}

/// A stream whose request lines are checked while they are read.
#[derive(Debug)]
pub(super) struct RequestLines<S> {
    stream: S,
    line: Line,
    seen: FragmentSeen,
}

impl<S> RequestLines<S> {
    pub(super) fn new(stream: S, seen: FragmentSeen) -> Self {
        Self { stream, line: Line::default(), seen }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RequestLines<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        for byte in &buf.filled()[before..] {
            if self.line.add(*byte) {
                self.seen.0.store(true, Ordering::Relaxed);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RequestLines<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_seen(text: &str) -> bool {
        let mut line = Line::default();
        text.bytes().any(|byte| line.add(byte))
    }

    #[test]
    fn a_fragment_in_any_request_line_is_seen() {
        for text in [
            "GET /#x HTTP/1.1\r\n",
            "GET /socket/websocket?vsn=2.0.0#token=abc HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET /# HTTP/1.0\n",
            "\r\nGET /a#  HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /#x HTTP/1.1\r\n",
            "POST / HTTP/1.1\r\n\r\n{\"a\": 1}GET /#x HTTP/1.1\r\n",
            "GET /a HTTP/1.#b HTTP/1.1\r\n",
        ] {
            assert!(is_seen(text), "{text:?}");
        }
        for text in [
            "GET / HTTP/1.1\r\nx: #\r\n\r\n",
            "GET / HTTP/1.1\r\nReferer: /#x\r\n\r\n",
            "POST / HTTP/1.1\r\n\r\n{\"reason\": \"#1\"}\r\n",
            "POST / HTTP/1.1\r\n\r\n{\"reason\": \"#1\"}POST / HTTP/1.1\r\n",
            "POST / HTTP/1.1\r\n\r\n\"a # b\"GET /b HTTP/1.1\r\n",
            "GET /#x HTTP/1.1",
            "# HTTP/1.\n",
            "# HTTP/1.12\n",
        ] {
            assert!(!is_seen(text), "{text:?}");
        }
    }
}

//! What tungstenite reads from and writes to: it reads the socket, and its writes (pongs, and the
//! answer to a Close) go to the outbox, each a whole frame, so that they interleave with nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::hub::{Offer, Outbox};
use crate::wire::is_close_frame;

/// See the module's documentation.
pub(super) struct SocketIo {
    stream: Arc<TcpStream>,
    /// Came behind the upgrade request and is read first.
    received: Bytes,
    outbox: Arc<Outbox>,
}

impl SocketIo {
    pub(super) fn new(stream: Arc<TcpStream>, received: Bytes, outbox: Arc<Outbox>) -> Self {
        Self { stream, received, outbox }
    }
}

impl AsyncRead for SocketIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.received.is_empty() {
            let n = self.received.len().min(buf.remaining());
            buf.put_slice(&self.received[..n]);
            self.received.advance(n);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buf.initialize_unfilled()) {
                Ok(n) => {
                    buf.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for SocketIo {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // With a write buffer of 0 tungstenite writes frame by frame, each in one call.
        let frame = Bytes::copy_from_slice(buf);
        if is_close_frame(buf) {
            self.outbox.close_reply(frame);
        } else if self.outbox.offer(&frame) == Offer::Sealed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

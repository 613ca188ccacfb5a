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

/// Bytes that are read at once when nobody looks at them.
const DISCARD_BYTES: usize = 4096;

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

    /// Says that nothing more will be written, and reads until the peer says the same.
    pub(super) async fn discard_until_end(&mut self) {
        // An error means that the socket is gone, which is what is waited for.
        let _ = socket2::SockRef::from(&*self.stream).shutdown(std::net::Shutdown::Write);
        let mut scratch = [0; DISCARD_BYTES];
        while self.stream.readable().await.is_ok() {
            match self.stream.try_read(&mut scratch) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
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

//! What tungstenite reads from and writes to: it reads the socket, and its writes (pongs, and the
//! answer to a Close) go to the outbox, each a whole frame, so that they interleave with nothing. It counts
//! what is read: frames that are no messages (empty fragments) are limited by nothing else.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::hub::{Offer, Outbox, Transport};
use crate::rate::{Bucket, Rate};
use crate::wire::is_close_frame;

/// Bytes that are read at once when nobody looks at them.
const DISCARD_BYTES: usize = 4096;

/// See the module's documentation.
pub(super) struct SocketIo {
    transport: Arc<Transport>,
    /// Came behind the upgrade request and is read first.
    received: Bytes,
    outbox: Arc<Outbox>,
    /// Bytes that may be read.
    rate: Rate,
    bucket: Bucket,
}

impl SocketIo {
    pub(super) fn new(transport: Arc<Transport>, received: Bytes, outbox: Arc<Outbox>, rate: Rate) -> Self {
        Self { transport, received, outbox, rate, bucket: Bucket::full(Instant::now()) }
    }

    /// Says that nothing more will be written, and reads until the peer says the same.
    pub(super) async fn discard_until_end(&mut self) {
        // An error means that the socket is gone, which is what is waited for.
        let _ = poll_fn(|cx| self.transport.poll_shutdown(cx)).await;
        let mut scratch = [0; DISCARD_BYTES];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match poll_fn(|cx| self.transport.poll_read(cx, &mut buf)).await {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return,
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
        let before = buf.filled().len();
        let read = self.transport.poll_read(cx, buf);
        let count = u32::try_from(buf.filled().len() - before).unwrap_or(u32::MAX);
        let rate = self.rate;
        if self.bucket.take(rate, count, Instant::now()).is_err() {
            return Poll::Ready(Err(io::ErrorKind::QuotaExceeded.into()));
        }
        read
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

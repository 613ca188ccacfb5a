//! A session's way in: tungstenite over what the socket says. What tungstenite writes (pongs, and the answer to a
//! Close) goes to the outbox, each a whole frame, so that it interleaves with nothing. Bytes are counted as they are
//! read: frames that are no messages (empty fragments) are limited by nothing else.
//!
//! tungstenite is used without its asynchronous wrapper, which keeps two more wakers for each socket: there is one
//! reader, and nobody else writes through it. At rest there is tungstenite's small buffer, and none of ours.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::SessionLimits;
use crate::hub::{Offer, Outbox};
use crate::rate::{Bucket, Rate};
use crate::wire::is_close_frame;

/// Bytes of tungstenite's buffer, which every session keeps, so few: a join fits, and it grows for what does not.
const BUFFER_BYTES: usize = 256;

/// Bytes that are read from the socket at once, on the stack.
const READ_BYTES: usize = 4096;

/// See the module's documentation.
pub(super) struct Socket {
    context: WebSocketContext,
    /// Was read from the socket and is not looked at yet: it came behind the upgrade request, or was more than
    /// tungstenite had room for.
    received: Option<Box<Bytes>>,
    bucket: Bucket,
    has_ended: bool,
}

impl Socket {
    /// Begins with the bytes that came behind the request.
    pub(super) fn new(received: Bytes, limits: &SessionLimits) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(limits.message_bytes_max))
            .max_frame_size(Some(limits.message_bytes_max));
        Self {
            context: WebSocketContext::new(Role::Server, Some(config)),
            received: (!received.is_empty()).then(|| Box::new(received)),
            bucket: Bucket::full(Instant::now()),
            has_ended: false,
        }
    }

    /// The next message of this outbox's peer. `rate`: of bytes. None after the peer's Close was answered, and after an
    /// error.
    pub(super) fn next(
        &mut self,
        outbox: &Outbox,
        rate: Rate,
    ) -> impl Future<Output = Option<Result<Message, Error>>> {
        poll_fn(move |cx| self.poll_next(outbox, rate, cx))
    }

    fn poll_next(
        &mut self,
        outbox: &Outbox,
        rate: Rate,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Message, Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let Self { context, received, bucket, .. } = self;
        match context.read(&mut Io { received, bucket, outbox, rate, cx }) {
            Ok(message) => Poll::Ready(Some(Ok(message))),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => {
                self.has_ended = true;
                match error {
                    Error::ConnectionClosed | Error::AlreadyClosed => Poll::Ready(None),
                    error => Poll::Ready(Some(Err(error))),
                }
            }
        }
    }
}

/// Says that nothing more will be written, and reads until the peer says the same.
pub(super) async fn discard_until_end(outbox: &Outbox) {
    let transport = outbox.transport();
    // An error means that the socket is gone, which is what is waited for.
    let _ = poll_fn(|cx| transport.poll_shutdown(cx)).await;
    poll_fn(|cx| {
        loop {
            match ready!(transport.poll_read(cx, &mut [0; READ_BYTES])) {
                Ok(1..) => {}
                _ => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// What tungstenite reads from and writes to, for one poll.
struct Io<'a, 'b> {
    received: &'a mut Option<Box<Bytes>>,
    bucket: &'a mut Bucket,
    outbox: &'a Outbox,
    rate: Rate,
    cx: &'a mut Context<'b>,
}

impl Read for Io<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(received) = self.received {
            let count = received.len().min(buf.len());
            received.copy_to_slice(&mut buf[..count]);
            if received.is_empty() {
                *self.received = None;
            }
            return Ok(count);
        }
        let mut scratch = [0; READ_BYTES];
        let Poll::Ready(read) = self.outbox.transport().poll_read(self.cx, &mut scratch) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let read = &scratch[..read?];
        let count = u32::try_from(read.len()).unwrap_or(u32::MAX);
        if self.bucket.take(self.rate, count, Instant::now()).is_err() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let (now, later) = read.split_at(read.len().min(buf.len()));
        buf[..now.len()].copy_from_slice(now);
        if !later.is_empty() {
            *self.received = Some(Box::new(Bytes::copy_from_slice(later)));
        }
        Ok(now.len())
    }
}

impl Write for Io<'_, '_> {
    /// With a write buffer of 0 tungstenite writes frame by frame, each in one call.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let frame = Bytes::copy_from_slice(buf);
        if is_close_frame(buf) {
            self.outbox.close_reply(frame);
        } else if self.outbox.offer(&frame) == Offer::Sealed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! A session's way in: tungstenite over what the socket says. What tungstenite writes (pongs, and the answer to a
//! Close) goes to the outbox, each a whole frame, so that it interleaves with nothing. Bytes are counted as they are
//! read: frames that are no messages (empty fragments) are limited by nothing else.
//!
//! Most sockets say something twice a minute. Between messages there is no tungstenite and no buffer, which would be a
//! fifth of a session's memory: both are made when bytes come, and dropped when [`Framing`] says that these were whole
//! messages.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::SessionLimits;
use crate::hub::{Outbox, SendOutcome};
use crate::rate::{Bucket, Rate};
use crate::wire::{Framing, is_close_frame};

/// Bytes of tungstenite's buffer at first: a join fits, and it grows for what does not.
const BUFFER_BYTES: usize = 256;

/// Bytes that are read from the socket at once, on the stack.
const READ_BYTES: usize = 4096;

/// See the module's documentation.
pub(super) struct Socket {
    /// None between messages.
    parser: Option<Box<Parser>>,
    message_bytes_max: usize,
    bucket: Bucket,
    has_ended: bool,
}

/// What is needed while a message comes in.
struct Parser {
    context: WebSocketContext,
    /// What tungstenite has been given.
    framing: Framing,
    /// Was read from the socket and not given to tungstenite yet.
    received: Bytes,
}

impl Socket {
    /// Begins with the bytes that came behind the request.
    pub(super) fn new(received: Bytes, limits: &SessionLimits) -> Self {
        let message_bytes_max = limits.message_bytes_max;
        Self {
            parser: (!received.is_empty()).then(|| Box::new(Parser::new(received, message_bytes_max))),
            message_bytes_max,
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
        let Self { parser, message_bytes_max, bucket, .. } = self;
        let mut source = Source { bucket, outbox, rate, cx };
        let result = match next_message(parser, *message_bytes_max, &mut source) {
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            result => result,
        };
        self.has_ended = result.is_err();
        Poll::Ready(match result {
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => None,
            result => Some(result),
        })
    }
}

/// The next message. There is a parser afterwards if the next bytes can't be understood without it.
fn next_message(
    slot: &mut Option<Box<Parser>>,
    message_bytes_max: usize,
    source: &mut Source<'_, '_>,
) -> Result<Message, Error> {
    let parser = match slot {
        Some(parser) => parser,
        None => slot.insert(Box::new(Parser::new(source.receive()?, message_bytes_max))),
    };
    let Parser { context, framing, received } = &mut **parser;
    let result = context.read(&mut Io { source, framing, received });
    // Now all that came is looked at, and answered: with a pong, at most.
    if matches!(&result, Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock)
        && framing.is_between_messages()
        && context.can_write()
    {
        *slot = None;
    }
    result
}

impl Parser {
    fn new(received: Bytes, message_bytes_max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let context = WebSocketContext::new(Role::Server, Some(config));
        Self { context, framing: Framing::default(), received }
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

/// Where bytes come from, for one poll.
struct Source<'a, 'b> {
    bucket: &'a mut Bucket,
    outbox: &'a Outbox,
    rate: Rate,
    cx: &'a mut Context<'b>,
}

impl Source<'_, '_> {
    /// What the socket has; nothing where it has ended.
    fn receive(&mut self) -> io::Result<Bytes> {
        let mut scratch = [0; READ_BYTES];
        let Poll::Ready(read) = self.outbox.transport().poll_read(self.cx, &mut scratch) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let read = &scratch[..read?];
        let count = u32::try_from(read.len()).unwrap_or(u32::MAX);
        if self.bucket.take(self.rate, count, Instant::now()).is_err() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Bytes::copy_from_slice(read))
    }
}

/// What tungstenite reads from and writes to.
struct Io<'a, 'b, 'c> {
    source: &'a mut Source<'b, 'c>,
    framing: &'a mut Framing,
    received: &'a mut Bytes,
}

impl Read for Io<'_, '_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            *self.received = self.source.receive()?;
        }
        let count = self.received.len().min(buf.len());
        let given = self.received.split_to(count);
        self.framing.advance(&given);
        buf[..count].copy_from_slice(&given);
        Ok(count)
    }
}

impl Write for Io<'_, '_, '_> {
    /// With a write buffer of 0 tungstenite writes frame by frame, each in one call.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let frame = Bytes::copy_from_slice(buf);
        if is_close_frame(buf) {
            self.source.outbox.close_reply(frame);
        } else if self.source.outbox.offer(&frame) == SendOutcome::Sealed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

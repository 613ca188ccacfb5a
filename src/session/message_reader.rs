//! The WebSocket messages of one client, parsed by tungstenite.
//!
//! tungstenite also writes: pongs, and the answer to a Close. Each of these goes to the outbox as a whole
//! frame, so it cannot interleave with events. Received bytes are counted as they are read, because no other
//! limit covers frames that belong to no message (empty fragments).
//!
//! Most clients send two messages a minute. tungstenite and its buffer would be a fifth of an idle session's
//! memory, so they exist only while a message arrives. [`Framing`] knows from the frame headers when only
//! whole messages have been read; then the parser is dropped until the next bytes arrive.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::SessionLimits;
use crate::hub::{Outbox, SendOutcome};
use crate::rate::{Bucket, Rate};
use crate::wire::{Framing, close_frame_without_reason, is_close_frame};

/// Initial size of tungstenite's buffer, in bytes. A join fits; the buffer grows for longer messages.
const BUFFER_BYTES: usize = 256;

/// Close code that IANA registered after RFC 6455, and that tungstenite does not know.
const BAD_GATEWAY: u16 = 1014;

/// Bytes of one read from the socket, into a buffer on the stack.
const READ_BYTES: usize = 4096;

/// Bytes that are read before the session counts them.
const COUNTED_BYTES_MAX: usize = 4 * READ_BYTES;

/// Reads messages from a session's socket.
pub(super) struct MessageReader {
    /// None between messages.
    parser: Option<Box<Parser>>,
    message_bytes_max: usize,
    received_bytes: Bucket,
    /// Bytes that were read since [`Self::take_read_bytes`].
    read_bytes: usize,
    has_ended: bool,
}

/// State that is needed only while a message arrives.
struct Parser {
    context: WebSocketContext,
    /// Boundaries of the messages that tungstenite has read.
    framing: Framing,
    /// Bytes that were read from the socket and that tungstenite has not read yet.
    received: Bytes,
}

impl MessageReader {
    /// Begins with the bytes that the client sent right behind its request.
    pub(super) fn new(received: Bytes, limits: &SessionLimits) -> Self {
        let message_bytes_max = limits.message_bytes_max;
        Self {
            parser: (!received.is_empty()).then(|| Box::new(Parser::new(received, message_bytes_max))),
            message_bytes_max,
            received_bytes: Bucket::full(Instant::now()),
            read_bytes: 0,
            has_ended: false,
        }
    }

    /// Number of bytes that were read since the last call.
    pub(super) fn take_read_bytes(&mut self) -> usize {
        std::mem::take(&mut self.read_bytes)
    }

    /// The next message from this outbox's socket. Returns None after an error, and after the peer's Close
    /// was answered. `rate` limits the received bytes.
    ///
    /// The error `Interrupted` means that a part of a message was read. The next call continues.
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
        let Self { parser, message_bytes_max, received_bytes, read_bytes, .. } = self;
        let mut source = ByteSource { received_bytes, read_bytes, outbox, rate, cx };
        let result = match next_message(parser, *message_bytes_max, &mut source) {
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::Interrupted => {
                return Poll::Ready(Some(Err(Error::Io(e))));
            }
            result => result,
        };
        self.has_ended = result.is_err();
        Poll::Ready(match result {
            Err(Error::ConnectionClosed | Error::AlreadyClosed) => None,
            result => Some(result),
        })
    }
}

/// Parses the next message. Afterwards `slot` contains a parser only if the next bytes belong to a message
/// that has already begun.
fn next_message(
    slot: &mut Option<Box<Parser>>,
    message_bytes_max: usize,
    source: &mut ByteSource<'_, '_>,
) -> Result<Message, Error> {
    let parser = match slot {
        Some(parser) => parser,
        None => slot.insert(Box::new(Parser::new(source.receive()?, message_bytes_max))),
    };
    let Parser { context, framing, received } = &mut **parser;
    let result = context.read(&mut ParserIo { source, framing, received });
    if framing.has_padded_length() {
        // The library has no name for this error. Every error of the protocol has the same close code.
        return Err(Error::Protocol(ProtocolError::NonZeroReservedBits));
    }
    // WouldBlock means that tungstenite has parsed all received bytes and written its answer, at most a pong.
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

/// Shuts the socket down for writing, then reads and drops everything until the peer does the same.
pub(super) async fn discard_until_end(outbox: &Outbox) {
    let transport = outbox.transport();
    // An error means that the connection is gone, which is the end that this function waits for.
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

/// The socket, its rate limit and the task's context during one poll.
struct ByteSource<'a, 'b> {
    received_bytes: &'a mut Bucket,
    read_bytes: &'a mut usize,
    outbox: &'a Outbox,
    rate: Rate,
    cx: &'a mut Context<'b>,
}

impl ByteSource<'_, '_> {
    /// Reads available bytes; none if the stream has ended. Fails with `QuotaExceeded` above the rate, and
    /// with `Interrupted` if the session must count what was read, because no message may ever end.
    fn receive(&mut self) -> io::Result<Bytes> {
        if *self.read_bytes >= COUNTED_BYTES_MAX {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut buffer = [0; READ_BYTES];
        let Poll::Ready(read) = self.outbox.transport().poll_read(self.cx, &mut buffer) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let read = &buffer[..read?];
        *self.read_bytes += read.len();
        let count = u32::try_from(read.len()).unwrap_or(u32::MAX);
        if self.received_bytes.take(self.rate, count, Instant::now()).is_err() {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Bytes::copy_from_slice(read))
    }
}

/// The stream that tungstenite reads from and writes to.
struct ParserIo<'a, 'b, 'c> {
    source: &'a mut ByteSource<'b, 'c>,
    framing: &'a mut Framing,
    received: &'a mut Bytes,
}

impl Read for ParserIo<'_, '_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.received.is_empty() {
            *self.received = self.source.receive()?;
        }
        let count = self.received.len().min(buf.len());
        let bytes = self.received.split_to(count);
        self.framing.advance(&bytes);
        if self.framing.has_padded_length() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        buf[..count].copy_from_slice(&bytes);
        Ok(count)
    }
}

impl Write for ParserIo<'_, '_, '_> {
    /// Sends one frame. With a write buffer of 0 bytes tungstenite writes each frame in one call.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let frame = Bytes::copy_from_slice(buf);
        if is_close_frame(buf) {
            let reply = match self.framing.close_code() {
                // The library rejects this code.
                Some(BAD_GATEWAY) => close_frame_without_reason(BAD_GATEWAY),
                _ => frame,
            };
            self.source.outbox.close_reply(reply);
        } else if self.source.outbox.send(&frame) == SendOutcome::Closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

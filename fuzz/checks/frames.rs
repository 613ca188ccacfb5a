//! A session drops its parser between messages. For any bytes, split in any way, it must get the same
//! messages as a session that keeps its parser.
//!
//! The check uses only public functions of the gateway. It does not check masks; the integration tests check
//! that unmasked frames are rejected.

use std::io::{self, Read, Write};

use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};
use warden::wire::Framing;

const MESSAGE_BYTES_MAX: usize = 4096;

/// The first byte is the length of the parts into which the rest is split.
pub(crate) fn run(data: &[u8]) {
    let Some((part, bytes)) = data.split_first() else { return };
    let part = usize::from(*part).max(1);
    let kept = read(bytes, part, false);
    let dropped = read(bytes, part, true);
    assert_eq!(kept, dropped, "in parts of {part} bytes");
}

/// Parses the bytes. Returns the messages, the bytes of the answers, and the error that ended the socket, if
/// any.
fn read(bytes: &[u8], part: usize, drops: bool) -> (Vec<Message>, Vec<u8>, Option<String>) {
    let (mut messages, mut answers) = (Vec::new(), Vec::new());
    let (mut context, mut framing) = (new_context(), Framing::default());
    for part in bytes.chunks(part) {
        let mut io = Io { part, framing: &mut framing, answers: &mut answers };
        loop {
            match context.read(&mut io) {
                Ok(message) => messages.push(message),
                Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return (messages, answers, Some(error.to_string())),
            }
        }
        if drops && framing.is_between_messages() && context.can_write() {
            (context, framing) = (new_context(), Framing::default());
        }
    }
    (messages, answers, None)
}

fn new_context() -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(256)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    WebSocketContext::new(Role::Server, Some(config))
}

struct Io<'a> {
    part: &'a [u8],
    framing: &'a mut Framing,
    answers: &'a mut Vec<u8>,
}

impl Read for Io<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.part.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (now, later) = self.part.split_at(self.part.len().min(buf.len()));
        buf[..now.len()].copy_from_slice(now);
        self.framing.advance(now);
        self.part = later;
        Ok(now.len())
    }
}

impl Write for Io<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.answers.extend(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Where messages end in what a client sends, by the headers of its frames alone. What is in the frames, and whether
//! they are allowed, is for the WebSocket library to say.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// Longest header of a frame, in bytes: two, a length of eight, a mask of four (RFC 6455, section 5.2).
const HEADER_BYTES_MAX: usize = 14;

/// Follows the frames of a stream, however its bytes are parted.
#[derive(Clone, Debug, Default)]
pub struct Framing {
    /// What came of a header that is not whole.
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// Bytes that the present frame still lacks.
    payload_left: u64,
    /// A message has begun whose last frame has not.
    is_fragmented: bool,
    /// The bytes are no frames; nothing is known from there on.
    is_broken: bool,
}

impl Framing {
    /// Takes the next bytes.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_broken {
            if self.payload_left == 0 {
                self.header[self.header_len] = bytes[0];
                self.header_len += 1;
                bytes = &bytes[1..];
                self.look_at_header();
            } else {
                let count = bytes.len().min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
                self.payload_left -= count as u64;
                bytes = &bytes[count..];
            }
        }
    }

    /// Whether the bytes so far are whole messages: who goes on with the next byte needs to know nothing of them.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.header_len == 0 && self.payload_left == 0 && !self.is_fragmented && !self.is_broken
    }

    fn look_at_header(&mut self) {
        match FrameHeader::parse(&mut Cursor::new(&self.header[..self.header_len])) {
            Ok(Some((header, payload))) => {
                self.header_len = 0;
                self.payload_left = payload;
                // Control frames may come between a message's frames.
                if let OpCode::Data(Data::Text | Data::Binary | Data::Continue) = header.opcode {
                    self.is_fragmented = !header.is_final;
                }
            }
            Ok(None) => self.is_broken = self.header_len == HEADER_BYTES_MAX,
            Err(_) => self.is_broken = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// First byte, payload, and whether a message has ended with it.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload {
            0..126 => frame.push(0x80 | u8::try_from(payload).expect("small")),
            126..=0xFFFF => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(payload).expect("small").to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.resize(frame.len() + payload, b'x');
        frame
    }

    /// Fragments of one message, with pings between them: each frame's first byte.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        (prop_oneof![Just(0x1_u8), Just(0x2)], 0..3_usize, any::<bool>()).prop_map(
            |(opcode, more, has_ping)| {
                let mut firsts = vec![opcode];
                for _ in 0..more {
                    if has_ping {
                        firsts.push(0x89);
                    }
                    firsts.push(0);
                }
                *firsts.last_mut().expect("one at least") |= 0x80;
                firsts
            },
        )
    }

    proptest! {
        #[test]
        fn messages_end_where_their_last_frame_does(
            messages in prop::collection::vec(message(), 1..6),
            payloads in prop::collection::vec(prop_oneof![0..200_usize, Just(65_535), Just(65_536)], 36),
            parts in prop::collection::vec(1..300_usize, 1..20),
        ) {
            let (mut bytes, mut ends, mut payloads) = (Vec::new(), vec![0], payloads.into_iter());
            for first in messages.concat() {
                bytes.extend(frame(first, payloads.next().unwrap_or(0)));
                let is_control = first & 0x08 != 0;
                if first & 0x80 != 0 && !is_control {
                    ends.push(bytes.len());
                }
            }
            let (mut framing, mut at, mut parts) = (Framing::default(), 0, parts.into_iter().cycle());
            while at < bytes.len() {
                let next = bytes.len().min(at + parts.next().expect("cycles"));
                framing.advance(&bytes[at..next]);
                at = next;
                prop_assert_eq!(framing.is_between_messages(), ends.contains(&at), "at {}", at);
            }
            prop_assert!(framing.is_between_messages());
        }
    }

    #[test]
    fn nothing_is_known_behind_what_is_no_frame() {
        let mut framing = Framing::default();
        // Opcode 3 is reserved.
        framing.advance(&frame(0x83, 0));
        framing.advance(&frame(0x81, 5));
        assert!(!framing.is_between_messages());
    }
}

//! Finds the ends of messages in a client's bytes, from the headers of the frames alone. The WebSocket
//! library parses the frames and decides whether they are valid.
//!
//! A session whose client is between two messages needs neither a parser nor a buffer.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Longest header of a frame, in bytes: two, eight of length, four of mask (RFC 6455, section 5.2).
const HEADER_BYTES_MAX: usize = 14;

/// Part of a header's second byte that is a length, or one of the following two values.
const LENGTH_BITS: u8 = 0x7f;
const LENGTH_IN_2_BYTES: u8 = 126;
const LENGTH_IN_8_BYTES: u8 = 127;

/// Follows the frames of a stream, regardless of how its bytes are split.
#[derive(Clone, Debug, Default)]
pub struct Framing {
    /// The received part of an incomplete header.
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// Bytes of the current frame's payload that have not been received.
    payload_left: u64,
    /// Whether the last data frame was not the final one of its message.
    is_fragmented: bool,
    /// Whether the bytes were not valid frames. After that the ends of messages are unknown.
    is_broken: bool,
    /// Whether the length of a frame's payload was not in its shortest form.
    has_padded_length: bool,
    /// The first Close. What follows it is ignored.
    close: Option<ReceivedClose>,
}

/// The code of a Close, as far as it was received.
#[derive(Clone, Copy, Debug, Default)]
struct ReceivedClose {
    mask: [u8; 4],
    code: [u8; 2],
    code_len: usize,
    /// Whether another frame has begun.
    is_over: bool,
}

impl Framing {
    /// Processes the next bytes.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_broken {
            if self.payload_left == 0 {
                self.header[self.header_len] = bytes[0];
                self.header_len += 1;
                bytes = &bytes[1..];
                self.parse_header();
            } else {
                let count = bytes.len().min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
                self.payload_left -= count as u64;
                let (payload, rest) = bytes.split_at(count);
                if let Some(close) = &mut self.close {
                    close.advance(payload);
                }
                bytes = rest;
            }
        }
    }

    /// Whether the bytes so far are whole messages, so that a new parser can start with the next byte.
    #[must_use]
    pub fn is_between_messages(&self) -> bool {
        self.header_len == 0 && self.payload_left == 0 && !self.is_fragmented && !self.is_broken
    }

    /// Whether a length was written with more bytes than it needs, which RFC 6455 (section 5.2) forbids. The
    /// WebSocket library accepts such frames.
    #[must_use]
    pub fn has_padded_length(&self) -> bool {
        self.has_padded_length
    }

    /// The code of the client's Close. None before a Close, and if it has no code.
    #[must_use]
    pub fn close_code(&self) -> Option<u16> {
        self.close
            .filter(|close| close.code_len == close.code.len())
            .map(|close| u16::from_be_bytes(close.code))
    }

    fn parse_header(&mut self) {
        match FrameHeader::parse(&mut Cursor::new(&self.header[..self.header_len])) {
            Ok(Some((header, payload))) => {
                let shortest = match self.header[1] & LENGTH_BITS {
                    LENGTH_IN_2_BYTES => 126,
                    LENGTH_IN_8_BYTES => 0x1_0000,
                    _ => 0,
                };
                self.has_padded_length = payload < shortest;
                self.is_broken = self.has_padded_length;
                self.header_len = 0;
                self.payload_left = payload;
                // Control frames may arrive between the frames of a message, and do not end it.
                if let Some(close) = &mut self.close {
                    close.is_over = true;
                }
                match header.opcode {
                    OpCode::Data(Data::Text | Data::Binary | Data::Continue) => {
                        self.is_fragmented = !header.is_final;
                    }
                    OpCode::Control(Control::Close) if self.close.is_none() => {
                        let mask = header.mask.unwrap_or_default();
                        self.close = Some(ReceivedClose { mask, ..ReceivedClose::default() });
                    }
                    _ => {}
                }
            }
            Ok(None) => self.is_broken = self.header_len == HEADER_BYTES_MAX,
            Err(_) => self.is_broken = true,
        }
    }
}

impl ReceivedClose {
    fn advance(&mut self, payload: &[u8]) {
        let missing = if self.is_over { 0 } else { self.code.len() - self.code_len };
        for byte in payload.iter().take(missing) {
            self.code[self.code_len] = byte ^ self.mask[self.code_len];
            self.code_len += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A masked frame with this first byte and this length of payload.
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

    /// The first bytes of one message's frames, with pings between its fragments.
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
                *firsts.last_mut().expect("at least one") |= 0x80;
                firsts
            },
        )
    }

    proptest! {
        #[test]
        fn a_message_ends_with_its_final_frame(
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
    fn a_length_in_more_bytes_than_it_needs_is_noticed() {
        for (length, is_padded) in [
            (vec![0x80], false),
            (vec![0x80 | 125], false),
            (vec![0x80 | 126, 0, 126], false),
            (vec![0x80 | 126, 0, 125], true),
            (vec![0x80 | 126, 0, 0], true),
            (vec![0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0], false),
            (vec![0x80 | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], true),
            (vec![0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 1], true),
        ] {
            let mut framing = Framing::default();
            for byte in [&[0x81], &length[..], &[0; 4]].concat() {
                framing.advance(&[byte]);
            }
            assert_eq!(framing.has_padded_length(), is_padded, "{length:?}");
        }
    }

    #[test]
    fn the_code_of_the_first_close_is_kept() {
        let close = |code: u16| {
            let [high, low] = code.to_be_bytes();
            [0x88, 0x82, 1, 2, 3, 4, high ^ 1, low ^ 2]
        };
        let mut framing = Framing::default();
        for byte in [&frame(0x81, 5)[..], &close(1014), &close(1000)].concat() {
            framing.advance(&[byte]);
        }
        assert_eq!(framing.close_code(), Some(1014));
        let mut framing = Framing::default();
        framing.advance(&[&frame(0x88, 0)[..], &close(1000)].concat());
        assert_eq!(framing.close_code(), None, "the first Close has no code");
    }

    #[test]
    fn the_ends_of_messages_are_unknown_after_an_invalid_frame() {
        let mut framing = Framing::default();
        // Opcode 3 is reserved.
        framing.advance(&frame(0x83, 0));
        framing.advance(&frame(0x81, 5));
        assert!(!framing.is_between_messages());
    }
}

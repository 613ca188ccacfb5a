//! WebSocket frames as a server sends them (RFC 6455, section 5.2): unfragmented and unmasked. So a frame has
//! the same bytes for every socket, and sockets can share them.

use bytes::{BufMut, Bytes, BytesMut};

use super::CloseCode;

const FIN: u8 = 0x80;
const OPCODE_TEXT: u8 = 0x1;
const OPCODE_CLOSE: u8 = 0x8;
const OPCODE_MASK: u8 = 0x0f;
/// Longest payload whose length fits into the header's second byte.
const LEN_7_MAX: usize = 125;

/// Length of the header for a payload of this length.
pub(super) fn header_len(payload_len: usize) -> usize {
    match payload_len {
        0..=LEN_7_MAX => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "each arm holds the length it writes")]
fn put_header(into: &mut BytesMut, opcode: u8, payload_len: usize) {
    into.put_u8(FIN | opcode);
    match payload_len {
        0..=LEN_7_MAX => into.put_u8(payload_len as u8),
        126..=0xffff => {
            into.put_u8(126);
            into.put_u16(payload_len as u16);
        }
        _ => {
            into.put_u8(127);
            into.put_u64(payload_len as u64);
        }
    }
}

/// Appends the header of a text frame. The caller appends the payload next, with exactly this length.
pub(super) fn begin_text_frame(into: &mut BytesMut, payload_len: usize) {
    into.reserve(header_len(payload_len) + payload_len);
    put_header(into, OPCODE_TEXT, payload_len);
}

/// Builds a text frame.
#[must_use]
pub fn text_frame(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    begin_text_frame(&mut frame, payload.len());
    frame.put_slice(payload);
    frame.freeze()
}

/// Builds a Close frame with code and reason.
#[must_use]
pub fn close_frame(close: CloseCode) -> Bytes {
    let mut frame = BytesMut::with_capacity(4 + close.reason.len());
    put_header(&mut frame, OPCODE_CLOSE, 2 + close.reason.len());
    frame.put_u16(close.code);
    frame.put_slice(close.reason.as_bytes());
    frame.freeze()
}

/// Builds a Close frame with a code alone.
#[must_use]
pub fn close_frame_without_reason(code: u16) -> Bytes {
    let mut frame = BytesMut::with_capacity(4);
    put_header(&mut frame, OPCODE_CLOSE, 2);
    frame.put_u16(code);
    frame.freeze()
}

/// Whether these bytes start with a Close frame.
#[must_use]
pub fn is_close_frame(frame: &[u8]) -> bool {
    frame.first().is_some_and(|first| first & OPCODE_MASK == OPCODE_CLOSE)
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;

    use super::*;

    #[test]
    fn another_implementation_parses_our_headers() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
            let frame = text_frame(&vec![b'x'; len]);
            let mut cursor = std::io::Cursor::new(&frame[..]);
            let (header, length) =
                FrameHeader::parse(&mut cursor).expect("a valid header").expect("a whole header");
            assert_eq!(length, len as u64);
            assert!(header.is_final && header.mask.is_none());
            assert_eq!(usize::try_from(cursor.position()).expect("small"), header_len(len));
        }
        assert!(is_close_frame(&close_frame(CloseCode::SLOW)));
        assert!(!is_close_frame(&text_frame(b"[]")));
    }
}

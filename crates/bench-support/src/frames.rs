//! WebSocket frames (RFC 6455): parsing of a server's messages, and framing of messages for either direction.
//! It does no I/O and does not look into the payload.

use anyhow::{bail, ensure};

/// Opcode of a text message.
pub const TEXT: u8 = 1;
/// Opcode of a binary message.
pub const BINARY: u8 = 2;
/// Opcode of a Close frame.
pub const CLOSE: u8 = 8;
/// Opcode of a Ping.
pub const PING: u8 = 9;
/// Opcode of a Pong.
pub const PONG: u8 = 10;

/// Longest message that is accepted. An event contains a row of at most 64 KiB and its old columns, so it is
/// far shorter, even with framing and escapes.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// A complete message from a server.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// One of the opcodes of this module, unless the server breaks the standard.
    pub opcode: u8,
    /// Payload bytes.
    pub payload: &'a [u8],
    /// Length of the frame, including its header.
    pub frame_bytes: usize,
}

/// Parses the first message of `bytes`; `None` if it is incomplete.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Option<Message<'_>>> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    ensure!(
        first & FINAL != 0 && first & 0x0f != 0,
        "the gateway sent a fragmented message, which it never does"
    );
    ensure!(first & 0x70 == 0, "the gateway sent a frame with reserved bits");
    ensure!(second & MASKED == 0, "the gateway sent a masked frame");
    let (head, length) = match second {
        126 => match bytes.get(2..4) {
            Some(length) => (4, usize::from(u16::from_be_bytes([length[0], length[1]]))),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).map(<[u8; 8]>::try_from) {
            Some(Ok(length)) => (10, usize::try_from(u64::from_be_bytes(length))?),
            _ => return Ok(None),
        },
        short => (2, usize::from(short)),
    };
    if length > MESSAGE_BYTES_MAX {
        bail!("the gateway sent a message of {length} bytes; at most {MESSAGE_BYTES_MAX} are accepted");
    }
    let Some(payload) = bytes.get(head..head + length) else { return Ok(None) };
    Ok(Some(Message { opcode: first & 0x0f, payload, frame_bytes: head + length }))
}

/// Appends a client's frame, which is masked as the standard requires.
pub fn append_client(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    append_head(opcode, payload.len(), MASKED, out);
    let mask = fastrand::u32(..).to_ne_bytes();
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends a server's frame, which is not masked.
pub fn append_server(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    append_head(opcode, payload.len(), 0, out);
    out.extend_from_slice(payload);
}

fn append_head(opcode: u8, length: usize, masked: u8, out: &mut Vec<u8>) {
    out.push(FINAL | opcode);
    if let Ok(short @ 0..126) = u8::try_from(length) {
        out.push(masked | short);
    } else if let Ok(medium) = u16::try_from(length) {
        out.push(masked | 126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(masked | 127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

/// Code and reason of a Close frame, for people.
pub fn close_reason(payload: &[u8]) -> String {
    match payload {
        [high, low, reason @ ..] => {
            format!("{} {}", u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(reason))
        }
        _ => "without a code".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append_server(opcode, payload, &mut out);
        out
    }

    #[test]
    fn a_message_of_any_length_is_parsed_once_it_is_complete() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let mut bytes = server_frame(TEXT, &payload);
            for cut in [0, 1, 2, 3, bytes.len() - 1] {
                if cut < bytes.len() {
                    assert_eq!(parse(&bytes[..cut]).unwrap(), None, "{length}, cut at {cut}");
                }
            }
            let frame_bytes = bytes.len();
            bytes.extend_from_slice(b"more");
            let message = parse(&bytes).unwrap().unwrap();
            assert_eq!((message.opcode, message.payload), (TEXT, &payload[..]));
            assert_eq!(message.frame_bytes, frame_bytes);
        }
    }

    #[test]
    fn headers_follow_the_standard() {
        assert_eq!(server_frame(TEXT, b"Hello"), [0x81, 5, b'H', b'e', b'l', b'l', b'o']);
        assert_eq!(server_frame(TEXT, &[b'x'; 246])[..4], [0x81, 126, 0, 246]);
        let mut out = Vec::new();
        append_client(TEXT, &[b'x'; 300], &mut out);
        assert_eq!(out[..4], [0x81, 0xfe, 1, 44]);
    }

    #[test]
    fn a_clients_payload_is_masked() {
        let mut out = Vec::new();
        append_client(PONG, b"hello", &mut out);
        assert_eq!(out[..2], [0x8a, 0x85]);
        let (mask, payload) = out[2..].split_at(4);
        let unmasked: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(unmasked, b"hello");
    }

    #[test]
    fn frames_that_a_gateway_never_sends_are_errors() {
        for bytes in [[0x01, 0x01, b'x'], [0x80, 0x00, 0], [0xc1, 0x01, b'x'], [0x81, 0x81, b'x']] {
            assert!(parse(&bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn a_close_reason_contains_code_and_text() {
        assert_eq!(close_reason(&[0x03, 0xf4, b'o', b'k']), "1012 ok");
        assert_eq!(close_reason(&[]), "without a code");
    }
}

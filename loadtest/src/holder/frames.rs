//! WebSocket frames as a client needs them: short text out, masked; whole messages in. It does no I/O
//! and knows nothing of what the texts say.

use anyhow::{bail, ensure};

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// An event holds a row of at most 64 KiB and its old columns; with framing and escapes far less.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// A whole message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) opcode: u8,
    pub(crate) payload: &'a [u8],
    /// Bytes of the frame, header and all.
    pub(crate) bytes: usize,
}

/// The first message of what was read, or none where more must be read.
pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Option<Message<'_>>> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    ensure!(
        first & FINAL != 0 && first & 0x0f != 0,
        "the gateway sent a message in fragments, which it never does"
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
        bail!("the gateway sent a message of {length} bytes");
    }
    let Some(payload) = bytes.get(head..head + length) else { return Ok(None) };
    Ok(Some(Message { opcode: first & 0x0f, payload, bytes: head + length }))
}

/// Appends a frame of a client.
pub(crate) fn append(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    let length = payload.len();
    out.push(FINAL | opcode);
    if let Ok(short @ 0..126) = u8::try_from(length) {
        out.push(MASKED | short);
    } else if let Ok(medium) = u16::try_from(length) {
        out.push(MASKED | 126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(MASKED | 127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
    let mask = fastrand::u32(..).to_ne_bytes();
    out.extend_from_slice(&mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Code and reason of a Close.
pub(crate) fn close_words(payload: &[u8]) -> String {
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

    /// As a server frames it: without a mask.
    fn served(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        append(opcode, payload, &mut out);
        let head = out.len() - payload.len() - 4;
        let mut frame = out[..head].to_vec();
        frame[1] &= 0x7f;
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_of_every_length_are_read_when_they_are_whole() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let mut bytes = served(TEXT, &payload);
            for cut in [0, 1, 2, 3, bytes.len() - 1] {
                if cut < bytes.len() {
                    assert_eq!(parse(&bytes[..cut]).unwrap(), None, "{length}, cut at {cut}");
                }
            }
            let whole = bytes.len();
            bytes.extend_from_slice(b"more");
            let message = parse(&bytes).unwrap().unwrap();
            assert_eq!((message.opcode, message.payload, message.bytes), (TEXT, &payload[..], whole));
        }
    }

    #[test]
    fn what_a_client_sends_is_masked_and_says_the_same() {
        let mut out = Vec::new();
        append(PONG, b"hello", &mut out);
        assert_eq!(out[..2], [0x8a, 0x85]);
        let (mask, payload) = out[2..].split_at(4);
        let said: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
        assert_eq!(said, b"hello");
    }

    #[test]
    fn what_a_gateway_never_sends_is_refused() {
        for bytes in [[0x01, 0x01, b'x'], [0x80, 0x00, 0], [0xc1, 0x01, b'x'], [0x81, 0x81, b'x']] {
            assert!(parse(&bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&[0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0]).is_err());
        assert_eq!(close_words(&[0x03, 0xf4, b'o', b'k']), "1012 ok");
        assert_eq!(close_words(&[]), "without a code");
    }
}

//! WebSocket frames as bytes, for clients that send what a WebSocket library would refuse to send.

use fastrand::Rng;

/// Final fragment of a message.
pub const FIN: u8 = 0x80;
/// A bit that no extension uses here.
pub const RESERVED_BIT: u8 = 0x40;
/// Opcode of a text message.
pub const TEXT: u8 = 0x1;
/// Opcode of a binary message.
pub const BINARY: u8 = 0x2;
/// Opcode of a Close frame.
pub const CLOSE: u8 = 0x8;
/// Opcode of a ping.
pub const PING: u8 = 0x9;
/// Opcode of a pong.
pub const PONG: u8 = 0xa;

const MASKED: u8 = 0x80;
const LENGTH_IN_2_BYTES: u8 = 126;
const LENGTH_IN_8_BYTES: u8 = 127;

/// Encodes a masked frame, as clients send it. `first` is the opcode and its flags.
///
/// # Panics
/// Never: the lengths fit.
pub fn masked(rng: &mut Rng, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(MASKED | u8::try_from(len).expect("at most 125")),
        len @ 126..=0xffff => {
            bytes.push(MASKED | LENGTH_IN_2_BYTES);
            bytes.extend(u16::try_from(len).expect("at most 65535").to_be_bytes());
        }
        len => {
            bytes.push(MASKED | LENGTH_IN_8_BYTES);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    let mask: [u8; 4] = rng.u32(..).to_be_bytes();
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Splits what a gateway sent into opcodes and payloads. Stops at a frame that is incomplete, masked or
/// longer than 64 KiB.
#[must_use]
pub fn split(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match (*second, rest) {
            (LENGTH_IN_2_BYTES, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            (0..126, rest) => (usize::from(*second), rest),
            _ => break,
        };
        if rest.len() < length {
            break;
        }
        frames.push((first & 0xf, &rest[..length]));
        bytes = &rest[length..];
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_encoded_in_the_shortest_form() {
        let mut rng = Rng::with_seed(1);
        for (payload, head) in [(125, 2 + 4), (126, 4 + 4), (0xffff, 4 + 4), (0x1_0000, 10 + 4)] {
            assert_eq!(masked(&mut rng, FIN | TEXT, &vec![0; payload]).len(), head + payload);
        }
    }

    #[test]
    fn an_incomplete_frame_is_left_out() {
        let bytes = [0x81, 2, b'o', b'k', 0x8a, 1, b'x', 0x81, 3, b'h'];
        assert_eq!(split(&bytes), [(TEXT, &b"ok"[..]), (PONG, &b"x"[..])]);
    }
}

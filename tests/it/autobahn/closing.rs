//! Group 7: the Close handshake, with every kind of code and reason.

use super::{CLOSE, Case, FIN, MESSAGE_BYTES_MAX, Steps, TEXT};
use super::{fragments, frame, heartbeat, heartbeat_of, ping, text};

const PROTOCOL_ERROR: u16 = 1002;

/// Codes that an endpoint may send. IANA registered 1012 to 1014 after the suite was written.
const VALID_CODES: [u16; 13] = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
/// Codes that nobody may send.
const INVALID_CODES: [u16; 9] = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
/// Codes beyond the ranges of RFC 6455, for which the suite accepts any answer.
const BEYOND: [u16; 2] = [5000, u16::MAX];

fn close(code: u16, reason: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | CLOSE, [&code.to_be_bytes(), reason.as_ref()].concat())
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = sequences();
    cases.extend(payloads());
    cases.extend(codes());
    cases
}

/// Group 7.1: nothing behind a Close is answered, and a fragmented message before it is dropped.
fn sequences() -> Vec<Case> {
    let message = heartbeat("a");
    let of_two = fragments(TEXT, [&message[..9], &message[9..]]);
    let goodbye = close(1000, "");
    let send = |frames: &[&[u8]]| Steps::default().send(frames.concat());
    vec![
        send(&[&text(&message), &goodbye]).reply("a").closed("7.1.1", 1000),
        send(&[&goodbye, &goodbye]).closed("7.1.2", 1000),
        send(&[&goodbye, &ping("")]).closed("7.1.3", 1000),
        send(&[&goodbye, &text(&message)]).closed("7.1.4", 1000),
        send(&[&of_two[0], &goodbye, &of_two[1]]).closed("7.1.5", 1000),
        send(&[&text(heartbeat_of(MESSAGE_BYTES_MAX)), &goodbye, &ping("")]).reply("x").closed("7.1.6", 1000),
    ]
}

/// Groups 7.3 and 7.5: lengths of the payload, and a reason that is not UTF-8.
fn payloads() -> Vec<Case> {
    let send = |bytes: Vec<u8>| Steps::default().send(bytes);
    vec![
        send(frame(FIN | CLOSE, "")).closed("7.3.1", None),
        send(frame(FIN | CLOSE, "a")).closed("7.3.2", PROTOCOL_ERROR),
        send(close(1000, "")).closed("7.3.3", 1000),
        send(close(1000, "Hello World!")).closed("7.3.4", 1000),
        send(close(1000, [b'*'; 123])).closed("7.3.5", 1000),
        send(close(1000, [b'*'; 124])).closed("7.3.6", PROTOCOL_ERROR),
        send(close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"))
            .closed("7.5.1", 1007),
    ]
}

/// Groups 7.7, 7.9 and 7.13: a valid code is repeated, and any other one is answered with 1002.
fn codes() -> Vec<Case> {
    let mut cases = Vec::new();
    let tables = [(7, &VALID_CODES[..], true), (9, &INVALID_CODES, false), (13, &BEYOND, false)];
    for (group, codes, is_valid) in tables {
        for (n, &code) in codes.iter().enumerate() {
            let answer = if is_valid { code } else { PROTOCOL_ERROR };
            cases
                .push(Steps::default().send(close(code, "")).closed(&format!("7.{group}.{}", n + 1), answer));
        }
    }
    cases
}

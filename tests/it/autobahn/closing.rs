//! Group 7: the Close handshake, with every kind of code and reason.
//!
//! The suite is older than some codes, and tries few reasons. Cases whose number begins with `close` add what
//! RFC 6455 and IANA say about all other codes, and about what stands in and behind a Close.

use super::{BINARY, CLOSE, Case, FIN, MESSAGE_BYTES_MAX, Steps, TEXT};
use super::{fragments, frame, heartbeat, heartbeat_of, ping, text};

const PROTOCOL_ERROR: u16 = 1002;

/// Codes of the suite that an endpoint may send.
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
    cases.extend(all_codes());
    cases.extend(reasons());
    cases.extend(frames());
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

/// Whether a client may send this code: RFC 6455, section 7.4, and the codes that IANA registered later.
fn is_valid(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Every code around the ends of the ranges, and some within. A valid code is repeated.
fn all_codes() -> Vec<Case> {
    let ends = [1999, 2000, 2998, 2999, 3000, 3001, 3003, 3008, 3998, 3999, 4000, 4001, 4400, 4998, 4999];
    let beyond = [5000, 5001, 9999, 0x7fff, 0x8000, 0xff00, 0xfffe, 0xffff];
    let codes = (0..=4).chain(996..=1032).chain(ends).chain(beyond).chain((1040..5000).step_by(97));
    codes
        .map(|code| {
            let answer = if is_valid(code) { code } else { PROTOCOL_ERROR };
            Steps::default().send(close(code, "until later")).closed(&format!("close.{code}"), answer)
        })
        .collect()
}

/// Reasons that are not UTF-8, behind codes of every kind, and the longest reason that is.
fn reasons() -> Vec<Case> {
    let invalid: [&[u8]; 7] =
        [b"\x80", b"cut \xe2\x82", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff", b"\xfe\xff"];
    let mut cases = Vec::new();
    for code in [1000, 1014, 3003, 4999] {
        for (n, reason) in invalid.iter().enumerate() {
            let send = Steps::default().send(close(code, reason));
            cases.push(send.closed(&format!("close.reason.{code}.{}", n + 1), 1007));
        }
        let longest = "\u{20ac}".repeat(41);
        cases.push(
            Steps::default().send(close(code, longest)).closed(&format!("close.reason.{code}.longest"), code),
        );
    }
    cases
}

/// Frames in which a Close must not arrive, and what arrives behind a Close: it has no answer, whatever it
/// is.
fn frames() -> Vec<Case> {
    let message = heartbeat("a");
    let of_two = fragments(TEXT, [&message[..9], &message[9..]]);
    let unmasked =
        |payload: &[u8]| [&[FIN | CLOSE, u8::try_from(payload.len()).expect("short")], payload].concat();
    let padded = [&[FIN | CLOSE, 0x80 | 126, 0, 2, 0, 0, 0, 0][..], &1000_u16.to_be_bytes()].concat();
    let mut cases = vec![
        Steps::default()
            .send(frame(CLOSE, 1000_u16.to_be_bytes()))
            .closed("close.fragmented", PROTOCOL_ERROR),
        Steps::default().send(unmasked(&1000_u16.to_be_bytes())).closed("close.unmasked", PROTOCOL_ERROR),
        Steps::default().send(padded).closed("close.padded", PROTOCOL_ERROR),
    ];
    for (n, byte) in [0, 3, b'a', 0xff].into_iter().enumerate() {
        let number = format!("close.one_byte.{}", n + 1);
        cases.push(Steps::default().send(frame(FIN | CLOSE, [byte])).closed(&number, PROTOCOL_ERROR));
    }
    let behind: [(&str, Vec<u8>); 8] = [
        ("text", text(&message)),
        ("binary", frame(FIN | BINARY, [0; 16])),
        ("ping", ping("late")),
        ("garbage", vec![0xff; 64]),
        ("half", text(&message)[..7].to_vec()),
        ("too_long", [&[FIN | TEXT, 0xff, 0x40][..], &[0; 11]].concat()),
        ("valid_close", close(4000, "again")),
        ("invalid_close", close(1005, "")),
    ];
    for code in [None, Some(1000), Some(1014), Some(4999)] {
        let goodbye = code.map_or_else(|| frame(FIN | CLOSE, ""), |code| close(code, "done"));
        let name = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        for (what, bytes) in &behind {
            let at_once = [&goodbye[..], bytes].concat();
            let number = |how: &str| format!("close.{name}.{what}.{how}");
            cases.push(Steps::default().send(&at_once).closed(&number("at_once"), code));
            cases.push(Steps::default().send(&goodbye).send(bytes).closed(&number("later"), code));
        }
        let amid = [&of_two[0][..], &goodbye].concat();
        cases.push(Steps::default().chopped(&amid, 1).closed(&format!("close.{name}.amid_fragments"), code));
    }
    cases
}

//! Groups 1 to 5: framing, pings and pongs, reserved bits, opcodes, and fragments.

use super::{BINARY, CLOSE, Case, FIN, MESSAGE_BYTES_MAX, PING, PONG, Steps, TEXT};
use super::{fragments, frame, heartbeat, heartbeat_of, ping, text};

/// Close code for a violation of RFC 6455.
const PROTOCOL_ERROR: u16 = 1002;

fn steps() -> Steps {
    Steps::default()
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = framing();
    cases.extend(pings());
    cases.extend(reserved_bits());
    cases.extend(opcodes());
    cases.extend(fragmentation());
    cases.extend(stray_continuations());
    cases
}

/// Group 1: lengths around those at which the encoding of the length changes.
fn framing() -> Vec<Case> {
    let lengths = [0, 125, 126, 127, 128, 0xffff, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX];
    let mut cases = Vec::new();
    for (n, length) in lengths.into_iter().enumerate() {
        // The last case sends the same as the one before, in pieces.
        let piece = if n == 7 { 997 } else { usize::MAX };
        let number = format!("1.1.{}", n + 1);
        cases.push(match length {
            0 => steps().send(text("")).closed(&number, 4400),
            _ => steps().chopped(text(heartbeat_of(length)), piece).reply("x").served(&number),
        });
        let binary = steps().chopped(frame(FIN | BINARY, vec![0xfe; length]), piece);
        cases.push(binary.closed(&format!("1.2.{}", n + 1), 1003));
    }
    cases
}

/// Group 2: each ping has its pong, and pongs that nobody asked for are ignored.
fn pings() -> Vec<Case> {
    let binary = [0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    let longest = [0xfe; 125];
    let pong = |payload: &str| frame(FIN | PONG, payload);
    let ten = |length: usize| {
        let payloads: Vec<String> = (0..10).map(|n| format!("payload-{n}")).collect();
        let bytes: Vec<u8> = payloads.iter().flat_map(ping).collect();
        payloads.iter().fold(steps().chopped(bytes, length), Steps::pong)
    };
    vec![
        steps().send(ping("")).pong("").served("2.1"),
        steps().send(ping("Hello, world!")).pong("Hello, world!").served("2.2"),
        steps().send(ping(binary)).pong(binary).served("2.3"),
        steps().send(ping(longest)).pong(longest).served("2.4"),
        steps().send(ping([0xfe; 126])).closed("2.5", PROTOCOL_ERROR),
        steps().chopped(ping(longest), 1).pong(longest).served("2.6"),
        steps().send(pong("")).served("2.7"),
        steps().send(pong("unsolicited pong payload")).served("2.8"),
        steps()
            .send(pong("unsolicited pong payload"))
            .send(ping("ping payload"))
            .pong("ping payload")
            .served("2.9"),
        ten(usize::MAX).served("2.10"),
        ten(1).served("2.11"),
    ]
}

/// Group 3: a reserved bit ends the session. Messages before it are answered.
fn reserved_bits() -> Vec<Case> {
    let reserved = |bits: u8, first: u8, payload: &[u8]| frame(first | bits << 4, payload);
    let message = heartbeat("a");
    let then = |bits| [text(&message), reserved(bits, FIN | TEXT, &message), ping("")];
    vec![
        steps().send(reserved(1, FIN | TEXT, &message)).closed("3.1", PROTOCOL_ERROR),
        steps().send(then(2).concat()).reply("a").closed("3.2", PROTOCOL_ERROR),
        then(3).into_iter().fold(steps(), Steps::send).reply("a").closed("3.3", PROTOCOL_ERROR),
        steps().chopped(then(4).concat(), 1).reply("a").closed("3.4", PROTOCOL_ERROR),
        steps().send(reserved(5, FIN | BINARY, &[0xfe; 8])).closed("3.5", PROTOCOL_ERROR),
        steps().send(reserved(6, FIN | PING, b"")).closed("3.6", PROTOCOL_ERROR),
        steps().send(reserved(7, FIN | CLOSE, &[])).closed("3.7", PROTOCOL_ERROR),
    ]
}

/// Group 4: reserved opcodes, of frames with data and of control frames.
fn opcodes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (group, first) in [(1, 3_u8), (2, 11)] {
        for n in 1..=5_u8 {
            let payload = if n % 2 == 0 { "reserved opcode payload" } else { "" };
            let reserved = frame(FIN | (first + n - 1), payload);
            let number = format!("4.{group}.{n}");
            let bytes = [text(heartbeat("a")), reserved.clone(), ping("")].concat();
            let case = match n {
                1 | 2 => steps().send(reserved),
                3 | 4 => steps().send(bytes).reply("a"),
                _ => steps().chopped(bytes, 1).reply("a"),
            };
            cases.push(case.closed(&number, PROTOCOL_ERROR));
        }
    }
    cases
}

/// Cases 5.1 to 5.8, 5.18 to 5.20: fragments, and control frames between them.
fn fragmentation() -> Vec<Case> {
    let message = heartbeat("fragmented");
    let (first, second) = message.split_at(9);
    let of_two = fragments(TEXT, [first, second]);
    let with_ping = [of_two[0].clone(), ping("between"), of_two[1].clone()];
    let of_ping = fragments(PING, [&b"fragment1"[..], b"fragment2"]).concat();
    let of_pong = fragments(PONG, [&b"fragment1"[..], b"fragment2"]).concat();
    let both_text = [of_two[0].clone(), text(second)].concat();
    let of_five = fragments(TEXT, message.chunks(message.len().div_ceil(5)));
    let two_pings = |piece: usize| {
        steps()
            .chopped([of_five[0].clone(), of_five[1].clone(), ping("first")].concat(), piece)
            .pong("first")
            .chopped([of_five[2].clone(), of_five[3].clone(), ping("second")].concat(), piece)
            .pong("second")
            .chopped(&of_five[4], piece)
            .reply("fragmented")
    };
    vec![
        steps().send(of_ping).closed("5.1", PROTOCOL_ERROR),
        steps().send(of_pong).closed("5.2", PROTOCOL_ERROR),
        steps().send(of_two.concat()).reply("fragmented").served("5.3"),
        of_two.iter().fold(steps(), Steps::send).reply("fragmented").served("5.4"),
        steps().chopped(of_two.concat(), 1).reply("fragmented").served("5.5"),
        steps().send(with_ping.concat()).pong("between").reply("fragmented").served("5.6"),
        with_ping.iter().fold(steps(), Steps::send).pong("between").reply("fragmented").served("5.7"),
        steps().chopped(with_ping.concat(), 1).pong("between").reply("fragmented").served("5.8"),
        steps().send(both_text).closed("5.18", PROTOCOL_ERROR),
        two_pings(usize::MAX).served("5.19"),
        two_pings(1).served("5.20"),
    ]
}

/// Cases 5.9 to 5.17: a continuation without a beginning.
fn stray_continuations() -> Vec<Case> {
    let mut cases = Vec::new();
    for (first_number, first) in [(9, FIN), (12, 0)] {
        let frames = [frame(first, "non-continuation payload"), text(heartbeat("a"))];
        let number = |n| format!("5.{}", first_number + n);
        cases.push(steps().send(frames.concat()).closed(&number(0), PROTOCOL_ERROR));
        cases.push(frames.iter().fold(steps(), Steps::send).closed(&number(1), PROTOCOL_ERROR));
        cases.push(steps().chopped(frames.concat(), 1).closed(&number(2), PROTOCOL_ERROR));
    }
    let message = heartbeat("a");
    let of_two = fragments(TEXT, [&message[..9], &message[9..]]).concat();
    let stray = |first| frame(first, "non-continuation payload");
    let behind = [of_two.clone(), stray(0), text(heartbeat("b"))].concat();
    cases.push(steps().send(behind).reply("a").closed("5.15", PROTOCOL_ERROR));
    for (number, first) in [("5.16", 0), ("5.17", FIN)] {
        let twice = [stray(first), of_two.clone(), stray(first), of_two.clone()].concat();
        cases.push(steps().send(twice).closed(number, PROTOCOL_ERROR));
    }
    cases
}

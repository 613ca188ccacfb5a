//! Groups 9 and 10: large messages in fragments and pieces, and many messages.
//!
//! The suite sends up to 16 MiB. Here the largest message that the gateway accepts is served in each way, and
//! every larger one ends the session with 1009.

use super::{BINARY, Case, FIN, MESSAGE_BYTES_MAX, Steps, TEXT};
use super::{fragments, frame, heartbeat, heartbeat_of, text};

/// Messages of one case of groups 9.7 and 9.8.
const MESSAGES: usize = 1000;

const TOO_BIG: u16 = 1009;
const UNSUPPORTED: u16 = 1003;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = whole();
    cases.extend(fragmented());
    cases.extend(chopped());
    cases.extend(many());
    let message = heartbeat_of(MESSAGE_BYTES_MAX);
    let parts = fragments(TEXT, message.chunks(1300)).concat();
    cases.push(Steps::default().send(parts).reply("x").served("10.1.1"));
    cases
}

/// Groups 9.1 and 9.2: one frame. Only the first length is within the limit.
fn whole() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, kib) in [64, 256, 1024, 4096, 8192, 16_384].into_iter().enumerate() {
        let length = kib * 1024;
        let as_text = Steps::default().send(text(heartbeat_of(length)));
        let binary = Steps::default().send(frame(FIN | BINARY, vec![0; length]));
        let (of_text, of_binary) = (format!("9.1.{}", n + 1), format!("9.2.{}", n + 1));
        if length > MESSAGE_BYTES_MAX {
            cases.extend([as_text.closed(&of_text, TOO_BIG), binary.closed(&of_binary, TOO_BIG)]);
        } else {
            cases.extend([as_text.reply("x").served(&of_text), binary.closed(&of_binary, UNSUPPORTED)]);
        }
    }
    cases
}

/// Groups 9.3 and 9.4: fragments of each length. The longer ones exceed the limit alone.
fn fragmented() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, length) in (0..9_usize).map(|n| (n, 64 << (2 * n))) {
        let (of_text, of_binary) = (format!("9.3.{}", n + 1), format!("9.4.{}", n + 1));
        let total = length.max(MESSAGE_BYTES_MAX);
        let message = heartbeat_of(total);
        let as_text = Steps::default().send(fragments(TEXT, message.chunks(length)).concat());
        let binary = Steps::default().send(fragments(BINARY, message.chunks(length)).concat());
        if total > MESSAGE_BYTES_MAX {
            cases.extend([as_text.closed(&of_text, TOO_BIG), binary.closed(&of_binary, TOO_BIG)]);
        } else {
            cases.extend([as_text.reply("x").served(&of_text), binary.closed(&of_binary, UNSUPPORTED)]);
        }
    }
    cases
}

/// Groups 9.5 and 9.6: one frame, in pieces of each length.
fn chopped() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, piece) in (0..6_usize).map(|n| (n, 64 << n)) {
        let as_text = Steps::default().chopped(text(heartbeat_of(MESSAGE_BYTES_MAX)), piece);
        let binary = Steps::default().chopped(frame(FIN | BINARY, vec![0; MESSAGE_BYTES_MAX]), piece);
        cases.push(as_text.reply("x").served(&format!("9.5.{}", n + 1)));
        cases.push(binary.closed(&format!("9.6.{}", n + 1), UNSUPPORTED));
    }
    cases
}

/// Groups 9.7 and 9.8: a thousand messages of each length, each with its reply. A heartbeat has at least some
/// 30 bytes, so the shortest messages are longer than those of the suite.
fn many() -> Vec<Case> {
    let mut cases = Vec::new();
    for (n, length) in [0, 16, 64, 256, 1024, 4096].into_iter().enumerate() {
        let message = if n == 0 { text(heartbeat("")) } else { text(heartbeat_of(length)) };
        let reference = if n == 0 { "" } else { "x" };
        let steps = (0..MESSAGES).fold(Steps::default(), |steps, _| steps.send(&message).reply(reference));
        cases.push(steps.served(&format!("9.7.{}", n + 1)));
        let binary = Steps::default().send(frame(FIN | BINARY, vec![0; length]));
        cases.push(binary.closed(&format!("9.8.{}", n + 1), UNSUPPORTED));
    }
    cases
}

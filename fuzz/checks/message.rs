//! Messages from an open socket: a message is accepted or rejected without a panic, and a reply echoes its
//! strings unchanged.
//!
//! The check follows the steps of a join through public functions. It does not test the session's loop, which
//! needs a socket and a hub.

use serde_json::{Value, json};
use warden::wire::{Status, Topic, decode, reply};

pub(crate) fn run(text: &str) {
    let Ok(message) = decode(text) else { return };
    for reference in [&message.join_ref, &message.reference].into_iter().flatten() {
        assert!(reference.len() <= 64, "a reference above its limit was accepted");
    }
    assert!(message.topic.len() <= 128 && message.event.len() <= 128, "a name above its limit was accepted");

    // A reply echoes three strings of the client, which must stay inside their quotes.
    let frame = reply(
        message.join_ref.as_deref(),
        message.reference.as_deref(),
        &message.topic,
        Status::Error,
        json!({"reason": message.event}),
    );
    let echoed: Value = serde_json::from_slice(payload(&frame)).expect("a reply is JSON");
    let expected = json!([
        message.join_ref,
        message.reference,
        message.topic,
        "phx_reply",
        {"status": "error", "response": {"reason": message.event}}
    ]);
    assert_eq!(echoed, expected);

    if let Some(topic) = Topic::parse(&message.topic) {
        assert_eq!(topic.to_string(), message.topic);
    }
}

/// The payload of an unfragmented, unmasked text frame. Panics if it does not have the length in the header.
fn payload(frame: &[u8]) -> &[u8] {
    assert_eq!(frame[0], 0x81, "an unfragmented text frame");
    let (declared, payload) = match frame[1] {
        126 => (usize::from(u16::from_be_bytes([frame[2], frame[3]])), &frame[4..]),
        length => (usize::from(length), &frame[2..]),
    };
    assert_eq!(declared, payload.len(), "the header's length");
    payload
}

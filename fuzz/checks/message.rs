//! What a socket sends once it is open: a message is refused or read, never a panic, and what the
//! gateway echoes of it comes back as it went.
//!
//! The loop of a session needs a socket and a hub; this follows the steps that a join takes through
//! public functions, and must not be taken for a test of the session.

use serde_json::{Value, json};
use warden::log::cursor::Cursor;
use warden::wire::{Status, Topic, decode, reply};

pub(crate) fn run(text: &str) {
    let Ok(message) = decode(text) else { return };
    for reference in [&message.join_ref, &message.reference].into_iter().flatten() {
        assert!(reference.len() <= 64, "a reference beyond its limit was taken");
    }
    assert!(message.topic.len() <= 128 && message.event.len() <= 128, "a name beyond its limit was taken");

    // A reply echoes three texts of the client's: they must stay inside their quotes.
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
    // The payload of a join, or of a token's refresh.
    if let Ok(payload) = serde_json::from_str::<Value>(message.payload.get())
        && let Some(since) = payload.get("since").and_then(Value::as_str)
        && let Ok(cursor) = since.parse::<Cursor>()
    {
        assert_eq!(cursor.to_string(), since);
    }
}

/// The payload of a whole, unmasked text frame; panics when the length in the header is not that of
/// what follows.
fn payload(frame: &[u8]) -> &[u8] {
    assert_eq!(frame[0], 0x81, "one whole text frame");
    let (declared, payload) = match frame[1] {
        126 => (usize::from(u16::from_be_bytes([frame[2], frame[3]])), &frame[4..]),
        length => (usize::from(length), &frame[2..]),
    };
    assert_eq!(declared, payload.len(), "the header's length");
    payload
}

//! Phoenix Channels V2 messages: JSON arrays `[join_ref, ref, topic, event, payload]`.

use std::fmt::Write as _;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::frame::text_frame;

/// Longest `join_ref` or `ref`; clients count up from 1.
pub(crate) const REF_BYTES_MAX: usize = 64;
/// Longest topic or event name, which is echoed in errors. It has room for the longest entity topic.
pub(crate) const NAME_BYTES_MAX: usize = 128;

/// A message from a client.
#[derive(Debug)]
pub struct ClientMessage {
    /// The `ref` of the join to which this message belongs.
    pub join_ref: Option<String>,
    /// Echoed in the reply.
    pub reference: Option<String>,
    /// The topic, not yet parsed. `phoenix` is the protocol's own topic.
    pub topic: String,
    /// The event: `phx_join`, `phx_leave`, `heartbeat`, `access_token`, or an unknown one.
    pub event: String,
    /// JSON, not yet parsed.
    pub payload: Box<RawValue>,
}

/// The reason why a string is not a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The string is not JSON, or not an array of five elements with the right types.
    #[error("not [join_ref, ref, topic, event, payload]: {0}")]
    Shape(#[from] serde_json::Error),
    /// A reference or a name exceeds its limit.
    #[error("{what} has more than {limit} bytes")]
    TooLong {
        /// The name of the element.
        what: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
}

/// Decodes a client's message.
///
/// # Errors
/// If the string is not an array of five elements: strings or null for both references, strings for topic and
/// event, and JSON for the payload. Also if an element is too long.
pub fn decode(text: &str) -> Result<ClientMessage, DecodeError> {
    type Raw = (Option<String>, Option<String>, String, String, Box<RawValue>);
    let (join_ref, reference, topic, event, payload): Raw = serde_json::from_str(text)?;
    for (what, value, limit) in [
        ("join_ref", join_ref.as_deref(), REF_BYTES_MAX),
        ("ref", reference.as_deref(), REF_BYTES_MAX),
        ("topic", Some(topic.as_str()), NAME_BYTES_MAX),
        ("event", Some(event.as_str()), NAME_BYTES_MAX),
    ] {
        if value.is_some_and(|v| v.len() > limit) {
            return Err(DecodeError::TooLong { what, limit });
        }
    }
    Ok(ClientMessage { join_ref, reference, topic, event, payload })
}

/// The status of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The request succeeded.
    Ok,
    /// The request was rejected; the response has a `reason`.
    Error,
}

#[derive(Serialize)]
struct Reply<R> {
    status: Status,
    response: R,
}

/// Encodes a `phx_reply` in a frame.
#[must_use]
pub fn reply<R: Serialize>(
    join_ref: Option<&str>,
    reference: Option<&str>,
    topic: &str,
    status: Status,
    response: R,
) -> Bytes {
    message(&(join_ref, reference, topic, "phx_reply", Reply { status, response }))
}

/// Encodes a push to one socket in a frame. It belongs to one join (as `phx_close` does), or to none if
/// `join_ref` is null.
#[must_use]
pub fn push<P: Serialize>(
    join_ref: Option<&str>,
    reference: Option<&str>,
    topic: &str,
    event: &str,
    payload: P,
) -> Bytes {
    message(&(join_ref, reference, topic, event, payload))
}

fn message<M: Serialize>(message: &M) -> Bytes {
    let json = serde_json::to_vec(message).expect("strings and JSON values serialise");
    text_frame(&json)
}

/// Appends a JSON string literal.
pub(super) fn write_json_str(into: &mut String, text: &str) {
    // Names are almost always plain ASCII, which needs no escapes and no serialiser.
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'"' && b != b'\\') {
        let _ = write!(into, "\"{text}\"");
    } else {
        into.push_str(&serde_json::to_string(text).expect("a string serialises"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_phoenix_clients_are_decoded() {
        let m = decode(r#"["1","2","calls","phx_join",{"since":"x"}]"#).expect("valid");
        assert_eq!(m.join_ref.as_deref(), Some("1"));
        assert_eq!(m.reference.as_deref(), Some("2"));
        assert_eq!((m.topic.as_str(), m.event.as_str()), ("calls", "phx_join"));
        assert_eq!(m.payload.get(), r#"{"since":"x"}"#);
        let m = decode(r#"[null,"4","phoenix","heartbeat",{}]"#).expect("valid");
        assert_eq!(m.join_ref, None);
    }

    #[test]
    fn anything_but_an_array_of_five_is_rejected() {
        let long = format!(r#"["1","2","{}","phx_join",{{}}]"#, "x".repeat(129));
        for bad in [
            "",
            "hello",
            "{}",
            "[]",
            r#"["1","2","calls","phx_join"]"#,
            r#"["1","2","calls","phx_join",{},1]"#,
            r#"[1,2,"calls","phx_join",{}]"#,
            r#"["1","2",null,"phx_join",{}]"#,
            r#"["1","2","calls","phx_join",{}"#,
            r#"{"topic":"calls","event":"phx_join","payload":{},"ref":"1","join_ref":"1"}"#,
            &long,
        ] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        // The payload is skipped without recursion, and serde_json rejects more than 128 levels when it is
        // parsed.
        let deep = format!(r#"["1","2","calls","x",{}{}]"#, "[".repeat(10_000), "]".repeat(10_000));
        let message = decode(&deep).expect("a message");
        assert!(serde_json::from_str::<serde_json::Value>(message.payload.get()).is_err());
    }

    #[test]
    fn replies_have_the_form_of_phoenix() {
        let frame = reply(Some("1"), Some("2"), "calls", Status::Ok, serde_json::json!({}));
        assert_eq!(&frame[2..], br#"["1","2","calls","phx_reply",{"status":"ok","response":{}}]"#);
    }
}

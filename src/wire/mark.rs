//! A mark: the message that a topic is complete up to a position in the log.

use bytes::Bytes;
use serde::Serialize;

use super::Topic;
use super::codec::push;

/// The event that carries a mark. Only clients receive it that asked for marks in their join.
pub const MARK_EVENT: &str = "warden.mark";

#[derive(Serialize)]
struct Payload<'a> {
    cursor: &'a str,
    topics: &'a [&'a str],
}

/// Encodes a mark in a frame. `cursor` is the position, and `topics` are the other topics that had events
/// since the last mark.
#[must_use]
pub fn mark_frame(topic: &Topic, cursor: &str, topics: &[&str]) -> Bytes {
    push(None, None, topic.as_str(), MARK_EVENT, Payload { cursor, topics })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_a_cursor_and_the_other_topics() {
        let calls = Topic::parse("calls").expect("a topic");
        let frame = mark_frame(&calls, "c1", &["call_logs"]);
        let expected = br#"[null,null,"calls","warden.mark",{"cursor":"c1","topics":["call_logs"]}]"#;
        assert_eq!(&frame[2..], expected);
    }
}

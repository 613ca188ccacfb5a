//! A page of a snapshot: rows that a client receives before the events of their topic.

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use super::codec::write_json_str;
use super::frame::begin_text_frame;

/// The event that carries a page of rows.
pub const SNAPSHOT_EVENT: &str = "warden.snapshot";

/// Everything of a page behind its rows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct PageEnd<'a> {
    /// Positions in the page of rows of which only the key is sent.
    #[serde(skip_serializing_if = "<[usize]>::is_empty")]
    pub truncated: &'a [usize],
    /// Whether this is the last page.
    pub last: bool,
    /// Position in the log from which the stream follows. Only the last page has it, because a client that
    /// resumed from it earlier would miss rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<&'a str>,
}

/// Encodes a page in a frame of one join. `rows` is JSON with commas between the rows.
///
/// # Panics
/// Never: strings and numbers can be serialised.
#[must_use]
pub fn snapshot_frame(join_ref: Option<&str>, topic: &str, rows: &str, end: PageEnd<'_>) -> Bytes {
    let mut head = String::with_capacity(96);
    head.push('[');
    match join_ref {
        Some(join_ref) => write_json_str(&mut head, join_ref),
        None => head.push_str("null"),
    }
    head.push_str(",null,");
    write_json_str(&mut head, topic);
    head.push(',');
    write_json_str(&mut head, SNAPSHOT_EVENT);
    head.push_str(",{\"rows\":[");
    let end = serde_json::to_string(&end).expect("strings and numbers serialise");
    // The object begins with the rows.
    let tail = format!("],{}]", &end[1..]);
    let mut frame = BytesMut::new();
    begin_text_frame(&mut frame, head.len() + rows.len() + tail.len());
    for part in [head.as_str(), rows, &tail] {
        frame.put_slice(part.as_bytes());
    }
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_a_push_of_its_join() {
        let first = PageEnd { truncated: &[1], last: false, cursor: None };
        let frame = snapshot_frame(Some("3\""), "calls", r#"{"id": 1},{"id": 2}"#, first);
        let text = std::str::from_utf8(&frame[2..]).expect("UTF-8");
        assert_eq!(
            text,
            r#"["3\"",null,"calls","warden.snapshot",{"rows":[{"id": 1},{"id": 2}],"truncated":[1],"last":false}]"#
        );
        let last = PageEnd { truncated: &[], last: true, cursor: Some("c") };
        let frame = snapshot_frame(None, "calls", "", last);
        assert!(
            frame.ends_with(br#"[null,null,"calls","warden.snapshot",{"rows":[],"last":true,"cursor":"c"}]"#)
        );
    }
}

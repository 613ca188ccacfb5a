//! An event of the log as it is sent to sockets: its payload is encoded once, and framed once per topic.

use std::fmt::Write as _;
use std::num::NonZeroI64;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Topic;
use super::codec::write_json_str;
use super::frame::begin_text_frame;

/// The control event upon which clients read the current state of a topic again.
pub const RESYNC_EVENT: &str = "warden.resync";
/// The control event that sends a fresh cursor, even on a topic without events.
pub const CURSOR_EVENT: &str = "warden.cursor";
/// The control event upon which gateways load the topics again.
pub const TOPICS_EVENT: &str = "warden.topics";
/// The control event upon which gateways load new and changed revocations.
pub const REVOKED_EVENT: &str = "warden.revoked";
/// The control event upon which gateways load all revocations again, because some may have been removed.
pub const UNREVOKED_EVENT: &str = "warden.unrevoked";

/// Memory of an event besides its strings: three allocations (the event, its name, its data), two of them
/// with reference counts.
const OVERHEAD_BYTES: usize = 3 * 16 + 2 * 16;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The row's id in `warden.events`.
    pub id: i64,
    /// The transaction that wrote the event; 0 for a control event of this node.
    pub xid: u64,
    /// The time of the change, which precedes its commit.
    pub at: OffsetDateTime,
    /// The topic with which the event was logged.
    pub topic: Topic,
    /// The topic of the one entity that the event is about. The event reaches it beside its own topic.
    pub entity_topic: Option<Topic>,
    /// The name, such as `call.created`.
    pub name: Arc<str>,
    /// JSON: the row, or the published data.
    pub data: Box<str>,
    /// JSON: the former values of the columns that an update changed.
    pub old: Option<Box<str>>,
    /// Whether the row was too large for an event; `data` and `old` then lack columns.
    pub truncated: bool,
    /// Whether only clients receive the event whose token names its topic.
    pub needs_claim: bool,
    /// The trace context of the publisher (W3C Trace Context).
    pub traceparent: Option<Box<str>>,
    /// The watch that logged the row; none for a published event and a control event.
    pub watch: Option<NonZeroI64>,
}

/// The parts of an event's payload that depend on the filter of a channel.
#[derive(Clone, Copy, Debug)]
pub struct EventContent<'a> {
    /// JSON: the row, or the published data.
    pub data: &'a str,
    /// JSON: the former values of the columns that an update changed.
    pub old: Option<&'a str>,
    /// `entered` or `left`, if the update changed whether the filter selects the row.
    pub filter: Option<&'static str>,
    /// Whether the row was too large for an event.
    pub truncated: bool,
}

impl Event {
    /// [`Event::watch`] of an event that was logged before the log said which watch logged it. It may be a
    /// row or published.
    pub const UNKNOWN_WATCH: NonZeroI64 = NonZeroI64::new(-1).expect("is not zero");

    /// Creates a control event of this node, on the topic `org`. `id` is that of the cursor that it sends.
    #[must_use]
    pub fn control(name: &str, data: &str, id: i64) -> Self {
        Self {
            id,
            xid: 0,
            at: OffsetDateTime::now_utc(),
            topic: Topic::Org,
            entity_topic: None,
            name: name.into(),
            data: data.into(),
            old: None,
            truncated: false,
            needs_claim: false,
            traceparent: None,
            watch: None,
        }
    }

    /// The topics that the event reaches, each once. A control event reaches more; the hub knows which are
    /// joined.
    pub fn topics(&self) -> impl Iterator<Item = Topic> {
        let entity = self.entity_topic.clone().filter(|entity| *entity != self.topic);
        let org = (!self.topic.is_org()).then_some(Topic::Org);
        std::iter::once(self.topic.clone()).chain(entity).chain(org)
    }

    /// Whether clients on a topic receive the event.
    #[must_use]
    pub fn reaches(&self, topic: &Topic) -> bool {
        if self.is_for_gateways() {
            return false;
        }
        if self.is_resync() {
            // Any entity topic may carry events of the topic that resyncs.
            return self.topic.is_org() || topic.is_org() || self.topic == *topic || topic.is_entity();
        }
        topic.is_org() || self.topic == *topic || self.entity_topic.as_ref() == Some(topic)
    }

    /// Whether the event is for gateways alone, and never sent to clients.
    #[must_use]
    pub fn is_for_gateways(&self) -> bool {
        matches!(&*self.name, TOPICS_EVENT | REVOKED_EVENT | UNREVOKED_EVENT)
    }

    /// Approximate memory of the event, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let strings = [
            &*self.name,
            self.entity_topic.as_ref().map_or("", Topic::as_str),
            &*self.data,
            self.old.as_deref().unwrap_or_default(),
            self.traceparent.as_deref().unwrap_or_default(),
        ];
        size_of::<Self>() + OVERHEAD_BYTES + strings.iter().map(|string| string.len()).sum::<usize>()
    }

    /// Whether this is a `warden.resync`.
    #[must_use]
    pub fn is_resync(&self) -> bool {
        &*self.name == RESYNC_EVENT
    }

    /// Whether this is a control event for clients, which reaches all topics that it concerns.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.is_resync() || &*self.name == CURSOR_EVENT
    }

    /// The payload with the cursor that resumes after this event, and its sealed transaction: the same bytes
    /// for every topic.
    #[must_use]
    pub fn payload(&self, cursor: &str, tx: &str) -> String {
        self.payload_of(self.content(), cursor, tx)
    }

    /// The content of the event as it was logged.
    #[must_use]
    pub fn content(&self) -> EventContent<'_> {
        EventContent { data: &self.data, old: self.old.as_deref(), filter: None, truncated: self.truncated }
    }

    /// The payload for a channel with a filter, which may have another content.
    #[must_use]
    pub fn payload_of(&self, content: EventContent<'_>, cursor: &str, tx: &str) -> String {
        let EventContent { data, old, filter, truncated } = content;
        let mut json = String::with_capacity(data.len() + cursor.len() + tx.len() + 160);
        if self.is_control() {
            self.write_control_payload(&mut json, cursor);
            return json;
        }
        let at = self.at.format(&Rfc3339).unwrap_or_default();
        let _ = write!(json, r#"{{"id":{},"at":"{at}","cursor":"#, self.id);
        write_json_str(&mut json, cursor);
        json.push_str(r#","tx":"#);
        write_json_str(&mut json, tx);
        let _ = write!(json, r#","data":{data}"#);
        if let Some(old) = old {
            let _ = write!(json, r#","old":{old}"#);
        }
        if let Some(filter) = filter {
            let _ = write!(json, r#","filter":"{filter}""#);
        }
        if truncated {
            json.push_str(r#","truncated":true"#);
        }
        if let Some(traceparent) = &self.traceparent {
            json.push_str(r#","traceparent":"#);
            write_json_str(&mut json, traceparent);
        }
        json.push('}');
        json
    }

    /// Writes a cursor, and the reason of a resync. The other fields of an event have no meaning there.
    fn write_control_payload(&self, json: &mut String, cursor: &str) {
        json.push_str(r#"{"cursor":"#);
        write_json_str(json, cursor);
        if self.is_resync() {
            let reason = serde_json::from_str::<serde_json::Value>(&self.data)
                .ok()
                .and_then(|data| Some(data.get("reason")?.as_str()?.to_owned()))
                .unwrap_or_default();
            json.push_str(r#","reason":"#);
            write_json_str(json, &reason);
        }
        json.push('}');
    }
}

/// Appends the frame of an event for subscribers of `topic`.
pub fn append_event_frame(into: &mut BytesMut, topic: &Topic, event: &Event, payload: &str) {
    let mut head = String::with_capacity(96);
    head.push_str("[null,null,");
    write_json_str(&mut head, topic.as_str());
    head.push(',');
    write_json_str(&mut head, &event.name);
    head.push(',');
    begin_text_frame(into, head.len() + payload.len() + 1);
    into.put_slice(head.as_bytes());
    into.put_slice(payload.as_bytes());
    into.put_u8(b']');
}

#[cfg(test)]
mod tests {
    use super::super::ORG_TOPIC;
    use super::*;

    /// Length of the header of a frame with less than 126 bytes of payload.
    const SHORT_HEADER: usize = 2;

    fn event(topic: &str, entity: Option<&str>, name: &str) -> Event {
        Event {
            id: 7,
            xid: 9,
            at: time::macros::datetime!(2026-01-02 03:04:05.678 UTC),
            topic: Topic::parse(topic).expect("a topic"),
            entity_topic: entity.and_then(Topic::parse),
            name: name.into(),
            data: r#"{"a":1}"#.into(),
            old: Some(r#"{"a":0}"#.into()),
            truncated: false,
            needs_claim: false,
            traceparent: None,
            watch: None,
        }
    }

    #[test]
    fn an_event_reaches_each_topic_once() {
        let names = |e: Event| e.topics().map(|t| t.to_string()).collect::<Vec<_>>();
        assert_eq!(names(event("calls", Some("call:1"), "x")), ["calls", "call:1", ORG_TOPIC]);
        assert_eq!(names(event("org", None, "x")), [ORG_TOPIC]);
        assert_eq!(names(event("call:1", Some("call:1"), "x")), ["call:1", ORG_TOPIC]);
    }

    #[test]
    fn an_event_is_framed_as_a_phoenix_broadcast() {
        let event = event("calls", None, "odd\"name");
        let mut frame = BytesMut::new();
        append_event_frame(&mut frame, &event.topic, &event, &event.payload("c1", "t1"));
        let value: serde_json::Value = serde_json::from_slice(&frame[SHORT_HEADER..]).expect("valid JSON");
        let payload = serde_json::json!({
            "id": 7, "at": "2026-01-02T03:04:05.678Z", "cursor": "c1", "tx": "t1", "data": {"a": 1}, "old": {"a": 0}});
        assert_eq!(value, serde_json::json!([null, null, "calls", "odd\"name", payload]));
    }

    #[test]
    fn a_resync_contains_only_a_cursor_and_a_reason() {
        let resync = Event::control(RESYNC_EVENT, r#"{"reason":"epoch","x":1}"#, 7);
        assert_eq!(resync.payload("c1", ""), r#"{"cursor":"c1","reason":"epoch"}"#);
        assert_eq!(Event::control(CURSOR_EVENT, "{}", 7).payload("c1", ""), r#"{"cursor":"c1"}"#);
    }
}

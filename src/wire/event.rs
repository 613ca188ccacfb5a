//! An event of the log as it goes to sockets: encoded once for each topic that it reaches.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Topic;
use super::codec::write_json_str;
use super::frame::begin_text_frame;

/// The control event that tells followers of a topic to read its table anew.
pub const RESYNC_EVENT: &str = "warden.resync";
/// The control event that hands out a cursor, also where nothing happens.
pub const CURSOR_EVENT: &str = "warden.cursor";
/// The control event that tells gateways to load the names of topics again.
pub const TOPICS_EVENT: &str = "warden.topics";
/// The control event that tells gateways to load revocations again.
pub const REVOKED_EVENT: &str = "warden.revoked";

/// What an event takes in memory besides its texts: four blocks of the allocator's (itself, name, data, cursor), of
/// which three are counted by reference.
const OVERHEAD_BYTES: usize = 4 * 16 + 3 * 16;

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The row's id in `warden.events`.
    pub id: i64,
    /// When the change was made (not when it was committed).
    pub at: OffsetDateTime,
    /// The topic that it was logged with.
    pub topic: Topic,
    /// The topic of the one entity that the event is about. The event reaches it beside its own topic.
    pub entity_topic: Option<Topic>,
    /// `call.created` and the like.
    pub name: Arc<str>,
    /// JSON: the row, or what was published.
    pub data: Box<str>,
    /// JSON: former values of the columns that an update changed.
    pub old: Option<Box<str>>,
    /// The row was too large to be logged: `data` holds only its entity column.
    pub truncated: bool,
    /// The cursor that resumes after this event. Opaque here.
    pub cursor: Arc<str>,
}

impl Event {
    /// A control event of a node's own, on all topics of whoever gets it.
    #[must_use]
    pub fn control(name: &str, data: &str, cursor: Arc<str>) -> Self {
        Self {
            id: 0,
            at: OffsetDateTime::now_utc(),
            topic: Topic::Org,
            entity_topic: None,
            name: name.into(),
            data: data.into(),
            old: None,
            truncated: false,
            cursor,
        }
    }

    /// The topics that the event reaches, each once.
    pub fn topics(&self) -> impl Iterator<Item = Topic> {
        let entity = self.entity_topic.clone().filter(|entity| *entity != self.topic);
        let org = (!self.topic.is_org()).then_some(Topic::Org);
        std::iter::once(self.topic.clone()).chain(entity).chain(org)
    }

    /// Whether the event reaches a topic.
    #[must_use]
    pub fn reaches(&self, topic: &Topic) -> bool {
        if self.is_for_gateways() {
            return false;
        }
        if self.is_resync() {
            return self.topic.is_org() || topic.is_org() || self.topic == *topic || topic.is_entity();
        }
        topic.is_org() || self.topic == *topic || self.entity_topic.as_ref() == Some(topic)
    }

    /// Whether it speaks to gateways alone: no client ever gets it.
    #[must_use]
    pub fn is_for_gateways(&self) -> bool {
        matches!(&*self.name, TOPICS_EVENT | REVOKED_EVENT)
    }

    /// Bytes that it takes in memory, about.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let old = self.old.as_ref().map_or(0, |old| old.len());
        let entity = self.entity_topic.as_ref().map_or(0, |topic| topic.as_str().len());
        size_of::<Self>()
            + OVERHEAD_BYTES
            + self.name.len()
            + entity
            + self.data.len()
            + old
            + self.cursor.len()
    }

    /// Whether this is a `warden.resync`, which also reaches every entity topic.
    #[must_use]
    pub fn is_resync(&self) -> bool {
        &*self.name == RESYNC_EVENT
    }

    /// Whether it goes to the topics that it concerns rather than to those that it names.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.is_resync() || &*self.name == CURSOR_EVENT
    }

    /// The payload: the same bytes for every topic.
    #[must_use]
    pub fn payload(&self) -> String {
        self.payload_at(&self.cursor)
    }

    /// The payload with another cursor, for somebody who comes from another place in the log.
    #[must_use]
    pub fn payload_at(&self, cursor: &str) -> String {
        let mut json = String::with_capacity(self.data.len() + cursor.len() + 160);
        if self.is_resync() {
            // `data` of a resync is {"reason": ...}; the rest of an event means nothing there.
            let reason = serde_json::from_str::<serde_json::Value>(&self.data)
                .ok()
                .and_then(|data| Some(data.get("reason")?.as_str()?.to_owned()))
                .unwrap_or_default();
            json.push_str(r#"{"cursor":"#);
            write_json_str(&mut json, cursor);
            json.push_str(r#","reason":"#);
            write_json_str(&mut json, &reason);
            json.push('}');
            return json;
        }
        if &*self.name == CURSOR_EVENT {
            json.push_str(r#"{"cursor":"#);
            write_json_str(&mut json, cursor);
            json.push('}');
            return json;
        }
        let at = self.at.format(&Rfc3339).unwrap_or_default();
        let _ = write!(json, r#"{{"id":{},"at":"{at}","cursor":"#, self.id);
        write_json_str(&mut json, cursor);
        let _ = write!(json, r#","data":{}"#, self.data);
        if let Some(old) = &self.old {
            let _ = write!(json, r#","old":{old}"#);
        }
        if self.truncated {
            json.push_str(r#","truncated":true"#);
        }
        json.push('}');
        json
    }
}

/// Appends a framed event for subscribers of `topic`.
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

    /// Of a frame with less than 126 bytes of payload.
    const SHORT_HEADER: usize = 2;

    fn event(topic: &str, entity: Option<&str>, name: &str) -> Event {
        Event {
            id: 7,
            at: time::macros::datetime!(2026-01-02 03:04:05.678 UTC),
            topic: Topic::parse(topic).expect("a topic"),
            entity_topic: entity.and_then(Topic::parse),
            name: name.into(),
            data: r#"{"a":1}"#.into(),
            old: Some(r#"{"a":0}"#.into()),
            truncated: false,
            cursor: "c1".into(),
        }
    }

    #[test]
    fn reaches_each_topic_once() {
        let names = |e: Event| e.topics().map(|t| t.to_string()).collect::<Vec<_>>();
        assert_eq!(names(event("calls", Some("call:1"), "x")), ["calls", "call:1", ORG_TOPIC]);
        assert_eq!(names(event("org", None, "x")), [ORG_TOPIC]);
        assert_eq!(names(event("call:1", Some("call:1"), "x")), ["call:1", ORG_TOPIC]);
    }

    #[test]
    fn is_a_phoenix_broadcast() {
        let event = event("calls", None, "odd\"name");
        let mut frame = BytesMut::new();
        append_event_frame(&mut frame, &event.topic, &event, &event.payload());
        let value: serde_json::Value = serde_json::from_slice(&frame[SHORT_HEADER..]).expect("valid JSON");
        assert_eq!(
            value,
            serde_json::json!([null, null, "calls", "odd\"name", {
                "id": 7, "at": "2026-01-02T03:04:05.678Z", "cursor": "c1", "data": {"a": 1}, "old": {"a": 0}}])
        );
    }
}

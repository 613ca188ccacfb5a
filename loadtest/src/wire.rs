//! The protocol as a stranger would read it from its documentation: Phoenix Channels V2 frames, the
//! events inside them, and the token of a handshake. It shares no code with the gateway, so that a
//! mistake there is not made here too, and it does no I/O.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::check::Kind;

/// What `warden.publish` is given as the event's name.
pub(crate) const PUBLISHED: &str = "loadtest.changed";

/// A frame from the gateway: `[join_ref, ref, topic, event, payload]`.
#[derive(Deserialize)]
pub(crate) struct Frame<'a> {
    /// Null in events, which belong to nobody's request.
    #[serde(rename = "join_ref", borrow)]
    _join_ref: Option<Cow<'a, str>>,
    #[serde(rename = "ref", borrow)]
    pub(crate) reference: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(crate) topic: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) event: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) payload: &'a RawValue,
}

impl<'a> Frame<'a> {
    pub(crate) fn parse(text: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }
}

/// The payload of `phx_reply`.
#[derive(Deserialize)]
pub(crate) struct Reply<'a> {
    #[serde(borrow)]
    pub(crate) status: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) response: &'a RawValue,
}

/// What a successful join is answered with, and what `warden.cursor` and `warden.resync` carry.
#[derive(Deserialize)]
pub(crate) struct Position {
    pub(crate) cursor: String,
    /// The cursor of the join could not be served.
    #[serde(default)]
    pub(crate) resync: bool,
}

/// The payload of an event. What is not needed is still named where clients rely on it.
#[derive(Deserialize)]
struct Payload<'a> {
    #[serde(rename = "id")]
    _id: i64,
    #[serde(borrow)]
    cursor: Cow<'a, str>,
    #[serde(rename = "at", borrow)]
    _at: Cow<'a, str>,
    data: Row,
}

/// The columns of a watched row that tell where it belongs, or what was published.
#[derive(Deserialize)]
struct Row {
    id: Uuid,
    /// Absent in rows of table organizations, whose id is the organisation.
    org_id: Option<Uuid>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

/// What the publishers write into `metadata`.
#[derive(Deserialize)]
struct Metadata {
    lt_run: Option<String>,
    lt_change: Option<usize>,
    lt_seq: Option<u32>,
}

/// An event as it counts here.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: String,
    pub(crate) name: String,
    pub(crate) org: Uuid,
    pub(crate) entity: Uuid,
    /// None where it is no change of this run, and why.
    pub(crate) change: Result<Named, &'static str>,
    pub(crate) cursor: String,
}

/// Which change an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) kind: Kind,
    pub(crate) n: usize,
    pub(crate) seq: u32,
}

impl Event {
    /// Reads an event. None where its organisation or its form can't be made out.
    pub(crate) fn read(frame: &Frame<'_>, run: &str) -> Option<Self> {
        let payload: Payload<'_> = serde_json::from_str(frame.payload.get()).ok()?;
        let row = payload.data;
        let is_org = frame.event.starts_with("org.");
        let org = row.org_id.or_else(|| is_org.then_some(row.id))?;
        let kind = match &*frame.event {
            "call.created" => Ok(Kind::Created),
            "call.updated" => Ok(Kind::Updated),
            PUBLISHED => Ok(Kind::Published),
            "call.deleted" => Err("nothing was deleted"),
            // A gateway may still be about to tell that the organisation was created.
            _ => Err(""),
        };
        let marks = row.metadata.filter(|marks| marks.lt_run.as_deref() == Some(run));
        let change = kind.and_then(|kind| {
            let named = marks.and_then(|marks| Some(Named { kind, n: marks.lt_change?, seq: marks.lt_seq? }));
            named.ok_or("it is not of this run")
        });
        let (topic, name) = (frame.topic.to_string(), frame.event.to_string());
        Some(Self { topic, name, org, entity: row.id, change, cursor: payload.cursor.into_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_reply_is_read() {
        let text = br#"["1","1","calls","phx_reply",{"status":"ok","response":{"cursor":"c"}}]"#;
        let frame = Frame::parse(text).unwrap();
        assert_eq!(
            (frame.reference.as_deref(), &*frame.topic, &*frame.event),
            (Some("1"), "calls", "phx_reply")
        );
        let reply: Reply<'_> = serde_json::from_str(frame.payload.get()).unwrap();
        assert_eq!(reply.status, "ok");
        let position: Position = serde_json::from_str(reply.response.get()).unwrap();
        assert_eq!((position.cursor.as_str(), position.resync), ("c", false));
        assert!(serde_json::from_str::<Position>("{}").is_err());
        assert!(serde_json::from_str::<Position>(r#"{"cursor":"d","resync":true}"#).unwrap().resync);
    }

    fn event(text: &str) -> Option<Event> {
        Event::read(&Frame::parse(text.as_bytes()).unwrap(), "ab")
    }

    const EVENT: &str = r#"[null,null,"calls","call.created",{"id":17,"at":"2026-01-01T00:00:00Z","cursor":"c","data":
        {"id":"00000000-0000-0000-0000-000000000007","org_id":"00000000-0000-0000-0000-000000000001",
         "status":"queued","metadata":{"lt_run":"ab","lt_change":5,"lt_seq":1}},"old":{}}]"#;

    #[test]
    fn an_event_is_read() {
        let read = event(EVENT).unwrap();
        assert_eq!((read.entity, read.org), (Uuid::from_u128(7), Uuid::from_u128(1)));
        assert_eq!(read.change, Ok(Named { kind: Kind::Created, n: 5, seq: 1 }));
        assert_eq!((read.cursor.as_str(), read.topic.as_str()), ("c", "calls"));
    }

    #[test]
    fn what_is_no_change_of_the_run_says_why() {
        assert_eq!(event(&EVENT.replace("\"ab\"", "\"cd\"")).unwrap().change, Err("it is not of this run"));
        assert_eq!(
            event(&EVENT.replace("call.created", "call.deleted")).unwrap().change,
            Err("nothing was deleted")
        );
        assert!(event(&EVENT.replace("org_id", "other")).is_none());
        assert!(event(&EVENT.replace("\"cursor\"", "\"other\"")).is_none());
        let org = event(&EVENT.replace("org_id", "other").replace("call.created", "org.created")).unwrap();
        assert_eq!(org.org, Uuid::from_u128(7));
    }

    #[test]
    fn frames_of_another_shape_are_refused() {
        for text in
            ["{}", "[]", r#"[null,null,"calls","call.created"]"#, r#"[null,null,"a","b",{},1]"#, "nonsense"]
        {
            assert!(Frame::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}

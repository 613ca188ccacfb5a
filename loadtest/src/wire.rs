//! Messages of a gateway, parsed as its documentation describes them: Phoenix Channels V2 frames and the
//! events in them. It does no I/O.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::check::ChangeKind;
use crate::filters::Moved;

/// Event name that the tester passes to `warden.publish`.
pub(crate) const PUBLISHED: &str = "loadtest.changed";

/// A frame from the gateway: `[join_ref, ref, topic, event, payload]`.
#[derive(Deserialize)]
pub(crate) struct Frame<'a> {
    /// Null in events, because they do not answer a request.
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

/// The response to a successful join, and the payload of `warden.cursor` and `warden.resync`.
#[derive(Deserialize)]
pub(crate) struct CursorPayload {
    pub(crate) cursor: String,
    /// Whether the gateway could not serve the cursor of the join.
    #[serde(default)]
    pub(crate) resync: bool,
}

/// The payload of an event. Fields that the tester does not need are still required if clients rely on them.
#[derive(Deserialize)]
struct EventPayload<'a> {
    #[serde(rename = "id")]
    _id: i64,
    #[serde(borrow)]
    cursor: Cow<'a, str>,
    #[serde(rename = "at", borrow)]
    _at: Cow<'a, str>,
    /// Whether the row has entered or left the filter.
    #[serde(default)]
    filter: Option<Moved>,
    data: Row,
}

/// The columns that identify a row, or the same fields of a published event.
#[derive(Deserialize)]
struct Row {
    id: Uuid,
    /// Absent in rows of table organizations, whose id is the organisation.
    org_id: Option<Uuid>,
    #[serde(default)]
    metadata: Option<Metadata>,
}

/// The fields that the publishers write into `metadata`.
#[derive(Deserialize)]
struct Metadata {
    lt_run: Option<String>,
    lt_change: Option<usize>,
    lt_seq: Option<u32>,
}

/// A parsed event.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) topic: String,
    pub(crate) name: String,
    pub(crate) org: Uuid,
    pub(crate) entity: Uuid,
    pub(crate) subject: Subject,
    pub(crate) moved: Option<Moved>,
    pub(crate) cursor: String,
}

/// The subject of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A change of this run.
    Change(ChangeId),
    /// Something that this run did not do but that is not a fault, such as the creation of its organisations.
    Other,
    /// A change that nobody made in this run, with the reason.
    Unexpected(&'static str),
}

/// Identifies a change of this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangeId {
    pub(crate) kind: ChangeKind,
    /// Number within the organisation.
    pub(crate) number: usize,
    /// Number within the life of the entity.
    pub(crate) seq: u32,
}

impl Event {
    /// Parses an event. `None` if a required field is missing, or if it names no organisation.
    pub(crate) fn parse(frame: &Frame<'_>, run: &str) -> Option<Self> {
        let payload: EventPayload<'_> = serde_json::from_str(frame.payload.get()).ok()?;
        let row = payload.data;
        let is_org_event = frame.event.starts_with("org.");
        let org = row.org_id.or_else(|| is_org_event.then_some(row.id))?;
        let of_run = |kind| {
            let marks = row.metadata.as_ref().filter(|marks| marks.lt_run.as_deref() == Some(run));
            let id = marks.and_then(|m| Some(ChangeId { kind, number: m.lt_change?, seq: m.lt_seq? }));
            id.map_or(Subject::Unexpected("it is not a change of this run"), Subject::Change)
        };
        let subject = match &*frame.event {
            "call.created" => of_run(ChangeKind::Created),
            "call.updated" => of_run(ChangeKind::Updated),
            PUBLISHED => of_run(ChangeKind::Published),
            "call.deleted" => Subject::Unexpected("the tester deletes no calls during a run"),
            _ => Subject::Other,
        };
        Some(Self {
            topic: frame.topic.to_string(),
            name: frame.event.to_string(),
            org,
            entity: row.id,
            subject,
            moved: payload.filter,
            cursor: payload.cursor.into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_reply_contains_a_cursor() {
        let text = br#"["1","1","calls","phx_reply",{"status":"ok","response":{"cursor":"c"}}]"#;
        let frame = Frame::parse(text).unwrap();
        assert_eq!(frame.reference.as_deref(), Some("1"));
        assert_eq!((&*frame.topic, &*frame.event), ("calls", "phx_reply"));
        let reply: Reply<'_> = serde_json::from_str(frame.payload.get()).unwrap();
        assert_eq!(reply.status, "ok");
        let payload: CursorPayload = serde_json::from_str(reply.response.get()).unwrap();
        assert_eq!((payload.cursor.as_str(), payload.resync), ("c", false));
        assert!(serde_json::from_str::<CursorPayload>("{}").is_err());
        assert!(serde_json::from_str::<CursorPayload>(r#"{"cursor":"d","resync":true}"#).unwrap().resync);
    }

    fn event(text: &str) -> Option<Event> {
        Event::parse(&Frame::parse(text.as_bytes()).unwrap(), "ab")
    }

    const EVENT: &str = r#"[null,null,"calls","call.created",{"id":17,"at":"2026-01-01T00:00:00Z","cursor":"c","data":
        {"id":"00000000-0000-0000-0000-000000000007","org_id":"00000000-0000-0000-0000-000000000001",
         "status":"queued","metadata":{"lt_run":"ab","lt_change":5,"lt_seq":1}},"old":{}}]"#;

    #[test]
    fn an_event_identifies_its_change() {
        let event = event(EVENT).unwrap();
        assert_eq!((event.entity, event.org), (Uuid::from_u128(7), Uuid::from_u128(1)));
        let change = ChangeId { kind: ChangeKind::Created, number: 5, seq: 1 };
        assert_eq!(event.subject, Subject::Change(change));
        assert_eq!((event.cursor.as_str(), event.topic.as_str()), ("c", "calls"));
        assert_eq!(event.moved, None);
    }

    #[test]
    fn an_event_says_that_its_row_has_left_the_filter() {
        let left = EVENT.replace("\"old\"", "\"filter\":\"left\",\"old\"");
        assert_eq!(event(&left).unwrap().moved, Some(Moved::Left));
        assert!(event(&left.replace("left", "gone")).is_none());
    }

    #[test]
    fn events_that_this_run_did_not_cause_are_unexpected() {
        for (from, to) in [("\"ab\"", "\"cd\""), ("call.created", "call.deleted")] {
            let event = event(&EVENT.replace(from, to)).unwrap();
            assert!(matches!(event.subject, Subject::Unexpected(_)), "{to}");
        }
    }

    #[test]
    fn an_event_needs_an_organisation_and_a_cursor() {
        assert!(event(&EVENT.replace("org_id", "other")).is_none());
        assert!(event(&EVENT.replace("\"cursor\"", "\"other\"")).is_none());
        let org = event(&EVENT.replace("org_id", "other").replace("call.created", "org.created")).unwrap();
        assert_eq!((org.org, org.subject), (Uuid::from_u128(7), Subject::Other));
    }

    #[test]
    fn frames_of_another_shape_are_errors() {
        for text in
            ["{}", "[]", r#"[null,null,"calls","call.created"]"#, r#"[null,null,"a","b",{},1]"#, "nonsense"]
        {
            assert!(Frame::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}

//! The gateway's own form of events: `{"topic", "event", "data"}`, or an array of these.

use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::batch::{BodyError, EventBatch};
use super::strict;

const SHAPE: &str = "the body must be an event, {\"topic\": \"invoices\", \"event\": \"invoice.paid\", \"data\": {}}, \
                     or an array of events";

/// The field that is read before the database checks the event. It is not unfolded unless it is a string.
#[derive(Deserialize)]
struct Topic<'a> {
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
}

/// The first elements of an array, and the number of all. Elements beyond the limit take no memory.
struct Elements<'a> {
    first: Vec<&'a RawValue>,
    count: usize,
}

struct ElementsVisitor {
    max: usize,
}

/// Reads events from a body. Problems of single events do not end it: each event is checked.
///
/// # Errors
/// If the body is not JSON of this form, or has more than `events_max` events.
pub fn parse(body: &[u8], events_max: usize) -> Result<EventBatch, BodyError> {
    let events = match first_byte(body) {
        Some(b'[') => list(body, events_max)?,
        Some(b'{') => vec![one(body)?],
        _ => return Err(BodyError::Shape(SHAPE)),
    };
    let mut batch = EventBatch::default();
    for event in events {
        let event = event.get();
        match strict::check(event) {
            Ok(()) => batch.push(event, topic(event)),
            Err(broken) => batch.push_invalid(broken.to_string(), None),
        }
    }
    Ok(batch.finish())
}

/// First byte of the JSON value.
pub(super) fn first_byte(body: &[u8]) -> Option<u8> {
    body.trim_ascii_start().first().copied()
}

/// A body that is one JSON value. Its strings and numbers are not checked yet.
pub(super) fn one(body: &[u8]) -> Result<&RawValue, BodyError> {
    let text = std::str::from_utf8(body).map_err(|_| BodyError::Utf8)?;
    serde_json::from_str(text).map_err(|error| syntax(&error))
}

/// The elements of a body that is a JSON array.
pub(super) fn list(body: &[u8], events_max: usize) -> Result<Vec<&RawValue>, BodyError> {
    let text = std::str::from_utf8(body).map_err(|_| BodyError::Utf8)?;
    let events = elements(text, events_max).map_err(|error| syntax(&error))?;
    match events.count {
        0 => Err(BodyError::Shape("the array has no events")),
        count if count > events_max => Err(BodyError::TooMany { count, max: events_max }),
        _ => Ok(events.first),
    }
}

fn elements(text: &str, max: usize) -> Result<Elements<'_>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let elements = deserializer.deserialize_seq(ElementsVisitor { max })?;
    deserializer.end()?;
    Ok(elements)
}

impl<'de> Visitor<'de> for ElementsVisitor {
    type Value = Elements<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Elements<'de>, A::Error> {
        let mut elements = Elements { first: Vec::new(), count: 0 };
        while elements.first.len() < self.max
            && let Some(element) = seq.next_element()?
        {
            elements.first.push(element);
        }
        elements.count = elements.first.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            elements.count += 1;
        }
        Ok(elements)
    }
}

fn syntax(error: &serde_json::Error) -> BodyError {
    BodyError::Syntax { line: error.line(), column: error.column() }
}

fn topic(event: &str) -> Option<String> {
    // serde also reads a struct from an array, field by field.
    let topic: Topic<'_> = event.starts_with('{').then(|| serde_json::from_str(event).ok())??;
    serde_json::from_str(topic.topic?.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> EventBatch {
        parse(body.as_bytes(), 3).expect("events")
    }

    #[test]
    fn one_event_and_a_list_become_a_list() {
        let event = r#"{"topic": "a", "event": "b", "data": 0.10}"#;
        for body in [event.to_owned(), format!(" [{event}]\n"), format!("\t{event} ")] {
            let batch = read(&body);
            assert_eq!((batch.json.as_str(), batch.len()), (format!("[{event}]").as_str(), 1));
            assert_eq!((batch.topics, batch.problems), (vec![Some("a".to_owned())], vec![]));
        }
        let batch = read(r#"[["a", "b"], {"topic": 1}, "c"]"#);
        assert_eq!(batch.topics, [None, None, None], "the database says what is wrong with them");
    }

    #[test]
    fn every_event_that_postgresql_cannot_read_is_named_and_replaced() {
        let batch = read(r#"[{"topic": "a", "topic": "b"}, {"topic": "c"}, {"topic": "\u0000"}]"#);
        assert_eq!(batch.json, r#"[null,{"topic": "c"},null]"#);
        assert_eq!(batch.problems.iter().map(|problem| problem.index).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn elements_beyond_the_limit_are_counted_and_not_kept() {
        let found = elements("[1, [2], {}, \"4\", 5]", 2).expect("an array");
        assert_eq!(
            (found.first.iter().map(|first| first.get()).collect::<Vec<_>>(), found.count),
            (vec!["1", "[2]"], 5)
        );
        let many = format!("[{}1]", "1,".repeat(100_000));
        let found = elements(&many, 1000).expect("an array");
        assert!(found.first.capacity() < 2000 && found.count == 100_001);
    }

    #[test]
    fn a_body_without_events_is_rejected() {
        let syntax = |line, column| BodyError::Syntax { line, column };
        for (body, error) in [
            (&b""[..], BodyError::Shape(SHAPE)),
            (b"null", BodyError::Shape(SHAPE)),
            (b"\"a\"", BodyError::Shape(SHAPE)),
            (b"\xef\xbb\xbf{}", BodyError::Shape(SHAPE)),
            (b"[]", BodyError::Shape("the array has no events")),
            (b"[1,2,3,4]", BodyError::TooMany { count: 4, max: 3 }),
            (b"{\"a\": \"\xff\"}", BodyError::Utf8),
            (b"{\"a\":\n1,}", syntax(2, 3)),
            (b"[{}", syntax(1, 3)),
            (b"{} {}", syntax(1, 4)),
        ] {
            assert_eq!(parse(body, 3).err(), Some(error), "{:?}", String::from_utf8_lossy(body));
        }
    }
}

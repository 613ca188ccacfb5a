//! The JSON format of CloudEvents: one event, or a batch of events.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::super::batch::{BodyError, EventBatch};
use super::super::{json, strict};
use super::attributes::{Attributes, is_json, shown};

/// Reads one event in the structured mode.
///
/// # Errors
/// If the body is not a JSON object.
pub fn parse(body: &[u8]) -> Result<EventBatch, BodyError> {
    if json::first_byte(body) != Some(b'{') {
        return Err(BodyError::Shape("the body must be one CloudEvent as a JSON object"));
    }
    let mut batch = EventBatch::default();
    push(json::one(body)?, &mut batch);
    Ok(batch.finish())
}

/// Reads the events of the batched mode.
///
/// # Errors
/// If the body is not a JSON array of 1 to `events_max` elements.
pub fn parse_batch(body: &[u8], events_max: usize) -> Result<EventBatch, BodyError> {
    if json::first_byte(body) != Some(b'[') {
        return Err(BodyError::Shape("the body must be a JSON array of CloudEvents"));
    }
    let mut batch = EventBatch::default();
    for event in json::list(body, events_max)? {
        push(event, &mut batch);
    }
    Ok(batch.finish())
}

fn push(event: &RawValue, batch: &mut EventBatch) {
    if let Err(broken) = strict::check(event.get()) {
        return Attributes::push_unreadable(batch, broken.to_string());
    }
    let Ok(members) = serde_json::from_str::<BTreeMap<String, &RawValue>>(event.get()) else {
        return Attributes::push_unreadable(batch, "a CloudEvent is a JSON object".to_owned());
    };
    let mut attributes = Attributes::default();
    let mut data = None;
    for (name, value) in members {
        match name.as_str() {
            "data" => data = Some(value),
            "data_base64" => {
                attributes.problem("data_base64 is not supported: send JSON in data".to_owned());
            }
            _ => insert(&mut attributes, &name, value),
        }
    }
    if let Some(media_type) = attributes.get("datacontenttype").filter(|media_type| !is_json(media_type)) {
        let problem =
            format!("datacontenttype \"{}\" is not JSON: other data is not supported", shown(media_type));
        attributes.problem(problem);
    }
    attributes.push_to(batch, data);
}

/// Adds an attribute. Null is the same as no attribute. Arrays and objects are not unfolded.
fn insert(attributes: &mut Attributes, name: &str, value: &RawValue) {
    let wrong_type = || format!("{} has the wrong type", shown(name));
    match value.get().as_bytes() {
        b"null" => {}
        [b'"', ..] => match serde_json::from_str(value.get()) {
            Ok(text) => attributes.insert(name, text),
            Err(_) => attributes.problem(wrong_type()),
        },
        [b't' | b'f' | b'-' | b'0'..=b'9', ..] if !is_string(name) => {
            attributes.insert(name, value.get().to_owned());
        }
        _ => attributes.problem(wrong_type()),
    }
}

/// Whether an attribute of CloudEvents itself must be a string. An extension may be a number or a boolean.
fn is_string(name: &str) -> bool {
    ["id", "source", "specversion", "type", "datacontenttype", "dataschema", "subject", "time"]
        .contains(&name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::publish::IdempotencyKey;

    fn event(changes: &Value) -> Value {
        let mut event = json!({"specversion": "1.0", "id": "1", "source": "/shop", "type": "invoice.paid",
                               "subject": "invoices", "data": {"n": 1}});
        for (name, value) in changes.as_object().expect("an object") {
            event[name] = value.clone();
        }
        event
    }

    fn read(event: &Value) -> EventBatch {
        parse(event.to_string().as_bytes()).expect("an object")
    }

    #[test]
    fn subject_and_type_become_topic_and_event_and_data_stays() {
        let text = r#"{"specversion":"1.0","id":"1","source":"/shop","type":"invoice.paid","subject":"invoices",
                       "time":"2026-01-02T03:04:05.678Z","datacontenttype":"application/json","dataschema":"x:y",
                       "trace":1,"ok":true,"none":null,"data":{"a": 1.10}}"#;
        let batch = parse(text.as_bytes()).expect("an object");
        assert_eq!(batch.problems, []);
        assert_eq!(batch.json, r#"[{"topic":"invoices","event":"invoice.paid","data":{"a": 1.10}}]"#);
        let batch = parse_batch(format!("[{text},{text}]").as_bytes(), 2).expect("an array");
        assert_eq!((batch.len(), batch.keys[0]), (2, batch.keys[1]));
        let mut without = event(&json!({}));
        without.as_object_mut().expect("an object").remove("data");
        assert_eq!(read(&without).json, r#"[{"topic":"invoices","event":"invoice.paid"}]"#);
    }

    #[test]
    fn source_and_id_are_the_key() {
        let key = |changes: &Value| read(&event(changes)).keys[0];
        let first = key(&json!({}));
        assert_eq!(key(&json!({"data": 2, "type": "other"})), first);
        assert_ne!(key(&json!({"id": "2"})), first);
        assert_ne!(key(&json!({"source": "/shop1", "id": ""})), key(&json!({"source": "/shop", "id": "1"})));
        assert_ne!(IdempotencyKey::of_request(b"1"), Ok(first));
    }

    #[test]
    fn every_problem_of_an_event_is_named() {
        let batch = parse(b"{}").expect("an object");
        let detail = &batch.problems[0].detail;
        for name in ["id", "source", "specversion", "subject", "type"] {
            assert!(detail.contains(&format!("{name} is missing")), "{detail}");
        }
        for (changes, part) in [
            (json!({"specversion": "0.3"}), "specversion \"0.3\" is not supported"),
            (json!({"specversion": 1.0}), "specversion has the wrong type"),
            (json!({"id": ""}), "id is empty"),
            (json!({"id": 7}), "id has the wrong type"),
            (json!({"source": null}), "source is missing"),
            (json!({"source": "a\u{7}"}), "source is empty or has control characters"),
            (json!({"time": "yesterday"}), "time \"yesterday\" is not"),
            (json!({"time": "2026-02-30T00:00:00Z"}), "is not an RFC 3339 timestamp"),
            (json!({"datacontenttype": "text/plain"}), "is not JSON"),
            (json!({"datacontenttype": "application/json;charset=latin1"}), "is not JSON"),
            (json!({"data_base64": "AA=="}), "data_base64 is not supported"),
            (json!({"Extension": "a"}), "not the name of an attribute"),
            (json!({"extension": {}}), "extension has the wrong type"),
            (json!({"data": "\u{0}"}), "U+0000"),
        ] {
            let batch = read(&event(&changes));
            assert_eq!(batch.problems.len(), 1, "{changes}: {:?}", batch.problems);
            assert!(batch.problems[0].detail.contains(part), "{changes}: {:?}", batch.problems);
            assert_eq!(batch.problems[0].detail.matches("; ").count(), 0, "{:?}", batch.problems);
        }
        // A request does not cause an answer that is many times as long.
        let many: Vec<_> = (0..1000).map(|n| format!("\"A{n}\":[]")).collect();
        let batch = parse(format!("{{{}}}", many.join(",")).as_bytes()).expect("an object");
        let detail = &batch.problems[0].detail;
        assert!(detail.ends_with("; and 995 more") && detail.matches("; ").count() == 10, "{detail}");
        for body in ["[]", "1", ""] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
        assert!(parse_batch(b"{}", 2).is_err() && parse_batch(b"[1,2,3]", 2).is_err());
        assert_eq!(parse_batch(b"[1, []]", 2).expect("an array").problems.len(), 2);
    }
}

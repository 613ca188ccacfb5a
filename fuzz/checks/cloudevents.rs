//! Events of HTTP requests, in each form: no panic, and what reaches the database is JSON with one element
//! for each event, which has a problem or is an object.
//!
//! For the binary mode, the first line of the input is a header, and the rest is the body.

use serde_json::Value;
use warden::publish::cloudevents::{parse_batch, parse_binary, parse_structured};
use warden::publish::{BodyError, EventBatch, parse_json};

/// Most events of a request.
const EVENTS_MAX: usize = 100;

pub(crate) fn run(data: &[u8]) {
    check(parse_json(data, EVENTS_MAX), false);
    check(parse_structured(data), true);
    check(parse_batch(data, EVENTS_MAX), true);
    let line = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (value, body) = (&data[..line], data.get(line + 1..).unwrap_or_default());
    let headers = [
        ("specversion", &b"1.0"[..]),
        ("id", value),
        ("source", b"/x"),
        ("type", b"a"),
        ("subject", b"topic"),
    ];
    check(parse_binary(headers.into_iter(), body), true);
}

fn check(batch: Result<EventBatch, BodyError>, has_all_fields: bool) {
    let Ok(batch) = batch else { return };
    let events: Vec<Value> = serde_json::from_str(batch.json()).expect("a JSON array");
    assert_eq!(events.len(), batch.len());
    assert!((1..=EVENTS_MAX).contains(&batch.len()));
    for (index, event) in events.iter().enumerate() {
        let is_invalid = batch.problems().iter().any(|problem| problem.index == index);
        assert!(!is_invalid || event.is_null(), "an event that is not valid reaches the database");
        assert!(is_invalid || !has_nul(event), "PostgreSQL cannot store U+0000");
        if has_all_fields && !is_invalid {
            assert!(event["topic"].is_string() && event["event"].is_string(), "{event}");
        }
    }
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        _ => false,
    }
}

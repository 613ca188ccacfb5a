//! Context attributes of a CloudEvent, and the event that they describe.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::batch::EventBatch;
use super::super::key::IdempotencyKey;

/// The version of CloudEvents.
const SPECVERSION: &str = "1.0";

/// Attributes that an event must have here. CloudEvents leaves `subject` to the receiver.
const REQUIRED: [&str; 5] = ["id", "source", "specversion", "subject", "type"];

/// Remedy for any problem.
const HINT: &str =
    "Send CloudEvents 1.0 with id, source, type, subject (the topic) and JSON data; see docs/publishing.md.";

/// Problems of one event that are named. A few bytes of a request can be a problem of their own.
pub const PROBLEMS_MAX: usize = 10;

/// Attributes by name, with the problems of reading them.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    values: BTreeMap<String, String>,
    problems: Vec<String>,
    /// Problems beyond the limit.
    unnamed: usize,
}

/// An event in the gateway's own form.
#[derive(Serialize)]
struct Event<'a> {
    topic: &'a str,
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    /// The extension "Distributed Tracing" of CloudEvents.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
}

impl Attributes {
    /// Adds an attribute.
    pub(super) fn insert(&mut self, name: &str, value: String) {
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !is_name {
            return self.problem(format!(
                "\"{}\" is not the name of an attribute: use lower-case letters and digits",
                shown(name)
            ));
        }
        if value.is_empty() || value.chars().any(char::is_control) {
            return self.problem(format!("{name} is empty or has control characters"));
        }
        if self.values.insert(name.to_owned(), value).is_some() {
            self.problem(format!("{name} occurs twice"));
        }
    }

    /// Records a problem.
    pub(super) fn problem(&mut self, problem: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.unnamed += 1;
        }
    }

    /// The value of an attribute.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Adds an event whose attributes cannot be read.
    pub(super) fn push_unreadable(batch: &mut EventBatch, problem: String) {
        batch.keys.push(Self::default().key());
        batch.push_invalid(problem, Some(HINT));
    }

    /// Adds the event to a batch, or its problems.
    pub(super) fn push_to(mut self, batch: &mut EventBatch, data: Option<&RawValue>) {
        self.check();
        batch.keys.push(self.key());
        if self.unnamed > 0 {
            self.problems.push(format!("and {} more", self.unnamed));
        }
        if !self.problems.is_empty() {
            return batch.push_invalid(self.problems.join("; "), Some(HINT));
        }
        let topic = self.get("subject").unwrap_or_default();
        let event = Event {
            topic,
            event: self.get("type").unwrap_or_default(),
            data,
            traceparent: self.get("traceparent"),
        };
        match serde_json::to_string(&event) {
            Ok(json) => batch.push(&json, Some(topic.to_owned())),
            Err(error) => batch.push_invalid(error.to_string(), None),
        }
    }

    fn key(&self) -> IdempotencyKey {
        let value = |name| self.get(name).unwrap_or_default().as_bytes();
        IdempotencyKey::hash(&[b"cloudevent", value("source"), value("id")])
    }

    fn check(&mut self) {
        // An attribute that is empty, or occurs twice, has been reported under its name already.
        let is_reported = |name: &str, problems: &[String]| {
            problems.iter().any(|problem| problem.split(' ').next() == Some(name))
        };
        for name in REQUIRED {
            if !self.values.contains_key(name) && !is_reported(name, &self.problems) {
                let meaning = if name == "subject" { ": it names the topic" } else { "" };
                self.problem(format!("{name} is missing{meaning}"));
            }
        }
        if let Some(version) = self.get("specversion").filter(|version| *version != SPECVERSION) {
            self.problem(format!("specversion \"{}\" is not supported, only {SPECVERSION}", shown(version)));
        }
        if let Some(time) = self.get("time").filter(|time| OffsetDateTime::parse(time, &Rfc3339).is_err()) {
            self.problem(format!("time \"{}\" is not an RFC 3339 timestamp", shown(time)));
        }
    }
}

/// The beginning of a client's value, for an error.
pub(super) fn shown(value: &str) -> String {
    value.chars().take(100).collect()
}

/// Whether data of this media type is JSON in UTF-8.
pub(super) fn is_json(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    let (name, parameters) = media_type.split_once(';').unwrap_or((&media_type, ""));
    let (name, parameters) = (name.trim(), parameters.trim());
    let is_json = name == "application/json"
        || name.split_once('/').is_some_and(|(kind, subtype)| !kind.is_empty() && subtype.ends_with("+json"));
    is_json && (parameters.is_empty() || matches!(parameters, "charset=utf-8" | "charset=\"utf-8\""))
}

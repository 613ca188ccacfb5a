//! The events of one request, in the form in which the database takes them, and the problems of single
//! events.

use serde::Serialize;
use utoipa::ToSchema;

use super::key::IdempotencyKey;

/// Code of an event that is not valid.
pub(super) const INVALID_EVENT: &str = "invalid_event";
/// Code of an event for a topic that the token does not grant.
pub const FORBIDDEN_TOPIC: &str = "forbidden_topic";
/// Code of an event whose key was used for another event.
pub(super) const KEY_REUSED: &str = "idempotency_key_reused";

/// Reason why one event of a request is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = EventProblem)]
pub struct Problem {
    /// Position of the event in the request, from 0.
    pub index: usize,
    /// Reason for programs.
    pub code: &'static str,
    /// Reason for people. It may repeat what the client sent.
    pub detail: String,
    /// Remedy, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub hint: Option<String>,
}

/// Reason why no event can be read from a body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is not UTF-8.
    #[error("the body is not valid UTF-8")]
    Utf8,
    /// The body is not JSON.
    #[error("the body is not valid JSON: see line {line}, column {column}")]
    Syntax {
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error, from 1.
        column: usize,
    },
    /// The body is JSON of another shape.
    #[error("{0}")]
    Shape(&'static str),
    /// The body has too many events.
    #[error("the body has {count} events, at most {max} are allowed: send several requests")]
    TooMany {
        /// Events in the body.
        count: usize,
        /// Most events of a request.
        max: usize,
    },
}

/// Events of one request.
#[derive(Debug, Default)]
pub struct EventBatch {
    /// A JSON array of the events. An event that the database must not see is `null` here.
    pub(super) json: String,
    /// Topic of each event, if it can be read.
    pub(super) topics: Vec<Option<String>>,
    /// Problems that were found without the database.
    pub(super) problems: Vec<Problem>,
    /// No key, one key for all events, or one for each.
    pub(super) keys: Vec<IdempotencyKey>,
    /// Trace context of the request, for events without their own.
    pub(super) traceparent: Option<String>,
}

impl EventBatch {
    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether there is no event.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// The events as a JSON array. An event that is not valid may be `null`.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// Problems that were found without the database, in the order of the events.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Sets one idempotency key for all events.
    pub fn set_key(&mut self, key: IdempotencyKey) {
        self.keys = vec![key];
    }

    /// Sets the trace context of the request. The database ignores one that is not valid.
    pub fn set_traceparent(&mut self, traceparent: String) {
        self.traceparent = Some(traceparent);
    }

    /// Adds an event as JSON.
    pub(super) fn push(&mut self, json: &str, topic: Option<String>) {
        self.json.push(if self.json.is_empty() { '[' } else { ',' });
        self.json.push_str(json);
        self.topics.push(topic);
    }

    /// Adds an event that is not valid, with the reason.
    pub(super) fn push_invalid(&mut self, detail: String, hint: Option<&str>) {
        let index = self.topics.len();
        self.problems.push(Problem { index, code: INVALID_EVENT, detail, hint: hint.map(str::to_owned) });
        self.push("null", None);
    }

    /// Ends the list.
    pub(super) fn finish(mut self) -> Self {
        self.json.push_str(if self.json.is_empty() { "[]" } else { "]" });
        self
    }
}

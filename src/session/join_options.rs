//! The payload of a join: its filter, the start of the stream, and whether the client gets marks.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::reading::{FilterRequest, QueryError, SnapshotRequest};

/// A join's payload.
pub(super) struct JoinOptions {
    pub(super) start: JoinStart,
    /// Rows and columns that the client gets; none if it gets all.
    pub(super) filter: Option<FilterRequest>,
    /// Whether the client gets marks.
    pub(super) marks: bool,
}

/// Start of a stream: messages that a client receives before live events.
pub(super) enum JoinStart {
    /// Nothing.
    Now,
    /// The events after a cursor.
    Since(Since),
    /// Rows of the table, and the events since they were read.
    Snapshot(SnapshotRequest),
}

/// Position of a client that resumes.
pub(super) struct Since {
    /// The client gets the events after this cursor.
    pub(super) cursor: String,
    /// Cursor of the last page of rows that the client has read. The node must have reached it.
    pub(super) seen: Option<String>,
    /// Digest of the filter with which the client was joined when it got the cursor. Empty if there was none.
    pub(super) filter: Option<String>,
}

impl Since {
    /// Whether the client was joined with another filter when it got the cursor.
    pub(super) fn is_of_another(&self, digest: Option<&str>) -> bool {
        self.filter.as_deref().is_some_and(|former| former != digest.unwrap_or_default())
    }
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    since: Option<Value>,
    #[serde(default)]
    seen: Option<Value>,
    #[serde(default)]
    since_filter: Option<Value>,
    #[serde(default)]
    snapshot: Option<Box<RawValue>>,
    #[serde(default)]
    filter: Option<Value>,
    #[serde(default)]
    select: Option<Value>,
    #[serde(default)]
    marks: Option<Value>,
}

/// Reason and hint of an error.
type Rejection = (&'static str, String);

impl JoinOptions {
    /// Parses a join's payload. Unknown keys are ignored, because `supabase` clients send keys of their own.
    pub(super) fn parse(payload: &RawValue) -> Result<Self, Rejection> {
        let payload: Payload = serde_json::from_str(payload.get())
            .map_err(|_| invalid("the payload of a join must be an object, with each parameter once"))?;
        let since = string(payload.since, "since must be a cursor, as a string")?;
        let seen = string(payload.seen, "seen must be the cursor of the last page of rows, as a string")?;
        let since_filter =
            string(payload.since_filter, "since_filter must be the filter of a reply, as a string")?;
        let marks = match payload.marks {
            None => false,
            Some(Value::Bool(marks)) => marks,
            Some(_) => return Err(invalid("marks must be true or false")),
        };
        let filter = string(payload.filter, "filter must be a string, such as \"status=eq.open\"")?;
        let select = string(payload.select, "select must be a string, such as \"id,status\"")?;
        let filter = match (&filter, &select) {
            (None, None) => None,
            _ => Some(FilterRequest::parse(filter.as_deref(), select.as_deref()).map_err(rejected)?),
        };
        let start = match (since, payload.snapshot) {
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "since and snapshot exclude each other: send since to resume, or snapshot to read the rows again",
                ));
            }
            (Some(cursor), None) => JoinStart::Since(Since { cursor, seen, filter: since_filter }),
            (None, _) if since_filter.is_some() => {
                return Err(invalid("since_filter needs since: send the cursor that came with it"));
            }
            (None, _) if seen.is_some() => {
                return Err(invalid("seen needs since: send the cursor of the first page as since"));
            }
            (None, Some(parameters)) => {
                let mut request = SnapshotRequest::parse(&parameters).map_err(rejected)?;
                if let Some(filter) = &filter {
                    request = request.with_columns(filter).map_err(rejected)?;
                }
                JoinStart::Snapshot(request)
            }
            (None, None) => JoinStart::Now,
        };
        Ok(Self { start, filter, marks })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn rejected(error: QueryError) -> Rejection {
    (error.code(), error.to_string())
}

fn invalid(hint: &str) -> Rejection {
    ("invalid payload", hint.to_owned())
}

fn string(value: Option<Value>, hint: &str) -> Result<Option<String>, Rejection> {
    match value {
        None => Ok(None),
        Some(Value::String(string)) => Ok(Some(string)),
        Some(_) => Err(invalid(hint)),
    }
}

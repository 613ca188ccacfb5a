//! The topics of `warden tail`: what each join asks for, and what a received message means for it. Rows and
//! events are printed with their own bytes: a number that is parsed can lose digits, or be out of range.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::wire::{RESYNC_EVENT, SNAPSHOT_EVENT};

/// Parameters about the rows before the events alone.
pub(super) const ROW_PARAMETERS: [&str; 2] = ["order", "limit"];

/// Reasons of rejected joins that may succeed later.
const TEMPORARY: [&str; 4] = ["org_reads", "busy", "unavailable", "table_changed"];

/// The topics that are followed on one connection after another.
pub(super) struct TailedTopics {
    topics: Vec<TailedTopic>,
    /// Parameters of the snapshots, if rows are printed before events.
    snapshot: Option<Value>,
    /// Filter and columns of every join.
    filter: Map<String, Value>,
    last_ref: u64,
}

struct TailedTopic {
    name: String,
    /// Cursor of the last event. None before the last page of a snapshot, or before the first join.
    cursor: Option<String>,
    /// Reference of the join on the present connection.
    join_ref: Option<String>,
}

/// Meaning of a received message.
#[derive(Debug, PartialEq)]
pub(super) enum Received {
    /// Lines to print; none for replies and fresh cursors.
    Lines(Vec<String>),
    /// The lines to print, after which the rows must be read again by a new connection.
    StartOver(Vec<String>, String),
    /// The gateway cannot serve the join now.
    NotNow(String),
    /// The gateway rejected the join.
    Rejected(String),
}

/// The fields of a payload, or of the response in it, that have a meaning for the command.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    cursor: Option<String>,
    status: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    resync: bool,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
}

/// A page of rows.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Page<'a> {
    #[serde(borrow)]
    rows: Vec<&'a RawValue>,
    truncated: Vec<usize>,
    last: bool,
    cursor: Option<String>,
}

/// A line to print.
fn line(topic: &str, event: &str, payload: &str) -> String {
    format!(r#"{{"event":{},"payload":{payload},"topic":{}}}"#, json!(event), json!(topic))
}

/// Parses parts of a payload. Unexpected types count as absent.
fn parse<'a, T: Default + Deserialize<'a>>(payload: &'a RawValue) -> T {
    serde_json::from_str(payload.get()).unwrap_or_default()
}

impl TailedTopics {
    /// `filters` are names and values of parameters. Those of rows alone are parameters of the snapshots.
    pub(super) fn new(
        names: &[String],
        since: Option<&String>,
        snapshot: bool,
        filters: &[(String, String)],
    ) -> Self {
        let topics = names.iter().map(|name| TailedTopic {
            name: name.clone(),
            cursor: since.cloned(),
            join_ref: None,
        });
        let (of_rows, of_all): (Vec<_>, Vec<_>) =
            filters.iter().partition(|(name, _)| ROW_PARAMETERS.contains(&name.as_str()));
        let mut parameters = Map::new();
        for (name, value) in of_rows {
            let values = parameters.entry(name.clone()).or_insert_with(|| json!([]));
            if let Value::Array(values) = values {
                values.push(json!(value));
            }
        }
        Self {
            topics: topics.collect(),
            snapshot: snapshot.then_some(Value::Object(parameters)),
            filter: join_filter(&of_all),
            last_ref: 0,
        }
    }

    /// Forgets the joins of the former connection.
    pub(super) fn disconnected(&mut self) {
        for topic in &mut self.topics {
            topic.join_ref = None;
        }
    }

    /// Joins that can be sent now. Snapshots come one after the other, because a socket may receive only a
    /// few at a time.
    pub(super) fn next_joins(&mut self) -> Vec<Value> {
        let mut joins = Vec::new();
        let mut is_reading = self.topics.iter().any(|topic| self.snapshot.is_some() && topic.is_reading());
        for topic in self.topics.iter_mut().filter(|topic| topic.join_ref.is_none()) {
            let mut payload = self.filter.clone();
            match (&topic.cursor, &self.snapshot) {
                (Some(since), _) => drop(payload.insert("since".to_owned(), json!(since))),
                (None, None) => {}
                (None, Some(_)) if is_reading => continue,
                (None, Some(parameters)) => {
                    is_reading = true;
                    payload.insert("snapshot".to_owned(), parameters.clone());
                }
            }
            self.last_ref += 1;
            let reference = self.last_ref.to_string();
            joins.push(json!([reference, reference, topic.name, "phx_join", payload]));
            topic.join_ref = Some(reference);
        }
        joins
    }

    /// Takes a message: topic, event and payload.
    pub(super) fn receive(&mut self, name: &str, event: &str, payload: &RawValue) -> Received {
        let fields: Fields<'_> = parse(payload);
        let response: Fields<'_> = fields.response.map(parse).unwrap_or_default();
        let is_resync = event == RESYNC_EVENT || (event == "phx_reply" && response.resync);
        let topic = self.topics.iter_mut().find(|topic| topic.name == name);
        let reads_rows = self.snapshot.is_some();
        if let (Some(cursor), Some(topic)) = (fields.cursor.or(response.cursor.clone()), topic) {
            // After a resync the rows must be read again, so that no cursor is of use.
            topic.cursor = (!is_resync || !reads_rows).then_some(cursor);
        }
        match event {
            "phx_reply" if fields.status.as_deref() == Some("error") => rejected(name, &response),
            "phx_reply" if is_resync => {
                let line = line(name, RESYNC_EVENT, fields.response.map_or("{}", RawValue::get));
                self.resync(name, line, "the cursor cannot be served")
            }
            "phx_reply" | "phx_close" | "warden.cursor" => Received::Lines(Vec::new()),
            SNAPSHOT_EVENT => snapshot(name, &parse(payload)),
            RESYNC_EVENT => {
                let line = line(name, event, payload.get());
                self.resync(name, line, &fields.reason.unwrap_or_default())
            }
            _ => Received::Lines(vec![line(name, event, payload.get())]),
        }
    }

    fn resync(&self, name: &str, line: String, reason: &str) -> Received {
        match self.snapshot {
            Some(_) => Received::StartOver(vec![line], format!("{name}: warden.resync, {reason}")),
            None => Received::Lines(vec![line]),
        }
    }
}

/// The fields `filter` and `select` of a join.
fn join_filter(parameters: &[&(String, String)]) -> Map<String, Value> {
    let mut join = Map::new();
    let mut conditions = Vec::new();
    for (name, value) in parameters {
        if name == "select" {
            join.insert("select".to_owned(), json!(value));
        } else {
            let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            conditions.push(format!("{}={}", encode(name), encode(value)));
        }
    }
    if !conditions.is_empty() {
        join.insert("filter".to_owned(), json!(conditions.join("&")));
    }
    join
}

impl TailedTopic {
    /// Whether rows of the topic are being received.
    fn is_reading(&self) -> bool {
        self.join_ref.is_some() && self.cursor.is_none()
    }
}

/// One line for each row of a page, and one for the end of the last page.
fn snapshot(name: &str, page: &Page<'_>) -> Received {
    let line = |payload: &str| line(name, SNAPSHOT_EVENT, payload);
    let rows = page.rows.iter().enumerate();
    let mut lines: Vec<String> = rows
        .map(|(n, row)| match page.truncated.contains(&n) {
            true => line(&format!(r#"{{"data":{row},"truncated":true}}"#)),
            false => line(&format!(r#"{{"data":{row}}}"#)),
        })
        .collect();
    if page.last {
        lines.push(line(&json!({"last": true, "cursor": page.cursor}).to_string()));
    }
    Received::Lines(lines)
}

fn rejected(name: &str, response: &Fields<'_>) -> Received {
    let reason = response.reason.as_deref().unwrap_or_default();
    let text = format!("{name}: {reason} ({})", response.message.as_deref().unwrap_or_default());
    if TEMPORARY.contains(&reason) { Received::NotNow(text) } else { Received::Rejected(text) }
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn raw(payload: &Value) -> Box<RawValue> {
        to_raw_value(payload).expect("is JSON")
    }

    #[test]
    fn snapshots_are_joined_one_after_the_other_and_again_after_a_resync() {
        let filters = [("a", "gt.1"), ("order", "a.desc"), ("a", "lt.9"), ("select", "id,a")];
        let filters = filters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut topics = TailedTopics::new(&names(&["x", "y"]), None, true, &filters);
        let filter = "a=gt%2E1&a=lt%2E9";
        let snapshot = json!({"filter": filter, "select": "id,a", "snapshot": {"order": ["a.desc"]}});
        assert_eq!(topics.next_joins(), [json!(["1", "1", "x", "phx_join", snapshot])]);
        assert_eq!(topics.next_joins(), Vec::<Value>::new());
        let page = json!({"rows": [{"id": 1}, {"id": 2}], "truncated": [1], "last": true, "cursor": "c1"});
        let line = |payload: Value| super::line("x", "warden.snapshot", &payload.to_string());
        let lines = vec![
            line(json!({"data": {"id": 1}})),
            line(json!({"data": {"id": 2}, "truncated": true})),
            line(json!({"last": true, "cursor": "c1"})),
        ];
        assert_eq!(topics.receive("x", "warden.snapshot", &raw(&page)), Received::Lines(lines));
        assert_eq!(topics.next_joins(), [json!(["2", "2", "y", "phx_join", snapshot])]);
        // The connection is lost before the last page of y: only x resumes.
        topics.receive("y", "warden.snapshot", &raw(&json!({"rows": [], "last": false})));
        topics.disconnected();
        let joins = topics.next_joins();
        assert_eq!(
            joins[0],
            json!(["3", "3", "x", "phx_join", {"filter": filter, "select": "id,a", "since": "c1"}])
        );
        assert_eq!(joins[1], json!(["4", "4", "y", "phx_join", snapshot]));
        let resync =
            topics.receive("x", "warden.resync", &raw(&json!({"cursor": "c2", "reason": "truncated"})));
        assert!(matches!(resync, Received::StartOver(..)), "{resync:?}");
        topics.disconnected();
        assert_eq!(topics.next_joins()[0], json!(["5", "5", "x", "phx_join", snapshot]));
    }

    #[test]
    fn without_snapshots_a_resync_is_a_line_and_moves_the_cursor() {
        let mut topics = TailedTopics::new(&names(&["x"]), Some(&"c0".to_owned()), false, &[]);
        assert_eq!(topics.next_joins(), [json!(["1", "1", "x", "phx_join", {"since": "c0"}])]);
        let reply = json!({"status": "ok", "response": {"cursor": "c1", "resync": true}});
        let printed = line("x", "warden.resync", &reply["response"].to_string());
        assert_eq!(topics.receive("x", "phx_reply", &raw(&reply)), Received::Lines(vec![printed]));
        topics.disconnected();
        assert_eq!(topics.next_joins(), [json!(["2", "2", "x", "phx_join", {"since": "c1"}])]);
        let busy = json!({"status": "error", "response": {"reason": "org_reads", "message": "later"}});
        assert_eq!(
            topics.receive("x", "phx_reply", &raw(&busy)),
            Received::NotNow("x: org_reads (later)".into())
        );
    }
}

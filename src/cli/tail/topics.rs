//! The topics of `warden tail`: what each join asks for, and what a received message means for it. Rows and
//! events are printed with their own bytes: a number that is parsed can lose digits, or be out of range.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::wire::{RESYNC_EVENT, SNAPSHOT_EVENT};

/// Reasons of rejected joins that may succeed later.
const TEMPORARY: [&str; 3] = ["org_reads", "busy", "unavailable"];

/// The topics that are followed on one connection after another.
pub(super) struct TailedTopics {
    topics: Vec<TailedTopic>,
    /// Parameters of the snapshots, if rows are printed before events.
    snapshot: Option<Value>,
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
    /// `filters` are parameters of the snapshots, as `name=value`.
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
        let mut parameters = Map::new();
        for (name, value) in filters {
            let values = parameters.entry(name.clone()).or_insert_with(|| json!([]));
            if let Value::Array(values) = values {
                values.push(json!(value));
            }
        }
        Self {
            topics: topics.collect(),
            snapshot: snapshot.then_some(Value::Object(parameters)),
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
            let payload = match (&topic.cursor, &self.snapshot) {
                (Some(since), _) => json!({"since": since}),
                (None, None) => json!({}),
                (None, Some(_)) if is_reading => continue,
                (None, Some(parameters)) => {
                    is_reading = true;
                    json!({"snapshot": parameters})
                }
            };
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
        let filters = [("a".to_owned(), "gt.1".to_owned()), ("a".to_owned(), "lt.9".to_owned())];
        let mut topics = TailedTopics::new(&names(&["x", "y"]), None, true, &filters);
        let snapshot = json!({"snapshot": {"a": ["gt.1", "lt.9"]}});
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
        assert_eq!(joins[0], json!(["3", "3", "x", "phx_join", {"since": "c1"}]));
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

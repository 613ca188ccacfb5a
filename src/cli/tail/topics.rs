//! The topics of `warden tail`: what each join asks for, and what a received message means for it.

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
    Lines(Vec<Value>),
    /// The lines to print, after which the rows must be read again by a new connection.
    StartOver(Vec<Value>, String),
    /// The gateway cannot serve the join now.
    NotNow(String),
    /// The gateway rejected the join.
    Rejected(String),
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
    pub(super) fn receive(&mut self, name: &str, event: &str, payload: &Value) -> Received {
        let line = |payload: &Value| json!({"topic": name, "event": event, "payload": payload});
        let is_resync = event == RESYNC_EVENT
            || (event == "phx_reply" && payload.pointer("/response/resync") == Some(&Value::Bool(true)));
        let topic = self.topics.iter_mut().find(|topic| topic.name == name);
        let reads_rows = self.snapshot.is_some();
        let cursor = payload.get("cursor").or_else(|| payload.pointer("/response/cursor"));
        if let (Some(cursor), Some(topic)) = (cursor.and_then(Value::as_str), topic) {
            // After a resync the rows must be read again, so that no cursor is of use.
            topic.cursor = (!is_resync || !reads_rows).then(|| cursor.to_owned());
        }
        match event {
            "phx_reply" if payload["status"] == "error" => rejected(name, &payload["response"]),
            "phx_reply" if is_resync => {
                let line = json!({"topic": name, "event": RESYNC_EVENT, "payload": payload["response"]});
                self.resync(name, line, "the cursor cannot be served")
            }
            "phx_reply" | "phx_close" | "warden.cursor" => Received::Lines(Vec::new()),
            SNAPSHOT_EVENT => snapshot(payload, line),
            RESYNC_EVENT => {
                let reason = payload["reason"].as_str().unwrap_or_default();
                self.resync(name, line(payload), reason)
            }
            _ => Received::Lines(vec![line(payload)]),
        }
    }

    fn resync(&self, name: &str, line: Value, reason: &str) -> Received {
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
fn snapshot(page: &Value, line: impl Fn(&Value) -> Value) -> Received {
    let truncated = page["truncated"].as_array().cloned().unwrap_or_default();
    let rows = page["rows"].as_array().into_iter().flatten().enumerate();
    let mut lines: Vec<Value> = rows
        .map(|(n, row)| match truncated.contains(&json!(n)) {
            true => line(&json!({"data": row, "truncated": true})),
            false => line(&json!({"data": row})),
        })
        .collect();
    if page["last"] == true {
        lines.push(line(&json!({"last": true, "cursor": page["cursor"]})));
    }
    Received::Lines(lines)
}

fn rejected(name: &str, response: &Value) -> Received {
    let (reason, message) = (&response["reason"], &response["message"]);
    let (reason, message) = (reason.as_str().unwrap_or_default(), message.as_str().unwrap_or_default());
    let text = format!("{name}: {reason} ({message})");
    if TEMPORARY.contains(&reason) { Received::NotNow(text) } else { Received::Rejected(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn snapshots_are_joined_one_after_the_other_and_again_after_a_resync() {
        let filters = [("a".to_owned(), "gt.1".to_owned()), ("a".to_owned(), "lt.9".to_owned())];
        let mut topics = TailedTopics::new(&names(&["x", "y"]), None, true, &filters);
        let snapshot = json!({"snapshot": {"a": ["gt.1", "lt.9"]}});
        assert_eq!(topics.next_joins(), [json!(["1", "1", "x", "phx_join", snapshot])]);
        assert_eq!(topics.next_joins(), Vec::<Value>::new());
        let page = json!({"rows": [{"id": 1}, {"id": 2}], "truncated": [1], "last": true, "cursor": "c1"});
        let line = |payload: Value| json!({"topic": "x", "event": "warden.snapshot", "payload": payload});
        let lines = vec![
            line(json!({"data": {"id": 1}})),
            line(json!({"data": {"id": 2}, "truncated": true})),
            line(json!({"last": true, "cursor": "c1"})),
        ];
        assert_eq!(topics.receive("x", "warden.snapshot", &page), Received::Lines(lines));
        assert_eq!(topics.next_joins(), [json!(["2", "2", "y", "phx_join", snapshot])]);
        // The connection is lost before the last page of y: only x resumes.
        topics.receive("y", "warden.snapshot", &json!({"rows": [], "last": false}));
        topics.disconnected();
        let joins = topics.next_joins();
        assert_eq!(joins[0], json!(["3", "3", "x", "phx_join", {"since": "c1"}]));
        assert_eq!(joins[1], json!(["4", "4", "y", "phx_join", snapshot]));
        let resync = topics.receive("x", "warden.resync", &json!({"cursor": "c2", "reason": "truncated"}));
        assert!(matches!(resync, Received::StartOver(..)), "{resync:?}");
        topics.disconnected();
        assert_eq!(topics.next_joins()[0], json!(["5", "5", "x", "phx_join", snapshot]));
    }

    #[test]
    fn without_snapshots_a_resync_is_a_line_and_moves_the_cursor() {
        let mut topics = TailedTopics::new(&names(&["x"]), Some(&"c0".to_owned()), false, &[]);
        assert_eq!(topics.next_joins(), [json!(["1", "1", "x", "phx_join", {"since": "c0"}])]);
        let reply = json!({"status": "ok", "response": {"cursor": "c1", "resync": true}});
        let printed = json!({"topic": "x", "event": "warden.resync", "payload": reply["response"]});
        assert_eq!(topics.receive("x", "phx_reply", &reply), Received::Lines(vec![printed]));
        topics.disconnected();
        assert_eq!(topics.next_joins(), [json!(["2", "2", "x", "phx_join", {"since": "c1"}])]);
        let busy = json!({"status": "error", "response": {"reason": "org_reads", "message": "later"}});
        assert_eq!(topics.receive("x", "phx_reply", &busy), Received::NotNow("x: org_reads (later)".into()));
    }
}

//! Requests of an operation with one given value, and what their answers have in common.

use std::net::SocketAddr;

use serde_json::{Value, json};
use uuid::Uuid;

use super::document::{Operation, Place};
use crate::harness::{Answer, Post, Upgrade};

/// Fields of answers that differ between two equal requests. The `id` of an event or a revocation is a
/// number, and that of a row a string.
const VARYING: [&str; 5] = ["cursor", "expires_at", "id", "revoked_at", "tx"];

/// Headers of answers that differ between two equal requests. The body is compared without its own such
/// fields, and so is its length.
const VARYING_HEADERS: [&str; 3] = ["content-length", "date", "warden-cursor"];

/// Sources of CloudEvents by mode: binary, structured, batched. So no two modes publish the same event.
pub(super) const SOURCES: [&str; 3] = ["/binary", "/structured", "/batched"];

/// Headers of the binary mode of CloudEvents, beside the id.
const BINARY_EVENT: [(&str, &str); 4] = [
    ("ce-specversion", "1.0"),
    ("ce-source", SOURCES[0]),
    ("ce-type", "test.event"),
    ("ce-subject", "notes"),
];

/// A CloudEvent as JSON.
pub(super) fn cloud_event(id: &str, source: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": source, "type": "test.event", "subject": "notes", "data": {}})
}

/// A token, and the values in the rest of its requests.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) token: String,
    pub(super) cursor: String,
    pub(super) tx: String,
    /// A row of each table, in the order of the tables.
    pub(super) rows: [String; 2],
}

/// Requests of an operation about one table.
#[derive(Debug)]
pub(super) struct Requests<'a> {
    pub(super) addr: SocketAddr,
    pub(super) operation: &'a Operation,
    /// The table, and its place among the tables.
    pub(super) table: (usize, &'a str),
    pub(super) caller: &'a Caller,
}

impl Requests<'_> {
    /// Sends a request in which every value is the caller's.
    pub(super) async fn send(&self) -> Answer {
        self.request(self.path(None), &[], self.body()).await
    }

    /// Sends a request in which one place has this value.
    pub(super) async fn send_with(&self, place: &Place, value: &str) -> Answer {
        let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let mut path = self.path(None);
        let mut headers = Vec::new();
        let mut body = self.body();
        let id = Uuid::new_v4().to_string();
        match place {
            Place::Path(name) => path = self.path(Some((name, &encoded))),
            // Conditions on columns, each of which has a name of its own.
            Place::Query(name) if name == "filters" => {
                path = format!("{path}?or=(id.eq.{encoded},org_id.eq.{encoded})");
            }
            Place::Query(name) if ["and", "or"].contains(&name.as_str()) => {
                path = format!("{path}?{name}=(org_id.eq.{encoded})");
            }
            Place::Query(name) => path = format!("{path}?{name}={encoded}"),
            Place::Header(name) => {
                if name.starts_with("ce-") && self.operation.media_type.as_deref() == Some("application/json")
                {
                    let usual = BINARY_EVENT.into_iter().chain([("ce-id", id.as_str())]);
                    headers.extend(usual.filter(|(other, _)| other != name));
                }
                headers.push((name, value));
            }
            Place::Body(field) => {
                let body = body.as_mut().expect("a body");
                let object = if body.is_array() { &mut body[0] } else { body };
                // A revocation has one subject.
                if self.operation.path == "/v1/revocations" && field.ends_with("_id") {
                    *object = json!({});
                }
                // A question names a transaction or a page.
                if self.operation.path == "/v1/covers" && field == "page" {
                    *object = json!({"cursor": self.caller.cursor});
                }
                object[field] = json!(value);
            }
        }
        self.request(path, &headers, body).await
    }

    /// The path with the table and the caller's row, or another value for one of them.
    fn path(&self, other: Option<(&str, &str)>) -> String {
        let (n, table) = self.table;
        let usual = [("topic", table), ("id", &self.caller.rows[n])];
        usual.into_iter().fold(self.operation.path.clone(), |path, (name, value)| {
            let value = other.filter(|(other, _)| *other == name).map_or(value, |(_, value)| value);
            path.replace(&format!("{{{name}}}"), value)
        })
    }

    /// A body that is valid for the operation.
    fn body(&self) -> Option<Value> {
        let media_type = self.operation.media_type.as_deref()?;
        let event = |source| cloud_event(&Uuid::new_v4().to_string(), source);
        let Caller { cursor, tx, .. } = self.caller;
        Some(match (self.operation.path.as_str(), media_type) {
            ("/v1/events", "application/json") => json!({"topic": "notes", "event": "test.event"}),
            ("/v1/events", "application/cloudevents+json") => event(SOURCES[1]),
            ("/v1/events", "application/cloudevents-batch+json") => json!([event(SOURCES[2])]),
            ("/v1/revocations", _) => json!({"user_id": "nobody"}),
            ("/v1/covers", _) => json!({"cursor": cursor, "tx": tx}),
            other => panic!("add a valid body of {other:?}"),
        })
    }

    async fn request(&self, path: String, headers: &[(&str, &str)], body: Option<Value>) -> Answer {
        let token = &self.caller.token;
        let Some(body) = body else {
            let request = Upgrade::plain(&path).with("Authorization", &format!("Bearer {token}"));
            let request = headers.iter().fold(request, |request, (name, value)| request.with(name, value));
            return request.send(self.addr).await;
        };
        let media_type = self.operation.media_type.as_deref().expect("a media type");
        let request =
            Post::json(&path, token, &body).without("Content-Type").with("Content-Type", media_type);
        let request = headers.iter().fold(request, |request, (name, value)| request.with(name, value));
        request.send(self.addr).await
    }
}

/// Status, headers and body of an answer, without what differs between two equal requests, and without the
/// value itself.
pub(super) fn normal(answer: &Answer, value: &str) -> String {
    let body = match serde_json::from_str::<Value>(&answer.body) {
        Ok(mut json) => {
            blank(&mut json);
            json.to_string()
        }
        Err(_) => answer.body.clone(),
    };
    let mut headers: Vec<String> = answer
        .head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| match name.to_lowercase() {
            name if VARYING_HEADERS.contains(&name.as_str()) => name,
            name => format!("{name}: {}", value.trim()),
        })
        .collect();
    headers.sort_unstable();
    // Without the quotes of an ETag, which are escaped in JSON.
    let value = value.trim_start_matches("W/").trim_matches('"');
    // Messages about queries show its beginning.
    let beginning: String = value.chars().take(40).chain(['…']).collect();
    let all = format!("{} {} {body}", answer.status, headers.join("; "));
    all.replace(value, "<value>").replace(&beginning, "<value>")
}

fn blank(json: &mut Value) {
    match json {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, field)| {
            let is_row = name == "id" && field.is_string();
            if VARYING.contains(&name.as_str()) && !field.is_null() && !is_row {
                *field = json!("*");
            }
            blank(field);
        }),
        Value::Array(all) => all.iter_mut().for_each(blank),
        _ => {}
    }
}

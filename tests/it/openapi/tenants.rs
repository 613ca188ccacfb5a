//! Requests with values of another organisation, for every route and parameter of the OpenAPI document: each
//! answer equals the answer for a value that does not exist.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::PATH;
use crate::harness::{Answer, Post, TestDb, TestGateway, Upgrade, token};

/// Content that only this organisation may see.
fn secret(org: Uuid) -> String {
    format!("content of {org}")
}

/// Fields of answers that differ between two equal requests.
const VARYING: [&str; 6] = ["cursor", "expires_at", "id", "next", "revoked_at", "tx"];

/// A parameter of the document: one place of a request that takes a value.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    Path(String),
    Query(String),
    Header(String),
    /// A field of the body.
    Body(String),
    /// The token.
    Bearer,
}

/// An operation of the document.
#[derive(Debug)]
struct Operation {
    method: String,
    path: String,
    media_type: Option<String>,
    places: Vec<Place>,
}

/// Values of one organisation that another one must not be able to use: the kind, the value, and a value of
/// the same form that does not exist.
type Values = Vec<(&'static str, String, String)>;

/// The organisation that asks, with values of its own.
struct Caller {
    token: String,
    cursor: String,
    tx: String,
}

impl Caller {
    fn new(token: String, values: &Values) -> Self {
        let value = |kind| values.iter().find(|value| value.0 == kind).expect("a value").1.clone();
        Self { token, cursor: value("cursor"), tx: value("transaction") }
    }
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let mut places: Vec<Place> = parameters.map(place).collect();
            if operation["security"].as_array().is_some_and(|all| all.contains(&json!({"bearer": []}))) {
                places.push(Place::Bearer);
            }
            let new = |media_type, places| Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                media_type,
                places,
            };
            let Some(content) = operation.pointer("/requestBody/content").and_then(Value::as_object) else {
                all.push(new(None, places));
                continue;
            };
            for (media_type, body) in content {
                let fields = fields(document, &body["schema"]).into_iter().map(Place::Body);
                all.push(new(Some(media_type.clone()), places.iter().cloned().chain(fields).collect()));
            }
        }
    }
    all
}

fn place(parameter: &Value) -> Place {
    let name = parameter["name"].as_str().expect("a name").to_owned();
    match parameter["in"].as_str() {
        Some("path") => Place::Path(name),
        Some("query") => Place::Query(name),
        Some("header") => Place::Header(name),
        other => panic!("parameters in {other:?} are not tested"),
    }
}

/// Names of the fields of a body, in any of its alternatives.
fn fields(document: &Value, schema: &Value) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a local reference");
        return fields(document, document.pointer(pointer).expect("a schema"));
    }
    let own = schema["properties"].as_object().into_iter().flat_map(|all| all.keys().cloned());
    let alternatives =
        ["oneOf", "allOf", "anyOf"].into_iter().filter_map(|name| schema[name].as_array()).flatten();
    let inner = alternatives.chain(schema.get("items"));
    let mut names: Vec<String> = own.chain(inner.flat_map(|schema| fields(document, schema))).collect();
    names.sort();
    names.dedup();
    names
}

/// A body that is valid for an operation.
fn valid_body(operation: &Operation, caller: &Caller) -> Value {
    let event = json!({"specversion": "1.0", "id": Uuid::new_v4(), "source": "/a", "type": "test.event",
                       "subject": "notes", "data": {}});
    match (operation.path.as_str(), operation.media_type.as_deref()) {
        ("/v1/events", Some("application/json")) => json!({"topic": "notes", "event": "test.event"}),
        ("/v1/events", Some("application/cloudevents+json")) => event,
        ("/v1/events", Some("application/cloudevents-batch+json")) => json!([event]),
        ("/v1/revocations", _) => json!({"user_id": "nobody"}),
        ("/v1/covers", _) => json!({"cursor": caller.cursor, "tx": caller.tx}),
        other => panic!("add a valid body of {other:?}"),
    }
}

/// The request of an operation in which a place has a value.
async fn ask(t: &TestGateway, operation: &Operation, caller: &Caller, place: &Place, value: &str) -> Answer {
    let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let (mut path, mut bearer) = (operation.path.clone(), caller.token.as_str());
    for name in ["topic", "id"] {
        let usual = if name == "topic" { "notes" } else { "00000000-0000-4000-8000-000000000000" };
        let is_it = *place == Place::Path(name.to_owned());
        path = path.replace(&format!("{{{name}}}"), if is_it { &encoded } else { usual });
    }
    let mut headers = vec![];
    let mut body = operation.media_type.as_ref().map(|_| valid_body(operation, caller));
    match place {
        Place::Path(_) => {}
        // Conditions on columns, each of which has a name of its own.
        Place::Query(name) if name == "filters" => {
            path = format!("{path}?or=(id.eq.{encoded},org_id.eq.{encoded})");
        }
        Place::Query(name) if ["and", "or"].contains(&name.as_str()) => {
            path = format!("{path}?{name}=(org_id.eq.{encoded})");
        }
        Place::Query(name) => path = format!("{path}?{name}={encoded}"),
        Place::Header(name) => headers.push((name.clone(), value.to_owned())),
        Place::Bearer => bearer = value,
        Place::Body(field) => {
            let body = body.as_mut().expect("a body");
            let object = if body.is_array() { &mut body[0] } else { body };
            // A revocation has one subject.
            if operation.path == "/v1/revocations" && field.ends_with("_id") {
                *object = json!({});
            }
            // A question names a transaction or a page.
            if operation.path == "/v1/covers" && field == "page" {
                *object = json!({"cursor": caller.cursor});
            }
            object[field] = json!(value);
        }
    }
    let Some(body) = body else {
        let request = Upgrade::plain(&path).with("Authorization", &format!("Bearer {bearer}"));
        return headers
            .iter()
            .fold(request, |request, (name, value)| request.with(name, value))
            .send(t.gateway.public_addr())
            .await;
    };
    let media_type = operation.media_type.as_deref().expect("a media type");
    let request = Post::json(&path, bearer, &body).without("Content-Type").with("Content-Type", media_type);
    headers
        .iter()
        .fold(request, |request, (name, value)| request.with(name, value))
        .send(t.gateway.public_addr())
        .await
}

/// An answer without what differs between two equal requests, and without the value itself.
fn normal(answer: &Answer, value: &str) -> String {
    fn blank(json: &mut Value) {
        match json {
            Value::Object(fields) => fields.iter_mut().for_each(|(name, field)| {
                if VARYING.contains(&name.as_str()) && !field.is_null() {
                    *field = json!("*");
                }
                blank(field);
            }),
            Value::Array(all) => all.iter_mut().for_each(blank),
            _ => {}
        }
    }
    let body = match serde_json::from_str::<Value>(&answer.body) {
        Ok(mut json) => {
            blank(&mut json);
            json.to_string()
        }
        Err(_) => answer.body.clone(),
    };
    // Without the quotes of an ETag, which are escaped in JSON.
    let value = value.trim_start_matches("W/").trim_matches('"');
    // Messages about queries show its beginning.
    let beginning: String = value.chars().take(40).chain(['…']).collect();
    format!("{} {}", answer.status, body.replace(value, "<value>").replace(&beginning, "<value>"))
}

/// Creates a row and events of an organisation, and returns its values.
async fn values_of(t: &TestGateway, org: Uuid, token: &str) -> Values {
    let note = Uuid::new_v4();
    t.db.run(format!("insert into notes values ('{note}', '{org}', '{}')", secret(org))).await;
    let addr = t.gateway.public_addr();
    let get = |path: String| Upgrade::plain(&path).with("Authorization", &format!("Bearer {token}"));
    let page: Value =
        serde_json::from_str(&get("/v1/notes?limit=1".to_owned()).send(addr).await.body).expect("JSON");
    let row = get(format!("/v1/notes/{note}")).send(addr).await;
    let key = format!("key-{org}");
    let event = json!({"topic": "notes", "event": "test.event", "data": {"secret": secret(org)}});
    let published = Post::json("/v1/events", token, &event).with("Idempotency-Key", &key).send(addr).await;
    let published: Value = serde_json::from_str(&published.body).expect("JSON");
    let cloud =
        json!({"specversion": "1.0", "id": org, "source": "/a", "type": "test.event", "subject": "notes"});
    let structured = Post::json("/v1/events", token, &cloud);
    let structured = structured.without("Content-Type").with("Content-Type", "application/cloudevents+json");
    assert_eq!(structured.send(addr).await.status, 202);
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let own = [
        ("organisation and id of a CloudEvent", org.to_string()),
        ("row", note.to_string()),
        ("ETag", row.headers("etag")[0].to_owned()),
        ("cursor", text(&page["cursor"])),
        ("transaction", text(&published["tx"])),
        ("idempotency key", key),
        ("user", format!("user-{org}")),
    ];
    own.into_iter().map(|(kind, value)| (kind, value.clone(), like(&value))).collect()
}

/// A value of the same form that does not exist.
fn like(value: &str) -> String {
    let random = Uuid::new_v4().simple().to_string();
    let end = value.trim_end_matches('"');
    format!("{}{}{}", &end[..end.len() - 8], &random[..8], &value[end.len()..])
}

/// The caller's own cursor, transaction and page are known. So an answer for a foreign one is an answer for
/// that value, not for the rest of the request.
async fn expect_own_values_to_be_known(t: &TestGateway, operations: &[Operation], own: &Caller) {
    let covers = operations.iter().find(|operation| operation.path == "/v1/covers").expect("the route");
    for (field, value) in [("cursor", &own.cursor), ("tx", &own.tx), ("page", &own.cursor)] {
        let answer = ask(t, covers, own, &Place::Body(field.to_owned()), value).await;
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert!(answer.status == 200 && body["covered"].is_boolean(), "{field}: {answer:?}");
    }
}

#[tokio::test]
async fn values_of_another_organisation_are_answered_like_values_that_do_not_exist() {
    let db = TestDb::create().await;
    let orgs = [db.create_org().await, db.create_org().await, db.create_org().await];
    // Without row-level security, so nothing but the gateway separates organisations.
    db.run(
        "create table notes (id uuid primary key, org_id uuid not null, body text);
         grant select on notes to authenticated;
         select warden.watch('notes', 'notes', 'note', visibility => 'organisation')",
    )
    .await;
    let t = TestGateway::start_with(db, super::without_rates).await;
    let token_of = |org: Uuid| token(org, &json!({"sub": format!("user-{org}"), "role": "service_role"}));
    let document = Upgrade::plain(PATH).send(t.gateway.public_addr()).await;
    let document: Value = serde_json::from_str(&document.body).expect("JSON");
    let operations = operations(&document);
    let mut of = BTreeMap::new();
    for org in orgs {
        of.insert(org, values_of(&t, org, &token_of(org)).await);
    }
    let us = orgs[0];
    let own = Caller::new(token_of(us), &of[&us]);
    expect_own_values_to_be_known(&t, &operations, &own).await;
    let mut asked = 0;
    for operation in &operations {
        for place in &operation.places {
            for them in &orgs[1..] {
                if *place == Place::Bearer {
                    // With their token the caller is in their organisation: ours must not be in the answer.
                    let answer = ask(&t, operation, &own, place, &token_of(*them)).await;
                    let shows_ours =
                        answer.body.contains(&secret(us)) || answer.body.contains(&us.to_string());
                    assert!(!shows_ours, "{operation:?}: {answer:?}");
                    continue;
                }
                for (kind, theirs, nobodys) in &of[them] {
                    let answer = ask(&t, operation, &own, place, theirs).await;
                    let unknown = ask(&t, operation, &own, place, nobodys).await;
                    let context =
                        format!("{} {} {place:?} with another's {kind}", operation.method, operation.path);
                    assert!(!answer.body.contains(&secret(*them)), "{context}: {answer:?}");
                    assert_eq!(
                        normal(&answer, theirs),
                        normal(&unknown, nobodys),
                        "{context}:\n{answer:?}\n{unknown:?}"
                    );
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 200, "{asked} requests");
    // Nothing of this ended a session or changed an answer of the others.
    for them in &orgs[1..] {
        let answer = Upgrade::plain("/v1/notes")
            .with("Authorization", &format!("Bearer {}", token_of(*them)))
            .send(t.gateway.public_addr())
            .await;
        assert!(answer.status == 200 && answer.body.contains(&secret(*them)), "{answer:?}");
    }
    t.gateway.stop().await;
}

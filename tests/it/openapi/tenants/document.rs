//! Operations of the OpenAPI document, and the places of their requests that take a value.

use serde_json::{Value, json};

/// A parameter of the document: one place of a request that takes a value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    Path(String),
    Query(String),
    Header(String),
    /// A field of the body.
    Body(String),
}

/// An operation of the document.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) media_type: Option<String>,
    pub(super) places: Vec<Place>,
    /// Whether the operation takes a token.
    pub(super) takes_token: bool,
}

/// All operations, one for each media type of the body.
pub(super) fn operations(document: &Value) -> Vec<Operation> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let places: Vec<Place> = parameters.map(place).collect();
            let security = operation["security"].as_array();
            let new = |media_type, places| Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                media_type,
                places,
                takes_token: security.is_some_and(|all| all.contains(&json!({"bearer": []}))),
            };
            let Some(content) = operation.pointer("/requestBody/content").and_then(Value::as_object) else {
                all.push(new(None, places));
                continue;
            };
            for (media_type, body) in content {
                // All have the same headers. Those of CloudEvents are read beside plain JSON alone.
                let headers = places.iter().filter(|_| media_type == "application/json").cloned();
                let fields = fields(document, &body["schema"]).into_iter().map(Place::Body);
                all.push(new(Some(media_type.clone()), headers.chain(fields).collect()));
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

//! Every answer that a test gets from a documented route must be in the OpenAPI document: its status, and the
//! code of a rejection. So the document's lists of codes are complete as far as the tests are.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::Value;

use super::Answer;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    serde_json::from_slice(&fs::read(path).expect("reads")).expect("JSON")
});

/// Checks an answer to this request.
pub fn expect_documented(method: &str, target: &str, answer: &Answer) {
    let Some((route, operation)) = operation(method, target) else { return };
    let code = answer.code();
    // The HTTP library answers a request that it cannot read, without a body.
    if answer.status == 400 && code.is_empty() {
        return;
    }
    let response = &operation["responses"][answer.status.to_string()];
    assert!(
        response.is_object(),
        "{method} {route}: {} is not in docs/openapi.json: {answer:?}",
        answer.status
    );
    let codes = response.pointer("/content/application~1problem+json/schema/allOf/1/properties/code/enum");
    let is_listed =
        codes.and_then(Value::as_array).is_some_and(|codes| codes.contains(&code.as_str().into()));
    assert!(
        code.is_empty() || is_listed,
        "{method} {route}: the code {code} is not in docs/openapi.json: {answer:?}"
    );
}

/// The documented operation of a request, if there is one.
fn operation(method: &str, target: &str) -> Option<(String, &'static Value)> {
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_lowercase() };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let parts: Vec<&str> = path.split('/').collect();
    // The gateway prefers a path without parameters.
    let template = match parts.as_slice() {
        _ if DOCUMENT["paths"].get(path).is_some() => path,
        ["", "v1", topic] if !topic.is_empty() => "/v1/{topic}",
        ["", "v1", topic, id] if !topic.is_empty() && !id.is_empty() => "/v1/{topic}/{id}",
        _ => return None,
    };
    let operation = DOCUMENT["paths"][template].get(method)?;
    Some((template.to_owned(), operation))
}

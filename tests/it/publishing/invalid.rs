//! Requests that are not valid: each gets a clear problem document, and nothing is published.

use serde_json::{Value, json};

use super::{code, paid, post, publish, published, service, with_orgs};

#[tokio::test]
async fn a_batch_with_invalid_events_publishes_nothing_and_names_all_of_them() {
    let (t, [org]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let text = format!(
        r#"[{good}, {{"topic": "nowhere", "event": "a"}}, {good}, {{"topic": "invoices", "event": "warden.x"}},
            "text", {{"topic": "invoices", "event": "a", "data": {{"a": 1, "a": 2}}}}, {{"topic": "invoices"}},
            {{"topic": "invoices", "event": "a", "data": "{long}"}}, {{"topic": "invoices", "event": "a", "extra": 1}},
            {{"topic": "invoice:017", "event": "a"}}]"#,
        good = paid(0),
        long = "x".repeat(70_000),
    );
    let answer = post(&service(org), &Value::Null).body(text).send(addr).await;
    assert_eq!(code(&answer), (400, "invalid_events".to_owned()), "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(body["title"], "Bad Request");
    assert_eq!(body["status"], 400);
    assert!(answer.message().contains("8 of 10 events"), "{answer:?}");
    let errors = body["errors"].as_array().expect("errors");
    let found: Vec<(u64, &str)> = errors
        .iter()
        .map(|e| (e["index"].as_u64().expect("an index"), e["detail"].as_str().expect("a detail")))
        .collect();
    let expected = [
        (1, "topic \"nowhere\" does not exist"),
        (3, "event name \"warden.x\" is not valid"),
        (4, "a value of type string is not an event"),
        (5, "same key twice"),
        (6, "topic and event must be strings"),
        (7, "70002 bytes"),
        (8, "unknown field \"extra\""),
        (9, "topic \"invoice:017\" does not exist"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((index, detail), (expected_index, part)) in found.into_iter().zip(expected) {
        assert!(index == expected_index && detail.contains(part), "{index}: {detail}");
    }
    assert_eq!(published(&t.db).await, 0);
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_invalid_body_is_rejected_with_its_reason() {
    let (t, [org]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let token = service(org);
    let data = |data: &str| format!(r#"{{"topic": "invoices", "event": "invoice.paid", "data": {data}}}"#);
    let nested = |depth: usize| data(&format!("{}{}", "[".repeat(depth), "]".repeat(depth)));
    for (body, expected, part) in [
        (Vec::new(), "invalid_events", "the body must be an event"),
        (b"null".to_vec(), "invalid_events", "the body must be an event"),
        (b"[]".to_vec(), "invalid_events", "no events"),
        (b"{\"topic\": \"invoices\"".to_vec(), "invalid_json", "line 1"),
        (data("\"\\ud800\"").into(), "invalid_events", "surrogate"),
        (data("\"\\u0000\"").into(), "invalid_events", "U+0000"),
        (data("{\"\\u0000\": 1}").into(), "invalid_events", "U+0000"),
        (data("\"\u{0}\"").into(), "invalid_json", "line 1"),
        ([b"{\"topic\": \"\xff\xfe\"}".to_vec()].concat(), "invalid_json", "UTF-8"),
        (nested(100).into(), "invalid_events", "100 levels"),
        (nested(200_000).into(), "invalid_events", "100 levels"),
        (data("1e400").into(), "invalid_events", "400 digits"),
        (data("1e-401").into(), "invalid_events", "400 digits"),
        (data("1e999999999999").into(), "invalid_events", "400 digits"),
        (data(&"9".repeat(401)).into(), "invalid_events", "400 digits"),
        (data(&format!("0.{}1", "0".repeat(17_000))).into(), "invalid_events", "400 digits"),
        (data("NaN").into(), "invalid_json", "line 1"),
        (br#"{"topic": "invoices", "topic": "org", "event": "a"}"#.to_vec(), "invalid_events", "twice"),
        (
            br#"{"specversion": "1.0", "topic": "invoices", "event": "a"}"#.to_vec(),
            "invalid_events",
            "unknown field",
        ),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        let answer = post(&token, &Value::Null).body(body).send(addr).await;
        assert_eq!(code(&answer), (400, expected.to_owned()), "{shown}: {answer:?}");
        assert!(answer.body.contains(part), "{shown}: {}", answer.body);
    }
    let many = json!((0..1001).map(paid).collect::<Vec<_>>());
    let large = json!({"topic": "invoices", "event": "a", "data": "x".repeat(1024 * 1024)});
    let good = || post(&token, &paid(0));
    let typed = |media_type: &str| good().without("Content-Type").with("Content-Type", media_type);
    for (request, expected) in [
        (post(&token, &many), (413, "too_many_events")),
        (post(&token, &large), (413, "body_too_long")),
        (good().without("Content-Type"), (415, "unsupported_media_type")),
        (typed("text/plain"), (415, "unsupported_media_type")),
        (typed("application/json; charset=latin1"), (415, "unsupported_media_type")),
        (typed("application/xml"), (415, "unsupported_media_type")),
        (good().with("Content-Type", "text/plain"), (415, "unsupported_media_type")),
        (good().with("Content-Encoding", "gzip"), (415, "unsupported_encoding")),
        (good().with("Idempotency-Key", ""), (400, "invalid_idempotency_key")),
        (good().with("Idempotency-Key", &"k".repeat(256)), (400, "invalid_idempotency_key")),
        (good().with("Idempotency-Key", "é"), (400, "invalid_idempotency_key")),
        (good().with("Idempotency-Key", "a").with("Idempotency-Key", "a"), (400, "invalid_idempotency_key")),
    ] {
        let answer = request.send(addr).await;
        assert_eq!(code(&answer), (expected.0, expected.1.to_owned()), "{answer:?}");
    }
    assert_eq!(published(&t.db).await, 0);
    // The limits themselves are allowed.
    publish(addr, post(&token, &Value::Null).body(nested(99))).await;
    publish(addr, post(&token, &Value::Null).body(data(&format!("1{}", "0".repeat(308))))).await;
    publish(addr, typed("Application/JSON;charset=UTF-8")).await;
    publish(addr, post(&token, &json!((0..1000).map(paid).collect::<Vec<_>>()))).await;
    assert_eq!(published(&t.db).await, 1003);
    t.gateway.stop().await;
}

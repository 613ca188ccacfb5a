//! CloudEvents in their three content modes: no body is taken for one of another form.

use serde_json::{Value, json};

use super::{PATH, code, ids, paid, post, publish, published, service, with_orgs};
use crate::harness::Post;

fn event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "invoice.paid", "subject": "invoices",
           "time": "2026-01-02T03:04:05Z", "data": {"id": id}})
}

fn typed(token: &str, media_type: &str, body: &Value) -> Post {
    post(token, body).without("Content-Type").with("Content-Type", media_type)
}

fn binary(token: &str, id: &str) -> Post {
    let post = Post::json(PATH, token, &json!({"id": id})).with("ce-id", id).with("ce-source", "/shop");
    post.with("ce-specversion", "1.0").with("ce-type", "invoice.paid").with("CE-Subject", "invoices")
}

const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";
const BATCHED: &str = "application/cloudevents-batch+json";

#[tokio::test]
async fn each_mode_publishes_and_source_and_id_are_the_key() {
    let (t, [org]) = with_orgs().await;
    let (addr, token) = (t.gateway.public_addr(), service(org));
    let mut client = t.connect(org).await;
    client.join("invoices").await;
    let one = publish(addr, typed(&token, STRUCTURED, &event("1"))).await;
    let two = publish(addr, binary(&token, "2").with("ce-time", "2026-01-02T03:04:05%2B01:00")).await;
    let three = publish(addr, typed(&token, BATCHED, &json!([event("1"), event("3"), event("2")]))).await;
    assert_eq!([ids(&three)[0], ids(&three)[2]], [ids(&one)[0], ids(&two)[0]], "{three}");
    let duplicates: Vec<bool> =
        three["events"].as_array().expect("events").iter().map(|e| e["duplicate"] == true).collect();
    assert_eq!(duplicates, [true, false, true]);
    assert_eq!((&three["events"][0]["tx"], &three["events"][2]["tx"]), (&one["tx"], &two["tx"]));
    assert!(three["tx"] != one["tx"] && three["tx"] != two["tx"], "{three}");
    for id in ["1", "2", "3"] {
        assert_eq!(client.expect_only("invoices", "invoice.paid").await.payload["data"], json!({"id": id}));
    }

    let mut changed = event("3");
    changed["data"] = json!("other");
    let answer = typed(&token, BATCHED, &json!([event("4"), changed])).send(addr).await;
    let body: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(code(&answer), (409, "idempotency_key_reused".to_owned()), "{answer:?}");
    assert_eq!((body["errors"].as_array().map(Vec::len), &body["errors"][0]["index"]), (Some(1), &json!(1)));
    assert_eq!(published(&t.db).await, 3, "the event beside it is not published either");
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_body_is_never_taken_for_one_of_another_form() {
    let (t, [org]) = with_orgs().await;
    let (addr, token) = (t.gateway.public_addr(), service(org));
    let own = paid(0);
    let without = |name: &str| {
        let mut event = event("9");
        event.as_object_mut().expect("an object").remove(name);
        event
    };
    for (name, request, expected, part) in [
        ("a CloudEvent as own JSON", post(&token, &event("9")), (400, "invalid_events"), "unknown field"),
        (
            "own JSON as a CloudEvent",
            typed(&token, STRUCTURED, &own),
            (400, "invalid_events"),
            "specversion is missing",
        ),
        (
            "a batch as one",
            typed(&token, STRUCTURED, &json!([event("9")])),
            (400, "invalid_events"),
            "one CloudEvent",
        ),
        ("one as a batch", typed(&token, BATCHED, &event("9")), (400, "invalid_events"), "array"),
        ("an empty batch", typed(&token, BATCHED, &json!([])), (400, "invalid_events"), "no events"),
        (
            "no topic",
            typed(&token, STRUCTURED, &without("subject")),
            (400, "invalid_events"),
            "it names the topic",
        ),
        ("no id", typed(&token, BATCHED, &json!([without("id")])), (400, "invalid_events"), "id is missing"),
        (
            "a header is missing",
            binary(&token, "9").without("ce-specversion"),
            (400, "invalid_events"),
            "specversion",
        ),
        (
            "a header twice",
            binary(&token, "9").with("ce-id", "8"),
            (400, "invalid_events"),
            "id occurs twice",
        ),
        (
            "raw bytes in a header",
            binary(&token, "9").with("ce-x", "é"),
            (400, "invalid_events"),
            "percent-encoded",
        ),
        (
            "text",
            binary(&token, "9").without("Content-Type").with("Content-Type", "text/plain"),
            (415, "unsupported_media_type"),
            "",
        ),
        (
            "another format",
            typed(&token, "application/cloudevents+avro", &own),
            (415, "unsupported_media_type"),
            "",
        ),
        (
            "another format of JSON",
            typed(&token, "application/cloudevents-stream+json", &own),
            (415, "unsupported_media_type"),
            "",
        ),
        (
            "a second key",
            binary(&token, "9").with("Idempotency-Key", "9"),
            (400, "invalid_idempotency_key"),
            "omit",
        ),
        (
            "an unknown topic",
            binary(&token, "9").without("ce-subject").with("ce-subject", "nowhere"),
            (400, "invalid_events"),
            "does not exist",
        ),
    ] {
        let answer = request.send(addr).await;
        assert_eq!(code(&answer), (expected.0, expected.1.to_owned()), "{name}: {answer:?}");
        assert!(answer.body.contains(part), "{name}: {}", answer.body);
    }
    assert_eq!(published(&t.db).await, 0);
    // Without data, and without a media type.
    publish(addr, binary(&token, "9").without("Content-Type").body("")).await;
    publish(addr, binary(&token, "10").without("Content-Type").with("Content-Type", "application/x+json"))
        .await;
    assert_eq!(published(&t.db).await, 2);
    t.gateway.stop().await;
}

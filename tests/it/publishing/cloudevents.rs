//! CloudEvents in their three content modes: no body is taken for one of another form.

use std::net::SocketAddr;

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

/// Sends requests that are not valid. Each names its case, and a part of the expected body.
async fn expect_rejections<const N: usize>(
    addr: SocketAddr,
    status: u16,
    reason: &str,
    requests: [(&str, Post, &str); N],
) {
    for (name, request, part) in requests {
        let answer = request.send(addr).await;
        assert_eq!(code(&answer), (status, reason.to_owned()), "{name}: {answer:?}");
        assert!(answer.body.contains(part), "{name}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_body_is_never_taken_for_one_of_another_form() {
    let (t, [org]) = with_orgs().await;
    let (addr, token, own) = (t.gateway.public_addr(), service(org), paid(0));
    let (structured, batched) =
        (|body: &Value| typed(&token, STRUCTURED, body), |body: &Value| typed(&token, BATCHED, body));
    let headers = || binary(&token, "9");
    let without = |name: &str| {
        let mut event = event("9");
        event.as_object_mut().expect("an object").remove(name);
        event
    };
    let invalid = [
        ("a CloudEvent as own JSON", post(&token, &event("9")), "unknown field"),
        ("own JSON as a CloudEvent", structured(&own), "specversion is missing"),
        ("a batch as one", structured(&json!([event("9")])), "one CloudEvent"),
        ("one as a batch", batched(&event("9")), "array"),
        ("an empty batch", batched(&json!([])), "no events"),
        ("no topic", structured(&without("subject")), "it names the topic"),
        ("no id", batched(&json!([without("id")])), "id is missing"),
        ("a header is missing", headers().without("ce-specversion"), "specversion"),
        ("a header twice", headers().with("ce-id", "8"), "id occurs twice"),
        ("raw bytes in a header", headers().with("ce-x", "é"), "percent-encoded"),
        ("an unknown topic", headers().without("ce-subject").with("ce-subject", "nowhere"), "does not exist"),
    ];
    expect_rejections(addr, 400, "invalid_events", invalid).await;
    let text = headers().without("Content-Type").with("Content-Type", "text/plain");
    let format = "application/cloudevents-stream+json";
    let types = [
        ("text", text, ""),
        ("another format", typed(&token, "application/cloudevents+avro", &own), ""),
        ("another format of JSON", typed(&token, format, &own), ""),
        (
            "another format, and attributes",
            headers().without("Content-Type").with("Content-Type", format),
            "",
        ),
    ];
    expect_rejections(addr, 415, "unsupported_media_type", types).await;
    let key = [("a second key", headers().with("Idempotency-Key", "9"), "omit")];
    expect_rejections(addr, 400, "invalid_idempotency_key", key).await;
    assert_eq!(published(&t.db).await, 0);
    // Without data, and without a media type.
    publish(addr, headers().without("Content-Type").body("")).await;
    let suffixed = binary(&token, "10").without("Content-Type").with("Content-Type", "application/x+json");
    publish(addr, suffixed).await;
    assert_eq!(published(&t.db).await, 2);
    t.gateway.stop().await;
}

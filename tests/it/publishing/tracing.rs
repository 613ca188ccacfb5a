//! Trace contexts of publishers reach subscribers (W3C Trace Context).

use serde_json::{Value, json};

use super::{PATH, ids, paid, post, publish, service, with_orgs};
use crate::harness::{Client, Post, TestDb, TestGateway, token};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OTHER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// The trace context of the next event.
async fn next(client: &mut Client) -> Value {
    client.expect_event("invoices", "invoice.paid").await.payload["traceparent"].clone()
}

#[tokio::test]
async fn a_trace_context_reaches_subscribers_and_replays() {
    let (t, [org]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let mut client = t.connect(org).await;
    let since = client.join("invoices").await["cursor"].clone();
    let traced = |body: &Value| post(&service(org), body).with("traceparent", TRACE);
    let mut own = paid(1);
    own["traceparent"] = json!(OTHER);
    // The event's own context has precedence over that of the request.
    let key = |value: &str| traced(&json!([paid(0), own.clone()])).with("Idempotency-Key", value);
    let first = publish(addr, key("k")).await;
    let cloud_event = json!({"specversion": "1.0", "id": "1", "source": "/a", "type": "invoice.paid", "subject": "invoices"});
    let binary = |name: &str| {
        let mut post = Post::json(PATH, &service(org), &json!({"n": 2}));
        for (name, value) in cloud_event.as_object().expect("an object") {
            post = post.with(&format!("ce-{name}"), value.as_str().expect("a string"));
        }
        post.with(name, OTHER)
    };
    publish(addr, binary("ce-traceparent").with("traceparent", TRACE)).await;
    publish(addr, post(&service(org), &paid(3))).await;
    t.db.run(format!(
        "begin; select set_config('warden.traceparent', '{TRACE}', true), warden.publish('{org}', 'invoices', 'invoice.paid');
         select warden.publish_all('{org}', '[{{\"topic\": \"invoices\", \"event\": \"invoice.paid\"}}]'); commit;
         select warden.publish('{org}', 'invoices', 'invoice.paid')"
    ))
    .await;
    let expected =
        [json!(TRACE), json!(OTHER), json!(OTHER), Value::Null, json!(TRACE), json!(TRACE), Value::Null];
    for expected in &expected {
        assert_eq!(next(&mut client).await, *expected);
    }
    // A repeated request comes from another span, and is the same request.
    let again =
        publish(addr, post(&service(org), &json!([paid(0), paid(1)])).with("Idempotency-Key", "k")).await;
    assert_eq!((ids(&again), &again["events"][0]["duplicate"]), (ids(&first), &json!(true)), "{again}");

    // A node that did not deliver the events reads them from the log.
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    let mut late = Client::connect(second.public_addr(), &token(org, &json!({}))).await;
    late.join_with("invoices", json!({"since": since})).await;
    for expected in &expected {
        assert_eq!(next(&mut late).await, *expected);
    }
    t.gateway.stop().await;
    second.stop().await;
}

/// The standard demands that an invalid header is ignored.
#[tokio::test]
async fn an_invalid_trace_context_is_ignored() {
    let (t, [org]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let mut client = t.connect(org).await;
    client.join("invoices").await;
    let later = TRACE.replacen("00", "cc", 1);
    for (sent, delivered) in [
        (TRACE.to_owned(), json!(TRACE)),
        (later.clone(), json!(TRACE)),
        (format!("{later}-what-comes-later"), json!(TRACE)),
        (format!("{later}.what"), Value::Null),
        (format!("{TRACE}-more"), Value::Null),
        (TRACE.to_uppercase(), Value::Null),
        (TRACE.replacen("00", "ff", 1), Value::Null),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01".to_owned(), Value::Null),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01".to_owned(), Value::Null),
        (TRACE[..54].to_owned(), Value::Null),
        (TRACE.replace('-', "_"), Value::Null),
        (String::new(), Value::Null),
        ("x".repeat(10_000), Value::Null),
    ] {
        publish(addr, post(&service(org), &paid(0)).with("traceparent", &sent)).await;
        assert_eq!(next(&mut client).await, delivered, "{sent}");
    }
    let twice = post(&service(org), &paid(0)).with("traceparent", TRACE).with("traceparent", OTHER);
    publish(addr, twice).await;
    assert_eq!(next(&mut client).await, Value::Null);
    let mut event = paid(0);
    event["traceparent"] = json!({"a": [TRACE]});
    publish(addr, post(&service(org), &event)).await;
    assert_eq!(next(&mut client).await, Value::Null);
    t.gateway.stop().await;
}

/// Events of a transaction whose triggers change rows may be written again in another order.
#[tokio::test]
async fn a_new_order_of_events_keeps_every_column() {
    let db = TestDb::create().await;
    let missing: Vec<String> = sqlx::query_scalar(
        "select a.attname::text from pg_attribute a, pg_proc p
         where a.attrelid = 'warden.events'::regclass and a.attnum > 0 and not a.attisdropped
           and a.attname not in ('id', 'ring') and p.oid = 'warden.sort_events()'::regprocedure
           and p.prosrc !~ ('\\ml[.]' || a.attname || '\\M')",
    )
    .fetch_all(&db.pool)
    .await
    .expect("reads");
    assert!(missing.is_empty(), "{missing:?}");
}

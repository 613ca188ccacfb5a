//! Callers that may publish, the subscribers that receive their events, and the contents of the answer.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{PATH, code, ids, paid, post, publish, published, service, with_orgs};
use crate::harness::{Client, Post, TestGateway, eventually, token};

#[tokio::test]
async fn published_events_arrive_with_their_ids_and_the_cursor_covers_them() {
    let (t, [org, other]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let mut ours = t.connect(org).await;
    ours.join("org").await;
    let mut theirs = t.connect(other).await;
    theirs.join("org").await;

    let single = publish(addr, post(&service(org), &paid(0))).await;
    let entity = json!({"topic": "invoice:17", "event": "invoice.paid"});
    let batch = publish(addr, post(&service(org), &json!([paid(1), entity, paid(2)]))).await;
    let mut expected: Vec<(i64, Value)> = Vec::new();
    for (answer, data) in
        [(&single, vec![json!({"n": 0})]), (&batch, vec![json!({"n": 1}), json!({}), json!({"n": 2})])]
    {
        assert_eq!(answer["events"].as_array().map(Vec::len), Some(data.len()), "{answer}");
        assert!(answer["tx"].is_string() && answer["cursor"].is_string(), "{answer}");
        expected.extend(ids(answer).into_iter().zip(data));
    }
    assert_ne!(single["tx"], batch["tx"]);
    for (id, data) in expected {
        let event = ours.expect_event("org", "invoice.paid").await;
        assert_eq!((&event.payload["id"], &event.payload["data"]), (&json!(id), &data));
    }

    // A client that joins with the answer's cursor gets neither these events nor misses a later one. The
    // second node replays from the log.
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    publish(second.public_addr(), post(&service(org), &paid(3))).await;
    for node in [&t.gateway, &second] {
        for answer in [&single, &batch] {
            let mut client = Client::connect(node.public_addr(), &token(org, &json!({}))).await;
            let reply = client.join_with("invoices", json!({"since": answer["cursor"]})).await;
            assert_eq!(reply["cursor"], answer["cursor"], "no resync: {reply}");
            let missed: &[usize] = if answer == &single { &[1, 2, 3] } else { &[3] };
            for n in missed {
                assert_eq!(client.expect_only("invoices", "invoice.paid").await.payload["data"]["n"], *n);
            }
        }
    }
    t.db.publish(other, "org", "test.last").await;
    theirs.expect_only("org", "test.last").await;
    t.gateway.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn only_a_back_end_publishes_and_only_within_its_organisation() {
    let (t, [org, other]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let with = |changes: Value| post(&token(org, &changes), &paid(0));
    let good = || post(&service(org), &paid(0));
    let mut in_url = good();
    in_url.target = format!("{PATH}?access_token={}", service(org));
    let mut get = good();
    get.method = "GET";
    let cookie = Post::bare(PATH, &paid(0).to_string()).with("Cookie", &format!("token={}", service(org)));
    for (name, request, expected) in [
        ("no token", Post::bare(PATH, &paid(0).to_string()), (401, "no_token")),
        ("a cookie", cookie, (401, "no_token")),
        ("a user", with(json!({})), (403, "not_a_backend")),
        ("forged", post(&service(org).replace('.', ".e"), &paid(0)), (401, "invalid_token")),
        ("expired", with(json!({"role": "service_role", "exp": 1})), (401, "token_expired")),
        ("no organisation", post(&service(Uuid::new_v4()), &paid(0)), (403, "unknown_organisation")),
        ("a token in the URL", in_url, (400, "credential_in_url")),
        ("another origin", good().with("Origin", "https://evil.example"), (403, "origin_not_allowed")),
        ("two tokens", good().with("Authorization", "Bearer x"), (400, "several_tokens")),
        ("GET", get, (405, "method_not_allowed")),
        (
            "a named organisation",
            post(&service(org), &{
                let mut event = paid(0);
                event["org_id"] = json!(other);
                event
            }),
            (400, "invalid_events"),
        ),
    ] {
        let answer = request.send(addr).await;
        assert_eq!(code(&answer), (expected.0, expected.1.to_owned()), "{name}: {answer:?}");
    }
    assert_eq!(published(&t.db).await, 0);

    // A query, and headers that name another organisation, change nothing.
    let mut request = good().with("X-Org-Id", &other.to_string());
    request.target = format!("{PATH}?org_id={other}");
    publish(addr, request).await;
    let orgs: Vec<Uuid> =
        sqlx::query_scalar("select distinct org_id from warden.events where event = 'invoice.paid'")
            .fetch_all(&t.db.pool)
            .await
            .expect("reads");
    assert_eq!(orgs, [org]);

    t.db.run(format!("select warden.suspend('{org}')")).await;
    eventually("the node has loaded the suspension", async || {
        good().send(addr).await.code() == "organisation_suspended"
    })
    .await;
    publish(addr, post(&service(other), &paid(1))).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_tokens_topics_limit_what_it_publishes() {
    let (t, [org]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    let metadata = json!({"org_id": org, "warden_topics": ["invoices", "invoice:*"]});
    let limited = token(org, &json!({"role": "service_role", "app_metadata": metadata}));
    let to = |topic: &str| json!({"topic": topic, "event": "invoice.paid"});
    publish(addr, post(&limited, &json!([to("invoices"), to("invoice:5")]))).await;
    for topic in ["org", "calls", "call:1"] {
        let answer = post(&limited, &json!([to("invoices"), to(topic)])).send(addr).await;
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(body["errors"][0]["index"], 1, "{answer:?}");
        assert_eq!(body["errors"][0]["code"], "forbidden_topic", "{answer:?}");
    }
    let answer = post(&limited, &to("org")).send(addr).await;
    assert_eq!(code(&answer), (403, "forbidden_topic".to_owned()), "{answer:?}");
    assert_eq!(published(&t.db).await, 2);
    t.gateway.stop().await;
}

//! Tokens that are limited to some topics, and restricted topics, which a token must name.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Client, TestDb, TestGateway, Upgrade, token};

/// A token whose claim names these topics.
fn limited(org: Uuid, topics: &Value) -> String {
    token(org, &json!({"app_metadata": {"org_id": org, "warden_topics": topics}}))
}

async fn connect(t: &TestGateway, org: Uuid, topics: &Value) -> Client {
    Client::connect(t.gateway.public_addr(), &limited(org, topics)).await
}

async fn start(need_claim: &[&str]) -> TestGateway {
    let need_claim = need_claim.iter().map(|&topic| topic.to_owned()).collect();
    TestGateway::start_with(TestDb::create().await, |config| config.topics_need_claim = need_claim).await
}

/// Expects that the join is rejected as forbidden, with a message that contains this text.
async fn forbidden(client: &mut Client, topic: &str, text: &str) {
    let reply = client.push(topic, "phx_join", json!({})).await;
    assert_eq!(reply.status, "error", "{topic}: {reply:?}");
    assert_eq!(reply.response["reason"], "forbidden topic", "{topic}: {reply:?}");
    let help = reply.response["message"].as_str().expect("a message");
    assert!(help.contains(text) && help.contains("warden_topics"), "{topic}: {help}");
}

/// Creates a call and waits for its event, so that clients that join later do not receive it.
async fn settled_call(t: &TestGateway, org: Uuid) -> Uuid {
    let mut client = Client::connect(t.gateway.public_addr(), &limited(org, &json!(["*"]))).await;
    client.join("calls").await;
    let call = t.db.insert_call(org).await;
    client.expect_event("calls", "call.created").await;
    call
}

async fn insert_recording(t: &TestGateway, org: Uuid, call: Uuid) {
    t.db.run(format!("insert into recordings (org_id, call_id) values ('{org}', '{call}')")).await;
}

#[tokio::test]
async fn a_limited_token_joins_only_the_topics_that_it_names() {
    let t = start(&[]).await;
    let org = t.db.create_org().await;
    let call = settled_call(&t, org).await;
    let mut client = connect(&t, org, &json!(["calls", format!("call:{call}")])).await;
    client.join("calls").await;
    client.join(&format!("call:{call}")).await;
    for topic in ["recordings", "call_logs", "org"] {
        forbidden(&mut client, topic, topic).await;
    }
    let other = format!("call:{}", Uuid::new_v4());
    forbidden(&mut client, &other, &other).await;
    // A cursor does not change that.
    let cursor = client.join("calls").await["cursor"].clone();
    let reply = client.push("recordings", "phx_join", json!({"since": cursor})).await;
    assert_eq!(reply.response["reason"], "forbidden topic");
    // An unknown topic is reported as unknown.
    assert_eq!(client.push("nothing", "phx_join", json!({})).await.response["reason"], "unmatched topic");
    insert_recording(&t, org, call).await;
    let event = loop {
        let event = client.next_event().await;
        if event.name != "phx_close" {
            break event;
        }
    };
    assert_eq!(
        (event.topic.as_str(), event.name.as_str()),
        (format!("call:{call}").as_str(), "recording.created")
    );
    let mut nothing = connect(&t, org, &json!([])).await;
    forbidden(&mut nothing, "calls", "calls").await;
    let mut everything = connect(&t, org, &json!(["*"])).await;
    for topic in ["calls", "recordings", "org", &other] {
        everything.join(topic).await;
    }
    drop((client, nothing, everything));
    t.gateway.stop().await;
}

#[tokio::test]
async fn aggregate_topics_do_not_leak_a_restricted_topic() {
    let t = start(&["recordings"]).await;
    let org = t.db.create_org().await;
    let call = settled_call(&t, org).await;
    let of_call = format!("call:{call}");
    // Without the claim, and with a claim that names all topics but the restricted one.
    let without = t.connect(org).await;
    let around = connect(&t, org, &json!(["calls", "call_logs", "org", "call:*", of_call])).await;
    for mut client in [without, around] {
        forbidden(&mut client, "recordings", "recordings").await;
        forbidden(&mut client, "org", "recordings").await;
        forbidden(&mut client, &of_call, "recordings").await;
        client.join("calls").await;
        client.join("call_logs").await;
        insert_recording(&t, org, call).await;
        t.db.insert_call(org).await;
        client.expect_only("calls", "call.created").await;
    }
    let mut client = connect(&t, org, &json!(["recordings", "call:*"])).await;
    client.join("recordings").await;
    client.join(&of_call).await;
    insert_recording(&t, org, call).await;
    let mut topics = [client.next_event().await.topic, client.next_event().await.topic];
    topics.sort();
    assert_eq!(topics, [of_call, "recordings".to_owned()]);
    forbidden(&mut client, "org", "org").await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_claim_names_entity_topics_one_by_one_or_by_kind() {
    let t = start(&["order:*"]).await;
    let org = t.db.create_org().await;
    t.db.run(
        "select warden.declare_entity_topic('invoice', 'integer'); select warden.declare_entity_topic('order', 'uuid')",
    )
    .await;
    let order = format!("order:{}", Uuid::new_v4());
    let mut client = connect(&t, org, &json!(["invoice:17", "call:*"])).await;
    crate::harness::eventually("the kinds are known", async || {
        client.push("invoice:17", "phx_join", json!({})).await.status == "ok"
    })
    .await;
    client.join(&format!("call:{}", Uuid::new_v4())).await;
    for topic in ["invoice:18", "invoice:-17", order.as_str()] {
        forbidden(&mut client, topic, topic).await;
    }
    let mut client = connect(&t, org, &json!(["invoice:*"])).await;
    client.join("invoice:18").await;
    forbidden(&mut client, &order, &order).await;
    // Without a claim all topics can be joined, except the restricted kind and `org`, which carries its
    // events.
    let mut client = t.connect(org).await;
    client.join("invoice:17").await;
    client.join("calls").await;
    forbidden(&mut client, &order, &order).await;
    forbidden(&mut client, "org", "order:*").await;
    let mut client = connect(&t, org, &json!(["order:*", "org"])).await;
    client.join(&order).await;
    client.join("org").await;
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_malformed_claim_is_rejected_and_grants_nothing() {
    let t = start(&[]).await;
    let org = t.db.create_org().await;
    for wrong in [
        json!(null),
        json!("calls"),
        json!("*"),
        json!({}),
        json!(true),
        json!([7]),
        json!([null]),
        json!(["calls", ""]),
        json!(["Calls"]),
        json!(["call:*:*"]),
        json!([["calls"]]),
    ] {
        let answer = Upgrade::bearer(&limited(org, &wrong)).send(t.gateway.public_addr()).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_token"), "{wrong}");
        assert!(answer.message().contains("warden_topics"), "{}", answer.message());
    }
    // The claim is ignored in places that users can write themselves.
    let elsewhere = json!({"user_metadata": {"warden_topics": []}, "warden_topics": []});
    let mut client = Client::connect(t.gateway.public_addr(), &token(org, &elsewhere)).await;
    client.join("org").await;
    drop(client);
    let t2 = start(&["recordings"]).await;
    t2.db.run(format!("insert into organizations (id, name) values ('{org}', 'x')")).await;
    let elsewhere = json!({"user_metadata": {"warden_topics": ["*"]}, "warden_topics": ["*"]});
    let mut client = Client::connect(t2.gateway.public_addr(), &token(org, &elsewhere)).await;
    forbidden(&mut client, "recordings", "recordings").await;
    drop(client);
    t2.gateway.stop().await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_refresh_with_a_narrower_token_closes_the_topics_that_it_does_not_name() {
    let t = start(&[]).await;
    let org = t.db.create_org().await;
    let call = settled_call(&t, org).await;
    let mut client = t.connect(org).await;
    for topic in ["calls", "recordings", "org"] {
        client.join(topic).await;
    }
    let narrower = json!({"access_token": limited(org, &json!(["calls"]))});
    assert_eq!(client.push("calls", "access_token", narrower).await.status, "ok");
    let mut left = Vec::new();
    for _ in 0..2 {
        let event = client.next_event().await;
        assert_eq!((event.name.as_str(), &event.payload["reason"]), ("phx_close", &json!("forbidden topic")));
        left.push(event.topic);
    }
    left.sort();
    assert_eq!(left, ["org", "recordings"]);
    insert_recording(&t, org, call).await;
    t.db.insert_call(org).await;
    client.expect_only("calls", "call.created").await;
    forbidden(&mut client, "recordings", "recordings").await;
    // With a wider token the client may join again, but no topic is joined automatically.
    let wider = json!({"access_token": token(org, &json!({}))});
    assert_eq!(client.push("calls", "access_token", wider).await.status, "ok");
    insert_recording(&t, org, call).await;
    t.db.insert_call(org).await;
    client.expect_only("calls", "call.created").await;
    client.join("recordings").await;
    insert_recording(&t, org, call).await;
    client.expect_only("recordings", "recording.created").await;
    drop(client);
    t.gateway.stop().await;
}

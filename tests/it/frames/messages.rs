//! Joins, leaves and pushes: each invalid one is answered with its reason, and memberships stay in order.

use serde_json::{Value, json};
use uuid::Uuid;
use warden::rate::Rate;

use super::{Witnesses, receive};
use crate::harness::{TestDb, TestGateway};

/// The gateway's limit for joined topics.
const JOINS_MAX: usize = 100;

#[tokio::test]
async fn every_invalid_push_is_answered_with_its_reason() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut client = t.connect(org).await;
    let foreign_call = Uuid::new_v4();
    for topic in [
        format!("calls:{org}"),
        format!("calls:{other}"),
        format!("org:{org}"),
        format!("org:{other}"),
        other.to_string(),
        org.to_string(),
        format!("call:{}", foreign_call.to_string().to_uppercase()),
        format!("call:{}", foreign_call.simple()),
        "call:".to_owned(),
        "call:*".to_owned(),
        "*".to_owned(),
        "Calls".to_owned(),
        "calls ".to_owned(),
        "callz".to_owned(),
        "phoenix".to_owned(),
        String::new(),
        "realtime:calls".to_owned(),
    ] {
        for event in ["phx_join", "heartbeat", "invoice.paid"] {
            if (topic.as_str(), event) == ("phoenix", "heartbeat") {
                continue;
            }
            let reply = client.push(&topic, event, json!({})).await;
            assert_eq!((reply.status.as_str(), &reply.topic), ("error", &topic), "{event}: {reply:?}");
            assert_eq!(reply.response["reason"], "unmatched topic", "{topic} {event}: {reply:?}");
            let help = reply.response["message"].as_str().expect("a message");
            assert!(help.contains("calls, org, recordings") || help.contains("recordings"), "{help}");
        }
        // As in Phoenix, leaving a topic that is not joined succeeds.
        let reply = client.push(&topic, "phx_leave", json!({})).await;
        assert_eq!((reply.status.as_str(), reply.response), ("ok", json!({})), "{topic}");
    }
    client.join("calls").await;
    for event in ["heartbeat", "invoice.paid", "call.created", "phx_close", "phx_reply", "warden.resync", ""]
    {
        let reply = client.push("calls", event, json!({})).await;
        assert_eq!(
            (reply.status.as_str(), &reply.response["reason"]),
            ("error", &json!("unknown event")),
            "{event}"
        );
    }
    for payload in [
        json!({"since": 7}),
        json!({"since": ["x"]}),
        json!({"since": {}}),
        json!({"since": true}),
        json!("x"),
        json!(7),
        json!([1]),
        Value::Null,
    ] {
        for topic in ["calls", "recordings"] {
            let reply = client.push(topic, "phx_join", payload.clone()).await;
            assert_eq!(reply.status, "error", "{payload}: {reply:?}");
            assert_eq!(reply.response["reason"], "invalid payload", "{payload}: {reply:?}");
        }
    }
    // Unknown keys in a join's payload are ignored, and the cursor is optional.
    client.join_with("recordings", json!({"config": {"private": true}, "since": null})).await;
    // The valid join is unaffected.
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_only("calls", "call.created").await.row_id(), call.to_string());
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_second_join_replaces_the_first_and_stale_leaves_are_ignored() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    client.send(r#"["1","1","calls","phx_join",{}]"#).await;
    assert_eq!(receive(&mut client).await[3], "phx_reply");
    client.send(r#"["2","2","calls","phx_join",{}]"#).await;
    assert_eq!(receive(&mut client).await, json!(["1", "1", "calls", "phx_close", {}]));
    let reply = receive(&mut client).await;
    assert_eq!((&reply[0], &reply[1], &reply[3]), (&json!("2"), &json!("2"), &json!("phx_reply")), "{reply}");
    assert_eq!(reply[4]["status"], "ok");
    assert!(reply[4]["response"]["cursor"].is_string(), "{reply}");

    // A late leave of the former join, which phoenix sends when it rejoins.
    client.send(r#"["1","3","calls","phx_leave",{}]"#).await;
    assert_eq!(
        receive(&mut client).await,
        json!(["1", "3", "calls", "phx_reply", {"status": "ok", "response": {}}])
    );
    t.db.insert_call(org).await;
    let event = receive(&mut client).await;
    assert_eq!((&event[2], &event[3]), (&json!("calls"), &json!("call.created")), "{event}");

    // The second join replaced the first: one event arrives, and one leave ends the membership.
    client.send(r#"["2","4","calls","phx_leave",{}]"#).await;
    assert_eq!(
        receive(&mut client).await,
        json!(["2", "4", "calls", "phx_reply", {"status": "ok", "response": {}}])
    );
    assert_eq!(receive(&mut client).await, json!(["2", "2", "calls", "phx_close", {}]));
    client.send(r#"["5","5","recordings","phx_join",{}]"#).await;
    assert_eq!(receive(&mut client).await[2], "recordings");
    t.db.insert_call(org).await;
    t.db.publish(org, "recordings", "last").await;
    assert_eq!(receive(&mut client).await[3], "last");
    drop(client);
    t.gateway.stop().await;
}

#[tokio::test]
async fn joined_topics_are_limited_per_socket() {
    let t = TestGateway::start().await;
    let mut witnesses = Witnesses::of(&t).await;
    let mut client = t.connect(witnesses.org).await;
    let topics: Vec<String> = (0..JOINS_MAX).map(|_| format!("call:{}", Uuid::new_v4())).collect();
    for topic in &topics {
        client.join(topic).await;
    }
    for topic in ["calls".to_owned(), format!("call:{}", Uuid::new_v4())] {
        let reply = client.push(&topic, "phx_join", json!({})).await;
        assert_eq!(
            (reply.status.as_str(), &reply.response["reason"]),
            ("error", &json!("too many channels joined"))
        );
    }
    // A joined topic can be joined again, and leaving one makes room for another.
    client.join(&topics[0]).await;
    assert_eq!(client.push(&topics[1], "phx_leave", json!({})).await.status, "ok");
    client.join("recordings").await;
    assert_eq!(client.push("calls", "phx_join", json!({})).await.status, "error");
    t.db.publish(witnesses.org, &topics[0], "still.there").await;
    while client.next_event().await.name != "still.there" {}
    witnesses.check(&t, "too many joins").await;
    drop((client, witnesses));
    t.gateway.stop().await;
}

// Several threads, as in the gateway, so that joins and fan-out run concurrently.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn events_come_after_the_reply_and_not_after_a_leave() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        // This client sends more messages at once than the default limit allows.
        config.limits.session.messages = Rate::new(10_000, 10_000);
    })
    .await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    let publisher = {
        let pool = t.db.pool.clone();
        tokio::spawn(async move {
            loop {
                let publish = sqlx::query("select warden.publish($1, 'calls', 'tick', '{}')").bind(org);
                publish.execute(&pool).await.expect("publishes");
            }
        })
    };
    for round in 0..200_u64 {
        let (join, leave) = ((2 * round).to_string(), (2 * round + 1).to_string());
        client.send(&json!([join, join, "calls", "phx_join", {}]).to_string()).await;
        // The first message after the last leave is the join's reply: no event came before it.
        let first = receive(&mut client).await;
        assert_eq!((&first[1], &first[3]), (&json!(join), &json!("phx_reply")), "round {round}: {first}");
        let event = receive(&mut client).await;
        assert_eq!(event[3], "tick", "round {round}: {event}");
        client.send(&json!([join, leave, "calls", "phx_leave", {}]).to_string()).await;
        loop {
            let message = receive(&mut client).await;
            if message[3] == "phx_reply" {
                assert_eq!(message[1], json!(leave), "{message}");
                break;
            }
            assert_eq!(message[3], "tick", "{message}");
        }
        assert_eq!(
            receive(&mut client).await,
            json!([join, join, "calls", "phx_close", {}]),
            "round {round}"
        );
    }
    publisher.abort();
    drop(client);
    t.gateway.stop().await;
}

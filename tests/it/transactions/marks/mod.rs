//! Marks: the positions at which a topic is complete, so that a client of several topics shows only states
//! that the database had.

mod follower;
mod property;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::harness::{Client, TestDb, TestGateway, token};

/// Publishes one event on each of these topics, in one transaction.
async fn publish_together(db: &TestDb, org: Uuid, topics: &[&str]) {
    let calls = topics.iter().map(|topic| format!("warden.publish('{org}', '{topic}', 'test.note')"));
    let sql = format!("select {}", calls.collect::<Vec<_>>().join(", "));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&db.pool).await.expect("publishes");
}

/// Joins a topic with marks, and awaits the first mark. Returns its cursor.
async fn join(client: &mut Client, topic: &str, mut payload: Value) -> String {
    payload["marks"] = json!(true);
    client.join_with(topic, payload).await;
    let mark = client.expect_event(topic, "warden.mark").await;
    assert_eq!(mark.payload["topics"], json!([]));
    mark.cursor().to_owned()
}

#[tokio::test]
async fn a_mark_follows_the_batch_on_all_topics_and_names_those_that_the_token_may_join() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut both = t.connect(org).await;
    join(&mut both, "calls", json!({})).await;
    join(&mut both, "recordings", json!({})).await;
    let limited =
        token(org, &json!({"app_metadata": {"org_id": org, "warden_topics": ["calls", "call_logs"]}}));
    let mut limited = Client::connect(t.gateway.public_addr(), &limited).await;
    join(&mut limited, "calls", json!({})).await;
    let mut without = t.connect(org).await;
    without.join("calls").await;

    publish_together(&t.db, org, &["recordings", "calls", "call_logs"]).await;
    let (mut events, mut marks) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let event = both.next_event().await;
        match event.name.as_str() {
            "test.note" if marks.is_empty() => events.push(event.topic),
            "warden.mark" => marks.push((event.topic, event.payload)),
            _ => panic!("{event:?} after {marks:?}"),
        }
    }
    events.sort_unstable();
    assert_eq!(events, ["calls", "recordings"]);
    let cursor = &marks[0].1["cursor"];
    let named = |topics: Value| json!({"cursor": cursor, "topics": topics});
    assert_eq!(
        marks,
        [
            ("calls".to_owned(), named(json!(["call_logs", "recordings"]))),
            ("recordings".to_owned(), named(json!(["call_logs", "calls"])))
        ]
    );
    limited.expect_event("calls", "test.note").await;
    assert_eq!(limited.expect_event("calls", "warden.mark").await.payload, named(json!(["call_logs"])));
    without.expect_event("calls", "test.note").await;

    // A topic without events gets no mark, and a client that did not ask for marks gets none at all.
    publish_together(&t.db, org, &["calls"]).await;
    both.expect_event("calls", "test.note").await;
    assert_eq!(both.expect_event("calls", "warden.mark").await.payload["topics"], json!([]));
    both.expect_silence().await;
    without.expect_only("calls", "test.note").await;
    without.expect_silence().await;
    t.gateway.stop().await;
}

/// `org` and entity topics need not be named: at any mark, all their events up to it have arrived.
#[tokio::test]
async fn a_mark_follows_the_batch_on_org_and_entity_topics_too() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    // When one client has the first event, no later join gets it.
    let mut witness = t.connect(org).await;
    witness.join("calls").await;
    let call = t.db.insert_call(org).await;
    witness.expect_event("calls", "call.created").await;
    drop(witness);
    let topics = [format!("call:{call}"), "calls".to_owned(), "org".to_owned()];
    let mut client = t.connect(org).await;
    let mut since = String::new();
    for topic in &topics {
        since = join(&mut client, topic, json!({})).await;
    }
    t.db.run(format!(
        "begin; update calls set status = 'completed' where id = '{call}';
         insert into call_logs (org_id, call_id) values ('{org}', '{call}'); commit"
    ))
    .await;
    let mut events = Vec::new();
    for _ in 0..5 {
        let event = client.next_event().await;
        assert_ne!(event.name, "warden.mark", "a mark follows all events: {events:?}");
        events.push((event.topic, event.name));
    }
    let expected = [
        (&topics[0], "call.updated"),
        (&topics[0], "call_log.created"),
        (&topics[1], "call.updated"),
        (&topics[2], "call.updated"),
        (&topics[2], "call_log.created"),
    ];
    events.sort();
    assert_eq!(events, expected.map(|(topic, name)| (topic.clone(), name.to_owned())));
    let cursor = expect_marks(
        &mut client,
        [
            (&topics[0], &["call_logs", "calls"]),
            (&topics[1], &["call_logs"]),
            (&topics[2], &["call_logs", "calls"]),
        ],
    )
    .await;

    // An event that only `org` carries of these: the other topics are complete at its mark too.
    t.db.run(format!("insert into recordings (org_id) values ('{org}')")).await;
    client.expect_event("org", "recording.created").await;
    let last = expect_marks(&mut client, [("org", &["recordings"])]).await;
    client.expect_silence().await;
    for (cursor, expected) in [(&since, 5 + 1), (&cursor, 1), (&last, 0)] {
        let mut client = t.connect(org).await;
        let mut missed = 0;
        for topic in &topics {
            client.join_with(topic, json!({"since": cursor, "marks": true})).await;
            while client.next_event().await.name != "warden.mark" {
                missed += 1;
            }
        }
        assert_eq!(missed, expected);
    }
    t.gateway.stop().await;
}

/// Expects marks of one position that name these topics. Returns their cursor.
async fn expect_marks<const N: usize>(client: &mut Client, named: [(&str, &[&str]); N]) -> String {
    let mut cursor = None;
    for (topic, named) in named {
        let mark = client.expect_event(topic, "warden.mark").await;
        assert_eq!(mark.payload["topics"], json!(named), "{topic}");
        assert_eq!(mark.cursor(), cursor.get_or_insert_with(|| mark.cursor().to_owned()));
    }
    cursor.expect("a mark")
}

#[tokio::test]
async fn a_mark_ends_every_replay_and_every_snapshot() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut live = t.connect(org).await;
    let since = join(&mut live, "calls", json!({})).await;
    t.db.insert_call(org).await;
    live.expect_event("calls", "call.created").await;
    let after = live.expect_event("calls", "warden.mark").await.cursor().to_owned();
    assert_ne!(since, after);

    let from_log = TestGateway::gateway(&t.db, |config| config.limits.recent.bytes_max = 0).await;
    for node in [&t.gateway, &from_log] {
        let mut client = Client::connect(node.public_addr(), &token(org, &json!({}))).await;
        client.join_with("calls", json!({"since": since, "marks": true})).await;
        client.expect_event("calls", "call.created").await;
        let mark = client.expect_event("calls", "warden.mark").await.cursor().to_owned();
        // The cursor of a mark resumes any topic.
        client.join_with("recordings", json!({"since": mark, "marks": true})).await;
        client.expect_only("recordings", "warden.mark").await;
        let mut reader = Client::connect(node.public_addr(), &token(org, &json!({}))).await;
        reader.join_with("calls", json!({"snapshot": {}, "marks": true})).await;
        assert_eq!(reader.expect_event("calls", "warden.snapshot").await.payload["last"], true);
        reader.expect_only("calls", "warden.mark").await;
    }
    from_log.stop().await;

    // Without marks, the same joins get the same messages without marks.
    let mut without = t.connect(org).await;
    without.join_with("calls", json!({"since": since, "marks": false})).await;
    without.expect_event("calls", "call.created").await;
    without.expect_silence().await;
    t.gateway.stop().await;
}

/// The rows of one organisation may all be on the first pages of a long read. It gets its mark nevertheless,
/// when the last page was read, and none before.
#[tokio::test]
async fn no_mark_is_inside_a_paged_read() {
    const EVENTS: usize = 30;
    let t = TestGateway::start_with(TestDb::create().await, |c| c.limits.tailer.page_rows_max = 4).await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut client = t.connect(org).await;
    for topic in ["calls", "recordings"] {
        join(&mut client, topic, json!({})).await;
    }
    let bulk = [(org, "calls", EVENTS), (org, "recordings", 1), (other, "calls", EVENTS)];
    let bulk = bulk.map(|(org, topic, events)| {
        format!("select warden.publish('{org}', '{topic}', 'test.note') from generate_series(1, {events})")
    });
    let sql = format!("begin; {}; commit", bulk.join(";"));
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&t.db.pool).await.expect("publishes");
    for _ in 0..EVENTS {
        client.expect_event("calls", "test.note").await;
    }
    client.expect_event("recordings", "test.note").await;
    let mark = client.expect_event("calls", "warden.mark").await.payload;
    assert_eq!(mark["topics"], json!(["recordings"]));
    assert_eq!(client.expect_event("recordings", "warden.mark").await.payload["cursor"], mark["cursor"]);
    client.expect_silence().await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn invalid_payloads_of_a_join_are_named() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    let cursor = client.join("calls").await["cursor"].clone();
    for (payload, field) in [
        (json!({"marks": 1}), "marks"),
        (json!({"marks": "true"}), "marks"),
        (json!({"marks": {}}), "marks"),
        (json!({"since": 1, "marks": true}), "since"),
        (json!({"since": cursor, "seen": []}), "seen"),
        (json!({"seen": cursor}), "seen"),
        (json!({"snapshot": {}, "seen": cursor}), "seen"),
        (json!("x"), "an object"),
    ] {
        let reply = client.push("calls", "phx_join", payload.clone()).await;
        assert_eq!((reply.status.as_str(), &reply.response["reason"]), ("error", &json!("invalid payload")));
        let message = reply.response["message"].as_str().expect("a message");
        assert!(message.contains(field), "{payload}: {message}");
    }
    // A cursor that nobody issued leads to a resync, wherever it is.
    let reply = client.join_with("calls", json!({"since": cursor, "seen": "x"})).await;
    assert_eq!(reply["resync"], true);
    let reply = client.join_with("calls", json!({"marks": null})).await;
    assert!(reply["cursor"].is_string(), "{reply}");
    t.gateway.stop().await;
}

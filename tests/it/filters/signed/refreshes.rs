//! Fresh tokens with other filters.

use std::collections::BTreeMap;

use serde_json::json;

use warden::metrics::FilterKindLabels;

use super::*;
use crate::harness::eventually;

#[tokio::test]
async fn a_fresh_token_with_other_filters_moves_its_joins_and_closes_forbidden_ones() {
    let (t, org) = with_tables().await;
    let refresh = |token: &str| json!({"access_token": token});
    // Sees every event, so that the client has been sent all of its own.
    let mut witness = connect(&t, &wide(org)).await;
    witness.join("items").await;
    let mut client = connect(&t, &wide(org)).await;
    for topic in ["items", "others", "org"] {
        client.join(topic).await;
    }
    let reply = client.push("phoenix", "access_token", refresh(&mine(org))).await;
    assert_eq!(reply.status, "ok");
    let mut frames = Vec::new();
    while frames.len() < 3 {
        let event = client.next_event().await;
        frames.push((event.topic.clone(), event.name.clone(), event.payload["reason"].clone()));
    }
    frames.sort_by_key(|(topic, ..)| topic.clone());
    let frame = |topic: &str, name: &str, reason: &str| (topic.to_owned(), name.to_owned(), json!(reason));
    assert_eq!(
        frames,
        [
            frame("items", "warden.resync", "filter"),
            frame("org", "warden.resync", "filter"),
            frame("others", "phx_close", "forbidden topic"),
        ]
    );
    update_all(&t, &mut witness).await;
    for topic in ["items", "org"] {
        assert_eq!(client.expect_event(topic, "item.updated").await.data("id"), 1);
    }
    client.expect_silence().await;
    // Equal filters in another spelling change nothing.
    let same = agent(org, &json!("a"), &json!({"items": "agent=eq.a"}));
    assert_eq!(client.push("phoenix", "access_token", refresh(&same)).await.status, "ok");
    client.expect_silence().await;
    // A filter that does not fit closes the topic.
    let unfit = agent(org, &json!("a"), &json!({"items": "nope=eq.1"}));
    assert_eq!(client.push("phoenix", "access_token", refresh(&unfit)).await.status, "ok");
    for _ in 0..2 {
        let event = client.next_event().await;
        assert_eq!(
            (event.name.as_str(), &event.payload["reason"]),
            ("phx_close", &json!("filter_not_applicable"))
        );
    }
    update_all(&t, &mut witness).await;
    client.expect_silence().await;
    // Without filters everything may be joined again.
    let all = wide(org);
    assert_eq!(client.push("phoenix", "access_token", refresh(&all)).await.status, "ok");
    client.join("items").await;
    t.db.run("update items set n = n + 1 where id = 2").await;
    assert_eq!(client.expect_event("items", "item.updated").await.data("id"), 2);
    t.gateway.stop().await;
}

/// Updates the three items, and waits until the witness has received the events.
async fn update_all(t: &TestGateway, witness: &mut Client) {
    t.db.run("update items set n = n + 1").await;
    for _ in 0..3 {
        witness.expect_event("items", "item.updated").await;
    }
}

/// Reasons of frames that arrive for joins, with their number.
async fn reasons(client: &mut Client, count: usize) -> BTreeMap<(String, String), usize> {
    let mut reasons = BTreeMap::new();
    for _ in 0..count {
        let event = client.next_event().await;
        let reason = event.payload["reason"].as_str().expect("a reason").to_owned();
        *reasons.entry((event.name, reason)).or_default() += 1;
    }
    reasons
}

/// A socket with more topics than it may join with a filter.
#[tokio::test]
async fn a_fresh_token_moves_as_many_joins_as_a_socket_may_have_with_a_filter() {
    let (t, org) = with_tables().await;
    let refresh = |token: &str| json!({"access_token": token});
    let mut client = connect(&t, &wide(org)).await;
    for id in 1..=40 {
        client.join(&format!("item:{id}")).await;
    }
    assert_eq!(client.push("phoenix", "access_token", refresh(&mine(org))).await.status, "ok");
    let count = |name: &str, reason: &str, count| ((name.to_owned(), reason.to_owned()), count);
    assert_eq!(
        reasons(&mut client, 40).await,
        [count("phx_error", "filters_per_socket", 8), count("warden.resync", "filter", 32)].into()
    );
    // A whole topic has no filter that a client could send later.
    assert_eq!(client.push("phoenix", "access_token", refresh(&wide(org))).await.status, "ok");
    for _ in 0..32 {
        let resync = client.next_event().await;
        assert_eq!((resync.name.as_str(), &resync.payload["filter"]), ("warden.resync", &json!("")));
    }
    client.expect_silence().await;
    t.gateway.stop().await;
}

/// A replay and a snapshot that are under way end with the token that they began with.
#[tokio::test]
async fn a_fresh_token_ends_a_replay_and_a_snapshot_in_the_middle() {
    const ROWS: usize = 400;
    let (t, org) = with_tables().await;
    let since = connect(&t, &wide(org)).await.join("items").await["cursor"].clone();
    t.db.run(format!(
        "insert into items (id, org_id, agent, note)
         select n, '{org}', 'b', '{HIDDEN}' || repeat('x', 50000) from generate_series(1001, {}) n",
        1000 + ROWS
    ))
    .await;
    for (topic, payload) in [
        ("items", json!({"since": since})),
        ("items", json!({"since": since, "filter": "id=gt.0"})),
        ("org", json!({"since": since})),
        ("items", json!({"snapshot": {"limit": 20, "id": "gt.1000"}})),
        ("items", json!({"snapshot": {"limit": 20, "id": "gt.1000"}, "filter": "id=gt.0"})),
    ] {
        let mut client = connect(&t, &wide(org)).await;
        client.join_with(topic, payload.clone()).await;
        // The rows are much larger than all buffers, and the client reads no more before it sends the token.
        let text =
            json!(["1", "refresh", "phoenix", "access_token", {"access_token": mine(org)}]).to_string();
        client.send(&text).await;
        let mut before = 0;
        loop {
            let event = client.next_event().await;
            if event.name == "phx_reply" {
                assert_eq!(event.payload["status"], "ok", "{event:?}");
                break;
            }
            assert_ne!(event.name, "warden.resync", "{payload} {}", event.payload["reason"]);
            before += event.payload["rows"].as_array().map_or(1, Vec::len);
        }
        assert!(before < ROWS, "{topic} {payload}: the rows were sent before the token arrived");
        // Nothing of what the former token allowed follows the reply.
        let resync = client.expect_event(topic, "warden.resync").await;
        assert_eq!(resync.payload["reason"], "filter");
        t.db.run("update items set n = n + 1 where id in (1, 2)").await;
        assert_eq!(client.expect_event(topic, "item.updated").await.data("id"), 1);
        client.expect_silence().await;
    }
    t.gateway.stop().await;
}

/// A token that arrives while a join is being prepared.
#[tokio::test]
async fn a_join_that_is_being_prepared_does_not_outlive_its_token() {
    let (t, org) = with_tables().await;
    let wide = agent(org, &json!("a"), &json!({"items": "id=gte.0", "others": "id=gte.0"}));
    // Sees every event, so that none arrives in the next round.
    let mut witness = connect(&t, &super::wide(org)).await;
    witness.join("org").await;
    for topic in ["items", "others", "org"] {
        let mut client = connect(&t, &wide).await;
        let join = json!(["1", "join", topic, "phx_join", {}]).to_string();
        let refresh =
            json!(["1", "refresh", "phoenix", "access_token", {"access_token": mine(org)}]).to_string();
        client.send(&join).await;
        client.send(&refresh).await;
        let mut replies = [client.next_reply().await, client.next_reply().await];
        replies.sort_by_key(|reply| reply.topic == "phoenix");
        let [joined, refreshed] = &replies;
        assert_eq!(refreshed.status, "ok");
        let is_joined = joined.status == "ok";
        match (topic, is_joined) {
            // The join was answered before, and moves or ends.
            ("others", true) => _ = client.expect_event(topic, "phx_close").await,
            (_, true) => {
                let resync = client.expect_event(topic, "warden.resync").await;
                assert_eq!(resync.payload["reason"], "filter");
            }
            ("others", false) => assert_eq!(joined.response["reason"], "forbidden topic", "{joined:?}"),
            (_, false) => assert_eq!(joined.response["reason"], "token replaced", "{joined:?}"),
        }
        t.db.run("update items set n = n + 1; update others set note = note || '!'").await;
        for _ in 0..4 {
            witness.next_event().await;
        }
        if is_joined && topic != "others" {
            assert_eq!(client.expect_event(topic, "item.updated").await.data("id"), 1);
        }
        client.expect_silence().await;
    }
    t.gateway.stop().await;
}

/// A snapshot that waits for its table, so that the token arrives before the reply to the join.
#[tokio::test]
async fn a_join_that_reads_its_rows_is_rejected_when_its_token_is_replaced() {
    let (t, org) = with_tables().await;
    let count = || {
        let of = |kind| t.gateway.metrics().filters.get_or_create(&FilterKindLabels { kind }).get();
        of("indexed") + of("scanned")
    };
    let mut client = connect(&t, &agent(org, &json!("a"), &json!({"items": "id=gte.0"}))).await;
    let mut lock = t.db.pool.begin().await.expect("begins");
    sqlx::query("lock table items").execute(&mut *lock).await.expect("locks");
    client.send(&json!(["1", "join", "items", "phx_join", {"snapshot": {}}]).to_string()).await;
    eventually("the join has a channel", async || count() == 1).await;
    let refresh = json!(["1", "refresh", "phoenix", "access_token", {"access_token": mine(org)}]).to_string();
    client.send(&refresh).await;
    let refreshed = client.next_reply().await;
    assert_eq!((refreshed.topic.as_str(), refreshed.status.as_str()), ("phoenix", "ok"));
    assert_eq!(count(), 0, "nothing of the former token is left");
    lock.rollback().await.expect("rolls back");
    let joined = client.next_reply().await;
    assert_eq!((joined.topic.as_str(), &joined.response["reason"]), ("items", &json!("token replaced")));
    t.db.run("update items set n = n + 1").await;
    client.expect_silence().await;
    t.gateway.stop().await;
}

/// Events that a snapshot holds back, because its pages must arrive first.
#[tokio::test]
async fn events_that_a_snapshot_holds_back_have_the_filters_of_the_token() {
    const ROWS: usize = 400;
    let (t, org) = with_tables().await;
    t.db.run(format!(
        "insert into items (id, org_id, agent, n, note)
         select n, '{org}', 'a', 0, repeat('x', 50000) from generate_series(1001, {}) n",
        1000 + ROWS
    ))
    .await;
    let mut client = connect(&t, &mine(org)).await;
    let join = json!(["1", "1", "items", "phx_join", {"snapshot": {"limit": 20}}]).to_string();
    client.send(&join).await;
    assert_eq!(client.next_reply().await.status, "ok");
    // The rows are much larger than all buffers, and the client has read no page yet.
    t.db.run(format!(
        "update items set n = n + 1 where id <= 3;
         update items set agent = 'b', note = '{HIDDEN}' where id = 1;
         update items set agent = 'a', note = 'mine now' where id = 2;
         delete from items where id = 3"
    ))
    .await;
    let mut ids = Vec::new();
    loop {
        let page = client.expect_event("items", "warden.snapshot").await;
        assert!(!page.payload.to_string().contains(HIDDEN), "{:?}", page.payload["rows"][0]["id"]);
        ids.extend(page.payload["rows"].as_array().expect("rows").iter().map(|row| row["id"].clone()));
        if page.payload["last"] == true {
            break;
        }
    }
    assert_eq!(ids.len(), ROWS + 1);
    for (id, filter) in [(1, None), (1, Some("left")), (2, Some("entered"))] {
        let event = client.expect_event("items", "item.updated").await;
        assert_eq!((&event.payload["data"]["id"], event.payload["filter"].as_str()), (&json!(id), filter));
        assert!(!event.payload.to_string().contains(HIDDEN), "{event:?}");
    }
    client.expect_silence().await;
    t.gateway.stop().await;
}

//! Joins: live events, replays, snapshots, aggregate topics and marks.

use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn values_of_claims_stay_values() {
    let (t, org) = with_tables().await;
    let names = [
        "b),or=(id.gt.0",
        "b,c",
        "(b)",
        "\"b\"",
        "b\"",
        "'",
        "b' or '1'='1",
        "%",
        "*",
        "_",
        "\\",
        "$sub",
        "$$sub",
        "b&id=gt.0",
        "b&or=(id.gt.0)",
        "%26id=gt.0",
        "null",
        "ü€😀",
        "",
        " ",
        "not.eq.b",
        "b\nc",
        "{b}",
        "1e3",
    ];
    let mut clients = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let id = i32::try_from(n).expect("few") + 10;
        sqlx::query("insert into items (id, org_id, agent, note) values ($1, $2, $3, 'theirs')")
            .bind(id)
            .bind(org)
            .bind(name)
            .execute(&t.db.pool)
            .await
            .expect("inserts");
        for filter in [OWN, "agent=in.($app_metadata.agent)", "or=(agent.eq.$app_metadata.agent,id.eq.0)"] {
            let token = agent(org, &json!(name), &json!({"items": filter}));
            assert_eq!(
                summary(&get(&t, &token, "/v1/items").await),
                format!("{id} of 1"),
                "{name:?} {filter}"
            );
        }
        let token = agent(
            org,
            &json!([name, "nobody"]),
            &json!({"items": "or=(id.eq.0,agent.in.($app_metadata.agent))"}),
        );
        let mut client = connect(&t, &token).await;
        client.join("items").await;
        clients.push((id, client));
    }
    t.db.run(format!(
        "update items set n = 7 where id <> 1; insert into items (id, org_id, agent) values (0, '{org}', 'end')"
    ))
    .await;
    for (id, mut client) in clients {
        assert_eq!(summaries(&events_until(&mut client, "items", 0).await), [format!("item.updated {id}")]);
    }
    t.gateway.stop().await;
}

/// Each join is answered, or gets nothing of what the token does not allow.
#[expect(clippy::too_many_lines, reason = "most lines are the table of attempts")]
#[tokio::test]
async fn no_join_receives_more_than_the_filters_of_its_token_allow() {
    let (t, org) = with_tables().await;
    let mut wide = connect(&t, &super::wide(org)).await;
    let wide_reply = wide.join_with("items", json!({"filter": "id=gte.0"})).await;
    let since = wide_reply["cursor"].clone();
    // Missed events for those that resume, also of a topic that the filters do not name.
    t.db.run(format!(
        "update others set note = note || '!';
         update items set n = n + 1, note = note || '!';
         update items set agent = 'b', note = '{HIDDEN}' where id = 1; update items set agent = 'a', note = 'mine' where id = 1"
    ))
    .await;
    // They are dispatched, so no live join gets them.
    for _ in 0..5 {
        wide.expect_event("items", "item.updated").await;
    }
    let end = json!({"items": format!("or=({},id.lte.0)", OWN.replace('=', "."))});
    let token = agent(org, &json!("a"), &end);
    let replayed = ["item.updated 1", "item.updated 1 left", "item.updated 1 entered"];
    let live = ["item.updated 1", "item.updated 1 left", "item.updated 1 entered", "item.deleted 1"];
    let both = || [&replayed[..], &live[..]].concat();
    let attempts: Vec<(&str, Value, &str, Vec<&str>)> = vec![
        ("items", json!({}), "ok", live.to_vec()),
        ("items", json!({"filter": "agent=eq.b"}), "ok", vec![]),
        ("items", json!({"filter": "or=(agent.eq.b,id.gte.0)"}), "ok", live.to_vec()),
        ("items", json!({"filter": "not.and=(agent.eq.a,id.gt.0)"}), "ok", vec![]),
        ("items", json!({"filter": "note=like.H*"}), "ok", vec![]),
        ("items", json!({"filter": "agent=is.null"}), "ok", vec![]),
        ("items", json!({"select": "id"}), "ok", live.to_vec()),
        ("items", json!({"select": "note,id"}), "ok", live.to_vec()),
        ("items", json!({"since": since}), "ok", both()),
        ("items", json!({"since": since, "filter": "id=gt.0"}), "ok", both().into_iter().collect()),
        ("items", json!({"since": since, "since_filter": wide_reply["filter"]}), "ok", live.to_vec()),
        ("items", json!({"since": since, "since_filter": ""}), "ok", live.to_vec()),
        ("items", json!({"snapshot": {}}), "ok", live.to_vec()),
        ("items", json!({"snapshot": {"agent": "eq.b"}}), "ok", live.to_vec()),
        ("items", json!({"snapshot": {"limit": 1, "order": "note.desc"}}), "ok", live.to_vec()),
        (
            "items",
            json!({"snapshot": {"or": "(id.gt.0,agent.is.null)"}, "filter": "id=gte.0"}),
            "ok",
            live.to_vec(),
        ),
        ("org", json!({}), "ok", live.to_vec()),
        ("org", json!({"since": since}), "ok", both()),
        ("org", json!({"filter": "id=gt.0"}), "unknown_topic", vec![]),
        ("org", json!({"snapshot": {}}), "unknown_topic", vec![]),
        ("item:1", json!({}), "ok", live.to_vec()),
        ("item:1", json!({"since": since}), "ok", both()),
        ("item:2", json!({}), "ok", vec![]),
        ("item:2", json!({"since": since}), "ok", vec![]),
        ("others", json!({}), "forbidden topic", vec![]),
        ("others", json!({"since": since}), "forbidden topic", vec![]),
        ("others", json!({"snapshot": {}}), "forbidden topic", vec![]),
        ("others", json!({"filter": "agent=eq.a"}), "forbidden topic", vec![]),
        ("salaries", json!({}), "forbidden topic", vec![]),
        ("notes", json!({}), "forbidden topic", vec![]),
        ("nothing", json!({}), "forbidden topic", vec![]),
    ];
    let mut clients = Vec::new();
    for (topic, payload, expected, received) in attempts {
        let mut client = connect(&t, &token).await;
        assert_eq!(join(&mut client, topic, payload.clone()).await, expected, "{topic} {payload}");
        if expected != "ok" {
            continue;
        }
        if payload.get("snapshot").is_some() {
            loop {
                let page = client.expect_event(topic, "warden.snapshot").await;
                assert!(!page.payload.to_string().contains(HIDDEN), "{page:?}");
                if page.payload["last"] == true {
                    break;
                }
            }
        }
        // The items that end the test reach this topic, whatever the join has selected.
        let last = if topic == "org" { "items" } else { "org" };
        assert_eq!(join(&mut client, last, json!({})).await, "ok");
        clients.push((topic, payload, received, client, last));
    }
    // What a wide filter of equal conditions gets is not shared.
    let mut asked = t.connect(org).await;
    asked
        .join_with(
            "items",
            json!({"filter": end["items"].as_str().expect("text").replace("$app_metadata.agent", "a")}),
        )
        .await;
    t.db.run(format!(
        "update items set n = n + 1, note = note || '!';
         update items set agent = 'b', note = '{HIDDEN}' where id = 1;
         update items set note = '{HIDDEN} still' where id = 1;
         update items set agent = 'a', note = 'mine' where id = 1;
         update others set note = '{HIDDEN} more';
         delete from items where id > 0;
         insert into salaries values (1, '{org}', 'a', '{HIDDEN}');"
    ))
    .await;
    for topic in ["org", "item:1", "item:2", "items", "notes"] {
        t.db.publish(org, topic, "published.HIDDEN").await;
    }
    t.db.run(format!("insert into items (id, org_id, agent) values (0, '{org}', 'end')")).await;
    let mut received = Vec::new();
    for (_, _, _, client, last) in &mut clients {
        received.push(events_until(client, last, 0).await);
    }
    // Everything before the first of them has been sent now, on all topics.
    t.db.run(format!("insert into items (id, org_id, agent) values (-1, '{org}', 'end')")).await;
    for ((topic, payload, expected, mut client, last), mut received) in clients.into_iter().zip(received) {
        received.extend(events_until(&mut client, last, -1).await);
        let is_expected =
            |event: &&Event| event.topic == topic && event.data("id").as_i64().is_none_or(|id| id > 0);
        let received: Vec<Event> = received.iter().filter(is_expected).cloned().collect();
        assert!(received.iter().all(|event| !event.name.contains(HIDDEN)), "{topic} {payload} {received:?}");
        assert_eq!(summaries(&received), expected, "{topic} {payload}");
        for event in &received {
            let keys: Vec<&String> = event.payload["data"].as_object().expect("a row").keys().collect();
            match event.payload["filter"].as_str() {
                Some("left") => {
                    assert_eq!(keys, ["id"], "{event:?}");
                    assert!(event.payload.get("old").is_none(), "{event:?}");
                }
                Some("entered") => assert!(event.payload.get("old").is_none(), "{event:?}"),
                _ => {}
            }
        }
    }
    let mut left = None;
    while left.is_none() {
        let event = asked.next_event().await;
        left = Some(event).filter(|event| event.payload["filter"] == "left");
    }
    assert_eq!(left.expect("left").payload["data"]["note"], HIDDEN, "a filter of a join hides nothing");
    t.gateway.stop().await;
}

#[tokio::test]
async fn marks_answers_and_errors_name_nothing_that_the_filters_leave_out() {
    let (t, org) = with_tables().await;
    let mut client = connect(&t, &agent(org, &json!("a"), &json!({"items": OWN, "notes": "*"}))).await;
    for topic in ["items", "org"] {
        assert_eq!(join(&mut client, topic, json!({"marks": true})).await, "ok");
        client.expect_event(topic, "warden.mark").await;
    }
    let mut wide = t.connect(org).await;
    wide.join("others").await;
    t.db.run("update others set note = note || '!'").await;
    let tx = wide.expect_event("others", "other.updated").await.payload["tx"].clone();
    // Other topics cause no mark, and a mark does not name them.
    client.expect_silence().await;
    t.db.run("begin; update others set note = note || '!'; update items set n = 9 where id = 1; commit")
        .await;
    for (topic, name) in [("items", "item.updated"), ("org", "item.updated")] {
        client.expect_event(topic, name).await;
    }
    for topic in ["items", "org"] {
        let mark = client.expect_event(topic, "warden.mark").await;
        assert!(!mark.payload.to_string().contains("others"), "{mark:?}");
    }
    // The question about a transaction is answered without its topic or its rows.
    let reply = client.push("items", "warden.covers", json!({"tx": tx})).await;
    assert_eq!(reply.response, json!({"covered": true}));
    let cursor = t.gateway.public_addr();
    let body = json!({"cursor": wide.join("others").await["cursor"], "tx": tx});
    let answer = Post::json("/v1/covers", &mine(org), &body).send(cursor).await;
    assert_eq!(serde_json::from_str::<Value>(&answer.body).expect("JSON"), json!({"covered": true}));
    // The error of an unknown topic names no other topics.
    let reply = client.push("nothing:1", "phx_join", json!({})).await;
    assert_eq!(reply.response["reason"], "unmatched topic");
    let message = reply.response["message"].as_str().expect("a message");
    assert!(
        message.contains("items") && !message.contains("others") && !message.contains("drafts"),
        "{message}"
    );
    t.gateway.stop().await;
}

#[tokio::test]
async fn marks_of_an_entity_follow_only_events_of_topics_that_the_filters_name() {
    let (t, org) = with_tables().await;
    let mut client = connect(&t, &agent(org, &json!("a"), &json!({"items": OWN}))).await;
    assert_eq!(join(&mut client, "item:1", json!({"marks": true})).await, "ok");
    client.expect_event("item:1", "warden.mark").await;
    let mut wide = t.connect(org).await;
    for topic in ["item:1", "visits"] {
        wide.join_with(topic, json!({"marks": true})).await;
        wide.expect_event(topic, "warden.mark").await;
    }
    // One transaction, and so one batch: an item of another entity, and a topic that the filters leave out.
    t.db.run(format!(
        "begin; update items set n = 9 where id = 2; insert into visits values (1, '{org}', 1, 'b', '{HIDDEN}'); commit"
    ))
    .await;
    for topic in ["visits", "item:1"] {
        wide.expect_event(topic, "visit.created").await;
    }
    for topic in ["item:1", "visits"] {
        wide.expect_event(topic, "warden.mark").await;
    }
    // Events that are published on the entity topic itself belong to no named topic.
    t.db.publish(org, "item:1", "published").await;
    wide.expect_event("item:1", "published").await;
    wide.expect_event("item:1", "warden.mark").await;
    client.expect_silence().await;
    t.db.run("update items set n = 8 where id = 1").await;
    client.expect_event("item:1", "item.updated").await;
    client.expect_event("item:1", "warden.mark").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn filters_that_name_a_topic_satisfy_its_visibility() {
    let (t, org) = with_tables().await;
    let insert = |id: u8, agent: &str| format!("insert into salaries values ({id}, '{org}', '{agent}', 'x')");
    let mut client = connect(&t, &agent(org, &json!("a"), &json!({"salaries": OWN, "items": "*"}))).await;
    for topic in ["salaries", "org"] {
        assert_eq!(join(&mut client, topic, json!({})).await, "ok");
    }
    t.db.run(insert(1, "b")).await;
    t.db.run(insert(2, "a")).await;
    for topic in ["salaries", "org"] {
        assert_eq!(client.expect_event(topic, "salary.created").await.data("id"), 2);
    }
    client.expect_silence().await;
    // Aggregate topics leave them out for a token whose filters do not name them.
    let mut without = connect(&t, &mine(org)).await;
    assert_eq!(join(&mut without, "salaries", json!({})).await, "forbidden topic");
    assert_eq!(join(&mut without, "org", json!({})).await, "ok");
    t.db.run(insert(3, "a")).await;
    client.expect_event("salaries", "salary.created").await;
    without.expect_silence().await;
    t.gateway.stop().await;
}

/// A row that was about another entity before comes to an entity's topic with the update. If the token does
/// not allow it there, nothing tells that it came.
#[tokio::test]
async fn rows_that_come_from_another_entity_have_not_left_the_filter() {
    let (t, org) = with_tables().await;
    t.db.run(format!(
        "insert into visits values (1, '{org}', 1, 'a', 'mine'), (2, '{org}', 2, 'a', 'mine'), (3, '{org}', 1, 'b', '{HIDDEN}')"
    ))
    .await;
    let token = agent(org, &json!("a"), &json!({"visits": OWN}));
    let mut live = Vec::new();
    let topics = ["item:1", "item:2", "visits"];
    for topic in topics {
        let mut client = connect(&t, &token).await;
        let cursor = client.join(topic).await["cursor"].clone();
        live.push((topic, client, cursor));
    }
    for change in [
        "item_id = 2, agent = 'b', note = 'HIDDEN' where id = 1",
        "agent = 'b' where id = 2",
        "item_id = 2, agent = 'a', note = 'mine' where id = 3",
        "item_id = 1 where id = 3",
        "item_id = 2 where id = 3",
        "note = 'still mine' where id = 3",
    ] {
        t.db.run(format!("update visits set {change}")).await;
    }
    // The end of each topic.
    t.db.run(format!("insert into visits values (11, '{org}', 1, 'a', ''), (12, '{org}', 2, 'a', '')")).await;
    let expected = |topic: &str| match topic {
        "item:1" => vec!["visit.updated 3 entered"],
        "item:2" => {
            let entered = "visit.updated 3 entered";
            vec!["visit.updated 2 left", entered, entered, "visit.updated 3"]
        }
        _ => {
            let updated = "visit.updated 3";
            vec![
                "visit.updated 1 left",
                "visit.updated 2 left",
                "visit.updated 3 entered",
                updated,
                updated,
                updated,
            ]
        }
    };
    for (topic, mut client, since) in live {
        let mut resumed = connect(&t, &token).await;
        resumed.join_with(topic, json!({"since": since})).await;
        for client in [&mut client, &mut resumed] {
            let mut events = Vec::new();
            loop {
                let event = client.next_event().await;
                assert!(!event.payload.to_string().contains(HIDDEN), "{event:?}");
                if event.name == "visit.created" {
                    break;
                }
                events.push(event);
            }
            assert_eq!(summaries(&events), expected(topic), "{topic}");
        }
    }
    // Without the column, nobody knows where the row was.
    let audits = agent(org, &json!("a"), &json!({"audits": OWN, "visits": OWN}));
    let mut client = connect(&t, &audits).await;
    for (topic, expected) in [("item:1", "filter_not_applicable"), ("audits", "ok"), ("org", "ok")] {
        assert_eq!(join(&mut client, topic, json!({})).await, expected, "{topic}");
    }
    let whole = agent(org, &json!("a"), &json!({"audits": "*", "visits": OWN}));
    assert_eq!(join(&mut connect(&t, &whole).await, "item:1", json!({})).await, "ok");
    t.gateway.stop().await;
}

/// Whether a resync arrives tells nothing about a row that the token does not select.
#[tokio::test]
async fn a_condition_of_a_join_does_not_probe_rows_that_the_token_may_not_select() {
    let (t, org) = with_tables().await;
    let token = agent(org, &json!("a"), &json!({"items": "or=(agent.eq.a,id.lte.0)"}));
    let (mut clients, mut since) = (Vec::new(), Value::Null);
    for filter in ["id=eq.2", "id=eq.9", "note=eq.HIDDEN", "note=eq.x", "note=is.null", "n=gt.0", "n=lt.0"] {
        let filter = format!("or=({},id.lte.0)", filter.replace('=', "."));
        let mut client = connect(&t, &token).await;
        since = client.join_with("items", json!({"filter": filter})).await["cursor"].clone();
        clients.push((filter, client));
    }
    // Neither `agent` nor `note` fits into the event.
    let large = "repeat('HIDDEN', 12000)";
    let insert = |id: u8, agent: &str| {
        format!("insert into items (id, org_id, agent, n, note) values ({id}, '{org}', {agent}, 1, {large})")
    };
    t.db.run(insert(20, large)).await;
    let mut known_since = Value::Null;
    for (filter, client) in &mut clients {
        let resync = client.expect_event("items", "warden.resync").await;
        assert_eq!(resync.payload["reason"], "filter", "{filter}");
        known_since = resync.payload["cursor"].clone();
    }
    // `agent` fits, so the token does not select the row.
    t.db.run(insert(21, "'b'")).await;
    t.db.run(format!("insert into items (id, org_id, agent) values (0, '{org}', 'end')")).await;
    for (filter, mut client) in clients {
        assert_eq!(summaries(&events_until(&mut client, "items", 0).await), [""; 0], "{filter}");
        let mut resumed = connect(&t, &token).await;
        resumed.join_with("items", json!({"filter": filter, "since": known_since})).await;
        assert_eq!(summaries(&events_until(&mut resumed, "items", 0).await), [""; 0], "{filter}");
        let mut resumed = connect(&t, &token).await;
        resumed.join_with("items", json!({"filter": filter, "since": since})).await;
        let resync = resumed.expect_event("items", "warden.resync").await;
        assert_eq!(resync.payload["reason"], "filter", "{filter}");
    }
    t.gateway.stop().await;
}

//! Requests over HTTP, and tokens whose filters are invalid or fit no table.

use serde_json::{Value, json};

use super::*;

#[expect(clippy::too_many_lines, reason = "most lines are the table of attempts")]
#[tokio::test]
async fn no_request_reads_more_than_the_filters_of_its_token_allow() {
    let (t, org) = with_tables().await;
    // A page and an ETag of a token without filters.
    let wide = token(org, &json!({}));
    let page = get(&t, &wide, "/v1/items?limit=1&order=n.desc").await;
    let page: Value = serde_json::from_str(&page.body).expect("JSON");
    let next = page["next"].as_str().expect("another page").to_owned();
    let etag = get(&t, &wide, "/v1/items/2").await.headers("etag")[0].to_owned();
    for (path, expected) in [
        ("/v1/items", "1 of 1"),
        ("/v1/items?agent=eq.b", " of 0"),
        ("/v1/items?or=(agent.eq.b,id.gt.0)", "1 of 1"),
        ("/v1/items?or=(agent.eq.a,agent.neq.a,agent.is.null)", "1 of 1"),
        ("/v1/items?not.and=(agent.eq.a)", " of 0"),
        ("/v1/items?agent=is.null", " of 0"),
        ("/v1/items?agent=not.eq.a", " of 0"),
        ("/v1/items?agent=in.(a,b)", "1 of 1"),
        ("/v1/items?agent=eq.a&agent=eq.b", " of 0"),
        ("/v1/items?id=eq.2", " of 0"),
        ("/v1/items?note=like.H*", " of 0"),
        ("/v1/items?note=eq.HIDDEN", " of 0"),
        ("/v1/items?n=gt.1", " of 0"),
        ("/v1/items?select=id", "1 of 1"),
        ("/v1/items?select=id,note&order=note.desc,agent", "1 of 1"),
        ("/v1/items?order=agent.desc.nullsfirst", "1 of 1"),
        ("/v1/items?limit=1000", "1 of 1"),
        (&next, "1 of 1"),
        ("/v1/items?warden_filters=*", "invalid_query"),
        ("/v1/items?signed=eq.1", "invalid_query"),
        ("/v1/items/1", "row"),
        ("/v1/items/2", "unknown_row"),
        ("/v1/items/3", "unknown_row"),
        ("/v1/items/99", "unknown_row"),
        ("/v1/items/2?agent=eq.b", "invalid_query"),
        ("/v1/items/2?select=id", "unknown_row"),
        ("/v1/items/99?agent=eq.b", "invalid_query"),
        ("/v1/items/2?order=id&limit=1", "invalid_query"),
        ("/v1/others", "forbidden_topic"),
        ("/v1/others/1", "forbidden_topic"),
        ("/v1/others?agent=eq.a", "forbidden_topic"),
        ("/v1/salaries", "forbidden_topic"),
        ("/v1/notes", "forbidden_topic"),
        ("/v1/org", "unknown_topic"),
        ("/v1/item:2", "unknown_topic"),
        ("/v1/%69tems", "unknown_topic"),
    ] {
        let answer = get(&t, &mine(org), path).await;
        assert_eq!(summary(&answer), expected, "{path}: {answer:?}");
        assert!(!answer.body.contains(HIDDEN), "{path}: {answer:?}");
    }
    // An ETag does not tell whether a hidden row has changed. Such a row is like one that never existed.
    let unknown = get(&t, &mine(org), "/v1/items/99").await;
    for tag in ["*", &etag] {
        let request = Upgrade::bearer(&mine(org)).without("Upgrade").without("Connection");
        let request = request.with("If-None-Match", tag).to("/v1/items/2");
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!((answer.status, &answer.body), (404, &unknown.body));
        assert!(answer.headers("etag").is_empty(), "{answer:?}");
    }
    // Neither the user nor a list of topics widens the filters, and both claims must allow a topic.
    let everything = json!({"items": "*", "others": "*"});
    for changes in [
        json!({"user_metadata": {"warden_filters": everything, "agent": "b"}}),
        json!({"warden_filters": everything}),
        json!({"role": "service_role"}),
        json!({"app_metadata": {"org_id": org, "agent": "a", "warden_filters": {"items": OWN},
                                "warden_topics": ["*", "items", "others", "org"]}}),
    ] {
        let mut claims =
            json!({"app_metadata": {"org_id": org, "agent": "a", "warden_filters": {"items": OWN}}});
        claims.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        let token = token(org, &claims);
        assert_eq!(summary(&get(&t, &token, "/v1/items").await), "1 of 1", "{changes}");
        assert_eq!(summary(&get(&t, &token, "/v1/others").await), "forbidden_topic", "{changes}");
    }
    let none = json!({"app_metadata": {"org_id": org, "agent": "a", "warden_filters": {"items": OWN},
                                       "warden_topics": ["others"]}});
    for path in ["/v1/items", "/v1/others"] {
        assert_eq!(summary(&get(&t, &token(org, &none), path).await), "forbidden_topic", "{path}");
    }
    // A token that allows everything of one topic.
    let all = agent(org, &json!("a"), &json!({"items": "*"}));
    assert_eq!(summary(&get(&t, &all, "/v1/items?order=id").await), "1,2,3 of 3");
    assert_eq!(summary(&get(&t, &all, "/v1/others").await), "forbidden_topic");
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_token_with_an_invalid_filter_opens_nothing() {
    let (t, org) = with_tables().await;
    let addr = t.gateway.public_addr();
    for filters in [
        json!(null),
        json!("*"),
        json!("items=agent=eq.a"),
        json!(true),
        json!([]),
        json!([{"items": OWN}]),
        json!({"items": null}),
        json!({"items": ""}),
        json!({"items": "&"}),
        json!({"items": "**"}),
        json!({"items": ["*"]}),
        json!({"items": {"agent": "eq.a"}}),
        json!({"items": "agent"}),
        json!({"items": "agent=a"}),
        json!({"items": "agent=eq.$user_metadata.agent"}),
        json!({"items": "agent=eq.$app_metadata.missing"}),
        json!({"items": "agent=eq.$app_metadata"}),
        json!({"items": "agent=like.$app_metadata.agent"}),
        json!({"items": "agent=eq.$session_id"}),
        json!({"items": "select=id"}),
        json!({"org": "*"}),
        json!({"*": "*"}),
        json!({"item:2": "*"}),
        json!({"item:*": "*"}),
        json!({"items": OWN, "others": "x"}),
        json!({"items": format!("note=eq.{}", "x".repeat(4096))}),
    ] {
        let token = agent(org, &json!("a"), &filters);
        let upgrade = Upgrade::bearer(&token).send(addr).await;
        assert_eq!((upgrade.status, upgrade.code()), (401, "invalid_token".into()), "{filters}: {upgrade:?}");
        assert!(upgrade.message().contains("warden_filters"), "{upgrade:?}");
        let page = get(&t, &token, "/v1/items").await;
        assert_eq!((page.status, page.code()), (401, "invalid_token".into()), "{filters}: {page:?}");
    }
    for name in [json!(null), json!({"eq": "a"}), json!(["a"]), json!("a\u{0}")] {
        let token = agent(org, &name, &json!({"items": OWN}));
        assert_eq!(get(&t, &token, "/v1/items").await.status, 401, "{name}");
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_back_end_publishes_only_where_its_filters_allow_everything() {
    let (t, org) = with_tables().await;
    let filters = json!({"items": "agent=eq.a", "notes": "*"});
    let token = token(
        org,
        &json!({"role": "service_role", "app_metadata": {"org_id": org, "warden_filters": filters}}),
    );
    for (topic, expected) in
        [("notes", 202), ("items", 403), ("drafts", 403), ("others", 403), ("org", 403), ("item:1", 403)]
    {
        let body = json!({"topic": topic, "event": "note.sent", "data": {}});
        let answer = Post::json("/v1/events", &token, &body).send(t.gateway.public_addr()).await;
        assert_eq!(answer.status, expected, "{topic}: {answer:?}");
        assert!(expected == 202 || answer.code() == "forbidden_topic", "{topic}: {answer:?}");
    }
    // Events of such a topic arrive, also on `org`.
    let mut client = connect(&t, &agent(org, &json!("a"), &filters)).await;
    for topic in ["notes", "org"] {
        assert_eq!(join(&mut client, topic, json!({})).await, "ok");
    }
    t.db.publish(org, "drafts", "draft.sent").await;
    t.db.publish(org, "notes", "note.sent").await;
    for topic in ["notes", "org"] {
        client.expect_event(topic, "note.sent").await;
    }
    client.expect_silence().await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_filter_that_does_not_fit_its_table_gives_nothing() {
    let (t, org) = with_tables().await;
    for (filters, topics) in [
        (json!({"items": "nope=eq.1"}), ["items", "org", "item:1"]),
        (json!({"items": "span=gt.1 day"}), ["items", "org", "item:1"]),
        (json!({"items": "n=eq.x"}), ["items", "org", "item:1"]),
        (json!({"items": "n=like.1*"}), ["items", "org", "item:1"]),
        (json!({"items": "or=(agent.eq.a,nope.is.null)"}), ["items", "org", "item:1"]),
        (json!({"notes": "agent=eq.a"}), ["notes", "org", "item:1"]),
        (json!({"nowhere": "agent=eq.a"}), ["org", "org", "item:1"]),
    ] {
        let token = agent(org, &json!("a"), &filters);
        let mut client = connect(&t, &token).await;
        for topic in topics {
            for payload in [json!({}), json!({"since": "x"}), json!({"marks": true})] {
                let reason = join(&mut client, topic, payload).await;
                assert_eq!(reason, "filter_not_applicable", "{filters} {topic}");
            }
        }
        if topics[0] == "items" {
            for payload in [json!({"snapshot": {}}), json!({"filter": "id=gt.0"}), json!({"select": "id"})] {
                assert_eq!(join(&mut client, "items", payload).await, "filter_not_applicable", "{filters}");
            }
            for path in ["/v1/items", "/v1/items/1", "/v1/items?select=id&id=gt.0"] {
                let answer = get(&t, &token, path).await;
                let found = (answer.status, answer.code());
                assert_eq!(found, (403, "filter_not_applicable".into()), "{filters} {path}");
            }
        }
        t.db.run("update items set note = note || '!'").await;
        client.expect_silence().await;
    }
    t.gateway.stop().await;
}

/// Since PostgreSQL 18, a column may be computed when it is read. The expression fails on a row of another
/// agent, and no request of an agent finds out on which one.
#[tokio::test]
async fn virtual_columns_tell_nothing_about_hidden_rows() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    if !db.has_version(18).await {
        return;
    }
    db.run(format!(
        "create table items (id int primary key, org_id uuid not null, agent text, n int, ratio int generated always as (12 / n));
         grant select on items to authenticated;
         insert into items values (1, '{org}', 'a', 6), (2, '{org}', 'b', 0);
         select warden.watch('items', 'items', 'item', visibility => 'organisation')"
    ))
    .await;
    let t = TestGateway::start_with(db, |_| {}).await;
    for (path, expected) in [
        ("/v1/items?select=id,ratio", "1 of 1"),
        ("/v1/items?id=gt.0&order=n", "1 of 1"),
        ("/v1/items/2?select=ratio", "unknown_row"),
        ("/v1/items?ratio=eq.2", "invalid_query"),
        ("/v1/items?id=eq.2&ratio=is.null", "invalid_query"),
        ("/v1/items?or=(id.eq.2,not.and(ratio.gt.1))", "invalid_query"),
        ("/v1/items?order=ratio", "invalid_query"),
    ] {
        let answer = get(&t, &mine(org), path).await;
        assert_eq!(summary(&answer), expected, "{path}: {answer:?}");
    }
    let mut client = connect(&t, &mine(org)).await;
    for (payload, expected) in [
        (json!({"filter": "ratio=eq.2"}), "invalid_query"),
        (json!({"snapshot": {"ratio": "eq.2"}}), "invalid_query"),
        (json!({"snapshot": {"order": "ratio"}}), "invalid_query"),
        (json!({"snapshot": {"select": "ratio,id"}}), "ok"),
    ] {
        assert_eq!(join(&mut client, "items", payload.clone()).await, expected, "{payload}");
    }
    let unfit = agent(org, &json!("a"), &json!({"items": "ratio=eq.2"}));
    assert_eq!(summary(&get(&t, &unfit, "/v1/items?id=eq.1").await), "filter_not_applicable");
    assert_eq!(join(&mut connect(&t, &unfit).await, "items", json!({})).await, "filter_not_applicable");
    // Without such a token, nothing changes.
    let wide = token(org, &json!({}));
    assert_eq!(summary(&get(&t, &wide, "/v1/items?ratio=eq.2&id=eq.1").await), "1 of 1");
    t.gateway.stop().await;
}

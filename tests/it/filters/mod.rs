//! Joins with a filter: live events, replays and snapshots have the rows that the filter selects.

mod changed;
mod collections;
mod signed;

use serde_json::{Value, json};
use uuid::Uuid;
use warden::metrics::{FilterKindLabels, FilterOutcomeLabels, RejectionLabels};

use crate::harness::{Client, Event, TestDb, TestGateway, eventually};

/// A table with columns of several types.
const TABLE: &str = "
    create table items (id int primary key, org_id uuid not null, status text, n int, price numeric, span interval,
                        note text);
    grant select on items to authenticated;
    select warden.watch('items', 'items', 'item', visibility => 'organisation')";

async fn with_items() -> (TestGateway, Uuid) {
    with_items_and("").await
}

/// The database is prepared before the gateway starts, so the first join finds its topic.
async fn with_items_and(sql: &str) -> (TestGateway, Uuid) {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(format!("{TABLE};{sql}")).await;
    (TestGateway::start_with(db, |_| {}).await, org)
}

/// A client that has joined `items` with these fields.
async fn joined(t: &TestGateway, org: Uuid, join: Value) -> Client {
    let mut client = t.connect(org).await;
    client.join_with("items", join).await;
    client
}

/// Name, id and filter field of an event.
fn summary(event: &Event) -> (String, i64, Value) {
    let id = event.data("id").as_i64().unwrap_or_default();
    (event.name.clone(), id, event.payload.get("filter").cloned().unwrap_or_default())
}

async fn expect(client: &mut Client, expected: &[(&str, i64, Option<&str>)]) {
    for (name, id, filter) in expected {
        let event = client.next_event().await;
        assert_eq!(summary(&event), ((*name).to_owned(), *id, json!(filter)), "{event:?}");
    }
}

#[tokio::test]
async fn rows_that_enter_or_leave_a_filter_are_sent_as_such() {
    let (t, org) = with_items().await;
    let mut open = joined(&t, org, json!({"filter": "status=eq.open"})).await;
    let mut other = joined(&t, org, json!({"filter": "not.and=(status.eq.open,n.gt.5)"})).await;
    let mut all = joined(&t, org, json!({})).await;
    for sql in [
        format!(
            "insert into items (id, org_id, status, n) values (1, '{org}', 'open', 9), (2, '{org}', 'held', 9)"
        ),
        "update items set n = 8 where id = 1".into(),
        "update items set status = 'held' where id = 1".into(),
        "update items set status = null where id = 2".into(),
        "update items set status = 'open' where id = 2".into(),
        "delete from items".into(),
        format!(
            "insert into items (id, org_id, status, n) values (3, '{org}', 'open', null), (4, '{org}', 'open', 1)"
        ),
    ] {
        t.db.run(sql).await;
    }
    let (entered, left) = (Some("entered"), Some("left"));
    expect(
        &mut open,
        &[
            ("item.created", 1, None),
            ("item.updated", 1, None),
            ("item.updated", 1, left),
            ("item.updated", 2, entered),
            ("item.deleted", 2, None),
            ("item.created", 3, None),
            ("item.created", 4, None),
        ],
    )
    .await;
    // Null is neither true nor false, and its negation is null.
    expect(
        &mut other,
        &[
            ("item.created", 2, None),
            ("item.updated", 1, entered),
            ("item.updated", 2, left),
            ("item.deleted", 1, None),
            ("item.created", 4, None),
        ],
    )
    .await;
    // Without a filter nothing changes.
    for _ in 0..10 {
        let event = all.next_event().await;
        assert!(event.payload.get("filter").is_none(), "{event:?}");
    }
    for outcome in ["entered", "left"] {
        let evaluations = &t.gateway.metrics().filter_evaluations;
        assert_eq!(evaluations.get_or_create(&FilterOutcomeLabels { outcome }).get(), 2, "{outcome}");
    }
    // Each filter was compared with each event.
    let counted = ["selected", "entered", "left", "none", "unknown"].map(|outcome| {
        t.gateway.metrics().filter_evaluations.get_or_create(&FilterOutcomeLabels { outcome }).get()
    });
    assert_eq!((counted.iter().sum::<u64>(), counted[3] > 0, counted[4]), (2 * 10, true, 0), "{counted:?}");
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_event_that_cannot_be_evaluated_is_withheld_and_the_channel_resyncs() {
    let (t, org) = with_items().await;
    let mut open = joined(&t, org, json!({"filter": "status=eq.open"})).await;
    let mut by_id = joined(&t, org, json!({"filter": "id=lt.10"})).await;
    let mut either = joined(&t, org, json!({"filter": "or=(id.eq.1,status.eq.open)"})).await;
    let since = t.connect(org).await.join("items").await["cursor"].clone();
    t.db.run(format!(
        "insert into items (id, org_id, status) values (1, '{org}', repeat('x', 100000));
         insert into items (id, org_id, status) values (2, '{org}', 'open')"
    ))
    .await;
    let resync = open.expect_event("items", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "filter");
    assert_eq!(resync.payload.as_object().expect("an object").len(), 2, "nothing of the row: {resync:?}");
    expect(&mut open, &[("item.created", 2, None)]).await;
    // The key is in the event, and decides.
    for client in [&mut by_id, &mut either] {
        let event = client.next_event().await;
        assert_eq!(event.payload["truncated"], true, "{event:?}");
        assert_eq!(summary(&event), ("item.created".into(), 1, Value::Null));
        expect(client, &[("item.created", 2, None)]).await;
    }
    // A replay does the same, and live events follow.
    let mut resumed = joined(&t, org, json!({"filter": "status=eq.open", "since": since.clone()})).await;
    let resync = resumed.expect_event("items", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "filter");
    let mut resumed_by_id = joined(&t, org, json!({"filter": "id=lt.10", "since": since})).await;
    expect(&mut resumed_by_id, &[("item.created", 1, None), ("item.created", 2, None)]).await;
    t.db.run(format!("insert into items (id, org_id, status) values (3, '{org}', 'open')")).await;
    expect(&mut resumed, &[("item.created", 3, None)]).await;
    expect(&mut resumed_by_id, &[("item.created", 3, None)]).await;
    // The event of a large row keeps its small columns. A published event is no row.
    t.db.publish(org, "items", "open").await;
    t.db.run(format!(
        "insert into items (id, org_id, status, note) values (4, '{org}', 'open', repeat('x', 100000));
         update items set status = 'held', note = note || 'y' where id = 4"
    ))
    .await;
    expect(
        &mut open,
        &[("item.created", 3, None), ("item.created", 4, None), ("item.updated", 4, Some("left"))],
    )
    .await;
    expect(&mut by_id, &[("item.created", 3, None), ("item.created", 4, None), ("item.updated", 4, None)])
        .await;
    // TRUNCATE concerns every filter.
    t.db.run("truncate items").await;
    for client in [&mut open, &mut by_id, &mut resumed] {
        let resync = loop {
            let event = client.next_event().await;
            if event.name == "warden.resync" {
                break event;
            }
        };
        assert_eq!(resync.payload["reason"], "truncated");
    }
    let unknown = FilterOutcomeLabels { outcome: "unknown" };
    assert_eq!(t.gateway.metrics().filter_evaluations.get_or_create(&unknown).get(), 1);
    t.gateway.stop().await;
}

#[tokio::test]
async fn equal_filters_share_a_channel_until_the_last_client_leaves() {
    let (t, org) = with_items().await;
    let count = |kind| t.gateway.metrics().filters.get_or_create(&FilterKindLabels { kind }).get();
    let mut one = joined(&t, org, json!({"filter": "status=eq.open&n=gt.5"})).await;
    let mut two = joined(&t, org, json!({"filter": "and=(n.gt.05,status.eq.open)"})).await;
    let mut scanned = joined(&t, org, json!({"filter": "n=gt.5"})).await;
    let narrow = joined(&t, org, json!({"filter": "n=gt.5", "select": "n,id,id"})).await;
    assert_eq!((count("indexed"), count("scanned")), (1, 2));
    t.db.run(format!("insert into items (id, org_id, status, n) values (1, '{org}', 'open', 7)")).await;
    for client in [&mut one, &mut two, &mut scanned] {
        expect(client, &[("item.created", 1, None)]).await;
    }
    let selected = FilterOutcomeLabels { outcome: "selected" };
    let evaluations = t.gateway.metrics().filter_evaluations.get_or_create(&selected).get();
    assert_eq!(evaluations, 3, "one for each channel");
    // A join without a filter replaces the one with it.
    two.join("items").await;
    assert_eq!(count("indexed"), 1);
    one.push("items", "phx_leave", json!({})).await;
    eventually("the filter of the last client is gone", async || count("indexed") == 0).await;
    drop((scanned, narrow));
    eventually("the filters of closed sessions are gone", async || count("scanned") == 0).await;
    t.db.run(format!("insert into items (id, org_id, status, n) values (2, '{org}', 'held', 7)")).await;
    let event = loop {
        let event = two.next_event().await;
        if event.name == "item.created" {
            break event;
        }
    };
    assert_eq!(summary(&event), ("item.created".into(), 2, Value::Null));
    t.gateway.stop().await;
}

/// Also one that is still being read.
#[tokio::test]
async fn a_join_that_ends_frees_its_filter_at_once() {
    let (t, org) = with_items().await;
    let count = || t.gateway.metrics().filters.get_or_create(&FilterKindLabels { kind: "indexed" }).get();
    let mut client = joined(&t, org, json!({"filter": "status=eq.open"})).await;
    assert_eq!(count(), 1);
    client.push("items", "phx_leave", json!({})).await;
    assert_eq!(count(), 0);
    let mut lock = t.db.pool.begin().await.expect("begins");
    sqlx::query("lock table items").execute(&mut *lock).await.expect("locks");
    let request = json!(["7", "7", "items", "phx_join", {"filter": "status=eq.open", "snapshot": {}}]);
    client.send(&request.to_string()).await;
    eventually("the join has a channel", async || count() == 1).await;
    client.push("items", "phx_leave", json!({})).await;
    assert_eq!(count(), 0);
    lock.rollback().await.expect("rolls back");
    t.gateway.stop().await;
}

#[tokio::test]
async fn selected_columns_are_the_same_in_pages_and_events() {
    let (t, org) = with_items().await;
    t.db.run(format!("insert into items values (1, '{org}', 'open', 7, 1.50, '1 day', 'x')")).await;
    let select = json!({"select": "price,id,span", "filter": "price=gt.1e0", "snapshot": {}});
    let mut client = joined(&t, org, select).await;
    let page = client.expect_event("items", "warden.snapshot").await;
    let row = json!({"id": 1, "price": 1.50, "span": "1 day"});
    assert_eq!(page.payload["rows"], json!([row]));
    t.db.run("update items set status = 'held', price = 2").await;
    let event = client.expect_event("items", "item.updated").await;
    assert_eq!(event.payload["data"], json!({"id": 1, "price": 2, "span": "1 day"}));
    assert_eq!(event.payload["old"], json!({"price": 1.50}));
    t.db.run("update items set price = 1; delete from items").await;
    let event = client.expect_event("items", "item.updated").await;
    assert_eq!((&event.payload["filter"], &event.payload["data"]["price"]), (&json!("left"), &json!(1)));
    client.expect_silence().await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn filtered_channels_get_the_marks_of_their_topic() {
    let (t, org) = with_items().await;
    let mut client = joined(&t, org, json!({"filter": "status=eq.open", "marks": true})).await;
    let first = client.expect_event("items", "warden.mark").await;
    t.db.run(format!("insert into items (id, org_id, status) values (1, '{org}', 'held')")).await;
    let second = client.expect_event("items", "warden.mark").await;
    assert_ne!(first.cursor(), second.cursor());
    t.db.run(format!("insert into items (id, org_id, status) values (2, '{org}', 'open')")).await;
    expect(&mut client, &[("item.created", 2, None)]).await;
    client.expect_event("items", "warden.mark").await;
    t.gateway.stop().await;
}

/// Types whose values have no exact counterpart in the gateway. Text has one, whatever its collation is.
#[tokio::test]
async fn types_without_an_exact_counterpart_are_rejected_by_name() {
    const TYPES: [&str; 12] = [
        "interval",
        "time with time zone",
        "json",
        "jsonb",
        "bytea",
        "inet",
        "money",
        "integer[]",
        "int4range",
        "point",
        "bit(3)",
        "tsvector",
    ];
    let columns: String = TYPES.iter().enumerate().map(|(n, kind)| format!(", c{n} {kind}")).collect();
    let (t, org) = with_items_and(&format!(
        "create type mood as enum ('calm', 'glad');
         create collation no_case (provider = 'icu', locale = 'und-u-ks-level2', deterministic = false);
         create table typed (id int primary key, org_id uuid not null, mood mood,
                             no_case text collate no_case{columns});
         grant select on typed to authenticated;
         select warden.watch('typed', 'typed', 'typed', visibility => 'organisation')"
    ))
    .await;
    let mut client = t.connect(org).await;
    let mut rejected = async |filter: String, named: &str| {
        let reply = client.push("typed", "phx_join", json!({"filter": filter.as_str()})).await;
        let reason = reply.response["reason"].as_str().unwrap_or_default();
        assert!(["filter_not_exact", "invalid_query"].contains(&reason), "{filter} {reply:?}");
        let message = reply.response["message"].as_str().expect("a message");
        assert!(message.contains(named), "{filter} {message}");
    };
    for (n, kind) in TYPES.into_iter().enumerate() {
        let name = kind.split_once('(').map_or(kind, |(name, _)| name);
        for comparison in ["eq.x", "gt.x", "in.(x,y)"] {
            rejected(format!("c{n}={comparison}"), name).await;
        }
    }
    rejected("mood=gt.calm".into(), "mood").await;
    // Text is compared by its bytes, and no value is needed for null.
    let exact = json!({"filter": "mood=eq.calm&no_case=gt.a&c0=is.null"});
    assert_eq!(client.push("typed", "phx_join", exact).await.status, "ok");
    t.gateway.stop().await;
}

#[tokio::test]
async fn filters_that_cannot_be_evaluated_exactly_are_rejected_by_name() {
    let (t, org) = with_items_and("select warden.declare_topic('notes')").await;
    let mut client = t.connect(org).await;
    let long = format!("note=eq.{}", "x".repeat(5000));
    for (topic, join, reason, hint) in [
        ("items", json!({"filter": "secret=eq.1"}), "invalid_query", "secret"),
        ("items", json!({"filter": "span=gt.1 day"}), "filter_not_exact", "interval"),
        ("items", json!({"filter": "n=eq.x"}), "invalid_query", "integer"),
        ("items", json!({"filter": "n=like.1*"}), "invalid_query", "like"),
        ("items", json!({"filter": "n=1"}), "invalid_query", "operator"),
        ("items", json!({"filter": "limit=eq.1"}), "invalid_query", "snapshot"),
        ("items", json!({"filter": long}), "invalid_query", "4096"),
        ("items", json!({"filter": 7}), "invalid payload", "string"),
        ("items", json!({"select": "id,secret"}), "invalid_query", "secret"),
        ("items", json!({"select": "id", "snapshot": {"select": "n"}}), "invalid_query", "more than once"),
        ("org", json!({"filter": "n=eq.1"}), "unknown_topic", "several tables"),
        (
            "call:00000000-0000-0000-0000-000000000001",
            json!({"select": "id"}),
            "unknown_topic",
            "several tables",
        ),
        ("notes", json!({"filter": "n=eq.1"}), "unknown_topic", "watched"),
    ] {
        let reply = client.push(topic, "phx_join", join.clone()).await;
        assert_eq!(
            (reply.status.as_str(), &reply.response["reason"]),
            ("error", &json!(reason)),
            "{join} {reply:?}"
        );
        let message = reply.response["message"].as_str().expect("a message");
        assert!(message.contains(hint), "{join} {message}");
    }
    for (code, count) in [("invalid_query", 4), ("filter_not_exact", 1), ("unknown_topic", 3)] {
        let rejected = t.gateway.metrics().filters_rejected.get_or_create(&RejectionLabels { code });
        assert_eq!(rejected.get(), count, "{code}");
    }
    // None of them has joined anything.
    let mut witness = joined(&t, org, json!({"filter": "n=eq.1"})).await;
    t.db.run(format!("insert into items (id, org_id, n) values (1, '{org}', 1)")).await;
    t.db.publish(org, "notes", "note").await;
    t.db.run("update items set note = 'y'").await;
    expect(&mut witness, &[("item.created", 1, None), ("item.updated", 1, None)]).await;
    client.expect_silence().await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_socket_has_a_limited_number_of_filters() {
    const MAX: usize = 32;
    let tables = format!(
        "do $$ begin for n in 1..{} loop
           execute format('create table t%s (id int primary key, org_id uuid not null)', n);
           execute format('grant select on t%s to authenticated', n);
           perform warden.watch(format('t%s', n)::regclass, 't' || n, 'row', visibility => 'organisation');
         end loop; end $$",
        MAX + 1
    );
    let (t, org) = with_items_and(&tables).await;
    let mut client = t.connect(org).await;
    for n in 1..=MAX {
        client.join_with(&format!("t{n}"), json!({"filter": "id=eq.1"})).await;
    }
    let last = format!("t{}", MAX + 1);
    let reply = client.push(&last, "phx_join", json!({"filter": "id=eq.1"})).await;
    assert_eq!(reply.response["reason"], "filters_per_socket", "{reply:?}");
    // Another filter on a joined topic is none more, and a join without a filter is none.
    client.join_with("t1", json!({"filter": "id=eq.2"})).await;
    client.join(&last).await;
    client.push("t1", "phx_leave", json!({})).await;
    client.join_with(&last, json!({"filter": "id=eq.1"})).await;
    t.gateway.stop().await;
}

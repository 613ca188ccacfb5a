//! Arguments that `warden.publish` and `warden.publish_all` accept and reject. Each error names the bad
//! argument.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{Rejection, count, rejection};
use crate::harness::TestDb;

/// SQLSTATE of errors for bad arguments (invalid_parameter_value).
const BAD_ARGUMENT: &str = "22023";

/// SQL literals of topics that do not exist.
fn unknown_topics(org: Uuid, call: Uuid) -> Vec<String> {
    vec![
        "'no_such_topic'".to_owned(),
        "''".to_owned(),
        "'Calls'".to_owned(),
        "'call:'".to_owned(),
        "'call:x'".to_owned(),
        format!("'CALL:{call}'"),
        format!("'call:{}'", call.to_string().to_uppercase()),
        format!("'call:{}'", call.simple()),
        format!("' call:{call}'"),
        format!("E'call:{call}\\n'"),
        format!("'calls:{org}'"),
        format!("'order:{call}'"),
        "'order:07'".to_owned(),
        "'order:9223372036854775808'".to_owned(),
        "'order:-9223372036854775809'".to_owned(),
        "'order:1:2'".to_owned(),
        "'order'".to_owned(),
        "'ticket:a b'".to_owned(),
        format!("'ticket:{}'", "a".repeat(65)),
        "'box:1'".to_owned(),
        "null".to_owned(),
    ]
}

/// SQL literals of invalid event names.
fn invalid_events() -> Vec<String> {
    vec![
        "'warden.resync'".to_owned(),
        "'warden.anything'".to_owned(),
        "'phx_reply'".to_owned(),
        "'phx_error'".to_owned(),
        "''".to_owned(),
        "' '".to_owned(),
        "'a b'".to_owned(),
        "'.a'".to_owned(),
        "'1a'".to_owned(),
        "'a\"b'".to_owned(),
        "E'a\\n'".to_owned(),
        "'é'".to_owned(),
        format!("'{}'", "a".repeat(128)),
        "null".to_owned(),
    ]
}

#[tokio::test]
async fn bad_arguments_are_rejected_by_name() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run("select warden.declare_entity_topic('order', 'integer'); select warden.declare_entity_topic('ticket', 'text')")
        .await;
    let before = count(&db, "select count(*) from warden.events").await;
    let call = Uuid::new_v4();
    let unknown = Uuid::new_v4();
    let ours = format!("'{org}'");
    let event = "'test.note'".to_owned();
    let topic = "'org'".to_owned();
    let mut cases = vec![
        (
            format!("'{unknown}'"),
            topic.clone(),
            event.clone(),
            format!("organisation {unknown} does not exist"),
        ),
        ("null".to_owned(), topic.clone(), event.clone(), "organisation null does not exist".to_owned()),
    ];
    for bad in unknown_topics(org, call) {
        cases.push((ours.clone(), bad, event.clone(), "does not exist".to_owned()));
    }
    for bad in invalid_events() {
        cases.push((ours.clone(), topic.clone(), bad, "is not valid".to_owned()));
    }
    for (org, topic, event, says) in cases {
        let rejection = rejection(&db, &format!("select warden.publish({org}, {topic}, {event})")).await;
        assert_eq!(rejection.sqlstate, BAD_ARGUMENT, "{rejection:?}");
        assert!(rejection.message.starts_with("warden.publish: "), "{rejection:?}");
        assert!(rejection.message.contains(&says), "{rejection:?} for {topic} {event}");
        assert!(!rejection.hint.is_empty(), "{rejection:?}");
    }
    assert_eq!(count(&db, "select count(*) from warden.events").await, before, "nothing was logged");
    let good = format!(
        "select warden.publish('{org}', 'call:{call}', '{}', null);
         select warden.publish('{org}', 'order:-9223372036854775808', 'order.paid');
         select warden.publish('{org}', 'ticket:{}', 'ticket.closed');
         select warden.publish('{org}', 'org', 'warden');
         select warden.publish('{org}', 'org', 'A.b_c:d-9', '[1, null]')",
        "a".repeat(127),
        "a".repeat(64)
    );
    db.run(good).await;
    assert_eq!(
        count(&db, "select count(*) from warden.events where event not like 'warden.%' and data = '{}'")
            .await,
        4
    );
    assert_eq!(count(&db, "select count(*) from warden.events where data = '[1, null]'").await, 1);
}

#[tokio::test]
async fn oversize_data_is_rejected_also_if_stored_compressed() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let publish = |data: &str| format!("select warden.publish('{org}', 'org', 'test.note', {data})");
    db.run(publish("to_jsonb(repeat('x', 65000))")).await;
    // A column stores it compressed, so its stored size does not show how much clients would get.
    db.run("create table wide (data jsonb); insert into wide values (to_jsonb(repeat('x', 1000000)))").await;
    for data in ["to_jsonb(repeat('x', 66000))", "(select data from wide)"] {
        let rejection = rejection(&db, &publish(data)).await;
        assert_eq!(rejection.sqlstate, BAD_ARGUMENT, "{rejection:?}");
        assert!(rejection.message.contains("at most 65536 are allowed"), "{rejection:?}");
    }
}

/// The error for a bulk of events.
async fn rejected(db: &TestDb, org: &str, events: &str) -> Rejection {
    rejection(db, &format!("select * from warden.publish_all({org}, {events})")).await
}

#[tokio::test]
async fn one_invalid_event_rejects_the_bulk_by_its_index() {
    let db = TestDb::create().await;
    let org = format!("'{}'", db.create_org().await);
    let before = count(&db, "select count(*) from warden.events").await;
    let good = json!({"topic": "org", "event": "test.note", "data": {"a": 1}});
    let deep = format!("{}{}", "[".repeat(501), "]".repeat(501));
    let deep = format!("{{\"topic\": \"org\", \"event\": \"a\", \"data\": {deep}}}");
    let bad = [
        (json!({"topic": "nowhere", "event": "a"}).to_string(), "topic \"nowhere\" does not exist"),
        (json!({"topic": "org", "event": "warden.resync"}).to_string(), "event name \"warden.resync\""),
        (json!({"topic": "org", "event": "a", "data": "x".repeat(65536)}).to_string(), "at most 65536"),
        (deep, "nested more than 500"),
        (
            json!({"topic": "org", "event": "a", "org_id": Uuid::nil()}).to_string(),
            "unknown field \"org_id\"",
        ),
        (json!({"topic": "org"}).to_string(), "must be strings"),
        (json!({"topic": null, "event": "a"}).to_string(), "must be strings"),
        (json!({"topic": 7, "event": "a"}).to_string(), "must be strings"),
        (json!([]).to_string(), "type array is not an event"),
        (json!(null).to_string(), "type null is not an event"),
    ];
    for (bad, says) in &bad {
        let rejection = rejected(&db, &org, &format!("'[{good}, {bad}, {good}, 3]'")).await;
        assert_eq!(rejection.sqlstate, BAD_ARGUMENT, "{rejection:?}");
        assert!(rejection.message.starts_with("warden.publish_all: events[1]: "), "{rejection:?}");
        assert!(rejection.message.contains(says) && !rejection.hint.is_empty(), "{says}: {rejection:?}");
    }
    let too_many = "(select jsonb_agg(7) from generate_series(1, 10001))";
    for (events, says) in [
        ("'{}'", "must be an array"),
        ("'null'", "must be an array"),
        ("null", "must be an array"),
        (too_many, "10001 events, at most 10000 are allowed"),
    ] {
        let rejection = rejected(&db, &org, events).await;
        assert!(rejection.message.contains(says) && !rejection.hint.is_empty(), "{rejection:?}");
    }
    for org in ["null".to_owned(), format!("'{}'", Uuid::new_v4())] {
        let rejection = rejected(&db, &org, "'[]'").await;
        assert!(rejection.message.contains("does not exist"), "{rejection:?}");
    }
    assert_eq!(count(&db, "select count(*) from warden.events").await, before, "nothing was logged");
}

/// One row rings the doorbell, and ids are in the order of the array.
#[tokio::test]
async fn a_bulk_is_logged_like_its_events_one_by_one() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "select warden.declare_topic('invoices'); create table salaries (id int primary key, org_id uuid);
         select warden.watch('salaries', 'salaries', 'salary', visibility => 'claim')",
    )
    .await;
    let topics = ["invoices", "salaries", "org"];
    let events: Vec<Value> = (0..600)
        .map(|n| match n % 4 {
            0 => json!({"topic": topics[n % 3], "event": "test.note"}),
            1 => json!({"topic": topics[n % 3], "event": "test.note", "data": null}),
            _ => json!({"topic": topics[n % 3], "event": format!("test.{n}"), "data": {"n": n, "by": "Zoë"}}),
        })
        .collect();
    let ids: Vec<(i32, i64)> = sqlx::query_as("select index, id from warden.publish_all($1, $2)")
        .bind(org)
        .bind(json!(events))
        .fetch_all(&db.pool)
        .await
        .expect("publishes");
    assert!(ids.iter().enumerate().all(|(n, (index, _))| usize::try_from(*index) == Ok(n)), "{ids:?}");
    assert!(ids.windows(2).all(|pair| pair[0].1 < pair[1].1), "{ids:?}");
    for event in &events {
        sqlx::query("select warden.publish($1, $2, $3, coalesce($4, '{}'))")
            .bind(org)
            .bind(event["topic"].as_str())
            .bind(event["event"].as_str())
            .bind(event.get("data"))
            .execute(&db.pool)
            .await
            .expect("publishes");
    }
    let columns = "topic, event, data, needs_claim, subject, old, truncated";
    let first = ids[0].1;
    let last = ids[599].1;
    let logged = async |condition: &str| -> Vec<String> {
        let query = format!("select row({columns})::text from warden.events where {condition} order by id");
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&db.pool).await.expect("reads")
    };
    let bulk = logged(&format!("id between {first} and {last}")).await;
    let single = logged(&format!("id > {last}")).await;
    assert_eq!((bulk.len(), single.len()), (600, 600));
    for (bulk, single) in bulk.iter().zip(&single) {
        assert_eq!(bulk, single);
    }
    let ringing = format!("select count(*) from warden.events where ring and id between {first} and {last}");
    assert_eq!(count(&db, &ringing).await, 1);
}

/// Calls `warden.notify` in one transaction with these claims.
fn notify(claims: &str, arguments: &str) -> String {
    format!("select set_config('request.jwt.claims', '{claims}', true); select warden.notify({arguments})")
}

#[tokio::test]
async fn notify_publishes_to_the_organisation_of_the_claims() {
    let db = TestDb::create().await;
    let [ours, theirs] = [db.create_org().await, db.create_org().await];
    let claims =
        |org: Uuid| json!({"app_metadata": {"org_id": org}, "user_metadata": {"org_id": theirs}}).to_string();
    let deep = "[".repeat(100_000);
    let cases = [
        ("'org'", "notify", json!({})),
        ("'org', ''", "notify", json!({})),
        ("'org', null", "notify", json!({})),
        ("'org', 'row 7 changed'", "notify", json!({"payload": "row 7 changed"})),
        ("'org', '{\"event\": '", "notify", json!({"payload": "{\"event\": "})),
        ("'org', '\"\\u0000\"'", "notify", json!({"payload": "\"\\u0000\""})),
        ("'org', '[1, 2]'", "notify", json!([1, 2])),
        ("'org', '{\"event\": 7}'", "notify", json!({"event": 7})),
        (
            "'org', '{\"event\": \"order.paid\", \"id\": 7}'",
            "order.paid",
            json!({"event": "order.paid", "id": 7}),
        ),
        (&format!("'org', '{deep}'"), "", json!(null)),
    ];
    for (arguments, event, data) in &cases {
        let before = count(&db, "select coalesce(max(id), 0) from warden.events").await;
        if event.is_empty() {
            let rejection = rejection(&db, &notify(&claims(ours), arguments)).await;
            assert!(rejection.message.contains("at most 65536"), "{rejection:?}");
            continue;
        }
        db.run(notify(&claims(ours), arguments)).await;
        let published: Vec<(Uuid, String, Value)> =
            sqlx::query_as("select org_id, event, data from warden.events where id > $1")
                .bind(before)
                .fetch_all(&db.pool)
                .await
                .expect("reads");
        assert_eq!(published, [(ours, (*event).to_owned(), data.clone())], "{arguments}");
    }
    for (claims, arguments, says) in [
        ("", "'org'", "no claims with an organisation"),
        ("{}", "'org'", "no claims with an organisation"),
        (&json!({"org_id": ours}).to_string(), "'org'", "no claims with an organisation"),
        (&claims(Uuid::new_v4()), "'org'", "does not exist"),
        (&claims(ours), "'nowhere', 'x'", "topic \"nowhere\" does not exist"),
        (&claims(ours), "'org', '{\"event\": \"phx_reply\"}'", "event name \"phx_reply\""),
    ] {
        let rejection = rejection(&db, &notify(claims, arguments)).await;
        assert_eq!(rejection.sqlstate, BAD_ARGUMENT, "{rejection:?}");
        assert!(rejection.message.contains(says) && !rejection.hint.is_empty(), "{says}: {rejection:?}");
    }
}

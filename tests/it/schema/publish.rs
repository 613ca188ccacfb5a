//! Arguments that `warden.publish` accepts and rejects. Each error names the bad argument.

use uuid::Uuid;

use super::{count, rejection};
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

//! The contents of events: changed values, omitted columns, rows that are too large, and TRUNCATE.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{expect_row, joined, with_orgs};
use crate::harness::Event;

/// Statement that inserts a call before the gateway starts, so that the test does not receive its creation.
fn insert_call(id: Uuid) -> String {
    format!("insert into calls (id, org_id) select '{id}', id from organizations where name = 'test';")
}

/// Asserts that an event does not contain a string, except perhaps in its cursor.
fn assert_does_not_contain(event: &Event, text: &str) {
    for part in ["data", "old"] {
        assert!(!event.payload[part].to_string().contains(text), "{event:?}");
    }
}

#[tokio::test]
async fn an_update_carries_the_former_values_and_an_unchanged_row_emits_nothing() {
    let (call, other) = (Uuid::new_v4(), Uuid::new_v4());
    let (t, [org]) = with_orgs(&format!("{} {}", insert_call(call), insert_call(other))).await;
    let mut client = joined(&t, org, &["calls"]).await;
    t.db.run("update calls set status = status, metadata = metadata").await;
    t.db.run("update calls set status = 'ringing' where false").await;
    t.db.run(format!(
        "update calls set from_number = '+1', metadata = '{{\"a\": [1]}}', status = 'queued' where id = '{call}'"
    ))
    .await;
    let event = expect_row(&mut client, "calls", "call.updated", call).await;
    assert_eq!(event.payload["old"], json!({"from_number": null, "metadata": {}}));
    assert_eq!((event.data("from_number"), event.data("metadata")), (&json!("+1"), &json!({"a": [1]})));
    // Only those rows of a statement that change emit events.
    t.db.run(format!("update calls set to_number = case when id = '{other}' then '+2' end")).await;
    let event = expect_row(&mut client, "calls", "call.updated", other).await;
    assert_eq!(event.payload["old"], json!({"to_number": null}));
    t.db.run(format!("update calls set from_number = null where id = '{call}'")).await;
    let event = expect_row(&mut client, "calls", "call.updated", call).await;
    assert_eq!(
        (&event.payload["old"], event.data("from_number")),
        (&json!({"from_number": "+1"}), &Value::Null)
    );
    t.db.run(format!("delete from calls where id = '{call}'")).await;
    let event = expect_row(&mut client, "calls", "call.deleted", call).await;
    assert_eq!(event.data("metadata"), &json!({"a": [1]}), "the row before its deletion");
    assert!(event.payload.get("old").is_none());
    t.gateway.stop().await;
}

#[tokio::test]
async fn omitted_columns_never_leave_the_database() {
    let (t, [org]) = with_orgs(
        "create table patients (id uuid primary key, org_id uuid not null, name text, ssn text, notes text);
         select warden.watch('patients', 'patients', 'patient', omit_columns => '{ssn,notes}')",
    )
    .await;
    let mut client = joined(&t, org, &["patients", "org"]).await;
    let id = Uuid::new_v4();
    for (name, sql) in [
        (
            "patient.created",
            format!("insert into patients values ('{id}', '{org}', 'A', 'secret', 'secret')"),
        ),
        // The omitted column exceeds the size limit of an event, but does not count: no event, and later
        // events are whole.
        (
            "",
            "update patients set notes = (select string_agg(md5(n::text), '') from generate_series(1, 4000) n)"
                .to_owned(),
        ),
        // A change of omitted columns emits no event: the next event is that of the next statement.
        ("", "update patients set ssn = 'secret two'".to_owned()),
        ("patient.updated", "update patients set name = 'B', ssn = 'secret three'".to_owned()),
        ("patient.deleted", "delete from patients".to_owned()),
    ] {
        t.db.run(sql).await;
        for topic in ["patients", "org"].iter().filter(|_| !name.is_empty()) {
            let event = expect_row(&mut client, topic, name, id).await;
            assert_does_not_contain(&event, "secret");
            assert!(
                event.payload["data"].get("ssn").is_none() && event.payload["data"].get("notes").is_none()
            );
            if name == "patient.updated" {
                assert_eq!(event.payload["old"], json!({"name": "A"}));
            }
        }
    }
    t.gateway.stop().await;
}

/// Columns may have the names that the trigger function uses for itself.
#[tokio::test]
async fn columns_may_have_any_name() {
    let (t, [org]) = with_orgs(
        r#"create table "Odd; Table" (n int primary key, o text, d int, j int, org_id uuid not null,
           e int, new_rows int, doc int, fits int, "a ""b'" int, old int, tg_op int);
         select warden.watch('"Odd; Table"', 'odd', 'odd', 'n', omit_columns => array['a "b''', 'old'])"#,
    )
    .await;
    let mut client = joined(&t, org, &["odd"]).await;
    t.db.run(format!(r#"insert into "Odd; Table" (n, o, org_id, "a ""b'") values (1, 'x', '{org}', 5)"#))
        .await;
    let event = client.expect_event("odd", "odd.created").await;
    assert_eq!(
        event.payload["data"],
        json!({"n": 1, "o": "x", "d": null, "j": null, "org_id": org, "e": null, "new_rows": null,
            "doc": null, "fits": null, "tg_op": null})
    );
    t.db.run(r#"update "Odd; Table" set old = 7"#).await;
    t.db.run(r#"update "Odd; Table" set o = 'y', tg_op = 1"#).await;
    let event = client.expect_event("odd", "odd.updated").await;
    assert_eq!(event.payload["old"], json!({"o": "x", "tg_op": null}));
    t.db.run(r#"update "Odd; Table" set o = repeat('y', 100000)"#).await;
    client.expect_event("odd", "odd.updated").await;
    t.db.run(r#"update "Odd; Table" set o = o"#).await;
    t.db.run(r#"delete from "Odd; Table""#).await;
    client.expect_event("odd", "odd.deleted").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_row_that_is_too_large_arrives_without_its_largest_columns() {
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["call_logs"]).await;
    // Incompressible text, and compressible text.
    let noise = "(select string_agg(md5(n::text), '') from generate_series(1, 3000) n)";
    for text in [noise, "repeat('x', 100000)"] {
        let id = Uuid::new_v4();
        t.db.run(format!("insert into call_logs (id, org_id, transcript) values ('{id}', '{org}', {text})"))
            .await;
        t.db.run(format!("update call_logs set transcript = transcript where id = '{id}'")).await;
        t.db.run(format!("update call_logs set summary = 's' where id = '{id}'")).await;
        t.db.run(format!("update call_logs set transcript = 'short' where id = '{id}'")).await;
        t.db.run(format!("update call_logs set summary = 't' where id = '{id}'")).await;
        t.db.run(format!("update call_logs set transcript = {text} where id = '{id}'")).await;
        t.db.run(format!("delete from call_logs where id = '{id}'")).await;
        let names = ["created", "updated", "updated", "updated", "updated", "deleted"];
        for (n, verb) in names.into_iter().enumerate() {
            let event = expect_row(&mut client, "call_logs", &format!("call_log.{verb}"), id).await;
            if n == 3 {
                assert_eq!(event.payload["old"], json!({"summary": "s"}), "old and new row are small");
                assert!(event.payload.get("truncated").is_none(), "{event:?}");
            } else {
                assert_eq!(event.payload["truncated"], true, "{n}");
                let data = event.payload["data"].as_object().expect("a row");
                assert_eq!((&data["id"], &data["org_id"]), (&json!(id), &json!(org)), "{n}");
                assert!(data.contains_key("summary") && !data.contains_key("transcript"), "{n}: {event:?}");
                let old = event.payload.get("old").cloned().unwrap_or_default();
                assert_eq!(old.get("summary").is_some(), n == 1, "{n}: {event:?}");
                assert!(old.get("transcript").is_none(), "{n}: {event:?}");
            }
        }
    }
    t.gateway.stop().await;
}

#[tokio::test]
async fn types_without_equality_are_watched() {
    let (t, [org]) = with_orgs(
        "create table shapes (id bigint primary key, org_id uuid not null, j json, p point, b box, x xid);
         select warden.watch('shapes', 'shapes', 'shape')",
    )
    .await;
    let mut client = joined(&t, org, &["shapes"]).await;
    t.db.run(format!("insert into shapes values (1, '{org}', '{{\"a\": 1}}', '(1,2)', '(3,4),(1,2)', '7')"))
        .await;
    let event = client.expect_event("shapes", "shape.created").await;
    assert_eq!((event.data("id"), event.data("j")), (&json!(1), &json!({"a": 1})));
    t.db.run("update shapes set j = j, p = p").await;
    t.db.run("update shapes set j = '{\"a\": 2}'").await;
    let event = client.expect_event("shapes", "shape.updated").await;
    assert_eq!(event.payload["old"], json!({"j": {"a": 1}}));
    t.db.run("delete from shapes").await;
    client.expect_event("shapes", "shape.deleted").await;
    // Rows that are too large for an event are compared by their binary image.
    t.db.run(format!("insert into shapes (id, org_id, j) select 2, '{org}', to_json(repeat('x', 100000))"))
        .await;
    client.expect_event("shapes", "shape.created").await;
    t.db.run("update shapes set j = j").await;
    t.db.run("update shapes set p = '(5,6)'").await;
    assert_eq!(client.expect_event("shapes", "shape.updated").await.payload["truncated"], true);
    t.db.run("delete from shapes").await;
    client.expect_event("shapes", "shape.deleted").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn writes_to_partitions_emit_events_through_the_parent_and_directly() {
    let (t, [org]) = with_orgs(
        "create table visits (id int, org_id uuid not null, day date, n int default 0, primary key (id, day))
           partition by range (day);
         create table visits_1 partition of visits for values from ('2026-01-01') to ('2026-02-01');
         create table visits_2 partition of visits for values from ('2026-02-01') to ('2027-01-01')
           partition by range (day);
         create table visits_2a partition of visits_2 for values from ('2026-02-01') to ('2027-01-01');
         select warden.watch('visits', 'visits', 'visit')",
    )
    .await;
    let mut client = joined(&t, org, &["visits"]).await;
    let insert = |into: &str, id: i32, day: &str| {
        format!("insert into {into} (id, org_id, day) values ({id}, '{org}', '{day}')")
    };
    let steps = [
        (insert("visits", 1, "2026-01-05"), "created", 1),
        (insert("visits_1", 2, "2026-01-06"), "created", 2),
        (insert("visits_2", 3, "2026-03-01"), "created", 3),
        (insert("visits_2a", 4, "2026-03-02"), "created", 4),
        ("update visits set n = n + 1 where id = 2".to_owned(), "updated", 2),
        ("update visits_1 set n = n + 1 where id = 1".to_owned(), "updated", 1),
        ("update visits_2a set n = n + 1 where id = 3".to_owned(), "updated", 3),
        // The row moves to another partition. This emits one event, like any other update.
        ("update visits set day = '2026-03-05' where id = 1".to_owned(), "updated", 1),
        ("delete from visits where id = 4".to_owned(), "deleted", 4),
        ("delete from visits_1 where id = 2".to_owned(), "deleted", 2),
        ("delete from visits_2 where id = 3".to_owned(), "deleted", 3),
    ];
    for (sql, verb, id) in steps {
        t.db.run(sql.clone()).await;
        let event = client.expect_event("visits", &format!("visit.{verb}")).await;
        assert_eq!(event.data("id"), id, "{sql}: {event:?}");
        if sql.contains("set day") {
            assert_eq!(event.payload["old"], json!({"day": "2026-01-05"}));
        }
    }
    // A partition added later emits events through its parent immediately, and directly after the table is
    // watched again.
    t.db.run("create table visits_3 partition of visits for values from ('2027-01-01') to ('2028-01-01')")
        .await;
    t.db.run(insert("visits", 5, "2027-01-05")).await;
    assert_eq!(client.expect_event("visits", "visit.created").await.data("id"), 5);
    t.db.run("select warden.watch('visits', 'visits', 'visit')").await;
    t.db.run(insert("visits_3", 6, "2027-01-06")).await;
    assert_eq!(client.expect_event("visits", "visit.created").await.data("id"), 6);
    t.db.run("truncate visits_3").await;
    client.expect_only("visits", "warden.resync").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_changed_entity_column_is_a_deletion_and_a_creation() {
    let (from, to) = (Uuid::new_v4(), Uuid::new_v4());
    let (t, [org]) = with_orgs(&insert_call(from)).await;
    let mut client = joined(&t, org, &["calls", &format!("call:{from}"), &format!("call:{to}")]).await;
    t.db.run(format!("update calls set id = '{to}', status = 'ringing' where id = '{from}'")).await;
    let mut came = Vec::new();
    for _ in 0..4 {
        let event = client.next_event().await;
        assert!(event.payload.get("old").is_none());
        let status = event.data("status").as_str().expect("a status").to_owned();
        came.push((event.topic.clone(), event.name.clone(), event.row_id().to_owned(), status));
    }
    came.sort();
    let event = |topic: &str, name: &str, id: Uuid, status: &str| {
        (topic.to_owned(), name.to_owned(), id.to_string(), status.to_owned())
    };
    let mut expected = vec![
        event("calls", "call.created", to, "ringing"),
        event("calls", "call.deleted", from, "queued"),
        event(&format!("call:{from}"), "call.deleted", from, "queued"),
        event(&format!("call:{to}"), "call.created", to, "ringing"),
    ];
    expected.sort();
    assert_eq!(came, expected);
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_event_arrives_once_on_each_topic_that_it_reaches() {
    let (t, [org]) = with_orgs(
        "create table hints (id int primary key, org_id uuid not null, call_id uuid);
         select warden.watch('hints', 'hints', 'hint', entity_topic => 'call', entity_topic_column => 'call_id')",
    )
    .await;
    let call = Uuid::new_v4();
    let of_call = format!("call:{call}");
    let mut client = joined(&t, org, &["org", &of_call]).await;
    t.db.run(format!("insert into hints values (1, '{org}', '{call}')")).await;
    t.db.publish(org, &of_call, "test.last").await;
    let mut came = Vec::new();
    for _ in 0..4 {
        let event = client.next_event().await;
        came.push((event.topic, event.name));
    }
    // Events are ordered within a topic, but not between topics.
    came.sort();
    let expected = [
        (of_call.as_str(), "hint.created"),
        (&of_call, "test.last"),
        ("org", "hint.created"),
        ("org", "test.last"),
    ];
    assert_eq!(came, expected.map(|(topic, name)| (topic.to_owned(), name.to_owned())));
    t.db.publish(org, "org", "test.end").await;
    client.expect_only("org", "test.end").await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_truncate_makes_all_organisations_resync() {
    let (t, orgs) = with_orgs::<2>("").await;
    let call = Uuid::new_v4();
    let mut clients = Vec::new();
    for org in orgs {
        let topic = format!("call:{call}");
        clients.push(joined(&t, org, &["recordings", "call_logs", "org", &topic]).await);
    }
    let insert = format!("insert into recordings (org_id) values ('{}'), ('{}');", orgs[0], orgs[1]);
    t.db.run(format!("begin; {insert} truncate recordings cascade; {insert} commit")).await;
    t.db.run(format!("insert into call_logs (org_id) values ('{}'), ('{}')", orgs[0], orgs[1])).await;
    for client in &mut clients {
        let mut came: Vec<(String, String)> = Vec::new();
        for _ in 0..9 {
            let event = client.next_event().await;
            if event.name == "warden.resync" {
                let object = event.payload.as_object().expect("an object");
                assert_eq!(object.keys().collect::<Vec<_>>(), ["cursor", "reason"]);
                assert_eq!(event.payload["reason"], "truncated");
                assert!(!event.cursor().is_empty());
            }
            came.push((event.topic, event.name));
        }
        let on = |topic: &str| -> Vec<&str> {
            came.iter().filter(|(t, _)| t.starts_with(topic)).map(|(_, name)| name.as_str()).collect()
        };
        assert_eq!(on("recordings"), ["recording.created", "warden.resync", "recording.created"]);
        assert_eq!(on("call:"), ["warden.resync"]);
        assert_eq!(on("call_logs"), ["call_log.created"], "the topic of another table does not resync");
        assert_eq!(
            on("org"),
            ["recording.created", "warden.resync", "recording.created", "call_log.created"]
        );
    }
    t.gateway.stop().await;
}

/// If two organisations use the same key, neither receives values of the other's row.
#[tokio::test]
async fn the_same_key_in_two_organisations_is_two_entities() {
    let (t, [org, other]) = with_orgs(
        "create table numbered (number int not null, org_id uuid not null, day date not null default now(), secret text,
                                primary key (number, org_id, day)) partition by range (day);
         create table numbered_all partition of numbered default;
         select warden.watch('numbered', 'numbered', 'numbered', 'number')",
    )
    .await;
    let mut ours = joined(&t, org, &["numbered"]).await;
    let mut theirs = joined(&t, other, &["numbered"]).await;
    t.db.run(format!(
        "insert into numbered values (1, '{org}', now(), 'ours'), (1, '{other}', now(), 'theirs')"
    ))
    .await;
    t.db.run("update numbered set secret = secret || ' still'").await;
    for (client, secret) in [(&mut ours, "ours"), (&mut theirs, "theirs")] {
        assert_eq!(client.expect_event("numbered", "numbered.created").await.data("secret"), secret);
        let event = client.expect_event("numbered", "numbered.updated").await;
        assert_eq!(event.payload["old"], json!({"secret": secret}));
    }
    // No event arrives twice.
    for (client, org) in [(&mut ours, org), (&mut theirs, other)] {
        t.db.publish(org, "numbered", "sentinel").await;
        client.expect_event("numbered", "sentinel").await;
    }
    t.gateway.stop().await;
}

/// A number of a few bytes may have a hundred thousand digits. The size limit applies to the text that
/// clients receive.
#[tokio::test]
async fn the_size_of_a_row_is_that_of_its_text() {
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["calls"]).await;
    let call = t.db.insert_call(org).await;
    expect_row(&mut client, "calls", "call.created", call).await;
    t.db.run("update calls set metadata = '{\"n\": 1e131071}'").await;
    let event = expect_row(&mut client, "calls", "call.updated", call).await;
    assert_eq!(event.payload["truncated"], true);
    t.gateway.stop().await;
}

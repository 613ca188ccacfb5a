//! `warden.watch` and `warden.unwatch`: arguments that they reject, repeated calls, and rows that cannot move
//! to another organisation.

use uuid::Uuid;

use super::{count, rejection, texts};
use crate::harness::TestDb;

/// Arguments of `warden.watch`, and how their rejection begins.
const UNSUITABLE: &[(&str, &str)] = &[
    ("'all_notes', 'notes', 'note'", "public.all_notes is not a table"),
    ("'kept_notes', 'notes', 'note'", "public.kept_notes is not a table"),
    ("'counter', 'notes', 'note'", "public.counter is not a table"),
    ("'notes', 'notes', 'note', 'uid'", "public.notes has no column \"uid\" (given as entity_column)"),
    (
        "'notes', 'notes', 'note', org_column => 'tenant'",
        "public.notes has no column \"tenant\" (given as org_column)",
    ),
    ("'orgless', 'notes', 'note'", "public.orgless has no column \"org_id\" (given as org_column)"),
    (
        "'notes', 'notes', 'note', filter_columns => '{ssn}'",
        "public.notes has no column \"ssn\" (given in filter_columns)",
    ),
    (
        "'notes', 'notes', 'note', omit_columns => '{other}', filter_columns => '{id,other}'",
        "column \"other\" is in filter_columns and in omit_columns",
    ),
    (
        "'notes', 'notes', 'note', omit_columns => '{id,ssn}'",
        "public.notes has no column \"ssn\" (given in omit_columns)",
    ),
    (
        "'text_org', 'notes', 'note'",
        "column \"org_id\" of public.text_org is of type text: org_column must be a uuid",
    ),
    ("'notes', 'notes', 'Note'", "event prefix \"Note\" is not valid"),
    ("'notes', 'notes', ''", "event prefix \"\" is not valid"),
    ("'notes', 'notes', 'a.b'", "event prefix \"a.b\" is not valid"),
    ("'notes', 'notes', 'warden'", "event prefix \"warden\" is not valid"),
    ("'notes', 'notes', 'phx'", "event prefix \"phx\" is not valid"),
    ("'notes', 'notes', 'note', 'other'", "column \"other\" of public.notes is not unique by itself"),
    ("'notes', 'notes', 'note', 'half'", "column \"half\" of public.notes is not unique by itself"),
    ("'shared', 'notes', 'note', 'number'", "column \"number\" of public.shared is not unique by itself"),
    ("'shared', 'notes', 'note', 'also'", "column \"also\" of public.shared is not unique by itself"),
    (
        "'shared', 'notes', 'note', 'maybe'",
        "column \"maybe\" of public.shared is not unique by itself, or may",
    ),
    (
        "'shared', 'notes', 'note', 'parts'",
        "column \"parts\" of public.shared is of type bigint[], which cannot be part of a key",
    ),
    (
        "'shared', 'notes', 'note', key_columns => '{number,also}'",
        "columns \"number\", \"also\" of public.shared are not unique by themselves",
    ),
    (
        "'shared', 'notes', 'note', key_columns => '{id,x}'",
        "public.shared has no column \"x\" (given as key_columns)",
    ),
    ("'shared', 'notes', 'note', key_columns => '{}'", "key_columns \"{}\" is not valid"),
    ("'shared', 'notes', 'note', key_columns => '{id,id}'", "key_columns \"{id,id}\" is not valid"),
    ("'shared', 'notes', 'note', key_columns => array[null]", "key_columns \"{NULL}\" is not valid"),
    (
        "'shared', 'notes', 'note', 'id', key_columns => '{id}'",
        "entity_column and key_columns are both given",
    ),
    (
        "'shared', 'notes', 'note', key_columns => '{id,number}', entity_topic => 'note'",
        "entity topic \"note\" needs a column: the key of public.shared has several",
    ),
    ("'notes', 'calls', 'note'", "the topic \"calls\" is that of another table, public.calls"),
    ("'notes', 'org', 'note'", "the topic \"org\" is that of another table, public.organizations"),
    ("'notes', 'events', 'note'", "the topic \"events\" is reserved: the gateway has a route /v1/events"),
];

#[tokio::test]
async fn watch_rejects_unsuitable_arguments_by_name() {
    let db = TestDb::create().await;
    db.run(
        "create table notes (id bigint primary key, org_id uuid not null, other bigint, half bigint);
         create unique index on notes (half) where half > 0;
         create view all_notes as select * from notes;
         create materialized view kept_notes as select * from notes;
         create sequence counter;
         create table shared (id bigint primary key, org_id uuid not null, number bigint not null,
                              maybe bigint unique, parts bigint[] not null unique, also bigint not null,
                              unique (id, number), unique (org_id, id) include (also));
         create table orgless (id bigint primary key);
         create table text_org (id bigint primary key, org_id text)",
    )
    .await;
    for (arguments, says) in UNSUITABLE {
        let rejection = rejection(&db, &format!("select warden.watch({arguments})")).await;
        let says = format!("warden.watch: {says}");
        assert!(rejection.message.starts_with(&says), "{rejection:?}, not {says}");
    }
    for topic in ["Notes", "call:x", "", "a-b"] {
        let rejection = rejection(&db, &format!("select warden.watch('notes', '{topic}', 'note')")).await;
        assert_eq!(rejection.message, format!("warden.watch: topic \"{topic}\" is not valid"));
    }
    for (call, message) in [
        ("declare_topic('a b')", "warden.declare_topic: topic \"a b\" is not valid"),
        ("declare_topic(null)", "warden.declare_topic: topic \"<NULL>\" is not valid"),
        ("declare_entity_topic('org', 'uuid')", "warden.declare_entity_topic: kind \"org\" is not valid"),
        (
            "declare_entity_topic('parcel', 'bigint')",
            "warden.declare_entity_topic: ids of type \"bigint\" are not supported",
        ),
    ] {
        assert_eq!(rejection(&db, &format!("select warden.{call}")).await.message, message);
    }
    let rejection = rejection(&db, "select warden.declare_topic('covers')").await;
    assert!(rejection.message.contains("\"covers\" is reserved"), "{rejection:?}");
    let left = "select count(*) from pg_trigger where tgrelid = 'notes'::regclass";
    assert_eq!(count(&db, left).await, 0, "a rejected call leaves nothing behind");
    assert_eq!(count(&db, "select count(*) from warden.topics where name = 'notes'").await, 0);
}

#[tokio::test]
async fn an_invalid_entity_topic_is_rejected_by_name() {
    let db = TestDb::create().await;
    db.run(
        "create table notes (id bigint primary key, org_id uuid not null, day date, other bigint);
         select warden.declare_entity_topic('parcel', 'uuid')",
    )
    .await;
    for (arguments, message) in [
        (
            "'notes', 'notes', 'note', entity_topic => 'parcel', entity_topic_column => 'x'",
            "public.notes has no column \"x\" (given as entity_topic_column)",
        ),
        (
            "'notes', 'notes', 'note', entity_topic => 'parcel', entity_topic_column => 'ctid'",
            "public.notes has no column \"ctid\"",
        ),
        (
            "'notes', 'notes', 'note', entity_topic_column => 'other'",
            "entity_topic_column \"other\" is given without an entity_topic",
        ),
        ("'notes', 'notes', 'note', entity_topic => 'Parcel'", "entity topic \"Parcel\" is not valid"),
        ("'notes', 'notes', 'note', entity_topic => ''", "entity topic \"\" is not valid"),
        ("'notes', 'notes', 'note', entity_topic => 'org'", "entity topic \"org\" is not valid"),
        ("'notes', 'notes', 'note', entity_topic => 'a:b'", "entity topic \"a:b\" is not valid"),
        (
            "'notes', 'notes', 'note', entity_topic => 'day', entity_topic_column => 'day'",
            "column \"day\" of public.notes is of type date: entity_topic_column must be a uuid, an integer or text",
        ),
    ] {
        let rejection = rejection(&db, &format!("select warden.watch({arguments})")).await;
        let message = format!("warden.watch: {message}");
        assert!(rejection.message.starts_with(&message), "{rejection:?}, not {message}");
    }
    // All ids of a kind have one type.
    let other_type = "select warden.watch('notes', 'notes', 'note', entity_topic => 'parcel')";
    let message = "ids of the entity topic \"parcel\" are of type uuid, not integer";
    assert_eq!(rejection(&db, other_type).await.message, message);
    for (kind, id_type) in
        [("org", "uuid"), ("Parcel", "uuid"), ("", "uuid"), ("box", "int"), ("box", "date")]
    {
        let declare = format!("select warden.declare_entity_topic('{kind}', '{id_type}')");
        let message = rejection(&db, &declare).await.message;
        assert!(message.starts_with("warden.declare_entity_topic: "), "{declare}: {message}");
    }
    assert_eq!(count(&db, "select count(*) from warden.watches where relation = 'notes'::regclass").await, 0);
}

#[tokio::test]
async fn an_id_that_is_unique_within_the_organisation_is_a_key() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    db.run(
        "create table tasks (org_id uuid, id bigint, title text, primary key (org_id, id));
         select warden.watch('tasks', 'tasks', 'task')",
    )
    .await;
    db.run(format!(
        "insert into tasks values ('{org}', 1, 'a'), ('{other}', 1, 'b');
         update tasks set title = title || org_id; delete from tasks where org_id = '{other}'"
    ))
    .await;
    let events = format!(
        "select event || coalesce(old ->> 'title', '') from warden.events
         where topic = 'tasks' and org_id = '{other}' order by id"
    );
    assert_eq!(texts(&db, &events).await, ["task.created", "task.updatedb", "task.deleted"]);
}

#[tokio::test]
async fn watching_again_changes_the_arguments_and_adds_no_triggers() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run("create table notes (id bigint primary key, org_id uuid not null, text text)").await;
    let triggers = "select tgname::text from pg_trigger where tgrelid = 'notes'::regclass order by 1";
    for _ in 0..2 {
        db.run("select warden.watch('notes', 'notes', 'note')").await;
        assert_eq!(
            texts(&db, triggers).await,
            [
                "warden_log_delete",
                "warden_log_insert",
                "warden_log_truncate",
                "warden_log_update",
                "warden_org_id_immutable"
            ]
        );
    }
    db.run(format!("insert into notes values (1, '{org}', 'a')")).await;
    let events = "select event || ' ' || topic || ' ' || data::text from warden.events where topic ~ '^(notes|memos)' order by id";
    let first = format!("note.created notes {{\"id\": 1, \"text\": \"a\", \"org_id\": \"{org}\"}}");
    assert_eq!(texts(&db, events).await, std::slice::from_ref(&first));
    db.run("select warden.watch('notes', 'memos', 'memo', omit_columns => '{text}')").await;
    db.run("update notes set text = 'b'; delete from notes").await;
    let second = format!("memo.deleted memos {{\"id\": 1, \"org_id\": \"{org}\"}}");
    // Without its text, the row is another document.
    let resync = r#"warden.resync memos {"reason": "changed"}"#.to_owned();
    assert_eq!(texts(&db, events).await, [first, resync, second]);
    assert_eq!(count(&db, "select count(*) from warden.watches where relation = 'notes'::regclass").await, 1);
}

#[tokio::test]
async fn unwatch_stops_events_and_drops_triggers_and_function() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create table notes (id bigint, org_id uuid not null, primary key (id)) partition by range (id);
         create table notes_1 partition of notes for values from (1) to (100);
         select warden.watch('notes', 'notes', 'note')",
    )
    .await;
    let logged = "select count(*) from warden.events where topic = 'notes'";
    db.run(format!("insert into notes values (1, '{org}'); insert into notes_1 values (2, '{org}')")).await;
    assert_eq!(count(&db, logged).await, 2);
    db.run("select warden.unwatch('notes'); select warden.unwatch('notes')").await;
    db.run(format!("insert into notes values (3, '{org}'); update notes_1 set id = id + 10; truncate notes"))
        .await;
    assert_eq!(count(&db, logged).await, 2);
    let left = "select count(*) from pg_trigger where tgname ~ 'warden_(begin|log|note)'
                and tgrelid in ('notes'::regclass, 'notes_1'::regclass)";
    assert_eq!(count(&db, left).await, 0);
    let without_watch = "select count(*) from pg_proc where proname like 'log %'
                         and not exists (select from warden.watches w where proname = 'log ' || w.id)";
    assert_eq!(count(&db, without_watch).await, 0);
    assert_eq!(count(&db, "select count(*) from warden.watches where relation = 'notes'::regclass").await, 0);
    db.run(format!("select warden.watch('notes', 'notes', 'note'); insert into notes values (4, '{org}')"))
        .await;
    assert_eq!(count(&db, logged).await, 3, "watched again");
}

#[tokio::test]
async fn a_watched_row_cannot_move_to_another_organisation() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    db.run(
        "create table visits (id int, org_id uuid not null, day date, primary key (id, day)) partition by range (day);
         create table visits_1 partition of visits for values from ('2026-01-01') to ('2026-02-01');
         select warden.watch('visits', 'visits', 'visit')",
    )
    .await;
    db.run(format!(
        "insert into calls (org_id) values ('{org}'); insert into call_logs (org_id) values ('{org}');
         insert into recordings (org_id) values ('{org}'); insert into visits values (1, '{org}', '2026-01-05')"
    ))
    .await;
    for (table, name) in [
        ("calls", "calls"),
        ("call_logs", "call_logs"),
        ("recordings", "recordings"),
        ("visits", "visits_1"),
        ("visits_1", "visits_1"),
    ] {
        for (to, shown) in
            [(format!("'{other}'"), other.to_string()), ("null".to_owned(), "<NULL>".to_owned())]
        {
            let rejection = rejection(&db, &format!("update {table} set org_id = {to}")).await;
            assert_eq!(rejection.sqlstate, "23514", "{rejection:?}");
            let says = format!("warden: org_id of public.{name} cannot be changed (from {org} to {shown})");
            assert_eq!(rejection.message, says);
            assert!(rejection.hint.contains("do not move"), "{rejection:?}");
        }
        db.run(format!("update {table} set org_id = org_id")).await;
    }
    db.run("update calls set status = 'ringing'; update call_logs set summary = 's'; update recordings set channels = 2")
        .await;
    let stayed: Vec<Uuid> = sqlx::query_scalar(
        "select org_id from calls union select org_id from call_logs union select org_id from recordings",
    )
    .fetch_all(&db.pool)
    .await
    .expect("reads");
    assert_eq!(stayed, [org]);
}

/// The trigger's condition follows the renamed column. A row without an organisation may still get one.
#[tokio::test]
async fn a_watched_row_stays_in_its_organisation_after_the_column_is_renamed() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(format!(
        "create table visits (dropped int, id int primary key, org_id uuid);
         select warden.watch('visits', 'visits', 'visit'); insert into visits values (1, 1, '{org}'), (2, 2, null);
         alter table visits drop dropped; alter table visits rename org_id to \"Tenant\";
         update visits set \"Tenant\" = '{org}' where id = 2"
    ))
    .await;
    let rejection = rejection(&db, "update visits set \"Tenant\" = null where id = 1").await;
    let says = format!("warden: Tenant of public.visits cannot be changed (from {org} to <NULL>)");
    assert_eq!((rejection.sqlstate.as_str(), rejection.message), ("23514", says));
}

/// Foreign-key checks ignore row-level security, so the key includes `org_id`.
#[tokio::test]
async fn a_child_cannot_reference_a_call_of_another_organisation() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    let call = db.insert_call(org).await;
    for table in ["call_logs", "recordings"] {
        let insert = |org: Uuid| format!("insert into {table} (org_id, call_id) values ('{org}', '{call}')");
        assert_eq!(rejection(&db, &insert(other)).await.sqlstate, "23503");
        db.run(insert(org)).await;
    }
}

/// An omitted column may name the entity. Events keep the entity topic with which they were logged.
#[tokio::test]
async fn watching_again_changes_the_entity_topic_of_later_events() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create table lines (id smallint primary key, org_id uuid not null, invoice_id bigint, code varchar(10));
         select warden.watch('lines', 'lines', 'line')",
    )
    .await;
    let subjects = "select coalesce(subject, 'none') from warden.events
                    where topic = 'lines' and event <> 'warden.resync' order by id";
    for (n, arguments) in [
        ", entity_topic => 'line'",
        ", entity_topic => 'invoice', entity_topic_column => 'invoice_id'",
        ", entity_topic => 'code', entity_topic_column => 'code', omit_columns => '{code}'",
        "",
    ]
    .into_iter()
    .enumerate()
    {
        db.run(format!("select warden.watch('lines', 'lines', 'line'{arguments})")).await;
        db.run(format!("insert into lines values ({n}, '{org}', -5, 'a.{n}')")).await;
    }
    db.run("delete from lines").await;
    let expected = ["line:0", "invoice:-5", "code:a.2", "none", "none", "none", "none", "none"];
    assert_eq!(texts(&db, subjects).await, expected);
    let kinds = "select kind || ' ' || id_type from warden.entity_topics order by 1";
    assert_eq!(texts(&db, kinds).await, ["call uuid", "code text", "invoice integer", "line integer"]);
}

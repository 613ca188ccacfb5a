//! Watched columns that are altered to a type that their use does not allow: writes succeed, and the watch
//! is reported.

use super::strings;
use crate::harness::TestDb;

/// Types that cannot be part of a key: their equality is in another schema, or wide, or missing.
const NO_KEYS: [&str; 4] =
    ["hidden.tree using null", "float8 using 1", "interval using null", "json using null"];

async fn unfit(db: &TestDb) -> Vec<String> {
    strings(db, "select warden.unfit_watches()").await
}

#[tokio::test]
async fn writes_succeed_after_a_column_of_the_key_got_a_type_without_usable_equality() {
    for (follows_ddl, partition) in [(true, false), (false, false), (true, true)] {
        let db = TestDb::create().await;
        let org = db.create_org().await;
        if !follows_ddl {
            db.run("alter event trigger warden_refresh_watches disable").await;
        }
        db.run("create schema hidden; create extension ltree schema hidden; create domain hidden.tree as hidden.ltree")
            .await;
        for kind in NO_KEYS {
            // A key of a partitioned table contains the columns by which rows move, which cannot be altered.
            let parts = if partition {
                "partition by list (part); create table notes_1 partition of notes for values in (1);
                 create table notes_2 partition of notes for values in (2)"
            } else {
                ""
            };
            db.run(format!(
                "create table notes (id int, org_id uuid not null, part int not null, v int) {parts};
                 alter table notes alter id set not null; create unique index notes_key on notes (id, part);
                 select warden.watch('notes', 'notes', 'note', key_columns => '{{id,part}}');
                 insert into notes values (1, '{org}', 1, 1)"
            ))
            .await;
            assert_eq!(unfit(&db).await, Vec::<String>::new());
            db.run(format!(
                "drop index notes_key; alter table notes alter id drop not null; alter table notes alter id type {kind};
                 delete from warden.events"
            ))
            .await;
            db.run(format!(
                "insert into notes values (null, '{org}', 1, 1); update notes set v = 2; update notes set part = 2;
                 delete from notes where v = 2"
            ))
            .await;
            let events = strings(&db, "select distinct event from warden.events where topic = 'notes'").await;
            assert_eq!(events, ["warden.resync"], "{kind}, {follows_ddl}, {partition}");
            assert_eq!(unfit(&db).await, ["public.notes"], "{kind}");
            db.run("drop table notes; select warden.refresh_watches()").await;
        }
    }
}

#[tokio::test]
async fn writes_succeed_after_the_organisation_got_another_type() {
    for follows_ddl in [true, false] {
        let db = TestDb::create().await;
        let org = db.create_org().await;
        if !follows_ddl {
            db.run("alter event trigger warden_refresh_watches disable").await;
        }
        db.run(format!(
            "create table notes (id int primary key, owner uuid, v int);
             select warden.watch('notes', 'notes', 'note', org_column => 'owner');
             alter table notes alter owner type text; delete from warden.events;
             insert into notes values (1, '{org}', 1), (2, 'nobody', 1); update notes set v = 2; delete from notes"
        ))
        .await;
        let events = strings(&db, "select event from warden.events where topic = 'notes'").await;
        assert_eq!(events, ["warden.resync"; 3], "{follows_ddl}");
        assert_eq!(unfit(&db).await, ["public.notes"]);
    }
}

#[tokio::test]
async fn ids_of_an_altered_entity_column_reach_the_topics_that_clients_know() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let uuid = "c0ffee00-0000-4000-8000-000000000001";
    for (declared, altered, values, topics) in [
        (
            "int",
            "text",
            "('7'), ('a:*'), (''), (repeat('x', 3000)), ('007'), (null)",
            &["order:7"] as &[&str],
        ),
        ("int", "bigint", "(8), (9007199254740993)", &["order:8", "order:9007199254740993"]),
        ("int", "date using null", "('2026-01-01')", &[]),
        ("text", "int using 1", "(7), (-7)", &["order:7", "order:-7"]),
        ("text", "jsonb using null", "('7')", &[]),
    ] {
        let kind = altered.split(' ').next().expect("a type");
        db.run(format!(
            "create table notes (id int generated always as identity primary key, org_id uuid, ref {declared});
             select warden.watch('notes', 'notes', 'note', entity_topic => 'order', entity_topic_column => 'ref');
             alter table notes alter ref type {altered}; delete from warden.events;
             insert into notes (org_id, ref) select '{org}', v.column1::{kind} from (values {values}) v"
        ))
        .await;
        let reached =
            "select subject from warden.events where topic = 'notes' and subject is not null order by id";
        assert_eq!(strings(&db, reached).await, topics, "{declared} to {altered}");
        let is_same = altered == "bigint";
        assert_eq!(unfit(&db).await.is_empty(), is_same, "{declared} to {altered}");
        db.run("drop table notes; delete from warden.entity_topics where kind = 'order'").await;
    }
    db.run(format!(
        "create table notes (id int generated always as identity primary key, org_id uuid, ref uuid);
         select warden.watch('notes', 'notes', 'note', entity_topic => 'order', entity_topic_column => 'ref');
         alter table notes alter ref type text; insert into notes (org_id, ref) values ('{org}', '{uuid}'), ('{org}', 'x')"
    ))
    .await;
    let reached =
        "select subject from warden.events where topic = 'notes' and subject is not null order by id";
    assert_eq!(strings(&db, reached).await, [format!("order:{uuid}")]);
}

#[tokio::test]
async fn writes_succeed_after_the_key_may_be_null_or_repeat() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(format!(
        "create table notes (id int primary key, org_id uuid not null, v int);
         select warden.watch('notes', 'notes', 'note');
         alter table notes drop constraint notes_pkey; alter table notes alter id drop not null;
         insert into notes values (null, '{org}', 1), (1, '{org}', 1), (1, '{org}', 1);
         update notes set v = 2; update notes set id = 5 where id is null; update notes set id = null where id = 5;
         delete from notes"
    ))
    .await;
    assert_eq!(unfit(&db).await, ["public.notes"]);
}

/// Clients know the rows by their former keys.
#[tokio::test]
async fn a_key_of_another_type_makes_the_topic_resync() {
    let db = TestDb::create().await;
    db.run(
        "create table notes (id int primary key, org_id uuid, v int); select warden.watch('notes', 'notes', 'note');
         insert into notes values (1)",
    )
    .await;
    let resyncs =
        "select count(*)::text from warden.events where topic = 'notes' and event = 'warden.resync'";
    for (change, count) in [("v type text", "1"), ("id type text", "2"), ("id set default 'x'", "2")] {
        db.run(format!("alter table notes alter {change}")).await;
        assert_eq!(strings(&db, resyncs).await, [count], "{change}");
    }
}

//! Watches of tables whose names, columns and partitions change. Each change is made with the event trigger
//! that follows DDL, and without it.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use super::strings;
use crate::harness::TestDb;

const WITHOUT_TRIGGER: &str = "alter event trigger warden_refresh_watches disable";

/// A database with a watched table, whose column `secret` is omitted.
async fn watched(follows_ddl: bool) -> (TestDb, Uuid) {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    if !follows_ddl {
        db.run(WITHOUT_TRIGGER).await;
    }
    db.run(
        "create table notes (id bigint primary key, org_id uuid not null, secret text, title text, extra int);
         select warden.watch('notes', 'notes', 'note', omit_columns => '{secret}')",
    )
    .await;
    (db, org)
}

/// Event and data of the last events.
async fn last(db: &TestDb, count: u32) -> Vec<String> {
    let events =
        "select concat_ws(' ', topic, event, data - 'org_id' - 'tenant') as event, id from warden.events";
    strings(db, &format!("select event from ({events} order by id desc limit {count}) e order by id")).await
}

#[tokio::test]
async fn writes_succeed_after_every_change_of_columns_and_omitted_values_stay_inside() {
    for follows_ddl in [true, false] {
        let (db, org) = watched(follows_ddl).await;
        let values = |id: u32| format!("insert into notes values ({id}, '{org}', 'hidden', 'b'");
        for (change, write, event) in [
            ("rename secret to hush", values(1) + ", 2)", r#"{"id": 1, "extra": 2, "title": "b"}"#),
            ("add secret text", values(2) + ", 2, 'hidden')", r#"{"id": 2, "extra": 2, "title": "b"}"#),
            ("drop extra", values(3) + ", 'hidden')", r#"{"id": 3, "title": "b"}"#),
            (
                "alter title type jsonb using '5'",
                values(4).replace("'b'", "'5'") + ", 'hidden')",
                r#"{"id": 4, "title": 5}"#,
            ),
            (
                "rename org_id to tenant",
                values(5).replace("'b'", "'5'") + ", 'hidden')",
                r#"{"id": 5, "title": 5}"#,
            ),
            ("rename id to nr", values(6).replace("'b'", "'5'") + ", 'hidden')", r#"{"nr": 6, "title": 5}"#),
            ("drop secret", values(7).replace("'b'", "'5'") + ")", r#"{"nr": 7, "title": 5}"#),
            ("add secret text", values(8).replace("'b'", "'5'") + ", 'hidden')", r#"{"nr": 8, "title": 5}"#),
        ] {
            db.run(format!("alter table notes {change}")).await;
            db.run(write).await;
            assert_eq!(
                last(&db, 1).await,
                [format!("notes note.created {event}")],
                "{change}, {follows_ddl}"
            );
        }
        db.run("delete from notes where nr = 8; alter table notes drop nr; insert into notes (tenant) select tenant from notes limit 1")
            .await;
        assert!(last(&db, 1).await[0].contains("warden.resync"), "no column identifies a row");
        let hidden =
            "select count(*)::text from warden.events where data::text ~ 'hidden' or old::text ~ 'hidden'";
        assert_eq!(strings(&db, hidden).await, ["0"]);
    }
}

/// The snapshot of a REPEATABLE READ transaction still shows the former names.
#[tokio::test]
async fn a_transaction_with_an_earlier_snapshot_sends_no_omitted_column() {
    for follows_ddl in [true, false] {
        let (db, org) = watched(follows_ddl).await;
        let mut writer = PgConnection::connect(db.url()).await.expect("connects");
        let insert = |id: u32| format!("insert into notes values ({id}, '{org}', 'hidden', 'shown', 1)");
        writer.execute(AssertSqlSafe(insert(1))).await.expect("inserts");
        writer.execute("begin isolation level repeatable read; select 1").await.expect("begins");
        db.run(
            "alter table notes rename secret to other; alter table notes rename title to secret;
             alter table notes rename other to title",
        )
        .await;
        writer.execute(AssertSqlSafe(insert(2))).await.expect("inserts");
        writer.execute("commit").await.expect("commits");
        writer.execute(AssertSqlSafe(insert(3))).await.expect("inserts");
        let hidden = "select count(*)::text from warden.events where data::text ~ 'hidden'";
        assert_eq!(strings(&db, hidden).await, ["0"], "{follows_ddl}");
        let logged = "select count(*)::text from warden.events where event = 'note.created'";
        assert_eq!(strings(&db, logged).await, ["3"]);
    }
}

#[tokio::test]
async fn tables_that_swap_their_names_keep_their_watches() {
    for follows_ddl in [true, false] {
        let (db, org) = watched(follows_ddl).await;
        db.run(
            "create table next (id bigint primary key, org_id uuid not null, secret text);
             alter table notes rename to former; alter table next rename to notes;
             select warden.watch('notes', 'next_notes', 'next')",
        )
        .await;
        db.run(format!(
            "insert into former values (1, '{org}', 'hidden'); create schema archive; alter table former set schema archive;
             insert into archive.former values (2, '{org}', 'hidden'); insert into notes values (1, '{org}', 'open')"
        ))
        .await;
        let expected = [
            r#"notes note.created {"id": 1, "extra": null, "title": null}"#,
            r#"notes note.created {"id": 2, "extra": null, "title": null}"#,
            r#"next_notes next.created {"id": 1, "secret": "open"}"#,
        ];
        assert_eq!(last(&db, 3).await, expected, "{follows_ddl}");
        db.run("drop table archive.former; select warden.refresh_watches()").await;
        assert_eq!(
            strings(&db, "select topic from warden.watches where topic ~ 'notes'").await,
            ["next_notes"]
        );
    }
}

/// Names that differ only in quoting, or beyond the length of a name.
#[tokio::test]
async fn tables_with_similar_names_have_functions_of_their_own() {
    let db = TestDb::create().await;
    db.run(
        r#"create schema "a.b"; create schema a; create table "a.b".c (id int primary key, org_id uuid, secret text);
           create table a."b.c" (id int primary key, org_id uuid, secret text);
           select warden.watch('"a.b".c', 'first', 'first', omit_columns => '{secret}');
           select warden.watch('a."b.c"', 'second', 'second')"#,
    )
    .await;
    let org = db.create_org().await;
    db.run(format!(
        r#"insert into "a.b".c values (1, '{org}', 'x'); insert into a."b.c" values (1, '{org}', 'x')"#
    ))
    .await;
    let expected = [r#"first first.created {"id": 1}"#, r#"second second.created {"id": 1, "secret": "x"}"#];
    assert_eq!(last(&db, 2).await, expected);
}

#[tokio::test]
async fn partitions_emit_events_while_they_are_attached() {
    for follows_ddl in [true, false] {
        let db = TestDb::create().await;
        let org = db.create_org().await;
        let refresh = if follows_ddl { "select 1" } else { "select warden.refresh_watches()" };
        if !follows_ddl {
            db.run(WITHOUT_TRIGGER).await;
        }
        db.run(
            "create table visits (id int primary key, org_id uuid not null) partition by range (id);
             create table visits_1 partition of visits for values from (1) to (10);
             select warden.watch('visits', 'visits', 'visit')",
        )
        .await;
        db.run(format!(
            "insert into visits_1 values (1, '{org}'); alter table visits detach partition visits_1;
             insert into visits_1 values (2, '{org}'); {refresh}; insert into visits_1 values (3, '{org}');
             alter table visits attach partition visits_1 for values from (1) to (10); {refresh};
             insert into visits_1 values (4, '{org}')"
        ))
        .await;
        let events = "select event || coalesce(data ->> 'id', '') from warden.events where topic = 'visits' order by id";
        // Both changes of one transaction: nobody reads the table between them.
        let expected = ["visit.created1", "warden.resync", "visit.created4"];
        assert_eq!(strings(&db, events).await, expected, "{follows_ddl}");
    }
}

//! Keys of DEFERRABLE constraints: within a transaction, several rows may have the same key.

use super::strings;
use crate::harness::TestDb;

/// Tables with such a key, the key's constraint, and the arguments of their watch.
const TABLES: [(&str, &str, &str); 5] = [
    ("create table notes (id int primary key deferrable initially deferred, org_id uuid not null)", "notes_pkey of public.notes", ""),
    ("create table notes (id int primary key deferrable, org_id uuid not null)", "notes_pkey of public.notes", ""),
    (
        "create table notes (id int, org_id uuid not null, primary key (org_id, id) include (id) deferrable)",
        "notes_pkey of public.notes",
        "",
    ),
    (
        "create table notes (a int not null, b text not null, org_id uuid not null,
                             constraint \"a, b\" unique (a, b) deferrable initially deferred)",
        "\"a, b\" of public.notes",
        ", key_columns => '{a,b}'",
    ),
    (
        "create table notes (id int, org_id uuid not null, at int, primary key (id, at)) partition by range (at);
         create table notes_1 (id int, org_id uuid not null, at int, primary key (id, at) deferrable);
         alter table notes attach partition notes_1 for values from (1) to (10)",
        "notes_1_pkey of public.notes_1",
        ", key_columns => '{id}'",
    ),
];

#[tokio::test]
async fn a_key_that_is_not_unique_within_a_transaction_is_rejected_with_a_remedy() {
    let db = TestDb::create().await;
    for (table, constraint, arguments) in TABLES {
        db.run(table).await;
        let watch = format!("select warden.watch('notes', 'notes', 'note'{arguments})");
        let refused = db.error(&watch).await;
        assert!(
            refused.contains(&format!("the constraint {constraint} is DEFERRABLE")),
            "{table}: {refused}"
        );
        let remedy = "select (warden.deferrable_key('notes', coalesce(nullif($1, ''), '{id}')::text[], 'org_id')).remedy";
        let key = arguments.split('\'').nth(1).unwrap_or_default();
        let remedy: String = sqlx::query_scalar(remedy).bind(key).fetch_one(&db.pool).await.expect("reads");
        db.run(remedy).await;
        db.run(&watch).await;
        assert_eq!(strings(&db, "select warden.unfit_watches()").await, Vec::<String>::new(), "{table}");
        db.run("drop table notes").await;
    }
}

#[tokio::test]
async fn a_watch_whose_key_becomes_deferrable_is_reported() {
    let db = TestDb::create().await;
    db.run(
        "create table notes (id int primary key, org_id uuid not null);
         create table visits (id int, org_id uuid not null, at int, primary key (id, at)) partition by range (at);
         create table visits_1 (id int, org_id uuid not null, at int, primary key (id, at) deferrable);
         select warden.watch('notes', 'notes', 'note'); select warden.watch('visits', 'visits', 'visit')",
    )
    .await;
    let unfit = async || strings(&db, "select warden.unfit_watches()").await;
    for (change, tables) in [
        (
            "alter table notes drop constraint notes_pkey, add primary key (id) deferrable",
            &["public.notes"][..],
        ),
        (
            "alter table visits attach partition visits_1 for values from (1) to (10)",
            &["public.notes", "public.visits"],
        ),
        ("create unique index on notes (id); alter table visits add unique (id, at)", &[]),
    ] {
        db.run(change).await;
        assert_eq!(unfit().await, tables, "{change}");
    }
}

/// PostgreSQL 18: such a constraint holds for new rows only.
#[tokio::test]
async fn a_key_whose_not_null_constraint_is_not_valid_is_rejected() {
    let db = TestDb::create().await;
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(&db.pool)
        .await
        .expect("reads");
    if version < 180_000 {
        return;
    }
    db.run(
        "create table notes (id int unique, org_id uuid); insert into notes values (null, null);
         alter table notes add constraint has_id not null id not valid",
    )
    .await;
    let watch = "select warden.watch('notes', 'notes', 'note')";
    let refused = db.error(watch).await;
    assert!(refused.contains("is not unique by itself, or may be null"), "{refused}");
    db.run(format!("delete from notes; alter table notes validate constraint has_id; {watch}")).await;
}

//! DDL that gives existing rows other documents: the topic resyncs in its transaction, once per statement.

use std::fmt::Write as _;

use super::strings;
use crate::harness::TestDb;

const SCHEMA: &str = "
    create schema parts; create type parts.mood as enum ('sad', 'fine'); create domain parts.moods as parts.mood[];
    create type parts.moody as range (subtype = parts.mood); create schema others; create collation others.plain from \"C\"; create collation parts.other from \"C\";
    create type parts.address as (street text, moods parts.moods, town text collate parts.other,
                                  area text collate others.plain);
    create table parts.places (a int, b text); create view parts.seen as select 1 as one;
    create function parts.same(int) returns int language sql immutable as 'select $1';
    create collation parts.plain from \"C\"; create domain parts.count as int; create type parts.secret as enum ('a');";

/// Columns of the watched table.
const COLUMNS: &str = "id int not null, org_id uuid not null, cents int, mood parts.mood, moody parts.moody,
    address parts.address, place parts.places, seen parts.seen[], secret text, hidden parts.secret,
    same int generated always as (parts.same(id)) stored, plain text collate parts.plain, short varchar(10), count parts.count,
    at timestamptz, primary key (id)";

/// Statements that alter the table `notes`, and whether its documents may differ then.
const CHANGES: &[(&str, bool)] = &[
    ("alter table notes alter cents type numeric using cents / 100.0", true),
    ("alter table notes alter cents type numeric using cents * 2", true),
    ("alter table notes alter cents type numeric(10,1)", true),
    ("alter table notes add plus int", true),
    ("alter table notes add more int default 5", true),
    ("alter table notes add now timestamptz default clock_timestamp()", true),
    ("alter table notes rename more to less", true),
    ("alter table notes drop less", true),
    ("alter table notes drop plus, add plus int default 7", true),
    ("alter table notes alter short type varchar(3)", true),
    ("alter table notes alter short type varchar(30)", false),
    ("alter table notes alter short type text", false),
    ("alter table notes alter count type int", false),
    ("alter table notes alter count type bigint using -count", true),
    ("alter table notes alter at type timestamptz(0)", true),
    ("alter table notes rename secret to secrets", false),
    ("alter table notes drop secrets", false),
    ("alter table notes rename to papers", false),
    ("alter table papers set schema parts", false),
    ("alter table parts.papers set schema public", false),
    ("alter table papers rename to notes", false),
    ("alter type parts.mood rename value 'sad' to 'blue'", true),
    ("alter type parts.mood add value 'new'", false),
    ("alter type parts.mood rename value 'new' to 'newer'", true),
    ("alter type parts.mood rename to feeling", false),
    ("alter type parts.secret rename value 'a' to 'b'", false),
    ("alter type parts.address rename attribute street to road", true),
    ("alter type parts.address add attribute zip text", true),
    ("alter type parts.address drop attribute zip", true),
    ("alter table parts.places rename a to aa", true),
    ("alter table parts.places add c int", true),
    ("create or replace view parts.seen as select 1 as one, 2 as two", true),
    ("alter view parts.seen rename column two to too", true),
    ("alter domain parts.count add check (value > -999999)", false),
    ("alter domain parts.count rename to number", false),
    (
        "alter table notes alter id set default 3, alter mood set statistics 9, add constraint positive check (id > 0)",
        false,
    ),
    ("create index on notes (cents)", false),
    ("drop collation parts.plain cascade", true),
    ("drop function parts.same cascade", true),
    ("drop type parts.feeling cascade", true),
    // A column of a composite type.
    ("drop collation parts.other cascade", true),
    ("drop schema others cascade", true),
    ("alter table notes rename id to number", true),
    ("alter table notes drop number", true),
];

/// Statements whose effect only an event trigger sees: the columns and labels are the same as before.
fn is_seen_by_event_triggers_only(change: &str) -> bool {
    ["cents * 2", "numeric(10,1)", "varchar(3)", "timestamptz(0)"].iter().any(|part| change.contains(part))
}

const RESYNCS: &str = "select count(*)::text from warden.events
     where topic = 'notes' and event = 'warden.resync' and data = '{\"reason\": \"changed\"}'";

/// Creates the table `notes` with one row.
async fn create(db: &TestDb, is_partitioned: bool) {
    let org = db.create_org().await;
    let mut schema = String::from(SCHEMA);
    let parts = if is_partitioned { "partition by list (id)" } else { "" };
    write!(schema, "create table notes ({COLUMNS}) {parts};").expect("writes");
    if is_partitioned {
        schema += "create table parts.notes_1 partition of notes for values in (1);
                   create table parts.notes_2 partition of notes for values in (2);";
    }
    db.run(schema).await;
    db.run(format!(
        "select warden.watch('notes', 'notes', 'note', omit_columns => '{{secret,hidden}}');
         insert into notes (id, org_id, cents, mood, moody, address, place, secret, hidden, short, count, at)
         select n, '{org}', 1250, 'sad', '[sad,fine]', '(s,{{sad}},x,y)', '(1,x)', 's', 'a', 'abc', 4, now()
         from generate_series(1, 2) n; delete from warden.events"
    ))
    .await;
}

#[tokio::test]
async fn ddl_that_may_change_documents_makes_the_topic_resync_once() {
    for is_partitioned in [false, true] {
        let db = TestDb::create().await;
        create(&db, is_partitioned).await;
        for (change, differs) in CHANGES {
            // The partition key.
            if is_partitioned && change.contains("number") && change.contains("notes") {
                continue;
            }
            db.run(format!("delete from warden.events; {change}")).await;
            let expected = if *differs { "1" } else { "0" };
            assert_eq!(strings(&db, RESYNCS).await, [expected], "{change} (partitioned: {is_partitioned})");
        }
    }
}

/// Without event triggers, the function that each migration calls does the same.
#[tokio::test]
async fn a_refresh_resyncs_topics_whose_documents_have_changed() {
    let db = TestDb::create().await;
    create(&db, false).await;
    db.run(
        "do $$ declare e name; begin for e in select evtname from pg_event_trigger loop
           execute format('alter event trigger %I disable', e); end loop; end $$",
    )
    .await;
    for (change, differs) in CHANGES.iter().filter(|(change, _)| !is_seen_by_event_triggers_only(change)) {
        db.run(format!("delete from warden.events; {change}")).await;
        assert_eq!(strings(&db, RESYNCS).await, ["0"], "{change}");
        let unfit = strings(&db, "select warden.unfit_watches()").await;
        assert!(!differs || unfit == ["public.notes"], "{change}: {unfit:?}");
        db.run("select warden.refresh_watches(); select warden.refresh_watches()").await;
        assert_eq!(strings(&db, RESYNCS).await, [if *differs { "1" } else { "0" }], "{change}");
    }
    db.run("delete from warden.events; select warden.resync('notes')").await;
    assert_eq!(strings(&db, RESYNCS).await, ["1"]);
    let refused = db.error("select warden.resync('parts.places')").await;
    assert!(refused.contains("parts.places is not watched"), "{refused}");
}

#[tokio::test]
async fn a_dropped_partition_or_child_makes_the_topic_resync() {
    for (follows_ddl, refresh) in [(true, "select 1"), (false, "select warden.refresh_watches()")] {
        let db = TestDb::create().await;
        create(&db, true).await;
        if !follows_ddl {
            db.run("alter event trigger warden_refresh_watches_drop disable").await;
        }
        db.run("create table people (id int primary key, org_id uuid not null); create table staff () inherits (people);
                select warden.watch('people', 'people', 'person')").await;
        for (drop, topic) in [
            ("drop table parts.notes_1", "notes"),
            ("drop schema parts cascade", "notes"),
            ("drop table staff", "people"),
        ] {
            db.run(format!("delete from warden.events; {drop}")).await;
            db.run(refresh).await;
            let topics = "select topic from warden.events where event = 'warden.resync'";
            assert_eq!(strings(&db, topics).await, [topic], "{drop}");
        }
    }
}

/// The events between two resyncs have a form that the rows no longer have after the second one.
#[tokio::test]
async fn statements_of_a_transaction_resync_again_only_after_events() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create table notes (id int primary key, org_id uuid not null, v int);
         select warden.watch('notes', 'notes', 'note'); alter table notes add empty int",
    )
    .await;
    assert_eq!(strings(&db, RESYNCS).await, ["1"], "its last deletions had another form");
    db.run(format!(
        "insert into notes values (1, '{org}'); delete from warden.events;
         do $$ begin
           alter table notes add a int; alter table notes add b int; insert into notes values (2, '{org}');
           alter table notes add c int; alter table notes alter v type int using 5;
         end $$"
    ))
    .await;
    let events = "select event from warden.events where topic = 'notes' order by id";
    assert_eq!(strings(&db, events).await, ["warden.resync", "note.created", "warden.resync"]);
    // Other arguments of the watch change documents as well.
    db.run("delete from warden.events; select warden.watch('notes', 'notes', 'note', as_text => '{v}')")
        .await;
    assert_eq!(strings(&db, events).await, ["warden.resync"]);
    db.run("delete from warden.events; select warden.watch('notes', 'notes', 'note', as_text => '{v}')")
        .await;
    assert_eq!(strings(&db, events).await, Vec::<String>::new());
}

/// PostgreSQL 17 and 18: expressions of generated columns.
#[tokio::test]
async fn another_expression_of_a_generated_column_makes_the_topic_resync() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(&db.pool)
        .await
        .expect("reads");
    if version < 170_000 {
        return;
    }
    let kinds: &[&str] = if version < 180_000 { &["stored"] } else { &["stored", "virtual"] };
    for kind in kinds {
        db.run(format!(
            "create table notes (id int primary key, org_id uuid not null, v int generated always as (id) {kind});
             select warden.watch('notes', 'notes', 'note'); insert into notes values (1, '{org}');
             delete from warden.events; alter table notes alter v set expression as (id + 1)"
        ))
        .await;
        assert_eq!(strings(&db, RESYNCS).await, ["1"], "{kind}");
        db.run("drop table notes").await;
    }
}

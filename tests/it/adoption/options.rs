//! Options of `--tables` that cannot be right: a run names them all before it changes anything.

use super::{RUN_DEADLINE, Run, bare_db, connect, ended, small_db, warden};
use crate::harness::TestDb;

const APPLICATION: &str = "
    create domain user_ref as uuid; create domain owner_ref as user_ref; create type mood as enum ('calm', 'loud');
    create table accounts (number bigint primary key, token uuid, code text unique, part int, unique (token, part));
    create unique index on accounts (token) where part = 1;
    create table calls (
      id uuid primary key default gen_random_uuid(), user_id uuid, owner owner_ref, label varchar(40), short varchar(20),
      status text, comment text, n int, amount numeric, at timestamptz default now(), is_open bool, mood mood,
      tags text[], doc jsonb, raw bytea, number bigint, \"Call Id\" uuid);
    create table notes (id bigserial primary key, call_id uuid, call_text text, call_no int, note_id bigint);
    create table months (id uuid, month date, call_id uuid, primary key (id, month)) partition by range (month);
    create table months_2026 partition of months for values from ('2026-01-01') to ('2027-01-01');
    create table parts (id int primary key, month_id uuid);
    create view calls_of_today as select * from calls;
    create materialized view calls_by_day as select * from calls;
    create foreign data wrapper nowhere; create server elsewhere foreign data wrapper nowhere;
    create foreign table remote_calls (id uuid, user_id uuid) server elsewhere;
    create table \"CALLS\" (id int);
    insert into accounts values (1, gen_random_uuid(), 'a', 1);
    insert into calls (user_id, status, label, number) values (gen_random_uuid(), 'ringing', gen_random_uuid()::text, 1);
    insert into notes (call_id) select id from calls";

async fn migrate(db: &TestDb, args: &[&str]) -> Run {
    let mut command = warden(db.url(), "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

/// A list of tables, and a part of the issue.
type Wrong = (&'static str, &'static str);

const WRONG_USERS: [Wrong; 12] = [
    (
        "calls user_column=status",
        "has a user column \"status\" of type text, and none of its values is a uuid",
    ),
    ("calls user_column=short", "has a user column \"short\" of type character varying, but users are uuids"),
    ("calls user_column=n", "has a user column \"n\" of type integer, but users are uuids"),
    ("calls user_column=number", "of type bigint, but users are uuids (organization_members.user_id)"),
    ("calls user_column=amount", "of type numeric, but users are uuids"),
    ("calls user_column=at", "of type timestamp with time zone, but users are uuids"),
    ("calls user_column=is_open", "of type boolean, but users are uuids"),
    ("calls user_column=mood", "of type public.mood, but users are uuids"),
    ("calls user_column=tags", "of type text[], but users are uuids"),
    ("calls user_column=doc", "of type jsonb, but users are uuids"),
    ("calls user_column=raw", "of type bytea, but users are uuids"),
    ("calls user_column=nobody", "has no column \"nobody\""),
];

const WRONG_PARENTS: [Wrong; 14] = [
    (
        "calls user_column=user_id, notes parent=calls parent_column=call_text",
        "public.notes: has a parent column \"call_text\" of type text, but public.calls.\"id\" is uuid",
    ),
    (
        "calls user_column=user_id, notes parent=calls parent_column=call_no",
        "of type integer, but public.calls",
    ),
    (
        "calls user_column=user_id, notes parent=calls parent_column=call_id parent_key=status",
        "of type uuid, but public.calls.\"status\" is text",
    ),
    (
        "calls user_column=user_id, notes parent=calls parent_column=call_id parent_key=user_id",
        "has the parent public.calls, where \"user_id\" is not unique",
    ),
    (
        "accounts organization=default, calls parent=accounts parent_column=user_id parent_key=token",
        "where \"token\" is not unique",
    ),
    (
        "accounts organization=default, calls parent=accounts parent_column=number",
        "has the parent public.accounts, which has no column \"id\": name it with parent_key=",
    ),
    (
        "calls user_column=user_id, notes parent=calls parent_column=call_id parent_key=absent",
        "has the parent public.calls, which has no column \"absent\"",
    ),
    ("calls user_column=user_id, notes parent=calls parent_column=absent", "has no column \"absent\""),
    (
        "notes parent=accounts parent_column=note_id parent_key=number",
        "public.accounts, which is not adopted",
    ),
    ("notes parent=notes parent_column=note_id", "public.notes: has itself as parent"),
    (
        "calls parent=notes parent_column=number, notes parent=calls parent_column=call_id",
        "public.notes: inherits from public.calls, which does not inherit from an organisation in the end",
    ),
    ("notes parent=calls_of_today parent_column=call_id", "which is a view"),
    ("notes parent=remote_calls parent_column=call_id", "which is a foreign table"),
    ("notes parent=months_2026 parent_column=call_id", "which is a part of public.months: name the whole"),
];

const WRONG_TABLES: [Wrong; 9] = [
    ("calls user_column=user_id, public.calls user_column=user_id", "public.calls: is listed twice"),
    ("notes organization=default, NOTES organization=default", "public.NOTES: is listed twice"),
    ("CALLS organization=default", "could be several tables: write the exact name in double quotes"),
    ("calls_of_today user_column=user_id", "is a view: name its underlying tables"),
    ("calls_by_day user_column=user_id", "is a materialized view"),
    ("remote_calls user_column=user_id", "is a foreign table"),
    ("months_2026 organization=default", "is a part of public.months: name the whole"),
    ("calls_pkey", "is not a table"),
    ("absent user_column=user_id", "public.absent: does not exist"),
];

#[tokio::test]
async fn options_that_cannot_be_right_are_reported_before_anything_is_changed() {
    let db = bare_db(APPLICATION).await;
    let before = super::tables::catalog(&db).await;
    for (list, expected) in WRONG_USERS.iter().chain(&WRONG_PARENTS).chain(&WRONG_TABLES) {
        let run = migrate(&db, &["--tables", list]).await.must(1);
        assert!(run.stdout.contains(expected), "{list} lacks {expected}: {}", run.stdout);
        assert!(run.stdout.contains("Correct the list of --tables."), "{list}: {}", run.stdout);
        assert!(run.stdout.contains("Nothing was changed"), "{list}: {}", run.stdout);
    }
    // All mistakes of a list at once.
    let list = "calls user_column=status, notes parent=calls parent_column=call_no, absent, notes organization=default";
    migrate(&db, &["--plan", "--tables", list]).await.must(1).says(&[
        "none of its values is a uuid",
        "of type integer, but public.calls",
        "public.absent: does not exist",
        "public.notes: is listed twice",
    ]);
    let is_installed: bool = sqlx::query_scalar("select to_regnamespace('warden') is not null")
        .fetch_one(&mut connect(&db).await)
        .await
        .expect("reads");
    assert!(!is_installed);
    assert_eq!(super::tables::catalog(&db).await, before);
}

/// Columns that can name a user or a parent: of domains, of text with uuids, and without values.
#[tokio::test]
async fn unusual_options_that_are_right_are_accepted() {
    let db = small_db(APPLICATION).await;
    for list in [
        "calls user_column=owner",
        "calls user_column=label",
        "calls user_column=comment",
        "calls user_column=\"Call Id\", notes parent=calls parent_column=call_id",
        "accounts organization=default, calls parent=accounts parent_column=number parent_key=number",
        "months organization=default, parts parent=months parent_column=month_id",
        "notes parent=calls parent_column=call_id, calls user_column=user_id",
    ] {
        migrate(&db, &["--plan", "--tables", list, "--default-organization"]).await.must(0);
    }
    // A parent that an earlier run adopted. Organisations have no options.
    migrate(&db, &["--tables", "calls user_column=user_id", "--default-organization"]).await.must(0);
    migrate(
        &db,
        &["--plan", "--tables", "notes parent=calls parent_column=call_id", "--default-organization"],
    )
    .await
    .must(0);
    migrate(&db, &["--plan", "--tables", "organizations user_column=name"])
        .await
        .must(1)
        .says(&["public.organizations: says itself to which organisation its rows belong"]);
}

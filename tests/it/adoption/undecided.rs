//! Rows of which nothing says to which organisation they belong: they wait for the operator, and never end up
//! in one organisation unasked.

use super::terminal::answered;
use super::{RUN_DEADLINE, Run, ended, small_db, warden};
use crate::harness::TestDb;

/// Accounts with members of their own, as templates for applications with several tenants have them.
const ACCOUNTS: &str = "
    create table accounts (id uuid primary key default gen_random_uuid(), name text not null,
                           primary_owner_user_id uuid not null);
    create table accounts_memberships (account_id uuid references accounts on delete cascade, user_id uuid,
                                       account_role text, primary key (account_id, user_id));
    create table tasks (id int primary key, account_id uuid not null references accounts on delete cascade, title text);
    create table task_logs (id int primary key, task_id int not null references tasks, user_id uuid);
    insert into accounts values
      ('0a000000-0000-4000-8000-00000000000a', 'A', '1a000000-0000-4000-8000-00000000000a'),
      ('0b000000-0000-4000-8000-00000000000b', 'B', '1b000000-0000-4000-8000-00000000000b');
    insert into accounts_memberships select id, primary_owner_user_id, 'owner' from accounts;
    insert into tasks values (1, '0a000000-0000-4000-8000-00000000000a', 'a'), (2, '0b000000-0000-4000-8000-00000000000b', 'b');
    insert into task_logs values (1, 1, null), (2, 2, null);";

/// A table of users' notes, in an application without organisations.
const NOTES: &str = "
    create table notes (id int primary key, owner_id uuid);
    insert into notes select n, gen_random_uuid() from generate_series(1, 3) n";

async fn migrate(db: &TestDb, args: &[&str]) -> Run {
    let mut command = warden(db.url(), "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

/// Each row of a table with the first letters of its organisation; `a0` is the default one.
async fn organizations(db: &TestDb, table: &str) -> Vec<String> {
    let sql = format!(
        "select left(id::text, 2) || ' ' || coalesce(left(org_id::text, 2), '-') from {table} order by 1"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&db.pool).await.expect("reads")
}

/// Tables with a column `org_id`, besides Warden's own.
async fn adopted(db: &TestDb) -> Vec<String> {
    sqlx::query_scalar(
        "select attrelid::regclass::text from pg_attribute
         where attname = 'org_id' and attrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace
           and relkind = 'r' and relname <> 'organization_members') order by 1",
    )
    .fetch_all(&db.pool)
    .await
    .expect("reads")
}

#[tokio::test]
async fn rows_of_several_tenants_are_not_put_together() {
    let db = small_db(ACCOUNTS).await;
    let candidates = migrate(&db, &[]).await.must(0);
    let (_, list) = candidates.stdout.split_once("warden migrate --tables '").expect("a command");
    let (list, _) = list.split_once('\'').expect("it ends");
    assert!(list.contains("public.accounts,") && list.contains("public.tasks"), "{list}");
    for args in [&["--plan", "--tables", list][..], &["--tables", list]] {
        migrate(&db, args).await.must(1).says(&[
            "nothing says to which organisation their rows belong. Warden would put them all into the default organisation",
            "accounts: 2 rows, ",
            "Tenants of another name",
            "--default-organization",
        ]);
        assert_eq!(adopted(&db).await, Vec::<String>::new(), "{args:?}");
    }
    let enforced = migrate(&db, &["--tables", list, "--enforce", "--yes"]).await.must(1);
    assert!(!enforced.stdout.contains("the database isolates organisations"), "{}", enforced.stdout);
    assert_eq!(adopted(&db).await, Vec::<String>::new());
}

/// After the documented copy, the same command adopts the accounts themselves, and new accounts too.
#[tokio::test]
async fn accounts_become_organisations_once_they_are_copied() {
    let db = small_db(ACCOUNTS).await;
    migrate(&db, &[]).await.must(0).says(&[
        "organisations of another name, with their members in public.accounts_memberships: copy them first",
    ]);
    let copy = super::tenants::documented()
        .replace("workspace_members", "accounts_memberships")
        .replace("workspaces", "accounts")
        .replace("workspace_id", "account_id");
    db.run(copy).await;
    let list = "accounts,accounts_memberships,task_logs,tasks";
    migrate(&db, &["--tables", list]).await.must(0).says(&[
        "public.accounts gets the organisation that id names",
        "public.tasks gets the organisation of public.accounts by account_id",
    ]);
    assert_eq!(organizations(&db, "accounts").await, ["0a 0a", "0b 0b"]);
    assert_eq!(organizations(&db, "tasks").await, ["1 0a", "2 0b"]);
    assert_eq!(organizations(&db, "task_logs").await, ["1 0a", "2 0b"]);
    let new = |id: &str, name: &str| {
        format!(
            "insert into accounts values ('{id}000000-0000-4000-8000-00000000000c', '{name}', gen_random_uuid())"
        )
    };
    db.run(new("0c", "C")).await;
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
    db.run(new("0d", "D")).await;
    assert_eq!(organizations(&db, "accounts").await, ["0a 0a", "0b 0b", "0c 0c", "0d 0d"]);
    db.run("update accounts set name = 'DD' where name = 'D'; delete from accounts where name = 'C'").await;
    let names: Vec<String> = sqlx::query_scalar("select name from organizations order by 1")
        .fetch_all(&db.pool)
        .await
        .expect("reads");
    assert_eq!(names, ["A", "B", "DD", "Default organization"]);
}

/// One flag, or one answer, is enough for an application of a single organisation.
#[tokio::test]
async fn a_single_organisation_needs_one_flag_or_one_answer() {
    let db = small_db(NOTES).await;
    migrate(&db, &["--tables", "notes", "--default-organization"])
        .await
        .must(0)
        .says(&["public.notes gets the membership of owner_id, else the default organisation"]);
    db.run("insert into notes values (4, gen_random_uuid())").await;
    assert_eq!(organizations(&db, "notes").await, ["1 a0", "2 a0", "3 a0", "4 a0"]);
    // The choice is recorded.
    migrate(&db, &["--enforce", "--yes"]).await.must(0);

    let db = small_db(NOTES).await;
    let question = "Do all these rows belong to one organisation, the default one?";
    let (code, screen) = answered(&db, "--tables notes", question, "no\n").await;
    assert_eq!(code, 1, "{screen}");
    assert_eq!(adopted(&db).await, Vec::<String>::new(), "{screen}");
    let (code, screen) = answered(&db, "--tables notes", question, "yes\n").await;
    assert_eq!(code, 0, "{screen}");
    assert_eq!(organizations(&db, "notes").await, ["1 a0", "2 a0", "3 a0"]);
}

/// Rows that the application writes after the first phase follow the same rule. No write fails.
#[tokio::test]
async fn a_new_row_of_a_user_without_a_membership_waits_for_one() {
    let db = small_db("create table notes (id int primary key, owner_id uuid)").await;
    migrate(&db, &["--tables", "notes"]).await.must(0);
    db.run("insert into notes values (1, '1b000000-0000-4000-8000-00000000000b'), (2, null)").await;
    assert_eq!(organizations(&db, "notes").await, ["1 -", "2 -"]);
    let says = "notes: 2 rows have no known organisation: owner_id names no member of an organisation";
    migrate(&db, &["--enforce", "--yes"]).await.must(1).says(&[says, "not enforced"]);
    migrate(&db, &["--plan"])
        .await
        .must(1)
        .says(&["notes: 2 rows, owner_id names no member of an organisation"]);
    db.run(
        "insert into organizations (id, name) values ('0b000000-0000-4000-8000-00000000000b', 'B');
         insert into organization_members (org_id, user_id)
         values ('0b000000-0000-4000-8000-00000000000b', '1b000000-0000-4000-8000-00000000000b')",
    )
    .await;
    migrate(&db, &[]).await.must(1).says(&["notes: 1 row has no known organisation"]);
    assert_eq!(organizations(&db, "notes").await, ["1 0b", "2 -"]);
    // The choice holds for the rest, and for new rows at once.
    migrate(&db, &["--default-organization"]).await.must(0);
    db.run("insert into notes values (3, null), (4, '1b000000-0000-4000-8000-00000000000b')").await;
    assert_eq!(organizations(&db, "notes").await, ["1 0b", "2 a0", "3 a0", "4 0b"]);
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
}

/// An option may name both the user, and what holds for rows without a member.
#[tokio::test]
async fn an_option_chooses_the_default_organisation_for_the_rest_of_one_table() {
    let db = small_db(NOTES).await;
    db.run("create table memos (id int primary key, owner_id uuid); insert into memos values (1, gen_random_uuid())").await;
    let list = "notes user_column=owner_id organization=default, memos user_column=owner_id";
    migrate(&db, &["--tables", list]).await.must(1).says(&[
        "issue: memos: nothing says",
        "public.notes gets the membership of owner_id, else the default organisation",
    ]);
    assert_eq!(adopted(&db).await, ["notes"]);
    assert_eq!(organizations(&db, "notes").await, ["1 a0", "2 a0", "3 a0"]);
}

/// Users of an identity provider that are no uuids.
#[tokio::test]
async fn a_user_column_whose_values_are_no_uuids_is_no_source() {
    let db = small_db(
        "create table todos (id int primary key, user_id text not null, title text);
         insert into todos values (1, 'user_2abcA', 'a'), (2, 'user_2abcB', 'b')",
    )
    .await;
    for args in [&["--plan", "--tables", "todos"][..], &["--tables", "todos"]] {
        migrate(&db, args).await.must(1).says(&[
            "public.todos: has a user column \"user_id\" of type text, and none of its values is a uuid",
            "'public.todos organization=default'",
        ]);
        assert_eq!(adopted(&db).await, Vec::<String>::new(), "{args:?}");
    }
}

//! Statements of the application between the two phases that alter what fill triggers depend on.

use super::{migrate, small_db};
use crate::harness::TestDb;

const OWNER: &str = "11111111-1111-1111-1111-111111111111";
const ORG: &str = "a0000000-0000-0000-0000-00000000000a";

/// Notes of users, lines of notes, and an organisation with one member, adopted but not isolated.
async fn notes_and_lines(prefix: &str) -> TestDb {
    let db = small_db(&format!(
        "{prefix} create table notes (id int primary key, owner_id uuid, body text);
         create table lines (id int primary key, note_id int references notes, body text);"
    ))
    .await;
    migrate(db.url(), &["--tables", "public.notes,public.lines"]).await.must(0);
    db.run(format!(
        "insert into organizations (id, name) values ('{ORG}', 'o');
         insert into organization_members (org_id, user_id) values ('{ORG}', '{OWNER}');
         insert into notes values (1, '{OWNER}')"
    ))
    .await;
    db
}

async fn organizations(db: &TestDb, table: &str) -> Vec<String> {
    let sql = format!("select distinct org_id::text from {table} order by 1");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&db.pool).await.expect("reads")
}

#[tokio::test]
async fn renamed_columns_keep_giving_rows_their_organisation() {
    let db = notes_and_lines("").await;
    db.run("alter table lines rename note_id to of_note; insert into lines (id, of_note) values (1, 1)")
        .await;
    db.run(format!(
        "alter table notes rename owner_id to author; insert into notes (id, author) values (2, '{OWNER}')"
    ))
    .await;
    db.run("alter table notes rename id to number; insert into lines (id, of_note) values (2, 2)").await;
    // A column that gets the former name of another one is no successor of it.
    db.run(
        "alter table lines add column note_id int; insert into lines (id, of_note, note_id) values (3, 1, 7)",
    )
    .await;
    assert_eq!(organizations(&db, "lines").await, [ORG]);
    assert_eq!(organizations(&db, "notes").await, [ORG]);
    migrate(db.url(), &[]).await.must(0).idle();
    migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
    let entries: Vec<(String, Option<String>, Option<String>, String)> = sqlx::query_as(
        "select table_name::text, user_column::text, parent_column::text, parent_key::text from warden.tenant_tables
         where origin = 'application' order by 1",
    )
    .fetch_all(&db.pool)
    .await
    .expect("reads");
    let entry = |table: &str, user: Option<&str>, parent: Option<&str>, key: &str| {
        (table.to_owned(), user.map(str::to_owned), parent.map(str::to_owned), key.to_owned())
    };
    assert_eq!(
        entries,
        [entry("lines", None, Some("of_note"), "number"), entry("notes", Some("author"), None, "id")]
    );
    db.run("alter table notes drop column author; alter table notes rename body to author").await;
    let user: Option<String> =
        sqlx::query_scalar("select user_column::text from warden.tenant_tables where table_name = 'notes'")
            .fetch_one(&db.pool)
            .await
            .expect("reads");
    assert_eq!(user.as_deref(), Some("author"), "the name of the dropped column");
}

#[tokio::test]
async fn a_new_owner_inserts_into_its_tables() {
    let db = notes_and_lines("").await;
    let owner = format!("owner_{}", db.name());
    db.run(format!(
        "create role {owner}; alter table notes owner to {owner}; alter table lines owner to {owner};
         grant insert, select on notes, lines to authenticated;
         set role authenticated; insert into lines values (1, 1); reset role;
         set role {owner}; insert into lines values (2, 1); reset role"
    ))
    .await;
    assert_eq!(organizations(&db, "lines").await, [ORG]);
    // Without the event trigger the next run renews the functions.
    let second = format!("second_{}", db.name());
    db.run(format!(
        "create role {second}; set warden.is_protecting = 'on';
         alter table notes owner to {second}; alter table lines owner to {second}; reset warden.is_protecting"
    ))
    .await;
    db.error("set role authenticated; insert into lines values (3, 1)").await;
    migrate(db.url(), &[]).await.must(0);
    db.run("set role authenticated; insert into lines values (3, 1); reset role").await;
    assert_eq!(organizations(&db, "lines").await, [ORG]);
}

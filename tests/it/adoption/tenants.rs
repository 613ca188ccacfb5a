//! Organisations of an application: in a table of another name, missing, or with columns that Warden does not
//! know.

use super::existing_objects::plain;
use super::{bare_db, connect, small_db};
use crate::harness::TestDb;

/// Boards of workspaces, and the members of these.
const WORKSPACES: &str = r#"
    create table workspaces (id uuid primary key, name text not null);
    create table workspace_members (workspace_id uuid references workspaces on delete cascade, user_id uuid,
                                    primary key (workspace_id, user_id));
    create table boards (id int primary key, org_id uuid not null references workspaces on delete cascade);
    create table "Board's cards" (id int primary key, board_id int not null references boards on delete cascade);
    insert into workspaces values ('0a000000-0000-4000-8000-00000000000a', 'A'),
                                  ('0b000000-0000-4000-8000-00000000000b', 'B');
    insert into workspace_members select id, gen_random_uuid() from workspaces;
    insert into boards values (1, '0a000000-0000-4000-8000-00000000000a'), (2, '0b000000-0000-4000-8000-00000000000b');
    insert into "Board's cards" values (1, 1), (2, 2);"#;

const ADOPTS: [&str; 2] = ["--tables", "boards,\"Board's cards\""];

/// The statements of docs/tenancy.md that copy workspaces.
pub(super) fn documented() -> String {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tenancy.md")).expect("reads");
    let (_, section) = page.split_once("### Tenants of another name").expect("the section exists");
    let (_, block) = section.split_once("```sql\n").expect("a block");
    block.split_once("```").expect("it ends").0.to_owned()
}

/// The lines of an issue's remedy that are statements, with this beginning.
fn statement<'a>(text: &'a str, start: &str) -> &'a str {
    text.lines()
        .map(str::trim)
        .find(|line| line.starts_with(start))
        .unwrap_or_else(|| panic!("{start}: {text}"))
}

async fn count(db: &TestDb, sql: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {sql}")))
        .fetch_one(&mut connect(db).await)
        .await
        .expect("counts")
}

/// The application keeps writing, also while the issue is open and after the workspaces were copied.
#[tokio::test]
async fn a_table_of_tenants_of_another_name_is_copied_first() {
    let db = small_db(WORKSPACES).await;
    let says = "boards: has an org_id that references public.workspaces, which has rows that public.organizations lacks";
    let run = plain(db.url(), &ADOPTS).await.must(1).says(&[says]);
    db.run(
        "insert into workspaces values ('0c000000-0000-4000-8000-00000000000c', 'C');
            insert into boards values (3, '0c000000-0000-4000-8000-00000000000c')",
    )
    .await;
    // The printed statement is enough for the first phase; the documented triggers keep both in step.
    db.run(statement(&run.stdout, "insert into public.organizations")).await;
    db.run(documented()).await;
    let named = "boards: constraint \"boards_org_id_fkey\" has a name of Warden's";
    let run = plain(db.url(), &ADOPTS).await.must(1).says(&[named]);
    let rename =
        statement(&run.stdout, "Rename it: alter table public.boards").trim_start_matches("Rename it: ");
    db.run(rename).await;
    plain(db.url(), &ADOPTS).await.must(0);
    plain(db.url(), &["--enforce", "--yes"]).await.must(0);
    db.run(
        "insert into workspaces values ('0d000000-0000-4000-8000-00000000000d', 'D');
            insert into workspace_members values ('0d000000-0000-4000-8000-00000000000d', gen_random_uuid());
            insert into boards values (4, '0d000000-0000-4000-8000-00000000000d');
            update workspaces set name = 'AA' where name = 'A'; delete from workspaces where name = 'B'",
    )
    .await;
    assert_eq!(count(&db, "organizations where name in ('AA', 'C', 'D')").await, 3);
    assert_eq!(count(&db, "organizations where name = 'B'").await, 0);
    assert_eq!(count(&db, "organization_members").await, 2);
    assert_eq!(
        count(&db, "\"Board's cards\" c join boards b on b.id = c.board_id and b.org_id = c.org_id").await,
        1
    );
    // Once Warden's key exists, a workspace without a copy is no issue.
    db.run("alter table workspaces disable trigger copy_workspace; insert into workspaces values (gen_random_uuid(), 'E')").await;
    plain(db.url(), &[]).await.must(0);
}

/// The referenced column need not be a primary key: a row without a value in it is no organisation.
#[tokio::test]
async fn tenants_without_an_id_are_not_missing() {
    let db = small_db(
        "create table workspaces (id int primary key, tenant uuid unique, name text);
         create table boards (id int primary key, org_id uuid);
         alter table boards add constraint board_of_workspace foreign key (org_id) references workspaces (tenant);
         insert into workspaces values (1, '0a000000-0000-4000-8000-00000000000a', 'A'), (2, null, 'draft');
         insert into boards values (1, '0a000000-0000-4000-8000-00000000000a'), (2, null)",
    )
    .await;
    let adopts = ["--tables", "boards organization=default"];
    let says = "boards: has an org_id that references public.workspaces, which has rows that public.organizations lacks";
    let run = plain(db.url(), &adopts).await.must(1).says(&[says]);
    db.run(statement(&run.stdout, "insert into public.organizations")).await;
    // Board 2 gets the default organisation, which is no workspace: the application's key demands one.
    db.run("insert into workspaces values (3, 'a0000000-0000-0000-0000-000000000001', 'rest')").await;
    plain(db.url(), &adopts).await.must(0);
    assert_eq!(count(&db, "organizations where name = 'A'").await, 1);
    assert_eq!(count(&db, "boards where org_id is null").await, 0);
}

/// An `org_id` that names a user is not taken for an organisation.
#[tokio::test]
async fn an_org_id_that_references_users_is_an_issue() {
    let db = small_db(
        "create schema auth; create table auth.users (id uuid primary key); insert into auth.users values (gen_random_uuid());
         create table notes (id int primary key, owner_id uuid, org_id uuid references auth.users)",
    )
    .await;
    let adopts = ["--tables", "notes user_column=owner_id"];
    let says = "notes: has an org_id that references auth.users: it names a user";
    let run = plain(db.url(), &adopts).await.must(1).says(&[says]);
    db.run(statement(&run.stdout, "alter table public.notes")).await;
    // The key has the name that Warden's needs.
    let run = plain(db.url(), &adopts).await.must(1);
    db.run(statement(&run.stdout, "Rename it: ").trim_start_matches("Rename it: ")).await;
    plain(db.url(), &adopts).await.must(0);
}

/// A key, even NOT VALID, would reject what the application writes today.
#[tokio::test]
async fn rows_of_missing_organisations_get_no_key() {
    let db = small_db(
        "create table notes (id int primary key, org_id uuid);
         insert into notes values (1, '0a000000-0000-4000-8000-00000000000a')",
    )
    .await;
    let adopts = ["--tables", "notes organization=default"];
    let run =
        plain(db.url(), &adopts).await.must(1).says(&["notes: has rows of organisations that do not exist"]);
    db.run("insert into notes values (2, '0b000000-0000-4000-8000-00000000000b')").await;
    db.run(statement(&run.stdout, "insert into public.organizations")).await;
    plain(db.url(), &adopts).await.must(0);
    assert_eq!(count(&db, "organizations where name = 'Restored'").await, 2);
}

/// The printed statement inserts the default organisation.
#[tokio::test]
async fn an_example_inserts_the_default_organisation() {
    let db = bare_db(
        r#"create type plan as enum ('free', 'paid');
           create table owners (id int primary key); insert into owners values (7);
           create table organizations (
             id uuid primary key, name text not null, slug varchar(3) not null, "planType" plan not null,
             owner int not null references owners, tags text[] not null, settings jsonb not null,
             seats numeric not null, is_open boolean not null, since date not null, token uuid not null);
           create table organization_members (org_id uuid references organizations on delete cascade, user_id uuid)"#,
    )
    .await;
    let adopts = ["--tables", "organizations,organization_members", "--default-organization"];
    let says = "requires slug, \"planType\", owner, tags, settings, seats, is_open, since, token";
    let run = plain(db.url(), &adopts).await.must(1).says(&[says]);
    let (_, insertion) = run.stdout.split_once("see the new row): ").expect("a statement");
    // A person chooses the row of another table.
    assert!(insertion.contains("<id of public.owners>"), "{insertion}");
    db.run(insertion.lines().next().expect("a line").replace("<id of public.owners>", "7")).await;
    plain(db.url(), &adopts).await.must(0);
}

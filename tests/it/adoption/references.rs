//! Rows whose parent and user are unknown, and that reference other rows: they belong where those belong, and
//! never to the default organisation.

use sqlx::AssertSqlSafe;

use super::{RUN_DEADLINE, Run, ended, small_db, warden};
use crate::harness::TestDb;

/// Comments on a task or on a project, folders within folders, and organisations of two users.
const APPLICATION: &str = "
    create table projects (id int primary key, owner_id uuid not null);
    create table tasks (id int primary key, project_id int not null references projects);
    create table comments (id int primary key, task_id int references tasks, project_id int references projects);
    create table folders (id int primary key, folder_id int references folders, owner_id uuid);
    insert into projects values (1, '1a000000-0000-4000-8000-00000000000a'), (2, '1b000000-0000-4000-8000-00000000000b');
    insert into tasks values (1, 1), (2, 2);
    insert into comments values (11, 1, null), (12, 2, null), (21, null, 1), (22, null, 2), (30, null, null);
    -- Children come before their parents, so the first pass cannot fill them.
    insert into folders values (3, null, null), (2, null, '1b000000-0000-4000-8000-00000000000b'),
      (1, null, '1a000000-0000-4000-8000-00000000000a'), (11, 1, null), (12, 2, null), (21, 11, null), (22, 12, null);";

const TABLES: &str = "projects,tasks,comments,folders";

async fn migrate(db: &TestDb, args: &[&str]) -> Run {
    let mut command = warden(db.url(), "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

/// The application, with the organisations of its users.
async fn application() -> TestDb {
    let db = small_db(APPLICATION).await;
    migrate(&db, &[]).await.must(0);
    db.run(
        "insert into organizations (id, name) values ('0a000000-0000-4000-8000-00000000000a', 'a'),
           ('0b000000-0000-4000-8000-00000000000b', 'b');
         insert into organization_members (org_id, user_id) values
           ('0a000000-0000-4000-8000-00000000000a', '1a000000-0000-4000-8000-00000000000a'),
           ('0b000000-0000-4000-8000-00000000000b', '1b000000-0000-4000-8000-00000000000b')",
    )
    .await;
    db
}

/// Each row of a table with the first letters of its organisation; `a0` is the default one.
async fn organizations(db: &TestDb, table: &str) -> Vec<String> {
    let sql = format!("select id || ' ' || coalesce(left(org_id::text, 2), '-') from {table} order by id");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&db.pool).await.expect("reads")
}

#[tokio::test]
async fn rows_without_parent_and_user_belong_where_the_rows_that_they_reference_belong() {
    let db = application().await;
    migrate(&db, &["--tables", TABLES, "--default-organization"]).await.must(0);
    assert_eq!(organizations(&db, "comments").await, ["11 0a", "12 0b", "21 0a", "22 0b", "30 a0"]);
    let folders = ["1 0a", "2 0b", "3 a0", "11 0a", "12 0b", "21 0a", "22 0b"];
    assert_eq!(organizations(&db, "folders").await, folders);

    // The fill trigger follows the same rule.
    db.run(
        "insert into comments values (41, 1, null), (42, null, 2), (43, null, null);
         insert into folders values (32, 22, null), (33, null, null)",
    )
    .await;
    assert_eq!(organizations(&db, "comments").await[5..], ["41 0a", "42 0b", "43 a0"]);
    assert_eq!(organizations(&db, "folders").await[7..], ["32 0b", "33 a0"]);
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
}

/// A user may be a member of several organisations. A row that must reference another row has the
/// organisation of that row, unless this is the default one: all organisations share its rows.
#[tokio::test]
async fn rows_that_must_reference_others_belong_where_those_belong() {
    let db = small_db(
        "create table projects (id int primary key, owner_id uuid not null);
         create table labels (id int primary key);
         create table tickets (id int primary key, team uuid, project_id int not null references projects,
           label_id int not null references labels, created_by uuid);
         create table pins (id int primary key, label_id int not null references labels, owner_id uuid);
         insert into projects values (1, '1a000000-0000-4000-8000-00000000000a'), (2, '1b000000-0000-4000-8000-00000000000b');
         insert into labels values (1);
         insert into tickets values (1, null, 1, 1, '1c000000-0000-4000-8000-00000000000c'),
           (2, null, 2, 1, '1c000000-0000-4000-8000-00000000000c'), (3, '0a000000-0000-4000-8000-00000000000a', 2, 1, null);
         insert into pins values (1, 1, '1b000000-0000-4000-8000-00000000000b')",
    )
    .await;
    migrate(&db, &[]).await.must(0);
    db.run(
        "insert into organizations (id, name) values ('0a000000-0000-4000-8000-00000000000a', 'a'),
           ('0b000000-0000-4000-8000-00000000000b', 'b');
         alter table tickets add foreign key (team) references organizations;
         insert into organization_members (org_id, user_id, created_at) values
           ('0a000000-0000-4000-8000-00000000000a', '1a000000-0000-4000-8000-00000000000a', now()),
           ('0b000000-0000-4000-8000-00000000000b', '1b000000-0000-4000-8000-00000000000b', now()),
           ('0a000000-0000-4000-8000-00000000000a', '1c000000-0000-4000-8000-00000000000c', '2020-01-01'),
           ('0b000000-0000-4000-8000-00000000000b', '1c000000-0000-4000-8000-00000000000c', '2021-01-01')",
    )
    .await;
    let tables = "projects,labels organization=default,tickets,pins";
    let required = "else the organisation of public.projects by project_id, else the organisation of public.labels by \
                    label_id, else the membership of created_by";
    migrate(&db, &["--plan", "--tables", tables]).await.must(0).says(&[
        &format!("batches: the organisation of organizations by team, {required}"),
        &format!("note: public.tickets gets the organisation that team names, {required}"),
    ]);
    migrate(&db, &["--tables", tables]).await.must(0);
    assert_eq!(organizations(&db, "tickets").await, ["1 0a", "2 0b", "3 0a"]);
    assert_eq!(organizations(&db, "pins").await, ["1 0b"]);

    // The fill trigger follows the same rule. A project of nobody has no organisation, so its tickets have
    // none.
    db.run(
        "insert into projects values (3, '1d000000-0000-4000-8000-00000000000d');
         insert into tickets values (11, null, 2, 1, '1c000000-0000-4000-8000-00000000000c'),
           (12, null, 3, 1, '1c000000-0000-4000-8000-00000000000c');
         insert into pins values (11, 1, '1c000000-0000-4000-8000-00000000000c')",
    )
    .await;
    assert_eq!(organizations(&db, "tickets").await[3..], ["11 0b", "12 -"]);
    assert_eq!(organizations(&db, "pins").await[1..], ["11 0a"]);
    db.run("insert into organization_members (org_id, user_id) values ('0b000000-0000-4000-8000-00000000000b', '1d000000-0000-4000-8000-00000000000d')").await;
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
    assert_eq!(organizations(&db, "tickets").await[3..], ["11 0b", "12 0b"]);
}

/// Rows that reference each other in a circle lead to no organisation. The issue has an end.
#[tokio::test]
async fn rows_that_reference_only_rows_without_an_organisation_are_an_issue() {
    let db = application().await;
    db.run("insert into folders values (50, null, null), (51, 50, null); update folders set folder_id = 51 where id = 50")
        .await;
    let run = migrate(&db, &["--tables", TABLES, "--default-organization"]).await.must(1);
    let run =
        run.says(&["issue: folders: ", "2 rows have no known organisation, and reference rows without one"]);
    assert_eq!(organizations(&db, "folders").await[7..], ["50 -", "51 -"]);
    migrate(&db, &["--enforce", "--yes"]).await.must(1);

    let (_, remedy) = run.stdout.split_once("BYPASSRLS: ").expect("a statement");
    let remedy = remedy.lines().next().expect("a line");
    db.run(remedy.replace("<organisation>", "0b000000-0000-4000-8000-00000000000b")).await;
    assert_eq!(organizations(&db, "folders").await[7..], ["50 0b", "51 0b"]);
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
}

/// Fill trigger of a version that knew no foreign keys but the parent's, for comments on a project.
const FORMER_RULE: &str = r#"
    create or replace function warden."fill public.comments"() returns trigger
    language plpgsql security definer set search_path = '' as $$
    begin
      if new.project_id is not null then
        select p.org_id into new.org_id from public.projects p where p.id = new.project_id;
        if found then return new; end if;
      end if;
      new.org_id := coalesce(new.org_id, warden.default_organization());
      return new;
    end
    $$;
    drop trigger warden_fill_org_id_update on comments;"#;

#[tokio::test]
async fn fill_triggers_of_an_earlier_version_are_renewed_once() {
    let db = application().await;
    migrate(&db, &["--tables", TABLES, "--default-organization"]).await.must(0);
    db.run(FORMER_RULE).await;
    db.run("insert into comments values (51, 1, null)").await;
    assert_eq!(organizations(&db, "comments").await[5..], ["51 a0"]);
    let outdated = "select name || ' ' || problem from warden.tenant_objects where phase = 'fill' and problem is not null order by 1";
    let problems: Vec<String> = sqlx::query_scalar(outdated).fetch_all(&db.pool).await.expect("reads");
    assert_eq!(
        problems,
        [
            "warden_fill_org_id follows another rule than this version",
            "warden_fill_org_id_parent follows another rule than this version",
            "warden_fill_org_id_update is missing"
        ]
    );
    migrate(&db, &["--plan"]).await.must(0).says(&["comments"]);

    let note = "note: comments: the triggers that give new rows their organisation are renewed";
    migrate(&db, &[]).await.must(0).says(&[note]);
    db.run("insert into comments values (52, 1, null)").await;
    assert_eq!(organizations(&db, "comments").await[6..], ["52 0a"]);
    let again = migrate(&db, &[]).await.must(0);
    assert!(
        !again.stdout.contains("renewed") && again.stdout.contains("the schema is up to date"),
        "{}",
        again.stdout
    );
    // A request may not choose the organisation of a row, as the update trigger ensures.
    let update = "set role authenticated; update comments set org_id = '0b000000-0000-4000-8000-00000000000b' where id = 52";
    db.run("grant select, update on comments to authenticated").await;
    assert!(db.error(update).await.contains("cannot be changed"));
}

/// Tables that reference each other: the one that is adopted first gets the rule once the other has `org_id`.
#[tokio::test]
async fn tables_that_reference_each_other_follow_the_rule_after_one_run() {
    let db = application().await;
    db.run(
        "create table teams (id int primary key, leader_id int, owner_id uuid);
         create table agents (id int primary key, team_id int references teams, owner_id uuid);
         alter table teams add foreign key (leader_id) references agents",
    )
    .await;
    migrate(
        &db,
        &[
            "--tables",
            &format!("{TABLES},teams user_column=owner_id,agents user_column=owner_id"),
            "--default-organization",
        ],
    )
    .await
    .must(0);
    db.run(
        "insert into teams values (1, null, '1a000000-0000-4000-8000-00000000000a');
         insert into agents values (1, 1, null); insert into teams values (2, 1, null)",
    )
    .await;
    assert_eq!(organizations(&db, "agents").await, ["1 0a"]);
    assert_eq!(organizations(&db, "teams").await, ["1 0a", "2 0a"]);
}

/// Lines of orders. The key of several columns leads to the project's organisation.
const ORDERS: &str = "
    create table orders (project_id int references projects, number int, primary key (project_id, number));
    create table lines (id int primary key, project int, number int, foreign key (project, number) references orders);
    insert into orders values (1, 1), (2, 1); insert into lines values (1, 1, 1), (2, 2, 1), (3, null, null)";

/// A key of several columns cannot be named as a parent, but says to which organisation a row belongs.
#[tokio::test]
async fn keys_of_several_columns_decide_before_the_default_organisation() {
    let db = application().await;
    db.run(ORDERS).await;
    let reason = "a key of several columns references public.orders";
    migrate(&db, &[]).await.must(0).says(&[reason]);
    let without = "public.lines: inherits its organisation from public.orders, which is not adopted";
    migrate(&db, &["--tables", "lines"]).await.must(1).says(&[without]);
    let source = "public.lines gets the organisation of public.orders by a key of several columns, else the default organisation";
    migrate(&db, &["--tables", "projects,orders,lines", "--default-organization"])
        .await
        .must(0)
        .says(&[source]);
    assert_eq!(organizations(&db, "lines").await, ["1 0a", "2 0b", "3 a0"]);
    db.run("insert into lines values (4, 2, 1), (5, null, null)").await;
    assert_eq!(organizations(&db, "lines").await, ["1 0a", "2 0b", "3 a0", "4 0b", "5 a0"]);
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
}

#[tokio::test]
async fn the_choice_of_the_default_organisation_holds_beside_keys_of_several_columns() {
    let db = application().await;
    db.run(ORDERS).await;
    let source = "public.lines gets the default organisation";
    migrate(&db, &["--tables", "projects,orders,lines organization=default"]).await.must(0).says(&[source]);
    assert_eq!(organizations(&db, "lines").await, ["1 a0", "2 a0", "3 a0"]);
    // A later run keeps it.
    migrate(&db, &["--tables", "lines"]).await.must(0);
    db.run("insert into lines values (4, 2, 1)").await;
    assert_eq!(organizations(&db, "lines").await, ["1 a0", "2 a0", "3 a0", "4 a0"]);
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
    // A later choice replaces it.
    db.run("select warden.adopt_table('lines')").await;
    let chosen = "select uses_default_organization from warden.tenant_tables where table_name = 'lines'";
    assert_eq!(sqlx::query_scalar::<_, bool>(chosen).fetch_one(&db.pool).await.ok(), Some(false));
}

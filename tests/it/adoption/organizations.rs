//! The application's own `organizations` and `organization_members`: everything that does not fit is reported
//! before anything is changed, and no remedy changes what the application's statements do.

use super::tables::catalog;
use super::{RUN_DEADLINE, Run, bare_db, ended, warden};
use crate::harness::TestDb;

/// Memberships with the usual column, and a trigger that makes the owner of an organisation its member.
const APPLICATION: &str = "
    create schema auth; create table auth.users (id uuid primary key);
    create table organizations (id uuid primary key default gen_random_uuid(), name text not null, slug text not null unique,
                                owner_id uuid not null references auth.users);
    create table organization_members (id uuid primary key default gen_random_uuid(), role text not null default 'member',
      organization_id uuid not null references organizations on delete cascade, member_id uuid not null references auth.users);
    create function join_owner() returns trigger language plpgsql as $$ begin
      insert into organization_members (organization_id, member_id, role) values (new.id, new.owner_id, 'owner');
      return null; end $$;
    create trigger join_owner after insert on organizations for each row execute function join_owner();
    create table docs (id int primary key, organization_id uuid not null references organizations on delete cascade);
    insert into auth.users values ('1a000000-0000-4000-8000-00000000000a'), ('1b000000-0000-4000-8000-00000000000b');
    insert into organizations (id, name, slug, owner_id) values
      ('0a000000-0000-4000-8000-00000000000a', 'A', 'a', '1a000000-0000-4000-8000-00000000000a'),
      ('0b000000-0000-4000-8000-00000000000b', 'B', 'b', '1b000000-0000-4000-8000-00000000000b');
    insert into docs values (1, '0a000000-0000-4000-8000-00000000000a'), (2, '0b000000-0000-4000-8000-00000000000b');";

const ADOPTS: [&str; 2] = ["--tables", "organizations,organization_members,docs"];

async fn migrate(db: &TestDb, args: &[&str]) -> Run {
    let mut command = warden(db.url(), "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

async fn text(db: &TestDb, sql: &str) -> String {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&db.pool).await.expect("reads")
}

#[tokio::test]
async fn memberships_with_columns_of_other_names_are_adopted_without_a_change_for_the_application() {
    let db = bare_db(APPLICATION).await;
    let before = catalog(&db).await;
    for args in [&["--plan", ADOPTS[0], ADOPTS[1]][..], &ADOPTS] {
        let run = migrate(&db, args).await.must(1).says(&[
            "public.organization_members: has no column \"org_id\", has no column \"user_id\"",
            "Nothing was changed",
        ]);
        assert!(!run.stdout.contains("rename") && !run.stdout.contains("limit 1"), "{}", run.stdout);
        assert_eq!(catalog(&db).await, before, "{args:?}");
    }
    // The printed statements are enough: the next run has no further question.
    let run = migrate(&db, &ADOPTS).await.must(1);
    for statement in run.stdout.lines().map(str::trim).filter(|line| line.starts_with("alter table")) {
        db.run(statement).await;
    }
    migrate(&db, &ADOPTS).await.must(0);
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
    // No row was added to the application's organisations, and its statements work as before.
    db.run(
        "insert into organizations (name, slug, owner_id) values ('C', 'c', '1a000000-0000-4000-8000-00000000000a');
         update organization_members set role = 'admin' where member_id = '1b000000-0000-4000-8000-00000000000b'",
    )
    .await;
    let members =
        "select string_agg(o.name || ' ' || left(m.user_id::text, 2) || ' ' || m.role, ', ' order by o.name)
                   from organizations o left join organization_members m on m.org_id = o.id";
    assert_eq!(text(&db, members).await, "A 1a owner, B 1b admin, C 1a owner");
    let docs = "select string_agg(left(org_id::text, 2), ' ' order by id) from docs";
    assert_eq!(text(&db, docs).await, "0a 0b");
    let org = "select warden.default_org_for('1b000000-0000-4000-8000-00000000000b')::text";
    assert_eq!(text(&db, org).await, "0b000000-0000-4000-8000-00000000000b");
    let problems = "select coalesce(string_agg(table_name || ' ' || name || ' ' || problem, ', '), 'none')
                    from warden.tenant_objects where problem is not null";
    assert_eq!(text(&db, problems).await, "none");
    let audit = super::audit(db.url()).await;
    assert!(!audit.stdout.contains("default-organization"), "{}", audit.stdout);
}

/// The default organisation is a row of the application's table. It is needed only if somebody chooses it.
#[tokio::test]
async fn the_default_organisation_is_inserted_only_if_it_is_chosen() {
    let db = bare_db(
        "create table organizations (id uuid primary key, name text not null, plan text not null);
         create table organization_members (org_id uuid references organizations on delete cascade, user_id uuid);
         create table notes (id int primary key, owner_id uuid); insert into notes values (1, gen_random_uuid())",
    )
    .await;
    let own = ["--tables", "organizations,organization_members"];
    migrate(&db, &own).await.must(0);
    assert_eq!(text(&db, "select count(*)::text from organizations").await, "0");
    let chosen = ["--tables", "notes", "--default-organization"];
    let run = migrate(&db, &chosen).await.must(1).says(&["requires plan", "Nothing was changed"]);
    let (_, insertion) = run.stdout.split_once("see the new row): ").expect("a statement");
    db.run(insertion.lines().next().expect("a line")).await;
    migrate(&db, &chosen).await.must(0);
    assert_eq!(text(&db, "select left(org_id::text, 2) from notes").await, "a0");
}

/// If PostgreSQL cannot compute a column from others, a person decides, and no statement is printed: it could
/// break the application.
#[tokio::test]
async fn what_cannot_be_computed_is_a_decision() {
    let db = bare_db(
        "create table organizations (id serial primary key, name text);
         create table organization_members (org_id int references organizations, user_id uuid);",
    )
    .await;
    let run = migrate(&db, &["--tables", "organizations,organization_members"]).await.must(1).says(&[
        "public.organizations: has a column \"id\" of type integer, and must be uuid",
        "rename the table together with the statements of the application that use it",
    ]);
    assert!(!run.stdout.contains("alter table"), "{}", run.stdout);
}

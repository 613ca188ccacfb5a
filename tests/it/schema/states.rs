//! `warden migrate --plan` works in every state of a database, and changes nothing.

use warden::postgres::{SchemaSet, migrate, migrate_platform};

use super::again::FORGET;
use crate::cli::run;
use crate::harness::{TestDb, pg_dump};

/// An application's tables, with rows, and without organisations.
const APPLICATION: &str = "
    create table leads (id uuid primary key default gen_random_uuid(), user_id uuid, name text);
    insert into leads (user_id, name) values (gen_random_uuid(), 'a'), (null, 'b')";

/// Plans a run to each goal, and checks that the database is as before. Issues of tables are allowed.
async fn assert_plans(db: &TestDb, state: &str) {
    let before = contents(db);
    for goal in [&[][..], &["--platform"], &["--enforce"], &["--relax"]] {
        let arguments = [&["migrate", "--plan"], goal].concat();
        let plan = run(&arguments, &[("DATABASE_URL", db.url())]).await;
        let has_error = plan.stderr.lines().any(|line| line.to_lowercase().starts_with("error"));
        let is_done = plan.stdout.contains("Nothing was changed") && !has_error;
        assert!(matches!(plan.code, Some(0 | 1)) && is_done, "{state}, {goal:?}: {plan:?}");
    }
    assert_eq!(contents(db), before, "{state}");
}

/// A dump without the last numbers of sequences: PostgreSQL never takes back a number that a transaction
/// took.
fn contents(db: &TestDb) -> String {
    let dump = pg_dump(db, &[]);
    let lines = dump.lines().filter(|line| !line.contains("setval('warden."));
    lines.map(|line| format!("{line}\n")).collect()
}

#[tokio::test]
async fn a_plan_works_before_after_and_between_migrations() {
    let empty = TestDb::create_from("template0").await;
    assert_plans(&empty, "empty").await;
    empty.run(APPLICATION).await;
    assert_plans(&empty, "application tables").await;
    empty.run("create table organization_members (org_id uuid, user_id uuid)").await;
    assert_plans(&empty, "no organizations").await;
    empty.run("drop table organization_members; create table organizations (id uuid primary key)").await;
    assert_plans(&empty, "no organization_members").await;

    let partial = TestDb::create_from("template0").await;
    partial.run(APPLICATION).await;
    partial
        .run(
            "create schema warden;
             create table warden._sqlx_migrations (version bigint primary key, description text not null,
               installed_on timestamptz not null default now(), success boolean not null,
               checksum bytea not null, execution_time bigint not null)",
        )
        .await;
    for file in SchemaSet::Core.migrator().iter() {
        let stop = format!(
            "alter table warden._sqlx_migrations add constraint stop check (version <= {})",
            file.version
        );
        partial.run(stop).await;
        // The last file has no successor that is rejected.
        let _ = migrate(partial.url()).await;
        partial.run("alter table warden._sqlx_migrations drop constraint stop").await;
        assert_plans(&partial, &format!("after migration {}", file.version)).await;
    }
}

#[tokio::test]
async fn a_plan_works_on_an_enforced_a_relaxed_and_a_restored_database() {
    let db = TestDb::create_from("template0").await;
    db.run(APPLICATION).await;
    migrate_platform(db.url()).await.expect("migrates");
    assert_plans(&db, "migrated").await;
    for goal in ["--enforce", "--relax"] {
        let done = run(&["migrate", goal, "--yes"], &[("DATABASE_URL", db.url())]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_plans(&db, goal).await;
    }
    db.run(FORGET).await;
    assert_plans(&db, "without records").await;
    db.run(
        "alter table warden.topics owner to current_user; revoke all on schema warden from warden_gateway",
    )
    .await;
    assert_plans(&db, "without owners and rights").await;
}

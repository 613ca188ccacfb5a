//! `warden migrate --plan` works in every state of a database, and changes nothing.

use warden::postgres::{SchemaSet, migrate, migrate_platform};

use super::again::FORGET;
use crate::cli::run;
use crate::harness::{Sample, TestDb, is_full, pg_dump};

/// An application's tables, with rows, and without organisations.
const APPLICATION: &str = "
    create table leads (id uuid primary key default gen_random_uuid(), user_id uuid, name text);
    insert into leads (user_id, name) values (gen_random_uuid(), 'a'), (null, 'b')";

/// Goals of a plan, as options.
const GOALS: [Option<&str>; 4] = [None, Some("--platform"), Some("--enforce"), Some("--relax")];

/// Plans a run to each of these goals, and checks that the database is as before. Issues of tables are
/// allowed.
async fn assert_plans(db: &TestDb, state: &str, goals: &[Option<&str>]) {
    let before = contents(db);
    for goal in goals {
        let arguments: Vec<&str> = ["migrate", "--plan"].into_iter().chain(*goal).collect();
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
    assert_plans(&empty, "empty", &GOALS).await;
    empty.run(APPLICATION).await;
    assert_plans(&empty, "application tables", &GOALS).await;
    empty.run("create table organization_members (org_id uuid, user_id uuid)").await;
    assert_plans(&empty, "no organizations", &GOALS).await;
    empty.run("drop table organization_members; create table organizations (id uuid primary key)").await;
    assert_plans(&empty, "no organization_members", &GOALS).await;

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
    // A plan runs every migration that is missing, so the suite tries one goal after some files.
    let sample = Sample::one_in(9);
    for (n, file) in SchemaSet::Core.migrator().iter().enumerate() {
        let goals = match sample.contains(n) {
            _ if is_full() => &GOALS[..],
            true => std::slice::from_ref(&GOALS[n % GOALS.len()]),
            false => continue,
        };
        let stop = format!(
            "alter table warden._sqlx_migrations add constraint stop check (version <= {})",
            file.version
        );
        partial.run(stop).await;
        // The last file has no successor that is rejected.
        let _ = migrate(partial.url()).await;
        partial.run("alter table warden._sqlx_migrations drop constraint stop").await;
        assert_plans(&partial, &format!("after migration {}", file.version), goals).await;
    }
}

/// Tools reset a database like this. Schema `warden` remains.
#[tokio::test]
async fn a_database_whose_public_schema_was_replaced_is_completed() {
    let db = TestDb::create_from("template0").await;
    db.run(APPLICATION).await;
    let url = [("DATABASE_URL", db.url())];
    for goal in ["--tables=leads", "--enforce"] {
        let done = run(&["migrate", goal, "--default-organization", "--yes"], &url).await;
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    db.run("drop schema public cascade; create schema public").await;
    assert_plans(&db, "without organisations", &GOALS).await;
    let audit = run(&["audit"], &url).await;
    assert!(audit.stdout.contains("as after a reset of schema public"), "{audit:?}");
    db.run(APPLICATION).await;
    assert_plans(&db, "with new tables", &GOALS).await;
    for goal in ["--tables=leads", "--enforce"] {
        let done = run(&["migrate", goal, "--default-organization", "--yes"], &url).await;
        assert_eq!(done.code, Some(0), "{done:?}");
    }
    let protected: i64 = sqlx::query_scalar(
        "select count(*) from pg_policy p join pg_class c on c.oid = p.polrelid
         where p.polname = 'warden_org' and c.relforcerowsecurity",
    )
    .fetch_one(&db.pool)
    .await
    .expect("counts");
    assert_eq!(protected, 3);
}

#[tokio::test]
async fn a_plan_works_on_an_enforced_a_relaxed_and_a_restored_database() {
    let db = TestDb::create_from("template0").await;
    db.run(APPLICATION).await;
    migrate_platform(db.url()).await.expect("migrates");
    assert_plans(&db, "migrated", &GOALS).await;
    for goal in ["--enforce", "--relax"] {
        let done = run(&["migrate", goal, "--yes"], &[("DATABASE_URL", db.url())]).await;
        assert_eq!(done.code, Some(0), "{done:?}");
        assert_plans(&db, goal, &GOALS).await;
    }
    db.run(FORGET).await;
    assert_plans(&db, "without records", &GOALS).await;
    db.run(
        "alter table warden.topics owner to current_user; revoke all on schema warden from warden_gateway",
    )
    .await;
    assert_plans(&db, "without owners and rights", &GOALS).await;
}

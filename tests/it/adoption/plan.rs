//! `--plan`, and concurrent runs.

use sqlx::{Connection as _, Executor as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::existing_objects::plain;
use super::{bare_db, connect, is_idle, legacy_db, migrate, spawn};
use crate::harness::within;
use crate::legacy::dump;

#[tokio::test]
async fn a_plan_changes_nothing() {
    let db = legacy_db().await;
    let mut admin = connect(&db).await;
    let before = dump(&mut admin).await;
    migrate(db.url(), &["--plan"]).await.must(0).says(&[
        "would apply core 0001",
        "would apply platform 0001",
        "call_logs (2,000 rows)",
        "fill org_id in rows without it (2,000 rows), in batches: the organisation of calls by call_id, else the membership of user_id, else the default organisation",
        "create index concurrently idx_call_logs_org_created (org_id, created_at desc)",
        "user_phone_numbers (10 rows)",
        "with its triggers disabled for each batch",
        "note: its triggers touch",
        "Nothing was changed.",
    ]);
    assert_eq!(dump(&mut admin).await, before);

    migrate(db.url(), &[]).await.must(0);
    let before = dump(&mut admin).await;
    let plan = migrate(db.url(), &["--plan", "--enforce"]).await.must(0).says(&[
        "add foreign key payment_events_log_org_id_payment_id_fkey",
        "enable and force row-level security",
    ]);
    assert!(!plan.stdout.contains("would apply"), "{}", plan.stdout);
    assert_eq!(dump(&mut admin).await, before);
    migrate(db.url(), &["--plan"]).await.must(0).says(&["nothing to do: "]);
}

#[tokio::test]
async fn concurrent_runs_wait_or_fail_with_no_wait() {
    let db = legacy_db().await;
    let mut other = connect(&db).await;
    other
        .execute("set application_name = 'a run elsewhere'; select pg_advisory_lock(1463898701)")
        .await
        .expect("locks");
    let rejected = migrate(db.url(), &["--no-wait"]).await.must(1);
    assert!(rejected.stderr.contains("another run is in progress: pid "), "{}", rejected.stderr);
    assert!(rejected.stderr.contains("end it with pg_terminate_backend(pid)"), "{}", rejected.stderr);

    // Both runs wait. Then one does the work and the other finds nothing to do.
    let (one, two) = (spawn(db.url(), &[]), spawn(db.url(), &[]));
    crate::harness::eventually("both wait", async || {
        let waiting: i64 = sqlx::query_scalar("select count(*) from pg_stat_activity where application_name = 'warden migrate' and datname = current_database()")
            .fetch_one(&mut other).await.expect("reads");
        waiting == 4
    })
    .await;
    other.execute("select pg_advisory_unlock(1463898701)").await.expect("unlocks");
    let (one, two) = tokio::join!(one.wait_with_output(), two.wait_with_output());
    let texts = [one, two].map(|o| String::from_utf8(o.expect("ends").stdout).expect("text"));
    let idle = texts.iter().filter(|t| is_idle(t)).count();
    let busy = texts.iter().filter(|t| t.contains("every row has an organisation")).count();
    assert_eq!((idle, busy), (1, 1), "{texts:?}");
}

/// The lock of migrations is an advisory lock, which every role can take. The run names its holder, and
/// continues when the lock is free.
#[tokio::test]
async fn a_stranger_that_holds_the_lock_of_migrations_is_named() {
    let db = bare_db("create table notes (id int primary key, user_id uuid)").await;
    let mut stranger = connect(&db).await;
    let mut crc = flate2::Crc::new();
    crc.update(db.name().as_bytes());
    let key = 0x3d32_ad9e * i64::from(crc.sum());
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid() from pg_advisory_lock($1)")
        .bind(key)
        .fetch_one(&mut stranger)
        .await
        .expect("locks");
    let mut run = spawn(db.url(), &["--tables", "notes"]);
    let mut lines = BufReader::new(run.stderr.take().expect("is piped")).lines();
    let named = format!("another session holds the lock of migrations: pid {pid}, role ");
    within("the holder is named", async {
        while let Some(line) = lines.next_line().await.expect("reads") {
            if line.contains(&named) {
                return;
            }
        }
        panic!("the run ended without naming the holder");
    })
    .await;
    stranger.close().await.expect("closes");
    assert!(run.wait().await.expect("ends").success());
}

/// Comments on a task or a project. The owner of their table is an ordinary role.
const REFERENCES: &str = "
    do $$ begin create role plan_owner; exception when duplicate_object or unique_violation then null; end $$;
    create table projects (id int primary key, owner_id uuid not null);
    create table tasks (id int primary key, project_id int not null references projects);
    create table comments (id int primary key, task_id int references tasks, project_id int references projects);
    insert into projects values (1, '1a000000-0000-4000-8000-00000000000a');
    insert into tasks values (1, 1); insert into comments values (1, 1, null), (2, 1, null), (3, null, 1), (4, null, null);
    alter table comments owner to plan_owner";

#[tokio::test]
async fn a_plan_names_the_sources_of_organisations_and_the_owners_of_tables() {
    let db = super::bare_db(REFERENCES).await;
    let tables = "projects,tasks,comments";
    let said = [
        "fill org_id in rows without it (4 rows), in batches: the organisation of projects by project_id, else the \
         organisation of public.tasks by task_id, else the default organisation for rows that reference none of these",
        "note: 2 rows have neither a parent nor a member as user, and reference other rows",
        "note: plan_owner owns public.comments. An owner can turn row-level security off",
        "Roles that can log in as it or act as it: none",
    ];
    migrate(db.url(), &["--plan", "--tables", tables, "--default-organization"]).await.must(0).says(&said);
    migrate(db.url(), &["--tables", tables, "--default-organization"]).await.must(0);
    let plan = migrate(db.url(), &["--plan"]).await.must(0);
    assert!(!plan.stdout.contains("reference other rows"), "{}", plan.stdout);
    crate::adoption::audit(db.url()).await.must(1).says(&["notice   table-owner", "plan_owner"]);
}

/// A misspelled name would otherwise be recorded, and the finding that it means would stay.
#[tokio::test]
async fn an_accepted_name_without_a_finding_of_its_kind_is_an_issue() {
    let db = bare_db("create table notes (id int primary key, user_id uuid)").await;
    for name in ["no_such_role", "public.notes", "organisations"] {
        for plan in [&["--plan"][..], &[]] {
            let run = plain(db.url(), &[&["--accept", name], plan].concat()).await.must(1);
            run.says(&[&format!("issue: --accept {name}: is neither a role"), "Nothing was changed"]);
        }
    }
    plain(db.url(), &["--accept", "public.organizations,postgres"]).await.must(0);
}

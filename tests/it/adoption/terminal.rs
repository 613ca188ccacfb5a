//! Questions on a terminal: nothing is changed unless the operator types `yes`.

use std::collections::BTreeMap;
use std::process::Stdio;

use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use warden_devkit::cluster::{Cluster, SUPERUSER};

use super::tables::catalog;
use super::{RUN_DEADLINE, bare_db};
use crate::harness::{TestDb, cluster_options};

/// The end of every question that asks for confirmation.
const QUESTION: &str = "Type yes: ";
/// Keys that do not confirm, each with the exit code. The last two are the end of the input and Ctrl-C.
const NOT_CONFIRMED: [(&str, i32); 5] =
    [("no\n", 1), ("\n", 1), ("yes please\n", 1), ("\x04", 1), ("\x03", 130)];

/// The application's own organisations and memberships.
const ORGANIZATIONS: &str = "
    create table organizations (id uuid primary key, name text);
    create table organization_members (org_id uuid references organizations on delete cascade, user_id uuid,
                                       is_primary boolean);
    insert into organizations values ('b0000000-0000-0000-0000-000000000001', 'b')";

async fn on_terminal(db: &TestDb, args: &str, keys: &str) -> (i32, String) {
    answered(db, args, QUESTION, keys).await
}

/// Runs `warden migrate` on a terminal of its own, and presses the keys once the question has appeared.
/// Returns the exit code and the screen.
pub(super) async fn answered(db: &TestDb, args: &str, question: &str, keys: &str) -> (i32, String) {
    let mut script = tokio::process::Command::new("script");
    script
        .args(["-qec", &format!("{} migrate {args}", env!("CARGO_BIN_EXE_warden")), "/dev/null"])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("DATABASE_URL", db.url())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = script.spawn().expect("starts script, of util-linux");
    // The terminal ends with this pipe, so the pipe stays open.
    let mut input = child.stdin.take().expect("a pipe");
    let mut output = child.stdout.take().expect("a pipe");
    let run = async {
        let (mut screen, mut part, mut is_answered) = (String::new(), [0; 4096], false);
        loop {
            let read = output.read(&mut part).await.expect("reads");
            if read == 0 {
                break;
            }
            screen += &String::from_utf8_lossy(&part[..read]);
            if !is_answered && screen.contains(question) {
                is_answered = true;
                input.write_all(keys.as_bytes()).await.expect("writes");
            }
        }
        (child.wait().await.expect("runs").code().expect("an exit code"), screen)
    };
    tokio::time::timeout(RUN_DEADLINE, run).await.expect("within the deadline")
}

/// Everything in the database, and whether Warden is installed.
async fn state(db: &TestDb) -> (BTreeMap<String, String>, bool) {
    let installed = "select to_regnamespace('warden') is not null";
    (catalog(db).await, sqlx::query_scalar(installed).fetch_one(&db.pool).await.expect("reads"))
}

#[tokio::test]
async fn organizations_of_the_application_are_used_only_after_yes() {
    for (keys, code) in NOT_CONFIRMED {
        let db = bare_db(ORGANIZATIONS).await;
        let before = state(&db).await;
        let (found, screen) = on_terminal(&db, "", keys).await;
        assert!(screen.contains("exist in the application") && found == code, "{keys:?}: {found} {screen}");
        assert_eq!(state(&db).await, before, "{keys:?}");
    }
    let db = bare_db(ORGANIZATIONS).await;
    let (code, screen) = on_terminal(&db, "", "yes\n").await;
    assert_eq!(code, 0, "{screen}");
    let default: bool = sqlx::query_scalar(
        "select exists (select from warden.tenant_tables where table_name = 'organizations')
            and exists (select from organizations where name = 'b')",
    )
    .fetch_one(&db.pool)
    .await
    .expect("reads");
    assert!(default, "{screen}");
}

#[tokio::test]
async fn both_phases_and_their_reversal_happen_only_after_yes() {
    let db =
        bare_db("create table notes (id int primary key, user_id uuid); insert into notes values (1, null)")
            .await;
    let (code, screen) = on_terminal(&db, "--tables notes --default-organization", "").await;
    assert_eq!(code, 0, "{screen}");
    for args in ["--enforce", "--relax"] {
        let before = state(&db).await;
        for (keys, code) in NOT_CONFIRMED {
            let (found, screen) = on_terminal(&db, args, keys).await;
            assert!(screen.contains(QUESTION) && found == code, "{args} {keys:?}: {found} {screen}");
            assert_eq!(state(&db).await, before, "{args} {keys:?}");
        }
        let (code, screen) = on_terminal(&db, args, "yes\n").await;
        assert_eq!(code, 0, "{args}: {screen}");
        assert_ne!(state(&db).await, before, "{args}");
    }
}

/// A finding about a role needs a statement or a flag: `yes` is no answer to it, nor to a question beside it.
#[tokio::test]
async fn findings_about_roles_are_not_confirmed_on_a_terminal() {
    let cluster = Cluster::start(cluster_options()).await.expect("PostgreSQL starts");
    let mut admin = PgConnection::connect(&cluster.url("postgres", SUPERUSER)).await.expect("connects");
    admin
        .execute("create role authenticated login bypassrls; create role warden_gateway superuser")
        .await
        .expect("creates");
    admin.execute("create database app").await.expect("creates");
    let url = cluster.url("app", SUPERUSER);
    let db = TestDb::at("app", &url, &url).await;
    db.run(ORGANIZATIONS).await;
    let before = state(&db).await;
    for keys in ["yes\n", "no\n", "\x03"] {
        let (code, screen) = on_terminal(&db, "", keys).await;
        assert!(code == 1 && !screen.contains(QUESTION), "{keys:?}: {code} {screen}");
        for says in [
            "role authenticated: exists with BYPASSRLS, LOGIN",
            "alter role authenticated nobypassrls nologin;",
            "warden migrate --accept authenticated",
            "role warden_gateway: exists with SUPERUSER",
            "exist in the application",
        ] {
            assert!(screen.contains(says), "{says}: {screen}");
        }
        assert_eq!(state(&db).await, before, "{keys:?}");
    }
    // The printed statement for one role, and the flag for the other. Then only the question is left.
    db.run("alter role warden_gateway nosuperuser").await;
    let (code, screen) = on_terminal(&db, "--accept authenticated", "no\n").await;
    assert!(code == 1 && screen.contains(QUESTION), "{code} {screen}");
    assert_eq!(state(&db).await, before);
    let (code, screen) = on_terminal(&db, "--accept authenticated", "yes\n").await;
    assert_eq!(code, 0, "{screen}");
}

//! `warden migrate` on a database in use, run as operators run it: as a separate process.

mod altered;
mod candidates;
mod disturbed;
mod existing_objects;
mod following;
mod full;
mod killed;
mod live;
mod memberships;
mod misfits;
mod options;
mod organizations;
mod partitions;
mod period_keys;
mod plan;
mod planted;
mod references;
mod replaced;
mod sets;
mod settings;
mod tables;
mod tenants;
mod terminal;
mod undecided;
mod whole_rows;

use std::process::Stdio;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use warden_devkit::cluster::SUPERUSER;

use crate::harness::{TestDb, shared_cluster_url};
use crate::legacy;

/// Deadline of one run, generous enough for a busy machine.
const RUN_DEADLINE: Duration = Duration::from_secs(180);
/// Size of the fixture in the suite: 2,000 call logs.
const FACTOR: f64 = 0.002;

/// Tables of the legacy database that decide about access, and that its application writes.
const ACCEPTED: &str = "public.organizations,public.organization_members";

/// Exit code and output of a finished run.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Run {
    /// Asserts the exit code.
    fn must(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that the run found nothing to do.
    fn idle(self) -> Self {
        assert!(is_idle(&self.stdout), "{}", self.stdout);
        self
    }

    /// Asserts that standard output contains each of these strings.
    fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stdout.contains(text), "lacks {text:?}: {}\n{}", self.stdout, self.stderr);
        }
        self
    }
}

/// Whether this is the output of a run that found nothing to do.
fn is_idle(stdout: &str) -> bool {
    stdout.lines().count() == 1 && stdout.starts_with("the schema is up to date (")
}

/// The legacy database and most of the small ones have tables of the platform.
fn command(url: &str, args: &[&str]) -> Command {
    let mut command = warden(url, "migrate");
    // The legacy application writes organisations and memberships.
    command.args(["--platform", "--accept", ACCEPTED]).args(args);
    command
}

fn warden(url: &str, subcommand: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
    command.arg(subcommand).env_clear().env("DATABASE_URL", url);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn spawn(url: &str, args: &[&str]) -> Child {
    command(url, args).spawn().expect("starts")
}

async fn migrate(url: &str, args: &[&str]) -> Run {
    migrate_within(RUN_DEADLINE, url, args).await
}

async fn migrate_within(deadline: Duration, url: &str, args: &[&str]) -> Run {
    ended(deadline, command(url, args)).await
}

/// Runs `warden audit --deep`, which checks every row.
async fn audit(url: &str) -> Run {
    let mut command = warden(url, "audit");
    command.arg("--deep");
    let mut run = ended(RUN_DEADLINE, command).await;
    run.stdout = without_roles(&run.stdout);
    if run.code == Some(1) && !run.stdout.contains("  finding  ") {
        run.code = Some(0);
    }
    run
}

/// The report without findings about roles. Roles belong to the cluster, so they may be those of other tests.
fn without_roles(report: &str) -> String {
    const RULES: [&str; 5] =
        ["bypassing-role", "request-role", "all-data-role", "role-creator", "token-hook-caller"];
    let mut is_kept = true;
    let mut kept = String::new();
    for line in report.lines() {
        let rule = ["  finding  ", "  notice   "].iter().find_map(|severity| line.strip_prefix(severity));
        // Lines that belong to a finding are indented further.
        if let Some(rule) = rule {
            is_kept = !RULES.iter().any(|name| rule.starts_with(name));
        } else if !line.starts_with("     ") {
            is_kept = true;
        }
        if is_kept {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

async fn ended(deadline: Duration, mut command: Command) -> Run {
    let output =
        tokio::time::timeout(deadline, command.output()).await.expect("within the deadline").expect("runs");
    Run {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A copy of the legacy database.
async fn legacy_db() -> TestDb {
    static TEMPLATE: OnceCell<()> = OnceCell::const_new();
    TEMPLATE.get_or_init(|| legacy_template("legacy_template", false)).await;
    TestDb::create_from("legacy_template").await
}

/// A copy of the legacy database whose call_logs is partitioned by month.
async fn partitioned_legacy_db() -> TestDb {
    static TEMPLATE: OnceCell<()> = OnceCell::const_new();
    TEMPLATE.get_or_init(|| legacy_template("legacy_partitioned_template", true)).await;
    TestDb::create_from("legacy_partitioned_template").await
}

async fn legacy_template(name: &str, is_partitioned: bool) {
    empty(name).await;
    let url = shared_cluster_url(name, SUPERUSER);
    let mut connection = PgConnection::connect(&url).await.expect("connects");
    legacy::load(&mut connection, FACTOR).await;
    if is_partitioned {
        legacy::partition_call_logs(&mut connection).await;
    }
    connection.close().await.expect("closes");
}

/// A database with an application's few tables, and without anything of Warden's.
async fn bare_db(sql: &str) -> TestDb {
    let db = TestDb::create_from("template0").await;
    db.run(sql).await;
    db
}

/// Like [`bare_db`], but Warden's core is installed, which takes longer than most of these tests.
async fn small_db(sql: &str) -> TestDb {
    static TEMPLATE: OnceCell<()> = OnceCell::const_new();
    TEMPLATE.get_or_init(core_template).await;
    let db = TestDb::create_from(CORE_TEMPLATE).await;
    db.run(sql).await;
    db
}

const CORE_TEMPLATE: &str = "core_template";

/// Installs the core in a database that has a table, as that of an application has. In an empty one it would
/// isolate organisations at once.
async fn core_template() {
    empty(CORE_TEMPLATE).await;
    let url = shared_cluster_url(CORE_TEMPLATE, SUPERUSER);
    let mut connection = PgConnection::connect(&url).await.expect("connects");
    connection.execute("create table placeholder ()").await.expect("creates");
    warden::postgres::migrate(&url).await.expect("migrates");
    connection.execute("drop table placeholder").await.expect("drops");
    connection.close().await.expect("closes");
}

async fn empty(name: &str) {
    let url = tokio::task::spawn_blocking(|| shared_cluster_url("postgres", SUPERUSER)).await.expect("up");
    let mut admin = PgConnection::connect(&url).await.expect("connects");
    admin
        .execute(AssertSqlSafe(format!("create database {name} template template0")))
        .await
        .expect("creates");
}

async fn connect(db: &TestDb) -> PgConnection {
    PgConnection::connect(db.url()).await.expect("connects")
}

/// Registered tables that still have rows without org_id.
async fn tables_with_null(connection: &mut PgConnection) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from warden.tenant_tables where scope = 'org' and to_regclass('public.' || table_name) is not null",
    )
    .fetch_all(&mut *connection)
    .await
    .expect("the registry");
    assert_eq!(tables.len(), 43, "every registered table exists");
    let mut with_null = Vec::new();
    for table in tables {
        let is_null: bool = sqlx::query_scalar(AssertSqlSafe(format!(
            "select exists (select from public.{table} where org_id is null)"
        )))
        .fetch_one(&mut *connection)
        .await
        .expect("reads");
        if is_null {
            with_null.push(table);
        }
    }
    with_null
}

/// Everything that the first phase adds to a table is there.
async fn assert_adopted(db: &TestDb, table: &str) {
    let missing: Vec<String> = sqlx::query_scalar(
        "select format('%s: %s', name, problem) from warden.tenant_objects
         where table_name = $1 and phase <> 'enforce' and not is_valid and (applies or kind = 'column')",
    )
    .bind(table)
    .fetch_all(&mut connect(db).await)
    .await
    .expect("objects");
    assert_eq!(missing, Vec::<String>::new(), "{table}");
}

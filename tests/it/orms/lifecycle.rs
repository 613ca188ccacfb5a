//! The life of an application's database: created by its tool, adopted and enforced by Warden, then migrated
//! by its tool again.

use std::process::Stdio;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use tokio::process::Command;
use warden_testkit::PostgresProxy;

use super::project::{Outcome, Project};
use super::tools::{Drift, Tool};
use crate::harness::TestDb;
use crate::schema::sets::audit_findings;

/// Deadline of one run of `warden`.
const WARDEN_DEADLINE: Duration = Duration::from_secs(120);
const ORG_A: &str = "00000000-0000-4000-8000-00000000000a";
const ORG_B: &str = "00000000-0000-4000-8000-00000000000b";
const USER_A: &str = "00000000-0000-4000-8000-0000000000a1";
const USER_B: &str = "00000000-0000-4000-8000-0000000000b1";
const STRAY_COLUMN: &str = "alter table projects add column stray integer";
const NO_STRAY_COLUMN: &str = "alter table projects drop column if exists stray";

/// Result of a run. Everything that it does not contain was asserted.
#[derive(Debug)]
pub struct Report {
    pub tool: &'static Tool,
    pub versions: String,
    pub drift: &'static str,
}

/// One tool's application on its database.
#[derive(Debug)]
struct Application {
    project: Project,
    db: TestDb,
    proxy: PostgresProxy,
}

/// Runs a tool's application from its first migration to its last check.
pub async fn run(tool: &'static Tool) -> Report {
    let project = Project::copy(tool);
    let db = TestDb::create_from("template0").await;
    let proxy = PostgresProxy::start(&db.socket_dir()).await;
    let app = Application { project, db, proxy };
    app.create_roles().await;
    app.migrate(tool.first).await;
    app.write_rows().await;
    app.adopt().await;
    app.migrate(tool.later).await;
    app.adopt_comments().await;
    let drift = app.check_drift(&tool.drift).await;
    for step in ["inserts", "isolation"] {
        let variables = [("ORG_A", ORG_A), ("ORG_B", ORG_B), ("USER_A", USER_A), ("USER_B", USER_B)];
        app.must(&[tool.app, &[step]].concat(), "app", &variables).await;
    }
    app.check_data_migration().await;
    assert_eq!(audit_findings(&app.db).await, Vec::<String>::new());
    Report { tool, versions: app.project.versions(), drift }
}

impl Application {
    /// Creates the owner of the tables, and the role of the application. Roles belong to the cluster, which
    /// other tests use too.
    async fn create_roles(&self) {
        let (owner, app) = (self.role("owner"), self.role("app"));
        self.db
            .run(format!(
                "create role {owner} login; create role {app} login;
                 alter database {db} owner to {owner}; grant create on schema public to {owner};
                 alter default privileges for role {owner} grant select, insert, update, delete on tables to {app};
                 alter default privileges for role {owner} grant usage on sequences to {app}",
                db = self.db.name
            ))
            .await;
    }

    fn role(&self, name: &str) -> String {
        format!("{}_{name}", self.db.name)
    }

    /// Inserts rows of two users, before anything knows about organisations.
    async fn write_rows(&self) {
        self.db
            .run(format!(
                "insert into projects (id, owner_id, name, created_at) values
                   (gen_random_uuid(), '{USER_A}', 'old A', now()), (gen_random_uuid(), '{USER_B}', 'old B', now());
                 insert into tasks (project_id, number, title) select id, 1, 'old' from projects"
            ))
            .await;
    }

    /// Adopts the application's tables, as an operator does.
    async fn adopt(&self) {
        self.warden(&["migrate"]).await;
        self.db
            .run(format!(
                "insert into organizations (id, name) values ('{ORG_A}', 'A'), ('{ORG_B}', 'B');
                 insert into organization_members (org_id, user_id) values ('{ORG_A}', '{USER_A}'), ('{ORG_B}', '{USER_B}');
                 grant authenticated to {app};
                 -- In practice the owner of the tables runs `warden migrate`, and owns these two as well.
                 grant select on organizations, organization_members to {owner}",
                app = self.role("app"),
                owner = self.role("owner")
            ))
            .await;
        self.enforce("public.projects,public.tasks").await;
    }

    /// Adopts the table that the later migration has created.
    async fn adopt_comments(&self) {
        self.enforce("public.comments").await;
    }

    async fn enforce(&self, tables: &str) {
        self.warden(&["migrate", "--tables", tables]).await;
        self.warden(&["migrate", "--enforce", "--yes"]).await;
    }

    async fn migrate(&self, args: &[&str]) {
        self.must(args, "owner", &[]).await;
    }

    /// Asserts that the tool sees no difference, and that it still sees one that is not Warden's.
    async fn check_drift(&self, drift: &Drift) -> &'static str {
        match drift {
            Drift::Database { check } => {
                self.must(check, "owner", &[]).await;
                self.db.run(STRAY_COLUMN).await;
                let outcome = self.run(check, "owner", &[]).await;
                assert!(!outcome.is_success, "the tool does not see a column of nobody: {}", outcome.output);
                self.db.run(NO_STRAY_COLUMN).await;
                "none"
            }
            Drift::Snapshot { check, equal, change } => {
                self.must(check, "owner", &[]).await.says(equal);
                self.db.run(STRAY_COLUMN).await;
                self.must(check, "owner", &[]).await.says(equal);
                self.db.run(NO_STRAY_COLUMN).await;
                let original = self.project.change(change);
                let outcome = self.run(check, "owner", &[]).await;
                assert!(!outcome.output.contains(equal), "a change is not seen: {}", outcome.output);
                self.project.restore(change, &original);
                "does not read the database"
            }
            Drift::Pulled { check, again, equal } => {
                self.must(check, "owner", &[]).await.says(equal);
                self.must(again, "owner", &[]).await.says(equal);
                self.db.run(STRAY_COLUMN).await;
                let outcome = self.run(again, "owner", &[]).await;
                assert!(
                    !outcome.output.contains(equal),
                    "a column of nobody is not seen: {}",
                    outcome.output
                );
                self.db.run(NO_STRAY_COLUMN).await;
                "none, after it read the models from the database"
            }
        }
    }

    /// Asserts that a data migration by the owner changes no row without claims.
    async fn check_data_migration(&self) {
        let mut transaction = self.db.pool.begin().await.expect("begins");
        let role = format!("set local role {}", self.role("owner"));
        sqlx::raw_sql(AssertSqlSafe(role)).execute(&mut *transaction).await.expect("sets");
        let updated = sqlx::query("update projects set name = name").execute(&mut *transaction).await;
        assert_eq!(updated.expect("updates").rows_affected(), 0);
    }

    async fn must(&self, args: &[&str], role: &str, variables: &[(&str, &str)]) -> Outcome {
        let outcome = self.run(args, role, variables).await;
        assert!(outcome.is_success, "{args:?} as the {role}: {}", outcome.output);
        outcome
    }

    /// Runs a command of the tool. Not every tool can connect to a Unix socket, so all use TCP.
    async fn run(&self, args: &[&str], role: &str, variables: &[(&str, &str)]) -> Outcome {
        let url = format!("postgres://{}@{}/{}", self.role(role), self.proxy.host(), self.db.name);
        self.project.run(args, &[&[("DATABASE_URL", url.as_str())], variables].concat()).await
    }

    /// Runs a command of `warden`, which must succeed.
    async fn warden(&self, args: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
        command.args(args).env_clear().env("DATABASE_URL", self.db.url());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let output =
            tokio::time::timeout(WARDEN_DEADLINE, command.output()).await.expect("ends").expect("runs");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "warden {args:?}: {text}");
    }
}

//! A cluster as managed providers configure it: the role that owns a database is no superuser, the request
//! roles exist before Warden, and default privileges give them everything in schema public.
//!
//! An owner of this kind runs the first migration, so no superuser creates Warden's roles.

mod run;

use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::{Uuid, uuid};
use warden_devkit::cluster::{Cluster, SUPERUSER};

use super::TestDb;
use super::database::cluster_options;

/// Organisation of Ann and Arthur.
pub const ORG_A: Uuid = uuid!("0a000000-0000-4000-8000-00000000000a");
/// Organisation of Ben.
pub const ORG_B: Uuid = uuid!("0b000000-0000-4000-8000-00000000000b");
/// User of the first organisation.
pub const ANN: Uuid = uuid!("1a000000-0000-4000-8000-00000000000a");
/// Another user of the first organisation.
pub const ARTHUR: Uuid = uuid!("2a000000-0000-4000-8000-00000000000a");
/// User of the second organisation.
pub const BEN: Uuid = uuid!("1b000000-0000-4000-8000-00000000000b");

const ROLES: &str = include_str!("roles.sql");
const DATABASE: &str = include_str!("database.sql");

/// The role that owns and migrates a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// A superuser, as on a server of one's own.
    Superuser,
    /// The owner of a managed database: CREATEROLE, CREATEDB and BYPASSRLS, with `pg_stat_statements`.
    Managed,
    /// The owner of a managed database without BYPASSRLS and without `pg_stat_statements`.
    WithoutBypass,
}

impl Operator {
    /// All operators.
    pub const ALL: [Self; 3] = [Self::Superuser, Self::Managed, Self::WithoutBypass];

    /// Name of the role.
    pub fn role(self) -> &'static str {
        match self {
            Self::Superuser => SUPERUSER,
            Self::Managed => "managed_owner",
            Self::WithoutBypass => "plain_owner",
        }
    }

    fn template(self) -> String {
        format!("template_of_{}", self.role())
    }
}

/// A database of the managed cluster. Its pool belongs to the superuser, who checks what the operator did.
#[derive(Debug)]
pub struct ManagedDb {
    pub db: TestDb,
    pub operator: Operator,
}

impl ManagedDb {
    /// Creates a database of this operator. It contains the provider's schemas, and nothing of Warden.
    pub async fn create(operator: Operator) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("m{}", COUNT.fetch_add(1, Ordering::Relaxed));
        create_database(&mut admin().await, &name, &operator.template(), operator.role()).await;
        Self::at(&name, operator).await
    }

    /// Creates extensions in their own schema, as a provider does it for its customers.
    pub async fn create_extensions(&self, names: &[&str]) {
        for name in names {
            self.db.run(format!("create extension if not exists {name} schema extensions")).await;
        }
    }

    /// Copies the database, for an attempt that may spoil it. The sessions of this database are terminated.
    pub async fn copy(&self) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}_copy{}", self.db.name, COUNT.fetch_add(1, Ordering::Relaxed));
        let mut admin = admin().await;
        let sessions = format!(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where datname = '{}'",
            self.db.name
        );
        run_sql(&mut admin, &sessions).await;
        create_database(&mut admin, &name, &self.db.name, self.operator.role()).await;
        Self::at(&name, self.operator).await
    }

    /// Drops the database.
    pub async fn remove(self) {
        run_sql(&mut admin().await, &format!("drop database {} with (force)", self.db.name)).await;
    }

    async fn at(name: &str, operator: Operator) -> Self {
        let db = TestDb::at(name, &cluster_url(name, SUPERUSER), &cluster_url(name, "warden_gateway")).await;
        Self { db, operator }
    }

    /// URL of a role.
    pub fn url_of(&self, role: &str) -> String {
        cluster_url(&self.db.name, role)
    }

    /// URL of the operator.
    pub fn operator_url(&self) -> String {
        self.url_of(self.operator.role())
    }

    /// A connection of a role.
    pub async fn connect_as(&self, role: &str) -> PgConnection {
        PgConnection::connect(&self.url_of(role)).await.expect("connects")
    }

    /// Runs statements as the operator.
    pub async fn run_as_operator(&self, sql: &str) {
        let mut connection = self.connect_as(self.operator.role()).await;
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.unwrap_or_else(|e| {
            panic!("{:?}: {e}: {}", self.operator, sql.chars().take(300).collect::<String>())
        });
        connection.close().await.expect("closes");
    }

    /// Accepts that the owner of the cluster's other databases bypasses row-level security.
    pub async fn accept_other_owners(&self) {
        if self.operator != Operator::Managed {
            let other = Operator::Managed.role();
            self.run_as_operator(&format!(
                "select warden.accept_finding('bypassing-role', '{other}', 'owns other databases')"
            ))
            .await;
        }
    }

    /// Creates the organisations A and B and their memberships, unless the application has them.
    pub async fn add_organizations(&self) {
        self.db
            .run(format!(
                "insert into organizations (id, name) select v.id::uuid, v.name
                 from (values ('{ORG_A}', 'A'), ('{ORG_B}', 'B')) v (id, name)
                 where not exists (select from organizations o where o.id = v.id::uuid);
                 insert into organization_members (org_id, user_id) select v.org::uuid, v.member::uuid
                 from (values ('{ORG_A}', '{ANN}'), ('{ORG_A}', '{ARTHUR}'), ('{ORG_B}', '{BEN}')) v (org, member)
                 where not exists (select from organization_members m where m.user_id = v.member::uuid)"
            ))
            .await;
    }
}

async fn admin() -> PgConnection {
    // The first test of a run waits here until the cluster has started.
    let url = tokio::task::spawn_blocking(|| cluster_url("postgres", SUPERUSER)).await.expect("up");
    PgConnection::connect(&url).await.expect("connects")
}

fn cluster_url(database: &str, user: &str) -> String {
    cluster().replace("%7Bdb%7D", database).replace("%7Buser%7D", user)
}

/// Starts the cluster on first use, on a thread that lives as long as the process. Returns its URL.
fn cluster() -> &'static str {
    static CLUSTER: OnceLock<String> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let mut options = cluster_options();
                options.settings.push(("shared_preload_libraries".into(), "pg_stat_statements".into()));
                let cluster = Cluster::start(options).await.expect("PostgreSQL starts");
                prepare(&cluster).await;
                send.send(cluster.url("{db}", "{user}")).expect("a test waits");
                std::future::pending::<()>().await;
                drop(cluster);
            });
        });
        receive.recv().expect("the cluster's thread is up")
    })
}

/// Creates the provider's roles, a template for each operator, and Warden's roles as a managed owner.
async fn prepare(cluster: &Cluster) {
    let (owner, plain) = (Operator::Managed.role(), Operator::WithoutBypass.role());
    let mut admin = PgConnection::connect(&cluster.url("postgres", SUPERUSER)).await.expect("connects");
    run_sql(&mut admin, &ROLES.replace("{owner}", owner).replace("{plain}", plain)).await;
    for operator in Operator::ALL {
        let name = operator.template();
        create_database(&mut admin, &name, "template0", operator.role()).await;
        let mut database = PgConnection::connect(&cluster.url(&name, SUPERUSER)).await.expect("connects");
        run_sql(&mut database, &DATABASE.replace("{owner}", operator.role())).await;
        if operator != Operator::WithoutBypass {
            run_sql(&mut database, "create extension pg_stat_statements schema extensions").await;
        }
        database.close().await.expect("closes");
    }
    create_database(&mut admin, "first", "template0", owner).await;
    let output = Command::new(env!("CARGO_BIN_EXE_warden"))
        .arg("migrate")
        .env_clear()
        .env("DATABASE_URL", cluster.url("first", owner))
        .stdin(Stdio::null())
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut first = PgConnection::connect(&cluster.url("first", owner)).await.expect("connects");
    run_sql(
        &mut first,
        &format!("alter role warden_gateway login; grant warden_owner to {plain} with admin option"),
    )
    .await;
    first.close().await.expect("closes");
}

async fn create_database(admin: &mut PgConnection, name: &str, template: &str, owner: &str) {
    run_sql(admin, &format!("create database {name} template {template} owner {owner}")).await;
}

async fn run_sql(connection: &mut PgConnection, sql: &str) {
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())))
        .await
        .unwrap_or_else(|e| panic!("{e}\n{sql}"));
}

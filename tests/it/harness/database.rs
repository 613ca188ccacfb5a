//! One private cluster per run, and a migrated database per test.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::sync::OnceCell;
use uuid::Uuid;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};

/// Connections of the shared cluster. Tests run concurrently.
const CONNECTIONS_MAX: u32 = 400;
/// Connections of the pool of one test.
const POOL_CONNECTIONS_MAX: u32 = 24;
const TEMPLATE: &str = "warden_template";

/// Options of a temporary cluster for tests: without fsync and autovacuum, with prepared transactions.
pub fn cluster_options() -> ClusterOptions {
    ClusterOptions {
        binaries: Binaries::find(None, std::env::var_os("PATH").as_deref()).expect("PostgreSQL is installed"),
        data_dir: DataDir::Temporary,
        settings: vec![
            ("max_prepared_transactions".into(), "8".into()),
            // A worker visits each of several hundred databases once a minute, which takes much of two cores.
            ("autovacuum".into(), "off".into()),
        ],
        max_connections: CONNECTIONS_MAX,
        durable: false,
    }
}

struct Shared {
    url: String,
}

/// Options of a temporary cluster with these settings in addition.
fn with(settings: &[(&str, &str)]) -> ClusterOptions {
    let mut options = cluster_options();
    options.settings.extend(settings.iter().map(|(name, value)| ((*name).into(), (*value).into())));
    options
}

/// A stopped cluster with the migrated template, created on first use. The shared cluster and those of single
/// tests are copies of it: a copy takes a tenth of the time of `initdb` and the migrations.
async fn seed() -> &'static Cluster {
    static SEED: OnceCell<Cluster> = OnceCell::const_new();
    SEED.get_or_init(async || {
        let mut cluster = Cluster::start(cluster_options()).await.expect("PostgreSQL starts");
        make_template(&cluster).await;
        cluster.stop().await.expect("PostgreSQL ends");
        cluster
    })
    .await
}

/// Starts the shared cluster on first use. It runs on a thread of its own, so that it outlives the runtime of
/// the test that happens to be the first, and ends with the process.
fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let settings = cluster_options().settings;
                let cluster = seed().await.start_copy(settings).await.expect("PostgreSQL starts");
                send.send(Shared { url: cluster.url("{db}", "{user}") }).expect("a test waits");
                std::future::pending::<()>().await;
                drop(cluster);
            });
        });
        receive.recv().expect("the cluster's thread is up")
    })
}

async fn make_template(cluster: &Cluster) {
    let mut admin = PgConnection::connect(&cluster.url("postgres", SUPERUSER)).await.expect("connects");
    admin.execute(AssertSqlSafe(format!("create database {TEMPLATE}"))).await.expect("creates");
    warden::postgres::migrate_platform(&cluster.url(TEMPLATE, SUPERUSER)).await.expect("migrates");
    admin.execute("alter role warden_gateway login").await.expect("alters");
}

/// Largest address space of a session so far, in KiB. Resident memory would count the touched pages of shared
/// buffers. Their number depends on the other work of the server, and the size of their mapping does not.
pub fn backend_peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the backend exists");
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// URL of a database in the shared cluster.
pub fn shared_cluster_url(database: &str, user: &str) -> String {
    shared().url.replace("%7Bdb%7D", database).replace("%7Buser%7D", user)
}

/// A migrated database of one test. Nothing drops it, because the cluster is removed at the end of the run.
#[derive(Debug)]
pub struct TestDb {
    /// Connections of the superuser, for actions of back ends and migrations.
    pub pool: PgPool,
    /// Name of the database.
    pub name: String,
    url: String,
    gateway_url: String,
}

impl TestDb {
    /// Creates a database from the migrated template.
    pub async fn create() -> Self {
        Self::create_from(TEMPLATE).await
    }

    /// Creates a copy of another database, to which no session may be connected.
    pub async fn create_from(template: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        // The first test of a run waits here until the cluster has started.
        let admin_url =
            tokio::task::spawn_blocking(|| shared_cluster_url("postgres", SUPERUSER)).await.expect("up");
        let mut admin = PgConnection::connect(&admin_url).await.expect("connects");
        admin
            .execute(AssertSqlSafe(format!("create database {name} template {template}")))
            .await
            .expect("creates");
        Self::at(&name, &shared_cluster_url(&name, SUPERUSER), &shared_cluster_url(&name, "warden_gateway"))
            .await
    }

    /// Uses an existing database with these URLs.
    pub async fn at(name: &str, url: &str, gateway_url: &str) -> Self {
        let pool =
            PgPoolOptions::new().max_connections(POOL_CONNECTIONS_MAX).connect_lazy(url).expect("a URL");
        Self { pool, name: name.to_owned(), url: url.to_owned(), gateway_url: gateway_url.to_owned() }
    }

    /// Creates a database in a cluster of its own, which the test must close. In the shared cluster,
    /// snapshots contain the transactions in progress of other tests.
    pub async fn create_alone() -> (Cluster, Self) {
        Self::create_alone_with(&[]).await
    }

    /// Creates a database in a cluster of its own, with these settings. All such clusters have the system
    /// identifier of the seed.
    pub async fn create_alone_with(settings: &[(&str, &str)]) -> (Cluster, Self) {
        let cluster = seed().await.start_copy(with(settings).settings).await.expect("PostgreSQL starts");
        Self::template_of(cluster).await
    }

    /// Creates a database in a cluster of its own, with these settings and a new system identifier.
    pub async fn create_alone_initialised(settings: &[(&str, &str)]) -> (Cluster, Self) {
        let cluster = Cluster::start(with(settings)).await.expect("PostgreSQL starts");
        make_template(&cluster).await;
        Self::template_of(cluster).await
    }

    async fn template_of(cluster: Cluster) -> (Cluster, Self) {
        let (url, gateway_url) = (cluster.url(TEMPLATE, SUPERUSER), cluster.url(TEMPLATE, "warden_gateway"));
        let db = Self::at(TEMPLATE, &url, &gateway_url).await;
        (cluster, db)
    }

    /// Name of the database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// URL of the superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Directory of the server's Unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        let options: PgConnectOptions = self.url.parse().expect("a URL");
        options.get_socket().expect("a socket").clone()
    }

    /// URL of the gateway's role.
    pub fn gateway_url(&self) -> &str {
        &self.gateway_url
    }

    /// Whether the server has this major version or a later one. If not, prints that the test checks nothing.
    pub async fn has_version(&self, major: i32) -> bool {
        let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int / 10000")
            .fetch_one(&self.pool)
            .await
            .expect("reads");
        if version < major {
            println!("not tested: needs PostgreSQL {major}");
        }
        version >= major
    }

    /// Runs statements.
    pub async fn run(&self, sql: impl Into<String>) {
        let sql = sql.into();
        self.pool
            .execute(sqlx::raw_sql(AssertSqlSafe(sql.clone())))
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Runs a statement that must fail, and returns the message of the error.
    pub async fn error(&self, sql: impl Into<String>) -> String {
        let sql = sql.into();
        match self.pool.execute(sqlx::raw_sql(AssertSqlSafe(sql.clone()))).await {
            Ok(_) => panic!("{sql}: no error"),
            Err(e) => e.to_string(),
        }
    }

    /// Creates an organisation.
    pub async fn create_org(&self) -> Uuid {
        sqlx::query_scalar("insert into organizations (name) values ('test') returning id")
            .fetch_one(&self.pool)
            .await
            .expect("inserts")
    }

    /// Inserts a call.
    pub async fn insert_call(&self, org: Uuid) -> Uuid {
        sqlx::query_scalar("insert into calls (org_id) values ($1) returning id")
            .bind(org)
            .fetch_one(&self.pool)
            .await
            .expect("inserts")
    }

    /// Publishes an event.
    pub async fn publish(&self, org: Uuid, topic: &str, event: &str) {
        sqlx::query("select warden.publish($1, $2, $3, '{}')")
            .bind(org)
            .bind(topic)
            .bind(event)
            .execute(&self.pool)
            .await
            .expect("publishes");
    }
}

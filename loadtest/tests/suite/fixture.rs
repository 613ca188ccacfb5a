//! One PostgreSQL and three gateways for all tests, and the load tester run against them.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::runtime::{Builder, Runtime};
use warden::app::Gateway;
use warden::auth::VerifierConfig;
use warden::config::{Config, Edge, Limits};
use warden::log::TailerState;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};

/// Signs every token that the gateways accept.
pub(crate) const SECRET: &str = "a test secret of more than 32 bytes";
const AUDIENCE: &str = "authenticated";
/// An address that no other test uses, because every test cluster has the same port.
const TLS_ADDRESS: &str = "127.77.82.84";
/// Far longer than anything takes, because the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(60);

/// The database and the gateways.
pub(crate) struct Fixture {
    pub(crate) database_url: String,
    /// URL of that database by TCP, with verified TLS.
    pub(crate) tls_url: String,
    pub(crate) urls: [String; 2],
    /// A gateway that keeps too little to serve a reconnecting client.
    pub(crate) forgetful_url: String,
}

/// The fixture, which runs on a thread of its own until the process ends.
pub(crate) fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let options = ClusterOptions {
                    binaries: Binaries::find(None, std::env::var_os("PATH").as_deref()).expect("PostgreSQL"),
                    data_dir: DataDir::Temporary,
                    settings: vec![("listen_addresses".to_owned(), TLS_ADDRESS.to_owned())],
                    max_connections: 200,
                    durable: false,
                };
                let cluster = Cluster::start(options).await.expect("PostgreSQL starts");
                let database_url = cluster.url("postgres", SUPERUSER);
                warden::postgres::migrate_platform(&database_url).await.expect("migrates");
                run_sql(&database_url, "alter role warden_gateway login").await;
                let tls_url = serve_tls(&database_url).await;
                let gateway_url = cluster.url("postgres", "warden_gateway");
                let gateways = [gateway(&gateway_url, |_| {}).await, gateway(&gateway_url, |_| {}).await];
                let forgetful = gateway(&gateway_url, |limits| {
                    limits.recent.bytes_max = 1;
                    limits.recent.org_bytes_max = 1;
                    limits.replay.events_max = 1;
                })
                .await;
                let url = |gateway: &Gateway| format!("ws://{}/socket", gateway.public_addr());
                let (urls, forgetful_url) = (gateways.each_ref().map(url), url(&forgetful));
                send.send(Fixture { database_url, tls_url, urls, forgetful_url }).expect("the test waits");
                std::future::pending::<()>().await;
                drop((cluster, gateways, forgetful));
            });
        });
        receive.recv().expect("the fixture starts")
    })
}

/// Turns TLS on, with a certificate that is its own authority, and admits the superuser by TLS only. Returns
/// the URL.
async fn serve_tls(database_url: &str) -> String {
    let mut connection = PgConnection::connect(database_url).await.expect("connects");
    let dir: String = sqlx::query_scalar("select current_setting('data_directory')")
        .fetch_one(&mut connection)
        .await
        .expect("reads");
    let script = format!(
        "cd {dir} && openssl req -new -x509 -days 2 -nodes -subj /CN={TLS_ADDRESS} -out server.crt -keyout server.key \
         && chmod 600 server.key && chown --reference=PG_VERSION server.crt server.key \
         && echo 'hostssl all {SUPERUSER} all trust' > hba && cat pg_hba.conf >> hba && cat hba > pg_hba.conf"
    );
    let output =
        Command::new("sh").args(["-c", &script]).output().expect("openssl is installed (scripts/setup)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    run_sql(database_url, "alter system set ssl = on").await;
    run_sql(database_url, "select pg_reload_conf()").await;
    format!(
        "postgres://{SUPERUSER}@{TLS_ADDRESS}:5432/postgres?sslmode=verify-full&sslrootcert={dir}/server.crt"
    )
}

async fn gateway(database_url: &str, change: impl FnOnce(&mut Limits)) -> Gateway {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config {
        database: warden::postgres::options(database_url).expect("a URL"),
        verifier: VerifierConfig::hs256(SECRET, AUDIENCE, None),
        topics_need_claim: Vec::new(),
        listen: any_port,
        admin_listen: any_port,
        allowed_origins: Vec::new(),
        edge: Edge::default(),
        limits: Limits::default(),
    };
    // The tests run concurrently and share one source address, so the limits per address must not apply.
    config.limits.admission.handshakes_per_address =
        Limits::for_one_machine().admission.handshakes_per_address;
    config.limits.admission.connection_rate_per_address =
        Limits::for_one_machine().admission.connection_rate_per_address;
    change(&mut config.limits);
    let gateway = Gateway::start(config).await.expect("the gateway starts");
    gateway
        .reader()
        .wait_for(|state| *state == TailerState::Following)
        .await
        .expect("the tailer follows the log");
    gateway
}

async fn run_sql(url: &str, sql: &str) -> u64 {
    let mut connection = PgConnection::connect(url).await.expect("connects");
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}")).rows_affected()
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Runs statements as the superuser, and returns how many rows the last one affected.
pub(crate) fn sql(sql: &str) -> u64 {
    runtime().block_on(run_sql(&fixture().database_url, sql))
}

/// The number that a query returns.
pub(crate) fn count(sql: &str) -> i64 {
    runtime().block_on(async {
        let mut connection = PgConnection::connect(&fixture().database_url).await.expect("connects");
        let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
        query.fetch_one(&mut connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    })
}

/// A sub-select for the id of the run with this many organisations. A run that is removing its organisations
/// is excluded: it has fewer, and its first one is removed first.
pub(crate) fn run_with(orgs: usize) -> String {
    format!(
        "(select split_part(name, ' ', 2) from organizations where name like 'loadtest %' group by 1
          having count(*) = {orgs} and bool_or(split_part(name, ' ', 3) = '1'))"
    )
}

/// Polls a condition until it holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The load tester, with the fixture in its environment.
pub(crate) fn command(args: &[&str]) -> Command {
    let fixture = fixture();
    let mut command = Command::new(env!("CARGO_BIN_EXE_warden-loadtest"));
    command
        .args(args)
        .env("DATABASE_URL", &fixture.database_url)
        .env("WARDEN_URL", &fixture.urls[0])
        .env("WARDEN_JWT_SECRET", SECRET)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The output of the load tester.
pub(crate) struct RunOutput {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl RunOutput {
    /// Checks in passing that no secret is in the output.
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        for secret in [SECRET, "hush", "eyJ"] {
            assert!(!stdout.contains(secret) && !stderr.contains(secret), "{secret} is in the output");
        }
        Self { code: output.status.code(), stdout, stderr }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", self.stdout, self.stderr))
    }
}

/// Runs the load tester.
pub(crate) fn run(args: &[&str]) -> RunOutput {
    RunOutput::of(&command(args).output().expect("runs"))
}

/// A temporary file, which is removed when this is dropped.
pub(crate) struct TempFile(pub(crate) PathBuf);

impl TempFile {
    pub(crate) fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("warden-loadtest-{}-{name}", std::process::id())))
    }
}

impl AsRef<OsStr> for TempFile {
    fn as_ref(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        // This fails if the file was never written.
        let _ = std::fs::remove_file(&self.0);
    }
}

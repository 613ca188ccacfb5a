//! PgBouncer in front of the shared cluster.

use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::process::{Child, Command};

use super::{TestDb, TlsServer};

/// A pooler of one test. It ends when it is dropped.
pub struct Pooler {
    _process: Child,
    dir: PathBuf,
    port: u16,
    /// Address at which it requires TLS.
    ip: Option<Ipv4Addr>,
}

impl Pooler {
    /// Starts a pooler with this `pool_mode` and five backend sessions, which it uses round-robin.
    pub async fn start(db: &TestDb, mode: &str) -> Self {
        Self::start_at(db, mode, None, "").await
    }

    /// Starts a pooler before this server that also listens on the server's address. Clients there must use
    /// TLS, for which this is the certificate and its key. The pooler verifies the server's certificate.
    pub async fn start_with_tls(server: &TlsServer, mode: &str, files: &(String, String)) -> Self {
        let (certificate, key) = files;
        let tls = format!(
            "client_tls_sslmode = require\nclient_tls_cert_file = {certificate}\nclient_tls_key_file = {key}\n\
             server_tls_sslmode = verify-full\nserver_tls_ca_file = {}\n",
            server.path("ca.crt")
        );
        Self::start_at(&server.db, mode, Some(server.ip), &tls).await
    }

    async fn start_at(db: &TestDb, mode: &str, ip: Option<Ipv4Addr>, settings: &str) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(6432);
        let options: PgConnectOptions = db.url().parse().expect("a URL");
        // The pooler's files are beside the server's socket, so that they are removed with the cluster.
        let dir = options.get_socket().expect("a socket").clone();
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let (ini, users) = (dir.join(format!("{port}.ini")), dir.join(format!("{port}.txt")));
        let here = dir.display();
        let listen = ip.map(|ip| ip.to_string()).unwrap_or_default();
        let backend = if listen.is_empty() { here.to_string() } else { listen.clone() };
        // A session takes a server's connection for its whole life, and a gateway has several sessions.
        let pool_size = if mode == "session" { 20 } else { 5 };
        fs::write(&users, "\"postgres\" \"\"\n\"warden_gateway\" \"\"\n").expect("writes");
        fs::write(
            &ini,
            format!(
                "[databases]\n* = host={backend} port=5432\n[pgbouncer]\nlisten_addr = {listen}\nlisten_port = {port}\n\
                 unix_socket_dir = {here}\nauth_type = trust\nauth_file = {}\nadmin_users = postgres\n\
                 pool_mode = {mode}\ndefault_pool_size = {pool_size}\nserver_round_robin = 1\nmax_client_conn = 100\n{settings}",
                users.display()
            ),
        )
        .expect("writes");
        let mut command = Command::new("pgbouncer");
        command
            .arg("-q")
            .arg(&ini)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/opt/homebrew/bin");
        // Like the server, PgBouncer cannot run as root.
        let owner = fs::metadata(&dir).expect("the directory exists");
        if owner.uid() != rustix::process::geteuid().as_raw() {
            command.uid(owner.uid()).gid(owner.gid());
            for file in [&ini, &users] {
                chown(file, Some(owner.uid()), Some(owner.gid())).expect("changes its owner");
            }
        }
        let process = command
            .kill_on_drop(true)
            .stderr(fs::File::create(dir.join(format!("{port}.log"))).expect("creates"))
            .spawn()
            .expect("pgbouncer is installed (scripts/setup)");
        let pooler = Self { _process: process, dir, port, ip };
        super::eventually("the pooler is up", async || match pooler.console().connect().await {
            Ok(connection) => connection.close().await.is_ok(),
            Err(_) => false,
        })
        .await;
        pooler
    }

    /// Leads the name of one database to another database, as if the address were moved to another server.
    pub async fn redirect(&self, from: &str, to: &str) {
        let ini = self.dir.join(format!("{}.ini", self.port));
        let text = fs::read_to_string(&ini).expect("reads");
        let line = format!("[databases]\n{from} = host={} port=5432 dbname={to}\n", self.dir.display());
        fs::write(&ini, text.replacen("[databases]\n", &line, 1)).expect("writes");
        self.command("reload").await;
    }

    /// Ends all connections to a database, those of clients and those to the server.
    pub async fn kill(&self, database: &str) {
        self.command(&format!("kill {database}")).await;
        self.command(&format!("resume {database}")).await;
    }

    async fn command(&self, command: &str) {
        let mut console = self.console().connect().await.expect("connects");
        let command = sqlx::raw_sql(sqlx::AssertSqlSafe(command.to_owned()));
        command.execute(&mut console).await.expect("the command is valid");
        console.close().await.expect("closes");
    }

    /// Options for the console of the pooler, which rejects startup parameters that it does not know.
    fn console(&self) -> PgConnectOptions {
        let options: PgConnectOptions = self.url("pgbouncer", "postgres").parse().expect("a URL");
        options.extra_float_digits(None)
    }

    /// Asserts that backend sessions hold no state that an earlier client could have left.
    pub async fn expect_clean_sessions(&self, database: &str) {
        // A client of a pooler in transaction mode uses the simple protocol.
        let options: PgConnectOptions = self.url(database, "postgres").parse().expect("a URL");
        let mut stranger = options.extra_float_digits(None).connect().await.expect("connects");
        let mut seen = HashSet::new();
        // The pooler hands out its backend sessions in turn.
        for _ in 0..20 {
            let row = sqlx::raw_sql(
                "select pg_backend_pid()::text, concat_ws(' ', current_setting('role'),
                        nullif(current_setting('request.jwt.claims', true), ''),
                        current_setting('statement_timeout'), current_setting('work_mem'),
                        current_setting('plan_cache_mode'), current_setting('enable_seqscan'),
                        current_setting('lock_timeout'), (select count(*) from pg_prepared_statements),
                        (select count(*) from pg_listening_channels() c where c = 'warden'),
                        (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()))",
            )
            .fetch_one(&mut stranger)
            .await
            .expect("reads");
            seen.insert(row.get::<String, _>(0));
            assert_eq!(row.get::<String, _>(1), "none 0 4MB auto on 0 0 0 0");
        }
        assert!(seen.len() > 1, "only backend {seen:?} was checked");
        stranger.close().await.expect("closes");
    }

    /// URL of a database through the pooler, by TLS.
    pub fn tls_url(&self, database: &str, user: &str, roots: &str) -> String {
        let (ip, port) = (self.ip.expect("it has TLS"), self.port);
        format!(
            "postgres://{user}@localhost:{port}/{database}?hostaddr={ip}&sslmode=verify-full&sslrootcert={roots}"
        )
    }

    /// URL of a database through the pooler.
    pub fn url(&self, database: &str, user: &str) -> String {
        format!(
            "postgres:///{database}?host={}&port={}&user={user}&sslmode=disable",
            self.dir.display(),
            self.port
        )
    }
}

//! PgBouncer before the cluster of the run, as people have it before their database.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::process::{Child, Command};

use super::TestDb;

/// A pooler of one test's own; it ends when it is dropped.
pub struct Pooler {
    _process: Child,
    dir: PathBuf,
    port: u16,
}

impl Pooler {
    /// Pools `transaction`s or `session`s, with five of the server's sessions taken in turn.
    pub async fn start(db: &TestDb, mode: &str) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(6432);
        let options: PgConnectOptions = db.url().parse().expect("a URL");
        // Beside the server's own socket: the directory goes with the cluster.
        let dir = options.get_socket().expect("a socket").clone();
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let (ini, users) = (dir.join(format!("{port}.ini")), dir.join(format!("{port}.txt")));
        let here = dir.display();
        fs::write(&users, "\"postgres\" \"\"\n\"warden_gateway\" \"\"\n").expect("writes");
        fs::write(
            &ini,
            format!(
                "[databases]\n* = host={here} port=5432\n[pgbouncer]\nlisten_addr =\nlisten_port = {port}\n\
                 unix_socket_dir = {here}\nauth_type = trust\nauth_file = {}\nadmin_users = postgres\n\
                 pool_mode = {mode}\ndefault_pool_size = 5\nserver_round_robin = 1\nmax_client_conn = 100\n",
                users.display()
            ),
        )
        .expect("writes");
        let mut command = Command::new("pgbouncer");
        command
            .arg("-q")
            .arg(&ini)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/opt/homebrew/bin");
        // Like the server, it refuses to run as root.
        let owner = fs::metadata(&dir).expect("is there");
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
        let pooler = Self { _process: process, dir, port };
        super::eventually("the pooler is up", async || match pooler.console().connect().await {
            Ok(connection) => connection.close().await.is_ok(),
            Err(_) => false,
        })
        .await;
        pooler
    }

    /// From now on the name of one database leads to another, as when an address is given to another server.
    pub async fn redirect(&self, from: &str, to: &str) {
        let ini = self.dir.join(format!("{}.ini", self.port));
        let text = fs::read_to_string(&ini).expect("reads");
        let line = format!("[databases]\n{from} = host={} port=5432 dbname={to}\n", self.dir.display());
        fs::write(&ini, text.replacen("[databases]\n", &line, 1)).expect("writes");
        self.command("reload").await;
    }

    /// Ends all connections of a database, of clients and of the server.
    pub async fn kill(&self, database: &str) {
        self.command(&format!("kill {database}")).await;
        self.command(&format!("resume {database}")).await;
    }

    async fn command(&self, command: &str) {
        let mut console = self.console().connect().await.expect("connects");
        let command = sqlx::raw_sql(sqlx::AssertSqlSafe(command.to_owned()));
        command.execute(&mut console).await.expect("is understood");
        console.close().await.expect("closes");
    }

    /// The pooler's own console knows no more than the simple protocol, and takes no other parameters.
    fn console(&self) -> PgConnectOptions {
        let options: PgConnectOptions = self.url("pgbouncer", "postgres").parse().expect("a URL");
        options.extra_float_digits(None)
    }

    /// A database through the pooler.
    pub fn url(&self, database: &str, user: &str) -> String {
        format!(
            "postgres:///{database}?host={}&port={}&user={user}&sslmode=disable",
            self.dir.display(),
            self.port
        )
    }
}

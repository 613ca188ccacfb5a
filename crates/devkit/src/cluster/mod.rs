//! Private PostgreSQL clusters for `warden dev`, the tests and the benchmarks. A cluster listens on a Unix
//! socket only, and never keeps running after this process, however this process ends.
//!
//! This module must not touch a server that it did not start, read the environment, or know the purpose of a
//! database.
//!
//! - `binaries` finds the server on this machine.
//! - `copies` starts standbys and copies of a cluster.
//! - `layout` manages the directory: lock, data, log, socket, and leftovers of a crash.
//! - `private_dir` opens and creates its files without trusting what others placed there.
//! - `leftover` recognises a server that outlived its owner.
//! - `account` chooses the user account of the server, if this process runs as root.
//! - `guard` owns the server process, and ends it together with this process.

mod account;
mod binaries;
mod copies;
mod error;
mod guard;
mod layout;
mod leftover;
mod private_dir;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::timeout;

pub use self::binaries::Binaries;
pub use self::error::ClusterError;
use self::error::at;
use self::guard::{Guard, Stuck};
use self::layout::{Layout, SOCKET_FILE};

/// Superuser of every private cluster. It has no password: every process that can enter the socket's
/// directory is trusted.
pub const SUPERUSER: &str = "postgres";

/// Longest time from the start of the server to its first accepted connection, crash recovery included.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// Longest single attempt to connect while the server starts.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Longest run of `initdb`, or of copying a small primary. They take a second, or about ten on a slow disk.
const INIT_DEADLINE: Duration = Duration::from_secs(120);

/// Prints a word if the program succeeded, because the guard does not pass exit statuses on.
const INIT_SCRIPT: &str = r#""$@" >&2 && echo initialised"#;
const INIT_SUCCEEDED: &str = "initialised\n";

/// Characters of a URL that must be encoded.
const URL_RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Characters of a path in the query part that must be encoded. Slashes need not be.
const URL_PATH_RESERVED: &AsciiSet = &URL_RESERVED.remove(b'/');

/// Location of a cluster.
#[derive(Debug, Clone)]
pub enum DataDir {
    /// A directory that is kept. It is created if it is missing. One process at a time can use it.
    Persistent(PathBuf),
    /// A directory in /tmp that is removed together with the cluster.
    Temporary,
}

/// Options of a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Binaries of the server.
    pub binaries: Binaries,
    /// Location of the data.
    pub data_dir: DataDir,
    /// Settings as in postgresql.conf. They override all others.
    pub settings: Vec<(String, String)>,
    /// PostgreSQL's `max_connections`.
    pub max_connections: u32,
    /// Whether commits survive a crash of the operating system. If not, they still survive
    /// [`Cluster::kill9`], and cost as much as on an infinitely fast disk.
    pub durable: bool,
}

impl ClusterOptions {
    /// `initdb` with its arguments, without the directory.
    fn init_command(&self) -> Vec<OsString> {
        let mut command: Vec<OsString> = vec![self.binaries.initdb().into()];
        // Every system has the C locale, with the same sort order.
        let fixed = "--encoding=UTF8 --no-locale --auth-local=trust --auth-host=reject --no-instructions";
        command.extend(fixed.split(' ').map(Into::into));
        command.push(format!("--username={SUPERUSER}").into());
        if !self.durable {
            command.push("--no-sync".into());
        }
        command
    }
}

/// A private cluster. It shuts down when this value is dropped or this process ends, kill -9 included. A
/// temporary cluster then removes its directory. [`Cluster::close`] waits for both.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    layout: Layout,
    /// Guard of the present server, or of the last one; `None` before the first start.
    guard: Option<Guard>,
    is_running: bool,
}

impl Cluster {
    /// Starts a cluster and waits until it accepts connections. A cluster without data is initialised first.
    ///
    /// # Errors
    /// [`ClusterError`]. If PostgreSQL itself failed, it contains the end of the log.
    pub async fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        let bin = options.binaries.dir();
        let layout = match &options.data_dir {
            DataDir::Persistent(dir) => Layout::persistent(dir, bin).await?,
            DataDir::Temporary => Layout::temporary(bin).await?,
        };
        let mut cluster = Self { options, layout, guard: None, is_running: false };
        if let Err(e) = cluster.prepare().await {
            // There may be no guard yet that would remove the directory.
            cluster.layout.discard();
            return Err(e);
        }
        cluster.start_again().await?;
        Ok(cluster)
    }

    /// Starts the server after [`Cluster::stop`] or [`Cluster::kill9`], with the same data and socket. Has no
    /// effect on a running server.
    ///
    /// # Errors
    /// [`ClusterError::Start`] with the end of the log.
    pub async fn start_again(&mut self) -> Result<(), ClusterError> {
        if self.is_running {
            return Ok(());
        }
        self.layout.clear_socket();
        let log = self.layout.log();
        let mark = self.layout.log_mark();
        let disposable = self.layout.disposable.as_deref();
        let mut guard = Guard::start(&self.layout.account, disposable, &log, &self.server_command())
            .await
            .map_err(at("start a guard for", self.layout.root.path()))?;
        let ready = self.wait_until_ready(&mut guard).await;
        // The new guard owns the directory from its start, so the old one must not remove it.
        if let Some(old) = self.guard.replace(guard) {
            old.keep().await;
        }
        self.is_running = true;
        if let Err(problem) = ready {
            self.stop().await?;
            let log = self.layout.log_tail(mark);
            return Err(ClusterError::Start { problem, log });
        }
        Ok(())
    }

    /// Shuts the server down fast: its sessions are terminated and its data files are consistent. Waits for
    /// the end. Has no effect on a stopped server. Dropping the cluster does the same without waiting.
    ///
    /// # Errors
    /// [`ClusterError::Stuck`] if the server does not end.
    pub async fn stop(&mut self) -> Result<(), ClusterError> {
        if let Some(guard) = &mut self.guard {
            guard.stop().await.map_err(|stuck| stuck_on(&self.layout, &stuck))?;
        }
        self.is_running = false;
        Ok(())
    }

    /// Kills the server and all its processes with SIGKILL, as in a crash. Waits until they have ended, so
    /// that the server can be started again immediately.
    ///
    /// # Errors
    /// [`ClusterError::Stuck`] if a process does not end.
    pub async fn kill9(&mut self) -> Result<(), ClusterError> {
        if let Some(guard) = &mut self.guard {
            guard.kill().await.map_err(|stuck| stuck_on(&self.layout, &stuck))?;
        }
        self.is_running = false;
        Ok(())
    }

    /// Stops and starts the server: [`Cluster::stop`], then [`Cluster::start_again`].
    ///
    /// # Errors
    /// Those of the two functions.
    pub async fn restart(&mut self) -> Result<(), ClusterError> {
        self.stop().await?;
        self.start_again().await
    }

    /// Stops the server, and waits until a temporary directory is removed.
    ///
    /// # Errors
    /// [`ClusterError::Stuck`] if the server does not end.
    pub async fn close(self) -> Result<(), ClusterError> {
        let Self { layout, guard, .. } = self;
        if let Some(guard) = guard {
            guard.finish().await.map_err(|stuck| stuck_on(&layout, &stuck))?;
        }
        Ok(())
    }

    /// URL of a database, for `DATABASE_URL`, sqlx and psql.
    #[must_use]
    pub fn url(&self, database: &str, user: &str) -> String {
        url(self.layout.socket_dir.path(), database, user)
    }

    /// Directory of the socket, as `psql -h` expects it. Its path has at most 103 bytes.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.layout.socket_dir.path()
    }

    /// Reads a file of the cluster's directory that only the user of this process may read, or creates it
    /// with the text that `create` returns.
    ///
    /// # Errors
    /// [`ClusterError::Untrusted`] if another user could have placed or read the file.
    pub fn private_text(&self, name: &str, create: impl FnOnce() -> String) -> Result<String, ClusterError> {
        self.layout.private_text(name, create)
    }

    /// Process id of the postmaster, if the server runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.guard.as_ref().filter(|_| self.is_running).map(Guard::pid)
    }

    /// Path of `pgbench` of the same version, if it is installed.
    #[must_use]
    pub fn pgbench_path(&self) -> Option<PathBuf> {
        self.options.binaries.client("pgbench")
    }

    /// Prepares the directory and the data for a start.
    async fn prepare(&mut self) -> Result<(), ClusterError> {
        self.layout.clear_leftovers().await?;
        self.layout.begin_log()?;
        let server = self.options.binaries.version();
        match self.layout.data_version()? {
            None => self.initialise().await,
            Some(data) if data == server.to_string() => Ok(()),
            Some(data) => {
                let dir = self.layout.root.path().to_path_buf();
                Err(ClusterError::Version { dir, data, server })
            }
        }
    }

    async fn initialise(&mut self) -> Result<(), ClusterError> {
        self.create_data(self.options.init_command()).await
    }

    /// Runs a program that creates the data in the directory of its option `-D`.
    async fn create_data(&mut self, program: Vec<OsString>) -> Result<(), ClusterError> {
        let name = self.layout.make_init_dir()?;
        let dir = self.layout.root.path().join(&name);
        let mut command: Vec<OsString> = ["sh", "-c", INIT_SCRIPT, "sh"].map(Into::into).into();
        command.extend(program);
        command.extend(["-D".into(), dir.clone().into()]);
        let disposable = self.layout.disposable.as_deref();
        let disposable =
            if disposable == Some(self.layout.root.path()) { disposable } else { Some(dir.as_path()) };
        let mut guard = Guard::start(&self.layout.account, disposable, &self.layout.log(), &command)
            .await
            .map_err(at("start a guard for", self.layout.root.path()))?;
        let ended = timeout(INIT_DEADLINE, guard.gone()).await.is_ok();
        if !ended || guard.output() != INIT_SUCCEEDED {
            return Err(ClusterError::Init {
                dir: self.layout.root.path().to_path_buf(),
                log: guard.output() + &self.layout.log_tail(0),
            });
        }
        self.layout.keep_data(&name)?;
        self.guard = Some(guard);
        Ok(())
    }

    fn server_command(&self) -> Vec<OsString> {
        let mut command: Vec<OsString> =
            vec![self.options.binaries.postgres().into(), "-D".into(), self.layout.data().into()];
        let mut set = |name: &str, value: &str| {
            command.extend(["-c".into(), format!("{name}={value}").into()]);
        };
        // Quoted, because the setting is a list separated by commas.
        let socket_dir = self.layout.socket_dir.path().to_string_lossy().replace('"', "\"\"");
        set("unix_socket_directories", &format!("\"{socket_dir}\""));
        set("listen_addresses", "");
        set("port", "5432");
        set("max_connections", &self.options.max_connections.to_string());
        if !self.options.durable {
            set("fsync", "off");
            set("full_page_writes", "off");
        }
        if matches!(self.options.data_dir, DataDir::Temporary) {
            // Keeps dynamic shared memory in the cluster's own directory, which is removed even after a kill
            // -9. Besides, /dev/shm is small in containers.
            set("dynamic_shared_memory_type", "mmap");
        }
        for (name, value) in &self.options.settings {
            set(name, value);
        }
        command
    }

    /// Waits until the server accepts connections. The error describes what happened instead.
    async fn wait_until_ready(&self, guard: &mut Guard) -> Result<(), String> {
        let url = self.url(SUPERUSER, SUPERUSER);
        let options: PgConnectOptions = url.parse().map_err(|e| format!("{url}: {e}"))?;
        let started = Instant::now();
        loop {
            let attempt = async {
                let error = match timeout(CONNECT_DEADLINE, options.connect()).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(e)) => e.to_string(),
                    Err(_) => "no answer".to_owned(),
                };
                tokio::time::sleep(POLL_INTERVAL).await;
                Err(error)
            };
            tokio::select! {
                () = guard.gone() => {
                    return Err(format!("it ended during startup. {}", guard.output()).trim_end().to_owned());
                }
                attempt = attempt => match attempt {
                    Ok(connection) => return close(connection).await,
                    Err(error) if started.elapsed() > START_DEADLINE => {
                        return Err(format!("it accepted no connection within {START_DEADLINE:?} ({error})"));
                    }
                    Err(_) => {}
                },
            }
        }
    }
}

/// Closes the connection properly, because the server logs a connection that is dropped.
async fn close(connection: PgConnection) -> Result<(), String> {
    connection.close().await.map_err(|e| e.to_string())
}

fn stuck_on(layout: &Layout, stuck: &Stuck) -> ClusterError {
    ClusterError::Stuck { dir: layout.root.path().to_path_buf(), pid: stuck.pid }
}

/// Builds a URL. It contains port and sslmode, because PGPORT and PGSSLMODE in a user's environment would
/// apply otherwise.
fn url(socket_dir: &Path, database: &str, user: &str) -> String {
    debug_assert!(SOCKET_FILE.ends_with("5432"), "the port is part of the socket's name");
    format!(
        "postgres:///{}?host={}&port=5432&user={}&sslmode=disable",
        utf8_percent_encode(database, URL_RESERVED),
        utf8_percent_encode(&socket_dir.to_string_lossy(), URL_PATH_RESERVED),
        utf8_percent_encode(user, URL_RESERVED),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlx_parses_the_url_of_any_names() {
        let url = url(Path::new("/tmp/a b,c&d"), "my db/?", "ann@x");
        assert_eq!(
            url,
            "postgres:///my%20db%2F%3F?host=/tmp/a%20b%2Cc%26d&port=5432&user=ann%40x&sslmode=disable"
        );
        let options: PgConnectOptions = url.parse().unwrap();
        assert_eq!(options.get_socket().unwrap(), Path::new("/tmp/a b,c&d"));
        assert_eq!(options.get_database(), Some("my db/?"));
        assert_eq!(options.get_username(), "ann@x");
        assert_eq!(options.get_port(), 5432);
    }
}

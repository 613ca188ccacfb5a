//! A private PostgreSQL cluster for `warden dev`, the tests and the benchmarks: found, initialised,
//! started on a Unix socket, and never left running, however this process ends.
//!
//! It must not touch a server that it did not start, read the environment, or know what the
//! databases in it are for.
//!
//! - `binaries` finds the server on this machine.
//! - `layout` is the directory: lock, data, log, socket, and what a crash left there.
//! - `account` is the user that the server runs as, where this process is root.
//! - `guard` holds the server, and ends it together with this process.

mod account;
mod binaries;
mod error;
mod guard;
mod layout;

use std::ffi::OsString;
use std::fs;
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

/// The superuser of every private cluster. There are no passwords: who can enter the socket's
/// directory is trusted.
pub const SUPERUSER: &str = "postgres";

/// From the start of the process to the first accepted connection; crash recovery is part of it.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// For one try to connect while the server starts.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// `initdb` (or a copy of a small primary) takes a second, or some ten on a slow disk.
const INIT_DEADLINE: Duration = Duration::from_secs(120);

/// Tells by its output whether the program that makes the data succeeded: the guard keeps its exit status to itself.
const INIT_SCRIPT: &str = r#""$@" >&2 && echo initialised"#;
const INIT_SUCCEEDED: &str = "initialised\n";

/// What may stand in a URL as it is.
const URL_RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// A path may keep its slashes in the query part.
const URL_PATH_RESERVED: &AsciiSet = &URL_RESERVED.remove(b'/');

/// Where a cluster lives.
#[derive(Debug, Clone)]
pub enum DataDir {
    /// A directory that stays, made where it is missing; one process at a time.
    Persistent(PathBuf),
    /// A directory in /tmp that goes with this process.
    Temporary,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The server to use.
    pub binaries: Binaries,
    /// Where it keeps its data.
    pub data_dir: DataDir,
    /// Settings as in postgresql.conf; they win over all others.
    pub settings: Vec<(String, String)>,
    /// PostgreSQL's `max_connections`.
    pub max_connections: u32,
    /// Whether commits survive a crash of the operating system. Without, they still survive
    /// [`Cluster::kill9`], and commits cost what they cost on an infinitely fast disk.
    pub durable: bool,
}

/// A private cluster. Dropped, also by kill -9, it shuts down and a temporary one removes its
/// directory; [`Cluster::close`] waits for that.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    layout: Layout,
    /// The guard of the present server, or of the last one; `None` before the first.
    guard: Option<Guard>,
    running: bool,
}

impl Cluster {
    /// Starts a cluster and waits until it accepts connections; initialises it where it has no data.
    ///
    /// # Errors
    /// [`ClusterError`], with the end of the log where PostgreSQL itself failed.
    pub async fn start(options: ClusterOptions) -> Result<Self, ClusterError> {
        let bin = options.binaries.dir();
        let layout = match &options.data_dir {
            DataDir::Persistent(dir) => Layout::persistent(dir, bin).await?,
            DataDir::Temporary => Layout::temporary(bin).await?,
        };
        let mut cluster = Self { options, layout, guard: None, running: false };
        if let Err(e) = cluster.prepare().await {
            // No guard may be there yet to do it.
            cluster.layout.discard();
            return Err(e);
        }
        cluster.start_again().await?;
        Ok(cluster)
    }

    /// Starts a streaming standby of this cluster, in a temporary directory, and waits until it accepts
    /// connections. `select pg_promote()` makes it a primary.
    ///
    /// # Errors
    /// [`ClusterError`], with the end of the log where PostgreSQL itself failed.
    pub async fn start_standby(&self) -> Result<Self, ClusterError> {
        let options = ClusterOptions { data_dir: DataDir::Temporary, ..self.options.clone() };
        let layout = Layout::temporary(options.binaries.dir()).await?;
        let mut standby = Self { options, layout, guard: None, running: false };
        let mut backup: Vec<OsString> = vec![self.options.binaries.dir().join("pg_basebackup").into()];
        backup.extend(["-h".into(), self.layout.socket_dir.clone().into()]);
        // It writes the settings of a standby, too. Its password file would be somebody else's.
        let fixed = "-p 5432 --no-password --checkpoint=fast --write-recovery-conf --no-sync";
        backup.extend(fixed.split(' ').map(Into::into));
        backup.push(format!("--username={SUPERUSER}").into());
        let made = async {
            standby.layout.begin_log()?;
            standby.make_data(backup).await
        };
        if let Err(e) = made.await {
            standby.layout.discard();
            return Err(e);
        }
        standby.start_again().await?;
        Ok(standby)
    }

    /// Starts the server after [`Cluster::stop`] or [`Cluster::kill9`], on the same data and socket.
    /// Does nothing while it runs.
    ///
    /// # Errors
    /// [`ClusterError::Start`] with the end of the log.
    pub async fn start_again(&mut self) -> Result<(), ClusterError> {
        if self.running {
            return Ok(());
        }
        self.layout.clear_socket();
        let log = self.layout.log();
        let mark = self.layout.log_mark();
        let scrap = self.layout.scrap.as_deref();
        let mut guard = Guard::start(&self.layout.account, scrap, &log, &self.server_command())
            .await
            .map_err(at("start a guard for", &self.layout.root))?;
        let ready = self.wait_until_ready(&mut guard).await;
        // The new guard owns the directory from its first moment, so the old one leaves it alone.
        if let Some(old) = self.guard.replace(guard) {
            old.keep().await;
        }
        self.running = true;
        if let Err(what) = ready {
            self.stop().await?;
            let log = self.layout.log_tail(mark);
            return Err(ClusterError::Start { what, log });
        }
        Ok(())
    }

    /// A fast shutdown: sessions are ended, the data is left clean. Waits for the end; does nothing
    /// where the server does not run. Without a call to it, dropping does the same unawaited.
    ///
    /// # Errors
    /// [`ClusterError::Stuck`] where the server does not end.
    pub async fn stop(&mut self) -> Result<(), ClusterError> {
        if let Some(guard) = &mut self.guard {
            guard.stop().await.map_err(|stuck| stuck_on(&self.layout, &stuck))?;
        }
        self.running = false;
        Ok(())
    }

    /// SIGKILL to the server and all its processes, as in a crash; waits until they are gone, so
    /// that it can be started again at once.
    ///
    /// # Errors
    /// [`ClusterError::Stuck`] where a process does not end.
    pub async fn kill9(&mut self) -> Result<(), ClusterError> {
        if let Some(guard) = &mut self.guard {
            guard.kill().await.map_err(|stuck| stuck_on(&self.layout, &stuck))?;
        }
        self.running = false;
        Ok(())
    }

    /// [`Cluster::stop`] and [`Cluster::start_again`].
    ///
    /// # Errors
    /// As theirs.
    pub async fn restart(&mut self) -> Result<(), ClusterError> {
        self.stop().await?;
        self.start_again().await
    }

    /// Stops, and waits until a temporary directory is removed too.
    ///
    /// # Errors
    /// [`ClusterError::Stuck`] where the server does not end.
    pub async fn close(self) -> Result<(), ClusterError> {
        let Self { layout, guard, .. } = self;
        if let Some(guard) = guard {
            guard.finish().await.map_err(|stuck| stuck_on(&layout, &stuck))?;
        }
        Ok(())
    }

    /// The URL of a database, for `DATABASE_URL`, sqlx and psql.
    #[must_use]
    pub fn url(&self, database: &str, user: &str) -> String {
        url(&self.layout.socket_dir, database, user)
    }

    /// The directory of the socket: what `psql -h` takes. Its path has no more than 103 bytes.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.layout.socket_dir
    }

    /// The process id of the postmaster, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.guard.as_ref().filter(|_| self.running).map(Guard::pid)
    }

    /// `pgbench` of the same version, where it is installed.
    #[must_use]
    pub fn pgbench_path(&self) -> Option<PathBuf> {
        self.options.binaries.client("pgbench")
    }

    /// All that comes before the server itself.
    async fn prepare(&mut self) -> Result<(), ClusterError> {
        self.layout.clear_left_overs().await?;
        self.layout.begin_log()?;
        let server = self.options.binaries.version();
        match self.layout.data_version()? {
            None => self.initialise().await,
            Some(data) if data == server.to_string() => Ok(()),
            Some(data) => {
                let dir = self.layout.root.clone();
                Err(ClusterError::Version { dir, data, server })
            }
        }
    }

    async fn initialise(&mut self) -> Result<(), ClusterError> {
        let mut command: Vec<OsString> = vec![self.options.binaries.initdb().into()];
        // The C locale is on every system, and sorts alike on all of them.
        let fixed = "--encoding=UTF8 --no-locale --auth-local=trust --auth-host=reject --no-instructions";
        command.extend(fixed.split(' ').map(Into::into));
        command.push(format!("--username={SUPERUSER}").into());
        if !self.options.durable {
            command.push("--no-sync".into());
        }
        self.make_data(command).await
    }

    /// Runs a program that makes the data, in the directory that it is given with `-D`.
    async fn make_data(&mut self, program: Vec<OsString>) -> Result<(), ClusterError> {
        let dir = self.layout.make_init_dir()?;
        let mut command: Vec<OsString> = ["sh", "-c", INIT_SCRIPT, "sh"].map(Into::into).into();
        command.extend(program);
        command.extend(["-D".into(), dir.clone().into()]);
        let scrap = self.layout.scrap.as_deref();
        let scrap = if scrap == Some(&self.layout.root) { scrap } else { Some(dir.as_path()) };
        let mut guard = Guard::start(&self.layout.account, scrap, &self.layout.log(), &command)
            .await
            .map_err(at("start a guard for", &self.layout.root))?;
        let ended = timeout(INIT_DEADLINE, guard.gone()).await.is_ok();
        if !ended || guard.output() != INIT_SUCCEEDED {
            return Err(ClusterError::Init {
                dir: self.layout.root.clone(),
                log: guard.output() + &self.layout.log_tail(0),
            });
        }
        fs::rename(&dir, self.layout.data()).map_err(at("rename", &dir))?;
        self.guard = Some(guard);
        Ok(())
    }

    fn server_command(&self) -> Vec<OsString> {
        let mut command: Vec<OsString> =
            vec![self.options.binaries.postgres().into(), "-D".into(), self.layout.data().into()];
        let mut set = |name: &str, value: &str| {
            command.extend(["-c".into(), format!("{name}={value}").into()]);
        };
        // Quoted, because it is a list in which commas separate.
        let socket_dir = self.layout.socket_dir.to_string_lossy().replace('"', "\"\"");
        set("unix_socket_directories", &format!("\"{socket_dir}\""));
        set("listen_addresses", "");
        set("port", "5432");
        set("max_connections", &self.options.max_connections.to_string());
        if !self.options.durable {
            set("fsync", "off");
            set("full_page_writes", "off");
        }
        if matches!(self.options.data_dir, DataDir::Temporary) {
            // In its own directory, where it is removed with the rest also after a kill -9; and
            // /dev/shm is small in containers.
            set("dynamic_shared_memory_type", "mmap");
        }
        for (name, value) in &self.options.settings {
            set(name, value);
        }
        command
    }

    /// Waits until the server accepts connections; else says what was seen.
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
                    return Err(format!("it ended at once. {}", guard.output()).trim_end().to_owned());
                }
                attempt = attempt => match attempt {
                    Ok(connection) => return close(connection).await,
                    Err(error) if started.elapsed() > START_DEADLINE => {
                        return Err(format!("no connection within {START_DEADLINE:?} ({error})"));
                    }
                    Err(_) => {}
                },
            }
        }
    }
}

/// Closed in order, the connection leaves no complaint in the log.
async fn close(connection: PgConnection) -> Result<(), String> {
    connection.close().await.map_err(|e| e.to_string())
}

fn stuck_on(layout: &Layout, stuck: &Stuck) -> ClusterError {
    ClusterError::Stuck { dir: layout.root.clone(), pid: stuck.pid }
}

/// Port and sslmode are spelled out, because PGPORT and PGSSLMODE of a user's environment would
/// otherwise take their place.
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
    fn sqlx_understands_the_url() {
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

//! The directory of a cluster: its lock, its files, and leftovers of a crash.
//!
//! ```text
//! <root>/lock         locked while a process uses the cluster; contains its process id
//! <root>/data/        the data directory of PostgreSQL
//! <root>/server.log   log of this start; server.log.1 is that of the previous start
//! <root>/socket/      Unix socket, mode 0700; in /tmp instead if its path would be too long
//! ```
//!
//! It must never remove data that a successful `initdb` created, except that of a temporary cluster.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::account::Account;
use super::error::{ClusterError, at};

/// Parent of temporary directories. It is fixed, because a socket's path must be short, and the temporary
/// directory of macOS has a long one.
const TEMPORARY_PARENT: &str = "/tmp";
const TEMPORARY_NAME_CHARS: usize = 10;
const DIR_MODE: u32 = 0o700;
/// Longest path of a socket on macOS. Linux allows 107 bytes.
const SOCKET_PATH_BYTES_MAX: usize = 103;
pub(super) const SOCKET_FILE: &str = ".s.PGSQL.5432";
/// Longest excerpt of a log in an error.
const LOG_TAIL_BYTES: u64 = 4096;
/// Longest shutdown of a server that outlived its owner. Its guard is shutting it down already, unless the
/// guard was killed as well.
const LEFTOVER_DEADLINE: Duration = Duration::from_secs(45);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Paths of one cluster. Holds the lock until it is dropped.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
    pub(super) socket_dir: PathBuf,
    pub(super) account: Account,
    /// Directory that the guard removes at the end: the root of a temporary cluster, or a socket's directory
    /// in /tmp.
    pub(super) disposable: Option<PathBuf>,
    _lock: Option<File>,
}

impl Layout {
    /// Creates a directory in /tmp.
    pub(super) async fn temporary(bin: &Path) -> Result<Self, ClusterError> {
        let account = Account::choose(Path::new("")).await?;
        account.check_reach(&[bin, Path::new(TEMPORARY_PARENT)]).await?;
        let root = make_temporary(&account)?;
        let socket_dir = root.join("socket");
        make_private(&socket_dir, &account)?;
        Ok(Self { disposable: Some(root.clone()), root, socket_dir, account, _lock: None })
    }

    /// Creates or reuses a directory that is kept, and locks it for this process.
    pub(super) async fn persistent(dir: &Path, bin: &Path) -> Result<Self, ClusterError> {
        fs::create_dir_all(dir).map_err(at("create the data directory", dir))?;
        let root = fs::canonicalize(dir).map_err(at("resolve", dir))?;
        let lock = lock(&root)?;
        let account = Account::choose(&root.join("data")).await?;
        account.check_reach(&[bin, &root]).await?;
        let mut socket_dir = root.join("socket");
        let mut disposable = None;
        let path = socket_dir.join(SOCKET_FILE);
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX || path.to_str().is_none() {
            socket_dir = make_temporary(&account)?;
            disposable = Some(socket_dir.clone());
        } else if socket_dir.is_dir() {
            fs::set_permissions(&socket_dir, fs::Permissions::from_mode(DIR_MODE))
                .map_err(at("make private", &socket_dir))?;
            account.own(&socket_dir)?;
        } else {
            make_private(&socket_dir, &account)?;
        }
        Ok(Self { root, socket_dir, account, disposable, _lock: Some(lock) })
    }

    /// Removes the disposable directory, if there is one.
    pub(super) fn discard(&self) {
        if let Some(dir) = &self.disposable {
            // A guard may be removing it at the same time.
            let _ = fs::remove_dir_all(dir);
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// Begins a new log, and keeps the last one as server.log.1.
    pub(super) fn begin_log(&self) -> Result<(), ClusterError> {
        let log = self.log();
        if log.exists() {
            let old = self.root.join("server.log.1");
            fs::rename(&log, &old).map_err(at("rename", &log))?;
        }
        File::create(&log).map_err(at("create", &log))?;
        self.account.own(&log)
    }

    /// Present length of the log, by which a start tells its own lines from earlier ones.
    pub(super) fn log_mark(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |meta| meta.len())
    }

    /// End of the log after `mark`.
    pub(super) fn log_tail(&self, mark: u64) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.log())?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(mark.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        match read() {
            Ok(text) if text.is_empty() => "(nothing)".to_owned(),
            Ok(text) => text,
            Err(e) => format!("(cannot be read: {e})"),
        }
    }

    /// Major version that created the data; `None` if there is no data.
    pub(super) fn data_version(&self) -> Result<Option<String>, ClusterError> {
        let path = self.data().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(at("read", &path)(e)),
        }
    }

    /// Creates an empty directory for `initdb`. It is renamed to `data` only after `initdb` succeeded, so
    /// that the data is either complete or absent.
    pub(super) fn make_init_dir(&self) -> Result<PathBuf, ClusterError> {
        for entry in fs::read_dir(&self.root).map_err(at("read", &self.root))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("initdb-") {
                // Left by an interrupted start. Its guard may be removing it at this moment, so a failure
                // here is no error.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let dir = self.root.join(format!("initdb-{}", random_name()));
        make_private(&dir, &self.account)?;
        Ok(dir)
    }

    /// Ends a server that still runs on the data, and removes files that would prevent a new one from
    /// starting. The caller must hold the lock: then no live process needs that server.
    pub(super) async fn clear_leftovers(&self) -> Result<(), ClusterError> {
        let data = self.data();
        let pid_file = data.join("postmaster.pid");
        let started = Instant::now();
        let mut is_signalled = false;
        while let Some((pid, socket)) = read_pid_file(&pid_file) {
            if !serves(pid, &socket, &data) {
                if test_kill_process(pid).is_ok() {
                    // Another process has this id now; in containers, ids are reused soon. PostgreSQL would
                    // take that process for a server, and would not start.
                    fs::remove_file(&pid_file).map_err(at("remove", &pid_file))?;
                }
                break;
            }
            if !is_signalled {
                is_signalled = true;
                let _ = kill_process(pid, Signal::INT);
            } else if started.elapsed() > LEFTOVER_DEADLINE {
                let pid = pid.as_raw_nonzero().get();
                return Err(ClusterError::Stuck { dir: data, pid });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.clear_socket();
        Ok(())
    }

    /// Removes the socket of a server that has ended, and its lock file, whose process id another process may
    /// have by now. If a file cannot be removed, PostgreSQL reports it.
    pub(super) fn clear_socket(&self) {
        for name in [SOCKET_FILE.to_owned(), format!("{SOCKET_FILE}.lock")] {
            let _ = fs::remove_file(self.socket_dir.join(name));
        }
    }
}

fn lock(root: &Path) -> Result<File, ClusterError> {
    let path = root.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(at("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let by = fs::read_to_string(&path).unwrap_or_default();
            return Err(ClusterError::InUse {
                dir: root.to_path_buf(),
                by: Some(by.trim()).filter(|by| !by.is_empty()).unwrap_or("unknown").to_owned(),
            });
        }
        Err(TryLockError::Error(e)) => return Err(at("lock", &path)(e)),
    }
    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(at("write", &path))?;
    Ok(file)
}

/// Reads the process id and the socket of a server from its postmaster.pid; `None` if there is no such file.
fn read_pid_file(path: &Path) -> Option<(Pid, PathBuf)> {
    let text = fs::read_to_string(path).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let pid = Pid::from_raw(lines.first()?.trim().parse().ok()?)?;
    let port = lines.get(3).copied().unwrap_or_default();
    let dir = lines.get(4).copied().unwrap_or_default();
    Some((pid, Path::new(dir).join(format!(".s.PGSQL.{port}"))))
}

/// Whether the process is the server of this data directory. The process id alone proves nothing.
fn serves(pid: Pid, socket: &Path, data: &Path) -> bool {
    let working_dir = format!("/proc/{}/cwd", pid.as_raw_nonzero());
    UnixStream::connect(socket).is_ok() || fs::read_link(working_dir).is_ok_and(|dir| dir == data)
}

fn make_temporary(account: &Account) -> Result<PathBuf, ClusterError> {
    loop {
        let dir = Path::new(TEMPORARY_PARENT).join(format!("warden-{}", random_name()));
        // An existing directory belongs to another process, and is never reused.
        if !dir.exists() {
            return make_private(&dir, account).map(|()| dir);
        }
    }
}

/// Creates a directory that only the account of the server (and root) can enter.
fn make_private(dir: &Path, account: &Account) -> Result<(), ClusterError> {
    DirBuilder::new().mode(DIR_MODE).create(dir).map_err(at("create", dir))?;
    account.own(dir)
}

fn random_name() -> String {
    (0..TEMPORARY_NAME_CHARS).map(|_| fastrand::alphanumeric().to_ascii_lowercase()).collect()
}

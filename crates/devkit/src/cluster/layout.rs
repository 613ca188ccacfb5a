//! The directory of a cluster: who may use it, what lies where, and what a crash left in it.
//!
//! ```text
//! <root>/lock         held while a process uses it; names that process
//! <root>/data/        PostgreSQL's own
//! <root>/server.log   of this start; server.log.1 of the one before
//! <root>/socket/      mode 0700, unless its path were too long: then a directory below /tmp
//! ```
//!
//! It must not remove data that a finished `initdb` made, except a temporary cluster's own.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::account::Account;
use super::error::{ClusterError, at};

/// Where temporary directories are made: fixed, because socket paths must be short and macOS's own
/// temporary directory is not.
const TEMPORARY_PARENT: &str = "/tmp";
const TEMPORARY_NAME_CHARS: usize = 10;
const DIR_MODE: u32 = 0o700;
/// A socket's path has at most 107 bytes on Linux, 103 on macOS.
const SOCKET_PATH_BYTES_MAX: usize = 103;
pub(super) const SOCKET_FILE: &str = ".s.PGSQL.5432";
/// What is shown of a log in an error.
const LOG_TAIL_BYTES: u64 = 4096;
/// For a server that outlived its process: its guard is already shutting it down, or is gone too.
const LEFT_OVER_DEADLINE: Duration = Duration::from_secs(45);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The places of one cluster. Holds the lock for as long as it lives.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) root: PathBuf,
    pub(super) socket_dir: PathBuf,
    pub(super) account: Account,
    /// What goes with the guard: the root of a temporary cluster, or a socket's directory in /tmp.
    pub(super) scrap: Option<PathBuf>,
    _lock: Option<File>,
}

impl Layout {
    /// A new directory in /tmp.
    pub(super) async fn temporary(bin: &Path) -> Result<Self, ClusterError> {
        let account = Account::choose(Path::new("")).await?;
        account.check_reach(&[bin, Path::new(TEMPORARY_PARENT)]).await?;
        let root = make_temporary(&account)?;
        let socket_dir = root.join("socket");
        make_private(&socket_dir, &account)?;
        Ok(Self { scrap: Some(root.clone()), root, socket_dir, account, _lock: None })
    }

    /// A directory that stays, made where it is missing, locked for this process.
    pub(super) async fn persistent(dir: &Path, bin: &Path) -> Result<Self, ClusterError> {
        fs::create_dir_all(dir).map_err(at("create the data directory", dir))?;
        let root = fs::canonicalize(dir).map_err(at("resolve", dir))?;
        let lock = lock(&root)?;
        let account = Account::choose(&root.join("data")).await?;
        account.check_reach(&[bin, &root]).await?;
        let mut socket_dir = root.join("socket");
        let mut scrap = None;
        let path = socket_dir.join(SOCKET_FILE);
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX || path.to_str().is_none() {
            socket_dir = make_temporary(&account)?;
            scrap = Some(socket_dir.clone());
        } else if socket_dir.is_dir() {
            fs::set_permissions(&socket_dir, fs::Permissions::from_mode(DIR_MODE))
                .map_err(at("make private", &socket_dir))?;
            account.own(&socket_dir)?;
        } else {
            make_private(&socket_dir, &account)?;
        }
        Ok(Self { root, socket_dir, account, scrap, _lock: Some(lock) })
    }

    /// Removes what was made to be thrown away.
    pub(super) fn discard(&self) {
        if let Some(scrap) = &self.scrap {
            // Its guard, where there is one already, may be doing the same.
            let _ = fs::remove_dir_all(scrap);
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// Begins a new log and sets the last one aside.
    pub(super) fn begin_log(&self) -> Result<(), ClusterError> {
        let log = self.log();
        if log.exists() {
            let old = self.root.join("server.log.1");
            fs::rename(&log, &old).map_err(at("set aside", &log))?;
        }
        File::create(&log).map_err(at("create", &log))?;
        self.account.own(&log)
    }

    /// The bytes in the log: what is before them belongs to an earlier start.
    pub(super) fn log_mark(&self) -> u64 {
        fs::metadata(self.log()).map_or(0, |meta| meta.len())
    }

    /// The end of what was logged since `mark`.
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

    /// The major version that made the data; `None` where there is none yet.
    pub(super) fn data_version(&self) -> Result<Option<String>, ClusterError> {
        let path = self.data().join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(at("read", &path)(e)),
        }
    }

    /// An empty directory in which `initdb` can work. It becomes `data` only when that succeeded, so
    /// that data is either whole or not there.
    pub(super) fn make_init_dir(&self) -> Result<PathBuf, ClusterError> {
        for entry in fs::read_dir(&self.root).map_err(at("read", &self.root))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("initdb-") {
                // Of a start that was cut short. Its guard may be removing it at this moment, so
                // that what fails here is no error.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let dir = self.root.join(format!("initdb-{}", random_name()));
        make_private(&dir, &self.account)?;
        Ok(dir)
    }

    /// Ends a server that still runs on the data, and removes what would keep a new one from
    /// starting. The lock must be held: then no live process of ours wants that server.
    pub(super) async fn clear_left_overs(&self) -> Result<(), ClusterError> {
        let data = self.data();
        let pid_file = data.join("postmaster.pid");
        let started = Instant::now();
        let mut told = false;
        while let Some((pid, socket)) = read_pid_file(&pid_file) {
            if !serves(pid, &socket, &data) {
                if test_kill_process(pid).is_ok() {
                    // The id is another process's by now (containers hand them out again soon).
                    // PostgreSQL would take that one for a server and refuse to start.
                    fs::remove_file(&pid_file).map_err(at("remove", &pid_file))?;
                }
                break;
            }
            if !told {
                told = true;
                let _ = kill_process(pid, Signal::INT);
            } else if started.elapsed() > LEFT_OVER_DEADLINE {
                let pid = pid.as_raw_nonzero().get();
                return Err(ClusterError::Stuck { dir: data, pid });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        self.clear_socket();
        Ok(())
    }

    /// Removes the socket of a server that is gone, whose lock file names a process id that may be
    /// another's by now. What cannot be removed is PostgreSQL's to complain of.
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

/// Process id and socket of the server that postmaster.pid tells of; `None` where there is none.
fn read_pid_file(path: &Path) -> Option<(Pid, PathBuf)> {
    let text = fs::read_to_string(path).ok()?;
    let lines: Vec<&str> = text.lines().collect();
    let pid = Pid::from_raw(lines.first()?.trim().parse().ok()?)?;
    let port = lines.get(3).copied().unwrap_or_default();
    let dir = lines.get(4).copied().unwrap_or_default();
    Some((pid, Path::new(dir).join(format!(".s.PGSQL.{port}"))))
}

/// Whether the process is this data directory's server. Its id alone proves nothing.
fn serves(pid: Pid, socket: &Path, data: &Path) -> bool {
    let working_dir = format!("/proc/{}/cwd", pid.as_raw_nonzero());
    UnixStream::connect(socket).is_ok() || fs::read_link(working_dir).is_ok_and(|dir| dir == data)
}

fn make_temporary(account: &Account) -> Result<PathBuf, ClusterError> {
    loop {
        let dir = Path::new(TEMPORARY_PARENT).join(format!("warden-{}", random_name()));
        // One that is there already is somebody else's: it is never taken over.
        if !dir.exists() {
            return make_private(&dir, account).map(|()| dir);
        }
    }
}

/// Makes a directory that only the server's user (and root) can enter.
fn make_private(dir: &Path, account: &Account) -> Result<(), ClusterError> {
    DirBuilder::new().mode(DIR_MODE).create(dir).map_err(at("create", dir))?;
    account.own(dir)
}

fn random_name() -> String {
    (0..TEMPORARY_NAME_CHARS).map(|_| fastrand::alphanumeric().to_ascii_lowercase()).collect()
}

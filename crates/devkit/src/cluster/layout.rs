//! The directory of a cluster: its lock, its files, and leftovers of a crash.
//!
//! ```text
//! <root>/lock         locked while a process uses the cluster; contains its process id
//! <root>/data/        the data directory of PostgreSQL
//! <root>/server.log   log of this start; server.log.1 is that of the previous start
//! <root>/socket/      Unix socket; in /tmp instead if its path would be too long
//! ```
//!
//! Only the user of this process may enter the root, and the account of the server if that is another one.
//! Only the account may enter the other directories or read the log.
//!
//! It must never remove data that a successful `initdb` created, except that of a temporary cluster.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::account::Account;
use super::error::{ClusterError, at};
use super::leftover::Holder;
use super::private_dir::{PrivateDir, own_uid};

/// Parent of temporary directories. It is fixed, because a socket's path must be short, and the temporary
/// directory of macOS has a long one.
const TEMPORARY_PARENT: &str = "/tmp";
const TEMPORARY_NAME_CHARS: usize = 10;
const DIR_MODE: u32 = 0o700;
/// Mode of the root if the server has another account, whose group may pass through it.
const PASSAGE_MODE: u32 = 0o710;
const FILE_MODE: u32 = 0o600;
const LOCK: &str = "lock";
const DATA: &str = "data";
const LOG: &str = "server.log";
const FORMER_LOG: &str = "server.log.1";
const PID_FILE: &str = "postmaster.pid";
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
    pub(super) root: PrivateDir,
    pub(super) socket_dir: PrivateDir,
    pub(super) account: Account,
    /// Directory that the guard removes at the end: the root of a temporary cluster, or a socket's directory
    /// in /tmp.
    pub(super) disposable: Option<PathBuf>,
    _lock: Option<File>,
}

impl Layout {
    /// Creates a directory in /tmp.
    pub(super) async fn temporary(bin: &Path) -> Result<Self, ClusterError> {
        let account = Account::choose(None).await?;
        account.check_reach(&[bin, Path::new(TEMPORARY_PARENT)]).await?;
        let root = make_temporary(&account)?;
        let socket_dir = make_private(&root, "socket", &account)?;
        Ok(Self { disposable: Some(root.path().to_path_buf()), root, socket_dir, account, _lock: None })
    }

    /// Creates or reuses a directory that is kept, and locks it for this process.
    pub(super) async fn persistent(dir: &Path, bin: &Path) -> Result<Self, ClusterError> {
        let root = PrivateDir::open_or_create(dir, LOCK)?;
        let lock = lock(&root)?;
        let account = Account::choose(root.owner_of(DATA)?).await?;
        match account.owner() {
            (Some(_), gid) => root.set_access(None, gid, PASSAGE_MODE)?,
            (None, _) => root.set_access(None, None, DIR_MODE)?,
        }
        account.check_reach(&[bin, root.path()]).await?;
        let path = root.path().join("socket").join(SOCKET_FILE);
        let mut disposable = None;
        let socket_dir = if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX || path.to_str().is_none() {
            let dir = make_temporary(&account)?;
            disposable = Some(dir.path().to_path_buf());
            dir
        } else if let Some(dir) = root.subdir("socket", account.uid())? {
            let (uid, gid) = account.owner();
            dir.set_access(uid, gid, DIR_MODE)?;
            dir
        } else {
            make_private(&root, "socket", &account)?
        };
        Ok(Self { root, socket_dir, account, disposable, _lock: Some(lock) })
    }

    /// Removes the disposable directory, if there is one.
    pub(super) fn discard(&self) {
        if let Some(dir) = &self.disposable {
            // A guard may be removing it at the same time.
            let _ = fs::remove_dir_all(dir);
        }
    }

    /// Path of the data, for programs.
    pub(super) fn data(&self) -> PathBuf {
        self.root.path().join(DATA)
    }

    /// Path of the log, for programs.
    pub(super) fn log(&self) -> PathBuf {
        self.root.path().join(LOG)
    }

    /// Begins a new log, and keeps the last one as server.log.1.
    pub(super) fn begin_log(&self) -> Result<(), ClusterError> {
        if let Some(former) = self.root.open_file(LOG, self.account.uid())? {
            former
                .set_permissions(Permissions::from_mode(FILE_MODE))
                .map_err(at("make private", &self.log()))?;
            self.root.rename(LOG, FORMER_LOG)?;
        }
        self.account.own(&self.root.create_file(LOG)?, &self.log())
    }

    /// Present length of the log, by which a start tells its own lines from earlier ones.
    pub(super) fn log_mark(&self) -> u64 {
        let log = self.root.open_file(LOG, self.account.uid());
        log.ok().flatten().and_then(|log| log.metadata().ok()).map_or(0, |meta| meta.len())
    }

    /// End of the log after `mark`.
    pub(super) fn log_tail(&self, mark: u64) -> String {
        let read = |mut file: File| -> io::Result<String> {
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(mark.max(end.saturating_sub(LOG_TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
        };
        match self.root.open_file(LOG, self.account.uid()).map(|log| log.map(read)) {
            Ok(Some(Ok(text))) if !text.is_empty() => text,
            Ok(None | Some(Ok(_))) => "(nothing)".to_owned(),
            Ok(Some(Err(e))) => format!("(cannot be read: {e})"),
            Err(e) => format!("({e})"),
        }
    }

    /// Major version that created the data; `None` if there is no data.
    pub(super) fn data_version(&self) -> Result<Option<String>, ClusterError> {
        let Some(data) = self.data_dir()? else { return Ok(None) };
        let version = data.read("PG_VERSION", self.account.uid())?;
        Ok(version.map(|text| text.trim_end().to_owned()))
    }

    /// Creates an empty directory for `initdb`, and returns its name. It is renamed to `data` only after
    /// `initdb` succeeded, so that the data is either complete or absent.
    pub(super) fn make_init_dir(&self) -> Result<String, ClusterError> {
        let root = self.root.path();
        for entry in fs::read_dir(root).map_err(at("read", root))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("initdb-") {
                // Left by an interrupted start. Its guard may be removing it at this moment, so a failure
                // here is no error.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let name = format!("initdb-{}", random_name());
        make_private(&self.root, &name, &self.account)?;
        Ok(name)
    }

    /// Makes the directory of a successful `initdb` the data directory.
    pub(super) fn keep_data(&self, init_dir: &str) -> Result<(), ClusterError> {
        self.root.rename(init_dir, DATA)
    }

    /// Reads a private file of the root, or creates it with the text that `create` returns.
    pub(super) fn private_text(
        &self,
        name: &str,
        create: impl FnOnce() -> String,
    ) -> Result<String, ClusterError> {
        if let Some(text) = self.root.read_secret(name)? {
            return Ok(text);
        }
        let text = create();
        let mut file = self.root.create_file(name)?;
        file.write_all(text.as_bytes()).map_err(at("write", &self.root.path().join(name)))?;
        Ok(text)
    }

    /// Ends a server that still runs on the data, and removes files that would prevent a new one from
    /// starting. The caller must hold the lock: then no live process needs that server.
    pub(super) async fn clear_leftovers(&self) -> Result<(), ClusterError> {
        let Some(data) = self.data_dir()? else { return Ok(()) };
        let started = Instant::now();
        let mut is_signalled = false;
        while let Some(pid) = self.server_id(&data)? {
            match Holder::of(pid, data.path(), &self.account).await? {
                Holder::Nobody => break,
                Holder::Stranger => {
                    // In containers, ids are reused soon. PostgreSQL would take the process for a server, and
                    // would not start.
                    data.remove_file(PID_FILE)?;
                    break;
                }
                Holder::Server(server) if !is_signalled => {
                    is_signalled = true;
                    server.interrupt();
                }
                Holder::Server(server) if started.elapsed() > LEFTOVER_DEADLINE => {
                    return Err(ClusterError::Stuck { dir: self.data(), pid: server.id() });
                }
                Holder::Server(_) => {}
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
            let _ = self.socket_dir.remove_file(&name);
        }
    }

    fn data_dir(&self) -> Result<Option<PrivateDir>, ClusterError> {
        self.root.subdir(DATA, self.account.uid())
    }

    /// Process id in postmaster.pid; `None` if there is no such file, or no id in it.
    fn server_id(&self, data: &PrivateDir) -> Result<Option<Pid>, ClusterError> {
        let text = data.read(PID_FILE, self.account.uid())?;
        let id = text.as_deref().and_then(|text| text.lines().next()?.trim().parse().ok());
        Ok(id.and_then(Pid::from_raw))
    }
}

fn lock(root: &PrivateDir) -> Result<File, ClusterError> {
    let path = root.path().join(LOCK);
    let mut file = match root.open_file(LOCK, own_uid())? {
        Some(file) => file,
        None => root.create_file(LOCK)?,
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let by = root.read(LOCK, own_uid())?.unwrap_or_default();
            return Err(ClusterError::InUse {
                dir: root.path().to_path_buf(),
                by: Some(by.trim()).filter(|by| !by.is_empty()).unwrap_or("unknown").to_owned(),
            });
        }
        Err(TryLockError::Error(e)) => return Err(at("lock", &path)(e)),
    }
    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(at("write", &path))?;
    Ok(file)
}

fn make_temporary(account: &Account) -> Result<PrivateDir, ClusterError> {
    loop {
        let path = Path::new(TEMPORARY_PARENT).join(format!("warden-{}", random_name()));
        match PrivateDir::create(path.clone()) {
            Ok(dir) => return give(dir, account),
            // An existing directory belongs to another process, and is never reused.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(at("create", &path)(e)),
        }
    }
}

/// Creates a directory that only the account of the server (and root) can enter.
fn make_private(parent: &PrivateDir, name: &str, account: &Account) -> Result<PrivateDir, ClusterError> {
    give(parent.create_subdir(name)?, account)
}

fn give(dir: PrivateDir, account: &Account) -> Result<PrivateDir, ClusterError> {
    let (uid, gid) = account.owner();
    dir.set_access(uid, gid, DIR_MODE)?;
    Ok(dir)
}

fn random_name() -> String {
    (0..TEMPORARY_NAME_CHARS).map(|_| fastrand::alphanumeric().to_ascii_lowercase()).collect()
}

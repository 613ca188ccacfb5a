//! A directory in which nobody else can place or replace entries.
//!
//! Warden may run as root in a directory that an ordinary user prepared. So every access goes through the
//! handle of a directory, follows no symbolic link, and checks the owner of what it opened. An entry that
//! another user could have placed is an error: this module never changes, removes or reads it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::error::{ClusterError, at};

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Permissions with which others may add or replace the entries of a directory.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const ACCESSIBLE_TO_OTHERS: u32 = 0o077;
/// Only the owner of an entry may replace it, as in /tmp.
const STICKY: u32 = 0o1000;
/// Longest file that is read as a whole. The files of a cluster have a few lines.
const FILE_BYTES_MAX: u64 = 8192;

/// An open directory. Its path serves for messages, and for programs that need one.
#[derive(Debug)]
pub(super) struct PrivateDir {
    path: PathBuf,
    handle: File,
}

impl PrivateDir {
    /// Opens the directory of a cluster, or creates it. `marker` is a file that every such directory
    /// contains: a directory with other contents is not taken over.
    pub(super) fn open_or_create(path: &Path, marker: &str) -> Result<Self, ClusterError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(untrusted(path, "it has no name"));
        };
        fs::create_dir_all(parent).map_err(at("create", parent))?;
        let parent = fs::canonicalize(parent).map_err(at("resolve", parent))?;
        let path = parent.join(name);
        if rustix::process::geteuid().is_root() {
            check_ancestors(&path)?;
        }
        match DirBuilder::new().mode(DIR_MODE).create(&path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(at("create", &path)(e)),
            _ => {}
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|e| cannot_open(&path, e, "a directory"))?
            .into();
        let dir = Self { path, handle };
        dir.check_owner(own_uid())?;
        let is_empty = fs::read_dir(&dir.path).map_err(at("read", &dir.path))?.next().is_none();
        if !is_empty && dir.stat(marker)?.is_none() {
            let problem = format!("it contains other files, and no file `{marker}` of an earlier start");
            return Err(untrusted(&dir.path, problem));
        }
        Ok(dir)
    }

    /// Creates a directory. It must not exist.
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        DirBuilder::new().mode(DIR_MODE).create(&path)?;
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(&path, flags, Mode::empty())?.into();
        Ok(Self { path, handle })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory of this one, which must belong to `owner`; `None` if there is none.
    pub(super) fn subdir(&self, name: &str, owner: u32) -> Result<Option<Self>, ClusterError> {
        let path = self.path.join(name);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(handle) => {
                let dir = Self { path, handle: handle.into() };
                dir.check_owner(owner)?;
                Ok(Some(dir))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(cannot_open(&path, e, "a directory")),
        }
    }

    /// Creates a directory in this one.
    pub(super) fn create_subdir(&self, name: &str) -> Result<Self, ClusterError> {
        let path = self.path.join(name);
        rustix::fs::mkdirat(&self.handle, name, Mode::from_raw_mode(DIR_MODE))
            .map_err(|e| at("create", &path)(e.into()))?;
        self.subdir(name, own_uid())?.ok_or_else(|| at("open", &path)(io::ErrorKind::NotFound.into()))
    }

    /// Sets the owner and the mode of the directory itself. `None` leaves the owner or group as it is.
    pub(super) fn set_access(
        &self,
        uid: Option<u32>,
        gid: Option<u32>,
        mode: u32,
    ) -> Result<(), ClusterError> {
        fchown(&self.handle, uid, gid).map_err(at("change the owner of", &self.path))?;
        // After the change of the owner, which can reset bits of the mode.
        self.handle.set_permissions(Permissions::from_mode(mode)).map_err(at("make private", &self.path))
    }

    /// Creates a file that only its owner may read. It must not exist.
    pub(super) fn create_file(&self, name: &str) -> Result<File, ClusterError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.handle, name, flags, Mode::from_raw_mode(FILE_MODE))
            .map(Into::into)
            .map_err(|e| at("create", &self.path.join(name))(e.into()))
    }

    /// Opens a regular file for reading and writing, which must belong to `owner`; `None` if there is none.
    pub(super) fn open_file(&self, name: &str, owner: u32) -> Result<Option<File>, ClusterError> {
        let path = self.path.join(name);
        // Without NONBLOCK, opening a named pipe would wait for its other end.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = match rustix::fs::openat(&self.handle, name, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(cannot_open(&path, e, "a regular file")),
        };
        let meta = file.metadata().map_err(at("read", &path))?;
        if !meta.is_file() {
            return Err(untrusted(&path, "it is not a regular file"));
        }
        if meta.uid() != owner {
            return Err(foreign(&path, meta.uid(), owner));
        }
        if meta.nlink() > 1 {
            return Err(untrusted(&path, "the same file has another name (a hard link) elsewhere"));
        }
        Ok(Some(file))
    }

    /// Reads a short file that belongs to `owner`; `None` if there is none.
    pub(super) fn read(&self, name: &str, owner: u32) -> Result<Option<String>, ClusterError> {
        let Some(file) = self.open_file(name, owner)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(at("read", &self.path.join(name)))?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Reads a short file that belongs to this user and that nobody else may read; `None` if there is none.
    pub(super) fn read_secret(&self, name: &str) -> Result<Option<String>, ClusterError> {
        let path = self.path.join(name);
        if let Some(file) = self.open_file(name, own_uid())?
            && file.metadata().map_err(at("read", &path))?.mode() & ACCESSIBLE_TO_OTHERS != 0
        {
            return Err(untrusted(&path, "other users could read it, and it is a secret"));
        }
        self.read(name, own_uid())
    }

    /// Renames an entry. It replaces a file of the new name.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), ClusterError> {
        rustix::fs::renameat(&self.handle, from, &self.handle, to)
            .map_err(|e| at("rename", &self.path.join(from))(e.into()))
    }

    /// Removes a file, or a link, not what the link names.
    pub(super) fn remove_file(&self, name: &str) -> Result<(), ClusterError> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(at("remove", &self.path.join(name))(e.into())),
        }
    }

    /// Owner of an entry, a link not followed; `None` if there is none.
    pub(super) fn owner_of(&self, name: &str) -> Result<Option<(u32, u32)>, ClusterError> {
        Ok(self.stat(name)?.map(|stat| (stat.st_uid, stat.st_gid)))
    }

    fn stat(&self, name: &str) -> Result<Option<rustix::fs::Stat>, ClusterError> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(at("read", &self.path.join(name))(e.into())),
        }
    }

    fn check_owner(&self, owner: u32) -> Result<(), ClusterError> {
        let meta = self.handle.metadata().map_err(at("read", &self.path))?;
        if meta.uid() != owner {
            return Err(foreign(&self.path, meta.uid(), owner));
        }
        if meta.mode() & WRITABLE_BY_OTHERS != 0 {
            return Err(untrusted(&self.path, "other users may write to it"));
        }
        Ok(())
    }
}

/// Checks that no other user can replace the directory while it is in use. PostgreSQL gets its path, not a
/// handle. Like sshd, which checks every directory above a file of keys.
fn check_ancestors(path: &Path) -> Result<(), ClusterError> {
    for dir in path.ancestors().skip(1) {
        let meta = fs::metadata(dir).map_err(at("read", dir))?;
        if meta.uid() != 0 {
            let problem =
                format!("it belongs to user number {}, who could replace what is in it", meta.uid());
            return Err(untrusted(dir, problem));
        }
        let is_written_by_root_only = meta.mode() & WRITABLE_BY_OTHERS == 0
            || meta.mode() & WRITABLE_BY_OTHERS == 0o020 && meta.gid() == 0;
        if !is_written_by_root_only && meta.mode() & STICKY == 0 {
            return Err(untrusted(dir, "other users could replace what is in it"));
        }
    }
    Ok(())
}

/// Id of the user of this process.
pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn cannot_open(path: &Path, error: Errno, expected: &str) -> ClusterError {
    match error {
        // The last one is what BSD systems report for a link.
        Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO | Errno::MLINK => {
            let is_link = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
            let kind = if is_link { "a symbolic link" } else { "something else" };
            untrusted(path, format!("it is {kind}, not {expected}"))
        }
        error => at("open", path)(error.into()),
    }
}

fn foreign(path: &Path, uid: u32, expected: u32) -> ClusterError {
    untrusted(path, format!("it belongs to user number {uid}, not to user number {expected}"))
}

fn untrusted(path: &Path, problem: impl Into<String>) -> ClusterError {
    ClusterError::Untrusted { path: path.to_path_buf(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A cluster's directory in a temporary one, which is removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("warden-private-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn problem(&self, name: &str) -> String {
            PrivateDir::open_or_create(&self.0.join(name), "lock").unwrap_err().to_string()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn directories_that_were_prepared_by_others_are_not_taken_over() {
        let scratch = Scratch::new("foreign");
        fs::create_dir(scratch.0.join("target")).unwrap();
        symlink(scratch.0.join("target"), scratch.0.join("link")).unwrap();
        assert!(scratch.problem("link").contains("symbolic link"), "{}", scratch.problem("link"));
        fs::write(scratch.0.join("file"), "").unwrap();
        assert!(scratch.problem("file").contains("not a directory"), "{}", scratch.problem("file"));
        fs::create_dir(scratch.0.join("full")).unwrap();
        fs::write(scratch.0.join("full/precious"), "").unwrap();
        assert!(scratch.problem("full").contains("other files"), "{}", scratch.problem("full"));
        fs::create_dir(scratch.0.join("open")).unwrap();
        fs::set_permissions(scratch.0.join("open"), Permissions::from_mode(0o777)).unwrap();
        assert!(scratch.problem("open").contains("other users may write"), "{}", scratch.problem("open"));
    }

    #[test]
    fn links_pipes_and_second_names_are_not_opened() {
        let scratch = Scratch::new("files");
        let dir = PrivateDir::open_or_create(&scratch.0.join("dir"), "lock").unwrap();
        let outside = scratch.0.join("outside");
        fs::write(&outside, "secret").unwrap();
        symlink(&outside, dir.path().join("link")).unwrap();
        symlink(scratch.0.join("missing"), dir.path().join("dangling")).unwrap();
        fs::hard_link(&outside, dir.path().join("second")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap();
        assert!(made.success());
        for name in ["link", "dangling", "second", "pipe", "."] {
            let error = dir.read(name, own_uid()).unwrap_err();
            assert!(matches!(error, ClusterError::Untrusted { .. }), "{name}: {error}");
            assert!(dir.create_file(name).is_err(), "{name}");
        }
        assert!(!scratch.0.join("missing").exists());
        dir.remove_file("link").unwrap();
        assert_eq!(fs::read_to_string(&outside).unwrap(), "secret");
        assert!(dir.subdir("pipe", own_uid()).is_err());
        assert!(dir.read("absent", own_uid()).unwrap().is_none());
        dir.create_file("secret").unwrap();
        assert_eq!(dir.read_secret("secret").unwrap().as_deref(), Some(""));
        fs::set_permissions(dir.path().join("secret"), Permissions::from_mode(0o640)).unwrap();
        assert!(dir.read_secret("secret").is_err());
    }
}

//! `warden dev` in a directory that another user prepared: it follows no link, changes nothing of others, and
//! signals no process but its own server. Some cases need a second user, so they only run as root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, getegid, geteuid};
use warden_devkit::cluster::{Binaries, Cluster, ClusterError, ClusterOptions, DataDir};

use super::{Dev, command};
use crate::harness::{cluster_options, eventually, within};

/// A user without rights on this machine.
const NOBODY: u32 = 65_534;

/// A directory of the test, which is removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("warden-planted-{}-{n}", std::process::id()));
        fs::create_dir(&path).expect("creates");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("changes the mode");
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Owner and permissions of everything in a directory, and the contents of its files.
fn state(dir: &Path) -> Vec<(PathBuf, u32, u32, Option<String>)> {
    let mut entries: Vec<_> =
        fs::read_dir(dir).expect("reads").map(|entry| entry.expect("reads").path()).collect();
    entries.push(dir.to_path_buf());
    entries.sort();
    entries
        .into_iter()
        .map(|path| {
            let meta = fs::symlink_metadata(&path).expect("reads");
            let text = meta.is_file().then(|| fs::read_to_string(&path).expect("reads"));
            (path, meta.uid(), meta.mode(), text)
        })
        .collect()
}

fn persistent(dir: &Path) -> ClusterOptions {
    ClusterOptions { data_dir: DataDir::Persistent(dir.to_path_buf()), ..cluster_options() }
}

/// Starts a cluster that must refuse the directory, and returns the error.
async fn refused(dir: &Path) -> String {
    let error = Cluster::start(persistent(dir)).await.expect_err("the directory is not trusted");
    assert!(matches!(error, ClusterError::Untrusted { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
async fn links_and_other_files_are_not_followed_and_keep_owner_mode_and_contents() {
    let scratch = Scratch::new();
    let outside = scratch.join("outside");
    fs::create_dir(&outside).expect("creates");
    fs::write(outside.join("file"), "1").expect("writes");
    fs::set_permissions(outside.join("file"), Permissions::from_mode(0o644)).expect("changes the mode");
    let before = state(&outside);

    symlink(&outside, scratch.join("whole")).expect("links");
    let error = refused(&scratch.join("whole")).await;
    assert!(error.contains("whole: it is a symbolic link"), "{error}");

    for (name, target) in
        [("data", "."), ("socket", "."), ("lock", "file"), ("server.log", "file"), ("lock", "absent")]
    {
        let dir = scratch.join("dir");
        fs::create_dir(&dir).expect("creates");
        if name != "lock" {
            fs::write(dir.join("lock"), "").expect("writes");
        }
        symlink(outside.join(target), dir.join(name)).expect("links");
        let error = refused(&dir).await;
        assert!(error.contains(&format!("{name}: it is a symbolic link")), "{error}");
        fs::remove_dir_all(&dir).expect("removes");
    }
    // A second name of a file, and a directory that serves another purpose.
    let dir = scratch.join("dir");
    fs::create_dir(&dir).expect("creates");
    fs::hard_link(outside.join("file"), dir.join("lock")).expect("links");
    assert!(refused(&dir).await.contains("hard link"));
    assert!(refused(&outside).await.contains("other files"));
    fs::remove_dir_all(&dir).expect("removes");
    assert_eq!(state(&outside), before);
}

/// The secret of the tokens is read after the start of PostgreSQL.
#[tokio::test]
async fn a_secret_that_others_placed_or_may_read_is_not_used() {
    let scratch = Scratch::new();
    let (dir, outside) = (scratch.join("dir"), scratch.join("known_secret"));
    fs::write(&outside, "a secret that the attacker knows, of sufficient length").expect("writes");
    let cluster = Cluster::start(persistent(&dir)).await.expect("starts");
    symlink(&outside, dir.join("linked")).expect("links");
    let error = cluster.private_text("linked", String::new).expect_err("a link").to_string();
    assert!(error.contains("symbolic link"), "{error}");
    assert_eq!(cluster.private_text("own", || "kept".into()).expect("creates"), "kept");
    assert_eq!(cluster.private_text("own", String::new).expect("reads"), "kept");
    fs::set_permissions(dir.join("own"), Permissions::from_mode(0o644)).expect("changes the mode");
    let error = cluster.private_text("own", String::new).expect_err("readable").to_string();
    assert!(error.contains("other users could read it"), "{error}");
    cluster.close().await.expect("ends");
}

/// A process that the test must not lose.
struct Bystander(Child);

impl Bystander {
    fn new((uid, gid): (u32, u32), dir: &Path) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600").current_dir(dir);
        if geteuid().is_root() {
            command.uid(uid).gid(gid);
        }
        Self(command.spawn().expect("starts"))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_forged_postmaster_pid_gets_no_other_process_signalled() {
    let scratch = Scratch::new();
    let dir = scratch.join("dir");
    Cluster::start(persistent(&dir)).await.expect("starts").close().await.expect("ends");
    let data = dir.join("data");
    let meta = fs::metadata(&data).expect("reads");
    let (owner, this) = ((meta.uid(), meta.gid()), (geteuid().as_raw(), getegid().as_raw()));
    // A live socket, as a server would have it; processes inside and outside of the data directory.
    let listener = UnixListener::bind(scratch.join(".s.PGSQL.5432")).expect("binds");
    for (user, working_dir) in [(owner, data.as_path()), (owner, Path::new("/")), (this, Path::new("/"))] {
        let mut bystander = Bystander::new(user, working_dir);
        let pid = bystander.pid().as_raw_nonzero();
        let lines = format!("{pid}\n{}\n1700000000\n5432\n{}\n\n", data.display(), scratch.0.display());
        fs::write(data.join("postmaster.pid"), lines).expect("writes");
        chown(data.join("postmaster.pid"), Some(owner.0), None).expect("changes the owner");
        Cluster::start(persistent(&dir)).await.expect("starts").close().await.expect("ends");
        assert_eq!(bystander.0.try_wait().expect("waits"), None, "a process of user {user:?} was signalled");
    }
    drop(listener);
    // A file that names no process of anybody, and one that is a link.
    symlink("/etc/hostname", data.join("postmaster.pid")).expect("links");
    assert!(refused(&dir).await.contains("postmaster.pid: it is a symbolic link"));
}

#[tokio::test]
async fn a_server_that_outlived_its_owner_is_ended() {
    let scratch = Scratch::new();
    let dir = scratch.join("dir");
    Cluster::start(persistent(&dir)).await.expect("starts").close().await.expect("ends");
    let data = dir.join("data");
    let meta = fs::metadata(&data).expect("reads");
    let mut command = Command::new(binaries().dir().join("postgres"));
    let socket_dir = format!("unix_socket_directories={}", dir.join("socket").display());
    command.arg("-D").arg(&data).args(["-c", "listen_addresses=", "-c", &socket_dir]);
    if geteuid().is_root() {
        command.uid(meta.uid()).gid(meta.gid());
    }
    let mut server = command.current_dir("/").stderr(std::process::Stdio::null()).spawn().expect("starts");
    eventually("the server has its postmaster.pid", async || {
        fs::read_to_string(data.join("postmaster.pid")).is_ok_and(|text| text.contains("ready"))
    })
    .await;
    let (cluster, status) = tokio::join!(
        Cluster::start(persistent(&dir)),
        tokio::task::spawn_blocking(move || server.wait().expect("waits"))
    );
    assert!(status.expect("waits").success(), "the server was shut down properly");
    cluster.expect("starts").close().await.expect("ends");
}

fn binaries() -> Binaries {
    cluster_options().binaries
}

#[tokio::test]
async fn root_uses_no_directory_of_another_user() {
    if !geteuid().is_root() {
        eprintln!("skipped: this test needs root");
        return;
    }
    let scratch = Scratch::new();
    let dir = scratch.join("dir");
    fs::create_dir(&dir).expect("creates");
    fs::write(dir.join("lock"), "").expect("writes");
    chown(&dir, Some(NOBODY), None).expect("changes the owner");
    assert!(refused(&dir).await.contains("dir: it belongs to user number 65534"));
    chown(&dir, Some(0), None).expect("changes the owner");
    fs::set_permissions(&dir, Permissions::from_mode(0o777)).expect("changes the mode");
    assert!(refused(&dir).await.contains("other users may write to it"));
    fs::set_permissions(&dir, Permissions::from_mode(0o755)).expect("changes the mode");
    chown(dir.join("lock"), Some(NOBODY), None).expect("changes the owner");
    assert!(refused(&dir).await.contains("lock: it belongs to user number 65534"));
    fs::remove_dir_all(&dir).expect("removes");

    // The directory does not exist yet, but its parent can be replaced.
    chown(&scratch.0, Some(NOBODY), None).expect("changes the owner");
    let error = refused(&dir).await;
    assert!(error.contains("it belongs to user number 65534, who could replace what is in it"), "{error}");
    chown(&scratch.0, Some(0), None).expect("changes the owner");
    fs::set_permissions(&scratch.0, Permissions::from_mode(0o777)).expect("changes the mode");
    assert!(refused(&dir).await.contains("other users could replace what is in it"));
    assert!(!dir.exists());
}

#[tokio::test]
async fn another_user_has_a_private_instance_too() {
    if !geteuid().is_root() {
        eprintln!("skipped: this test needs root");
        return;
    }
    let scratch = Scratch::new();
    chown(&scratch.0, Some(NOBODY), Some(NOBODY)).expect("changes the owner");
    let dir = scratch.join("dir");
    let mut dev = command(&["--rate", "0", "--data-dir", dir.to_str().expect("UTF-8")]);
    dev.uid(NOBODY).gid(NOBODY).current_dir("/");
    let dev = Dev::spawn(dev).await;
    assert_private(&dir, NOBODY, NOBODY);
    dev.interrupt().await;

    // A directory that root prepared for this user is not trusted either.
    let foreign = scratch.join("foreign");
    fs::create_dir(&foreign).expect("creates");
    let mut dev = command(&["--data-dir", foreign.to_str().expect("UTF-8")]);
    dev.uid(NOBODY).gid(NOBODY).current_dir("/");
    let ended = tokio::task::spawn_blocking(move || dev.output());
    let output = within("the command ends", ended).await.expect("waits").expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("it belongs to user number 0, not to user number 65534"), "{errors}");
}

/// Asserts who owns the files of an instance, and that nobody else may read them.
pub(super) fn assert_private(dir: &Path, user: u32, account: u32) {
    let root_mode = if user == account { 0o700 } else { 0o710 };
    for (name, owner, mode) in [
        ("", user, root_mode),
        ("lock", user, 0o600),
        ("jwt_secret", user, 0o600),
        ("server.log", account, 0o600),
        ("socket", account, 0o700),
        ("data", account, 0o700),
    ] {
        let meta = fs::symlink_metadata(dir.join(name)).expect("reads");
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (owner, mode), "{name}");
    }
}

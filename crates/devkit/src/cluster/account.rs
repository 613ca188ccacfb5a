//! The user account of the server. PostgreSQL refuses to run as root, so a root process starts it as another
//! user. Any other process starts it as its own user. This process keeps its own user in either case.

use std::fs::File;
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::error::{ClusterError, at};
use super::private_dir::own_uid;

/// Accounts that root tries, in this order, for a cluster without data.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// Prints the first of these directories that the user may not enter.
const ENTER_SCRIPT: &str = r#"for d; do cd "$d" 2>/dev/null || { printf %s "$d"; exit 1; }; done"#;

/// User account of the server.
#[derive(Debug, Clone)]
pub(super) enum Account {
    /// The user of this process.
    Own,
    /// Another user, because this process runs as root.
    Other { name: String, uid: u32, gid: u32 },
}

impl Account {
    /// Chooses the account. For root it is the owner (user and group) of existing data, otherwise `postgres`
    /// or `nobody`.
    pub(super) async fn choose(owner_of_data: Option<(u32, u32)>) -> Result<Self, ClusterError> {
        if own_uid() != 0 {
            return Ok(Self::Own);
        }
        if let Some((uid, gid)) = owner_of_data
            && uid != 0
        {
            return Ok(Self::Other { name: format!("number {uid}"), uid, gid });
        }
        for name in ACCOUNTS {
            if let (Some(uid), Some(gid)) = (id("-u", name).await, id("-g", name).await)
                && uid != 0
            {
                let name = name.to_owned();
                return Ok(Self::Other { name, uid, gid });
            }
        }
        Err(ClusterError::NoAccount)
    }

    /// Creates a command that runs as this user, in the directory `/`, with an almost empty environment.
    ///
    /// PGPORT and similar variables would change the server's behaviour, and the server must not inherit our
    /// secrets. LC_ALL makes its messages English, and on macOS the server needs it.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin")
            .env("LC_ALL", "C")
            .current_dir("/");
        if let Self::Other { uid, gid, .. } = self {
            // The standard library also drops the supplementary groups.
            command.uid(*uid).gid(*gid);
        }
        command
    }

    /// Id of this user.
    pub(super) fn uid(&self) -> u32 {
        match self {
            Self::Own => own_uid(),
            Self::Other { uid, .. } => *uid,
        }
    }

    /// User and group for new files, if they are not those of this process.
    pub(super) fn owner(&self) -> (Option<u32>, Option<u32>) {
        match self {
            Self::Own => (None, None),
            Self::Other { uid, gid, .. } => (Some(*uid), Some(*gid)),
        }
    }

    /// Makes this user the owner of an open file. The path is for messages.
    pub(super) fn own(&self, file: &File, path: &Path) -> Result<(), ClusterError> {
        let (uid, gid) = self.owner();
        fchown(file, uid, gid).map_err(at("change the owner of", path))
    }

    /// Checks that this user can enter the directories. It tries to enter them, so that ACLs count as well.
    pub(super) async fn check_reach(&self, dirs: &[&Path]) -> Result<(), ClusterError> {
        let Self::Other { name, .. } = self else {
            return Ok(());
        };
        let mut command = self.command("sh");
        command.args(["-c", ENTER_SCRIPT, "sh"]);
        for dir in dirs {
            let mut from_root: Vec<&Path> = dir.ancestors().collect();
            from_root.reverse();
            command.args(from_root);
        }
        let output = command.output().await.map_err(at("run", Path::new("sh")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(ClusterError::Unreachable {
            path: PathBuf::from(String::from_utf8_lossy(&output.stdout).into_owned()),
            user: name.clone(),
        })
    }
}

/// Looks up a user or group id with the program `id`, which knows every source of users, also directory
/// services.
async fn id(option: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([option, name]).output().await.ok()?;
    String::from_utf8(output.stdout).ok()?.trim_end().parse().ok()
}

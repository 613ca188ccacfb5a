//! Whom the server runs as. PostgreSQL refuses to run as root, so root hands it to another user;
//! anyone else runs it as themselves. Nothing here changes who this process is.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::error::{ClusterError, at};

/// Tried in this order where root starts a cluster that has no data yet.
const ACCOUNTS: [&str; 2] = ["postgres", "nobody"];

/// Prints the first of the given directories that may not be entered.
const ENTER_SCRIPT: &str = r#"for d; do cd "$d" 2>/dev/null || { printf %s "$d"; exit 1; }; done"#;

/// The user that the server runs as.
#[derive(Debug, Clone)]
pub(super) enum Account {
    /// Whoever runs this process.
    Own,
    /// Another user, because this process is root.
    Other { name: String, uid: u32, gid: u32 },
}

impl Account {
    /// For root: the owner of the data where there is some already, else `postgres` or `nobody`.
    pub(super) async fn choose(data: &Path) -> Result<Self, ClusterError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        if let Ok(meta) = fs::metadata(data)
            && meta.uid() != 0
        {
            return Ok(Self::Other {
                name: format!("number {}", meta.uid()),
                uid: meta.uid(),
                gid: meta.gid(),
            });
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

    /// A command that runs as this user, in a directory that it may be in, with nothing of our
    /// environment: PGPORT and the like would change what the server does, and secrets are not its
    /// business. LC_ALL keeps its messages English, and macOS needs it to be set.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin")
            .env("LC_ALL", "C")
            .current_dir("/");
        if let Self::Other { uid, gid, .. } = self {
            // std drops the supplementary groups together with the uid.
            command.uid(*uid).gid(*gid);
        }
        command
    }

    /// Makes a file or directory this user's own.
    pub(super) fn own(&self, path: &Path) -> Result<(), ClusterError> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid, .. } => {
                chown(path, Some(*uid), Some(*gid)).map_err(at("change the owner of", path))
            }
        }
    }

    /// Checks that this user can reach the directories; asked by trying, which heeds ACLs too.
    pub(super) async fn check_reach(&self, dirs: &[&Path]) -> Result<(), ClusterError> {
        let Self::Other { name, .. } = self else {
            return Ok(());
        };
        let mut command = self.command("sh");
        command.args(["-c", ENTER_SCRIPT, "sh"]);
        for dir in dirs {
            let mut way: Vec<&Path> = dir.ancestors().collect();
            way.reverse();
            command.args(way);
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

/// `id` knows every source of users (files, directory services), /etc/passwd does not.
async fn id(what: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([what, name]).output().await.ok()?;
    String::from_utf8(output.stdout).ok()?.trim_end().parse().ok()
}

//! A server that outlived its owner: how it is recognised and ended.
//!
//! postmaster.pid is a hint and no proof: another process may have its id by now, and the file can be forged.
//! So the process itself must show that it serves the data directory.

use std::path::Path;

#[cfg(target_os = "linux")]
use rustix::fd::OwnedFd;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::account::Account;
use super::error::{ClusterError, at};

/// Prints the working directory and the program of a process. A server works in its data directory. The
/// script runs as the account of the server, which may read this of its own processes only. Systems without
/// /proc print the command line, which names the data directory.
const IDENTITY_SCRIPT: &str = r#"
if [ -d "/proc/$$" ]; then readlink "/proc/$1/cwd"; readlink "/proc/$1/exe"
else ps -p "$1" -o args=; fi"#;

/// Process that postmaster.pid names.
pub(super) enum Holder {
    /// The server of the data directory.
    Server(Server),
    /// A process that has nothing to do with the data directory.
    Stranger,
    /// No process.
    Nobody,
}

/// The server of a data directory.
pub(super) struct Server {
    pid: Pid,
    /// A signal through this handle cannot reach a later process with the same id.
    #[cfg(target_os = "linux")]
    handle: Option<OwnedFd>,
}

impl Holder {
    /// Finds out which process the id belongs to.
    pub(super) async fn of(pid: Pid, data: &Path, account: &Account) -> Result<Self, ClusterError> {
        let server = Server {
            pid,
            // Opened before the check, so that the checked process is the one that is signalled.
            #[cfg(target_os = "linux")]
            handle: rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok(),
        };
        let mut command = account.command("sh");
        command.args(["-c", IDENTITY_SCRIPT, "sh"]).arg(server.id().to_string());
        let output = command.output().await.map_err(at("run", Path::new("sh")))?;
        if is_server(&String::from_utf8_lossy(&output.stdout), data) {
            return Ok(Self::Server(server));
        }
        let is_alive = match test_kill_process(pid) {
            Ok(()) | Err(rustix::io::Errno::PERM) => true,
            Err(_) => false,
        };
        Ok(if is_alive { Self::Stranger } else { Self::Nobody })
    }
}

impl Server {
    pub(super) fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Requests a fast shutdown. A server that has ended meanwhile is no error.
    pub(super) fn interrupt(&self) {
        #[cfg(target_os = "linux")]
        if let Some(handle) = &self.handle {
            let _ = rustix::process::pidfd_send_signal(handle, Signal::INT);
            return;
        }
        let _ = kill_process(self.pid, Signal::INT);
    }
}

/// Whether the output of the script describes the server of a data directory.
fn is_server(identity: &str, data: &Path) -> bool {
    let data = data.to_string_lossy();
    let mut lines = identity.lines();
    let (first, second) = (lines.next().unwrap_or_default(), lines.next());
    match second {
        // The link of a program that was upgraded meanwhile ends in " (deleted)".
        Some(program) => {
            let program = program.trim_end_matches(" (deleted)");
            first == data && Path::new(program).file_name().is_some_and(|name| name == "postgres")
        }
        None => {
            first.split(' ').next().is_some_and(|program| program.ends_with("postgres"))
                && first.contains(&format!(" -D {data} "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_server_in_the_data_directory_is_recognised() {
        let data = Path::new("/srv/dev/data");
        for (identity, expected) in [
            ("/srv/dev/data\n/usr/lib/postgresql/15/bin/postgres\n", true),
            ("/srv/dev/data\n/usr/lib/postgresql/15/bin/postgres (deleted)\n", true),
            ("/usr/bin/postgres -D /srv/dev/data -c port=5432\n", true),
            ("/srv/dev/data\n/usr/bin/bash\n", false),
            ("/var/lib/postgresql/15/main\n/usr/lib/postgresql/15/bin/postgres\n", false),
            ("/usr/bin/postgres -D /srv/dev/data2 -c port=5432\n", false),
            ("vim -D /srv/dev/data -c postgres\n", false),
            ("/srv/dev/data\n", false),
            ("", false),
        ] {
            assert_eq!(is_server(identity, data), expected, "{identity}");
        }
    }
}

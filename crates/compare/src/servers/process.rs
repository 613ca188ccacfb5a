//! A server's process. It is started with a folder of its own, and ends together with everything that it
//! started, even if the comparison is interrupted.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::cost_meter::CostMeter;
use super::process_tree::descendants;
use crate::cores;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Time between SIGTERM and SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// Lines of its standard error that an error shows.
const ERROR_LINES: usize = 5;

/// A server's process, which ends when this is dropped.
pub(super) struct Process {
    name: &'static str,
    pub(super) child: Child,
    dir: PathBuf,
    meter: CostMeter,
}

impl Process {
    /// Starts the command that `prepare` returns. `prepare` may write configuration into the new folder that
    /// it gets. Standard error goes into a file there.
    pub(super) fn start(
        name: &'static str,
        prepare: impl FnOnce(&Path) -> anyhow::Result<Command>,
    ) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!(
            "warden-compare-{}-{name}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        ));
        fs::create_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let started = Self::spawn(&dir, prepare);
        if started.is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        let (child, pid) = started.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, dir, meter: CostMeter::new(pid, true) })
    }

    fn spawn(
        dir: &Path,
        prepare: impl FnOnce(&Path) -> anyhow::Result<Command>,
    ) -> anyhow::Result<(Child, u32)> {
        let mut command = prepare(dir)?;
        let stderr = fs::File::create(dir.join("stderr"))?;
        // A process group of its own: Ctrl-C at the terminal reaches only the comparison, which stops the
        // server.
        let child = cores::on_server_core(|| command.stderr(stderr).process_group(0).spawn())?;
        let pid = child.id().context("it ended immediately")?;
        Ok((child, pid))
    }

    /// Measures the first process only, and moves the processes that it has started to the other cores.
    pub(super) fn exclude_children(&mut self) {
        self.meter.exclude_children();
        if let Some(pid) = self.child.id() {
            cores::move_off_server_core(&descendants(pid));
        }
    }

    pub(super) fn meter(&mut self) -> &mut CostMeter {
        &mut self.meter
    }

    /// Waits until the server accepts connections.
    pub(super) async fn wait_until_listening(&mut self, addr: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while TcpStream::connect(addr).is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                return self.start_error();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The error of a server that did not become ready, with the end of its standard error.
    pub(super) fn start_error<T>(&mut self) -> anyhow::Result<T> {
        let stderr = fs::read_to_string(self.dir.join("stderr")).unwrap_or_default();
        let lines: Vec<&str> = stderr.lines().collect();
        let last = lines[lines.len().saturating_sub(ERROR_LINES)..].join("\n");
        bail!("{} did not become ready. Its standard error ends with:\n{last}", self.name)
    }

    fn end(&mut self) {
        let Some(pid) = self.child.id() else { return };
        // Collected first, because some may outlive their parent.
        let family = descendants(pid);
        // This fails if the process has already ended.
        let _ = signal(pid, Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.start_kill();
        for pid in family.into_iter().filter(|child| is_orphan_of(*child, self.name)) {
            let _ = signal(pid, Signal::KILL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether the comparison must kill a process that a server has left behind. Workers of nginx outlive a
/// master that was killed, whereas a gateway stops its PostgreSQL in every case.
fn is_orphan_of(pid: u32, name: &str) -> bool {
    name == "nchan"
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "nginx")
}

fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("invalid process id")?;
    Ok(kill_process(pid, signal)?)
}

/// A loopback address whose port was free a moment ago.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[tokio::test]
    async fn a_process_ends_with_its_owner_and_its_folder_is_removed() {
        let process = Process::start("sleep", |_| {
            let mut command = Command::new("sleep");
            command.arg("600");
            Ok(command)
        })
        .unwrap();
        let (pid, dir) = (process.child.id().unwrap(), process.dir.clone());
        assert!(dir.exists() && Path::new(&format!("/proc/{pid}")).exists());
        drop(process);
        assert!(!dir.exists() && !Path::new(&format!("/proc/{pid}/exe")).exists());
    }

    #[tokio::test]
    async fn the_error_of_a_failed_start_contains_the_servers_own_message() {
        let mut process = Process::start("sh", |_| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo no such module >&2; exit 1"]).stdin(Stdio::null());
            Ok(command)
        })
        .unwrap();
        let error = process.wait_until_listening(free_address().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("no such module"), "{error}");
    }
}

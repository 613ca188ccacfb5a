//! A server's process: started with a folder of its own, ended with everything that it started, whatever happens;
//! and what it costs.

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::compare::cores;

const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// A server that was asked to end has so long before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A server's process, which ends when this is dropped.
pub(super) struct Process {
    name: &'static str,
    pub(super) child: Child,
    dir: PathBuf,
    meter: Meter,
}

impl Process {
    /// Starts a command with an empty folder, whose files `prepare` writes. What it says goes into a file there.
    pub(super) fn start(
        name: &'static str,
        prepare: impl FnOnce(&Path) -> anyhow::Result<Command>,
    ) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!(
            "warden-compare-{}-{name}-{:08x}",
            std::process::id(),
            fastrand::u32(..)
        ));
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let started = Self::spawn(&dir, prepare);
        if started.is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        let (child, pid) = started.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, dir, meter: Meter::new(pid, true) })
    }

    fn spawn(
        dir: &Path,
        prepare: impl FnOnce(&Path) -> anyhow::Result<Command>,
    ) -> anyhow::Result<(Child, u32)> {
        let mut command = prepare(dir)?;
        let log = fs::File::create(dir.join("stderr"))?;
        // A group of its own: Ctrl-C at the terminal reaches the comparison alone, which ends it.
        let child = cores::as_server(|| command.stderr(log).process_group(0).spawn())?;
        let pid = child.id().context("it ended at once")?;
        Ok((child, pid))
    }

    /// Measures the first process alone: those that it has started by now are no part of the server.
    pub(super) fn alone(&mut self) {
        self.meter.with_children = false;
        if let Some(pid) = self.child.id() {
            cores::beside_server(&descendants(pid));
        }
    }

    pub(super) fn meter(&mut self) -> &mut Meter {
        &mut self.meter
    }

    /// Waits until the server takes connections.
    pub(super) async fn listens(&mut self, addr: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        while TcpStream::connect(addr).is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                return self.failed();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The error of a server that did not become ready, in its own words.
    pub(super) fn failed<T>(&mut self) -> anyhow::Result<T> {
        let said = fs::read_to_string(self.dir.join("stderr")).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(5).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        bail!("{} did not get ready: {last}", self.name)
    }

    fn end(&mut self) {
        let Some(pid) = self.child.id() else { return };
        // Those that it started may outlive it, so they are noted before.
        let family = descendants(pid);
        // It may have ended by itself.
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

/// Workers of nginx outlive a master that was killed. What PostgreSQL's processes do when their gateway ends is its
/// own affair: it sees to them.
fn is_orphan_of(pid: u32, name: &str) -> bool {
    name == "nchan"
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == "nginx")
}

fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
    Ok(kill_process(pid, signal)?)
}

/// An address of loopback that was free just now.
pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// What a process costs, to the nanosecond where the kernel tells.
pub(crate) struct Meter {
    pid: u32,
    with_children: bool,
    /// By thread, so that those which have ended still count.
    threads: HashMap<(u32, u32), u64>,
}

impl Meter {
    pub(crate) fn new(pid: u32, with_children: bool) -> Self {
        Self { pid, with_children, threads: HashMap::new() }
    }

    fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.pid];
        if self.with_children {
            pids.extend(descendants(self.pid));
        }
        pids
    }

    /// Time on CPUs of all threads since they began: user and system.
    pub(crate) fn cpu(&mut self) -> anyhow::Result<Duration> {
        for pid in self.pids() {
            let threads = fs::read_dir(format!("/proc/{pid}/task"))
                .with_context(|| format!("process {pid} has ended, or there is no /proc"))?;
            for thread in threads.flatten() {
                let Some(id) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                // A thread may end between the two.
                let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
                let spent = text.split(' ').next().unwrap_or_default().parse().context("schedstat")?;
                self.threads.insert((pid, id), spent);
            }
        }
        Ok(Duration::from_nanos(self.threads.values().sum()))
    }

    /// Resident memory.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pid in self.pids() {
            // Exact, other than that of `status`, which the kernel adds up in rough steps.
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
                .with_context(|| format!("process {pid} has ended, or is another user's"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("Rss")?;
            sum += line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024;
        }
        Ok(sum)
    }
}

/// Processes that a process started, and those that these did.
fn descendants(pid: u32) -> Vec<u32> {
    let mut all = Vec::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return all };
    for thread in threads.flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_ascii_whitespace().filter_map(|child| child.parse().ok()) {
            all.push(child);
            all.extend(descendants(child));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn time_on_the_cpu_is_seen_also_of_threads_that_ended() {
        let mut meter = Meter::new(std::process::id(), true);
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (done, finished) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut sum = 0_u64;
            for n in 0..3_000_000_u64 {
                sum = std::hint::black_box(sum ^ n);
            }
            done.send(sum).unwrap();
            // Lives until it was measured.
            let _ = receiver.recv();
        });
        finished.recv().unwrap();
        let before = meter.cpu().unwrap();
        drop(sender);
        thread.join().unwrap();
        assert!(meter.cpu().unwrap() >= before);
        assert!(meter.resident_bytes().unwrap() > 100_000);
    }

    #[tokio::test]
    async fn a_process_ends_with_its_owner_and_takes_its_folder_along() {
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
    async fn a_server_that_fails_says_why() {
        let mut process = Process::start("sh", |_| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo no such module >&2; exit 1"]).stdin(Stdio::null());
            Ok(command)
        })
        .unwrap();
        let error = process.listens(free_address().unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("no such module"), "{error}");
    }
}

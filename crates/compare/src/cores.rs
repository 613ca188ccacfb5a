//! Cores: the server under measurement has one core to itself, and everything else has the others.
//!
//! A write to a socket costs the sender up to twice as much if its reader runs on another core. Which core
//! the kernel chooses for the readers depends on the other processes that are awake: a database beside one
//! server, nothing beside another. Fixed cores make the servers comparable.

use std::fs;
use std::sync::OnceLock;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// `None` if there is only one core, or if cores are shared on request.
static CORES: OnceLock<Option<Cores>> = OnceLock::new();

struct Cores {
    server: CpuSet,
    others: CpuSet,
}

/// Divides the cores that this process may use, and reserves the first for servers. Called once per process.
pub(crate) fn divide() {
    let cores = find();
    if let Some(cores) = &cores {
        move_process(std::process::id(), &cores.others);
    }
    let _ = CORES.set(cores);
}

/// Whether servers have a core to themselves.
pub(crate) fn are_divided() -> bool {
    cores().is_some()
}

/// Runs a closure that starts a server. The new process inherits the core of this thread.
pub(crate) fn on_server_core<T>(start: impl FnOnce() -> T) -> T {
    let Some(cores) = cores() else { return start() };
    // If the affinity cannot be set, everything stays on the cores that it has.
    let _ = sched_setaffinity(None, &cores.server);
    let started = start();
    let _ = sched_setaffinity(None, &cores.others);
    started
}

/// Moves processes off the server's core that the server started but that are not measured.
pub(crate) fn move_off_server_core(pids: &[u32]) {
    if let Some(cores) = cores() {
        pids.iter().for_each(|pid| move_process(*pid, &cores.others));
    }
}

fn cores() -> Option<&'static Cores> {
    CORES.get()?.as_ref()
}

fn find() -> Option<Cores> {
    let all = sched_getaffinity(None).ok()?;
    let mut numbers = (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core));
    let (mut server, mut others) = (CpuSet::new(), CpuSet::new());
    server.set(numbers.next()?);
    numbers.for_each(|core| others.set(core));
    (others.count() > 0).then_some(Cores { server, others })
}

/// Moves all threads of a process as far as permitted. Threads that they start later inherit the cores.
fn move_process(pid: u32, cores: &CpuSet) {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return };
    let ids = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok());
    for thread in ids.filter_map(Pid::from_raw) {
        let _ = sched_setaffinity(Some(thread), cores);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_core_is_not_shared() {
        let Some(cores) = find() else { return };
        assert_eq!(cores.server.count(), 1);
        assert!((0..CpuSet::MAX_CPU).all(|core| !(cores.server.is_set(core) && cores.others.is_set(core))));
    }
}

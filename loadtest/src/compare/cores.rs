//! Who runs on which core. A write to a socket costs the sender up to twice as much when its reader runs on another
//! core, and where a kernel puts readers depends on what else is awake: a database beside one server, nothing beside
//! another. So the server under measurement has one core to itself, and everything else has the others.

use std::fs;
use std::sync::OnceLock;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// None where there is but one core, or cores are shared by wish.
static CORES: OnceLock<Option<Cores>> = OnceLock::new();

struct Cores {
    server: CpuSet,
    others: CpuSet,
}

/// Divides the cores that this process may use, and leaves the first to servers. Once per process.
pub(super) fn divide() {
    let cores = find();
    if let Some(cores) = &cores {
        move_to(std::process::id(), &cores.others);
    }
    let _ = CORES.set(cores);
}

/// Whether servers have a core to themselves.
pub(super) fn are_divided() -> bool {
    cores().is_some()
}

/// Runs what starts a server: its process inherits the place of this thread.
pub(super) fn as_server<T>(start: impl FnOnce() -> T) -> T {
    let Some(cores) = cores() else { return start() };
    // What can't be set leaves everything where it is.
    let _ = sched_setaffinity(None, &cores.server);
    let started = start();
    let _ = sched_setaffinity(None, &cores.others);
    started
}

/// Takes these processes off the server's core: they were started by it, and are not what is measured.
pub(super) fn beside_server(pids: &[u32]) {
    if let Some(cores) = cores() {
        pids.iter().for_each(|pid| move_to(*pid, &cores.others));
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

/// All threads of a process, as far as it can be done; those that they start stay with them.
fn move_to(pid: u32, cores: &CpuSet) {
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
    fn a_server_is_alone_on_its_core() {
        let Some(cores) = find() else { return };
        assert_eq!(cores.server.count(), 1);
        assert!((0..CpuSet::MAX_CPU).all(|core| !(cores.server.is_set(core) && cores.others.is_set(core))));
    }
}

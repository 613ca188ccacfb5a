//! CPU time and memory of a server, with the precision that the comparison needs.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

use super::process_tree::descendants;

/// Measures a process, with or without the processes that it has started.
pub(crate) struct CostMeter {
    pid: u32,
    with_children: bool,
    /// CPU time in nanoseconds by process and thread. Entries of ended threads remain.
    threads: HashMap<(u32, u32), u64>,
}

impl CostMeter {
    pub(crate) fn new(pid: u32, with_children: bool) -> Self {
        Self { pid, with_children, threads: HashMap::new() }
    }

    /// Excludes the processes that this process has started.
    pub(super) fn exclude_children(&mut self) {
        self.with_children = false;
    }

    fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.pid];
        if self.with_children {
            pids.extend(descendants(self.pid));
        }
        pids
    }

    /// CPU time of all threads since they began, user and system, in nanoseconds of the scheduler.
    pub(crate) fn cpu(&mut self) -> anyhow::Result<Duration> {
        for pid in self.pids() {
            let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
                Ok(threads) => threads,
                // A child may have ended since it was listed.
                Err(_) if pid != self.pid => continue,
                Err(error) => {
                    return Err(error).context(format!("process {pid} has ended, or /proc is not mounted"));
                }
            };
            for thread in threads.flatten() {
                let Some(id) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                // A thread may have ended since its folder was listed.
                let Ok(text) = fs::read_to_string(thread.path().join("schedstat")) else { continue };
                let first = text.split(' ').next().unwrap_or_default();
                let spent = first.parse().with_context(|| format!("cannot parse schedstat: {text}"))?;
                self.threads.insert((pid, id), spent);
            }
        }
        Ok(Duration::from_nanos(self.threads.values().sum()))
    }

    /// Resident memory. `smaps_rollup` is exact, whereas the kernel updates the value in `status` in coarse
    /// steps.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pid in self.pids() {
            let text = match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
                Ok(text) => text,
                Err(_) if pid != self.pid => continue,
                Err(error) => {
                    return Err(error)
                        .context(format!("process {pid} has ended, or belongs to another user"));
                }
            };
            let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
            let line = line.with_context(|| format!("/proc/{pid}/smaps_rollup has no Rss"))?;
            sum += line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_of_ended_threads_still_counts() {
        let mut meter = CostMeter::new(std::process::id(), true);
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (done, finished) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut sum = 0_u64;
            for n in 0..3_000_000_u64 {
                sum = std::hint::black_box(sum ^ n);
            }
            done.send(sum).unwrap();
            // Keeps the thread alive until it was measured.
            let _ = released.recv();
        });
        finished.recv().unwrap();
        let before = meter.cpu().unwrap();
        drop(release);
        thread.join().unwrap();
        assert!(meter.cpu().unwrap() >= before);
        assert!(meter.resident_bytes().unwrap() > 100_000);
    }
}

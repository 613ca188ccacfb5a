//! CPU time, memory and threads of a process, read from /proc. Only processes of this machine can be
//! measured.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use bench_support::process::listening_pid;

/// CPU time that a process has used so far, and what it holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time of all its threads since it began.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) threads: u32,
}

/// Measures one process.
#[derive(Clone, Debug)]
pub(crate) struct ProcessMeter {
    pid: u32,
    /// Start time in ticks since boot. It distinguishes a later process with the same id.
    started: u64,
}

impl ProcessMeter {
    /// Creates a meter. `None` if there is no such process, or no /proc.
    pub(crate) fn for_pid(pid: u32) -> Option<Self> {
        Some(Self { pid, started: Stat::read(pid)?.started })
    }

    /// Measures the process that listens on an address, if it is visible from here.
    pub(crate) fn listening_on(address: SocketAddr) -> Option<Self> {
        Self::for_pid(listening_pid(address)?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Measures the usage. `None` if the process has ended.
    pub(crate) fn sample(&self) -> Option<Usage> {
        let stat = Stat::read(self.pid).filter(|stat| stat.started == self.started)?;
        let per_second = rustix::param::clock_ticks_per_second();
        let cpu = Duration::from_secs_f64(stat.ticks as f64 / per_second as f64);
        let resident_bytes = stat.resident_pages * u64::try_from(rustix::param::page_size()).ok()?;
        Some(Usage { cpu, resident_bytes, threads: stat.threads })
    }
}

/// The needed fields of /proc/PID/stat.
struct Stat {
    ticks: u64,
    threads: u32,
    started: u64,
    resident_pages: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name in parentheses may contain anything, so fields are counted from the last parenthesis.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // proc(5) counts fields from 1, and the first two (id and name) are cut off.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            ticks: field(14)? + field(15)?,
            threads: u32::try_from(field(20)?).ok()?,
            started: field(22)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn this_process_is_found_by_its_port_and_measured() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let meter = ProcessMeter::listening_on(listener.local_addr().unwrap()).unwrap();
        assert_eq!(meter.pid(), std::process::id());
        let usage = meter.sample().unwrap();
        assert!(usage.resident_bytes > 100_000 && usage.threads >= 1, "{usage:?}");
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) (b c) S 1 7 7 0 -1 0 0 0 0 0 300 20 0 0 20 0 5 0 4242 1000000 1234 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.ticks, stat.threads, stat.started, stat.resident_pages), (320, 5, 4242, 1234));
    }

    #[test]
    fn a_later_process_with_the_same_id_is_not_measured() {
        let mut meter = ProcessMeter::for_pid(std::process::id()).unwrap();
        meter.started += 1;
        assert!(meter.sample().is_none());
        assert!(ProcessMeter::for_pid(u32::MAX).is_none());
    }
}

//! What a server process uses, read from /proc: CPU time, resident memory, threads; and which process
//! listens on a port. It measures processes of this machine only, and judges nothing.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// What a process has used so far, and what it holds now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// User and system time of all its threads since it began.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
    pub(crate) threads: u32,
}

/// Measures one process.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pid: u32,
    /// Start time in ticks since boot: another process that was given the same id has another one.
    born: u64,
}

impl Meter {
    /// None where there is no such process, or no /proc.
    pub(crate) fn of_pid(pid: u32) -> Option<Self> {
        Some(Self { pid, born: Stat::read(pid)?.born })
    }

    /// The process that listens on this address, where it can be seen: it is on this machine, and of
    /// this user or this user is root.
    pub(crate) fn listening_on(address: SocketAddr) -> Option<Self> {
        Self::of_pid(bench_support::process::listening_pid(address)?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// None where the process has ended.
    pub(crate) fn sample(&self) -> Option<Usage> {
        let stat = Stat::read(self.pid).filter(|stat| stat.born == self.born)?;
        let per_second = rustix::param::clock_ticks_per_second();
        let cpu = Duration::from_secs_f64(stat.ticks as f64 / per_second as f64);
        let resident_bytes = stat.resident_pages * u64::try_from(rustix::param::page_size()).ok()?;
        Some(Usage { cpu, resident_bytes, threads: stat.threads })
    }
}

/// The fields of /proc/PID/stat that count here.
struct Stat {
    ticks: u64,
    threads: u32,
    born: u64,
    resident_pages: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name in parentheses may hold anything, so fields are counted behind the last one.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // proc(5) counts from 1, with the process id and its name before these.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            ticks: field(14)? + field(15)?,
            threads: u32::try_from(field(20)?).ok()?,
            born: field(22)?,
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
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let meter = Meter::listening_on(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
            assert_eq!(meter.pid(), std::process::id());
            let usage = meter.sample().unwrap();
            assert!(usage.resident_bytes > 100_000 && usage.threads >= 1, "{usage:?}");
        }
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) (b c) S 1 7 7 0 -1 0 0 0 0 0 300 20 0 0 20 0 5 0 4242 1000000 1234 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.ticks, stat.threads, stat.born, stat.resident_pages), (320, 5, 4242, 1234));
    }

    #[test]
    fn another_process_with_the_same_id_is_not_measured() {
        let mut meter = Meter::of_pid(std::process::id()).unwrap();
        meter.born += 1;
        assert!(meter.sample().is_none());
        assert!(Meter::of_pid(u32::MAX).is_none());
    }
}

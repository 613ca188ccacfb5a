//! The machine on which figures were measured, as its kernel describes it.

use std::fmt;
use std::fs;

use serde::Serialize;

/// Cores, memory and kernel of a machine.
#[derive(Debug, Default, Serialize)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// Name of the processor; empty if the kernel does not show it.
    pub cpu: String,
    /// Memory in GiB, rounded up, because the kernel keeps a part of the last one for itself.
    pub memory_gib: u64,
    /// Release of the Linux kernel.
    pub kernel: String,
}

impl Machine {
    /// Describes this machine.
    pub fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_gib: memory_kib.div_ceil(1024 * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, memory_gib, kernel } = self;
        write!(f, "{cores} cores")?;
        if !cpu.is_empty() {
            write!(f, " ({cpu})")?;
        }
        write!(f, ", {memory_gib} GiB, Linux {kernel}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_cores_and_memory() {
        let machine = Machine::this();
        assert!(machine.cores > 0 && machine.memory_gib > 0, "{machine}");
    }
}

//! The machine that figures belong to, as its kernel describes it.

use std::fs;

use serde::Serialize;

use super::cores;

/// What a reader of figures wants to know of the machine.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// Servers have a core to themselves.
    pub(crate) divided: bool,
    /// Of the last minute, before the comparison began.
    pub(crate) load: String,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            cores: read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
            cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_gib: memory_kib.div_ceil(1024 * 1024),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            divided: cores::are_divided(),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// Whether others had work for more than a quarter of its cores.
    pub(super) fn is_busy(&self) -> bool {
        self.load.parse::<f64>().is_ok_and(|load| load > self.cores as f64 / 4.0)
    }

    pub(super) fn title(&self) -> String {
        let Self { cores, cpu, memory_gib, kernel, divided, load } = self;
        let place = if *divided { "server on one core, all else on the others" } else { "cores shared" };
        format!("{cores} cores ({cpu}), {memory_gib} GiB, Linux {kernel}; {place}; load before: {load}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_told_from_a_quiet_one() {
        let machine = |load: &str| Machine { cores: 2, load: load.to_owned(), ..Machine::default() };
        assert!(machine("0.51").is_busy() && !machine("0.49").is_busy());
        assert!(Machine::this().cores > 0);
    }
}

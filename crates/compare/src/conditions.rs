//! Conditions of a comparison: the machine, how its cores are used, and how busy it was before.

use std::fmt;
use std::fs;

use bench_support::machine::Machine;
use serde::Serialize;

/// The machine and its state before the comparison began.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Conditions {
    #[serde(flatten)]
    pub(crate) machine: Machine,
    /// Whether servers have a core to themselves.
    pub(crate) divided: bool,
    /// Load average of the last minute.
    pub(crate) load: String,
}

impl Conditions {
    /// Reads the load of this machine.
    pub(crate) fn now(machine: Machine, divided: bool) -> Self {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self { machine, divided, load: load.split(' ').next().unwrap_or_default().to_owned() }
    }

    /// Whether other processes used more than a quarter of the cores.
    pub(crate) fn is_busy(&self) -> bool {
        self.load.parse::<f64>().is_ok_and(|load| load > self.machine.cores as f64 / 4.0)
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cores =
            if self.divided { "server on one core, everything else on the others" } else { "cores shared" };
        write!(f, "{}; {cores}; load average before: {}", self.machine, self.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_busy_if_a_quarter_of_its_cores_is_in_use() {
        let conditions = |load: &str| Conditions {
            machine: Machine { cores: 2, ..Machine::default() },
            load: load.to_owned(),
            ..Conditions::default()
        };
        assert!(conditions("0.51").is_busy() && !conditions("0.49").is_busy());
    }
}

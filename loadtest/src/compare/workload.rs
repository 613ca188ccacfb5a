//! What is measured: the workloads by name, and the sizes of one measurement of fan-out.

use anyhow::ensure;
use serde::Serialize;

/// A kind of measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// One large organisation, few events
    Large,
    /// One small organisation, many events
    Small,
    /// Many events in one transaction
    Burst,
    /// Memory of sockets that only wait, and after they left
    Idle,
    /// Authenticated upgrade and join
    Connect,
    /// The same for more sockets, and for more organisations
    Growth,
}

impl Workload {
    pub(crate) const ALL: [Self; 6] =
        [Self::Large, Self::Small, Self::Burst, Self::Idle, Self::Connect, Self::Growth];
}

/// Sockets in groups, and events that reach all sockets of a group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Fanout {
    pub(crate) name: String,
    pub(crate) sockets: usize,
    /// Organisations or channels; each has as many sockets as another, or one more.
    pub(crate) groups: usize,
    /// Events that are published together.
    pub(crate) burst: u32,
    pub(crate) bursts_per_second: f64,
}

impl Fanout {
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        ensure!(
            self.sockets > 0 && self.burst > 0,
            "{}: at least one socket, and one event at a time",
            self.name
        );
        ensure!(self.groups > 0, "{}: at least one organisation", self.name);
        ensure!(
            self.sockets >= self.groups,
            "{}: {} organisations need as many sockets at least, not {}",
            self.name,
            self.groups,
            self.sockets
        );
        ensure!(
            self.bursts_per_second.is_finite() && self.bursts_per_second > 0.0,
            "{}: the rate must be above 0 a second",
            self.name
        );
        Ok(())
    }

    /// For people.
    pub(crate) fn title(&self) -> String {
        let rate = self.bursts_per_second;
        let rate = if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") };
        let what = match self.burst {
            1 => format!("{rate} events/s"),
            burst => format!("{rate} bursts/s of {burst} events"),
        };
        let orgs = if self.groups == 1 {
            "1 organisation".to_owned()
        } else {
            format!("{} organisations", self.groups)
        };
        format!("{}: {} sockets in {orgs}, {what}", self.name, self.sockets)
    }
}

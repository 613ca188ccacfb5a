//! Workloads: their names, and the sizes of each measurement.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
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
    /// Memory of idle sockets, and after they have left
    Idle,
    /// Authenticated upgrade and join
    Connect,
    /// Fan-out with more sockets, and with more organisations
    Growth,
}

impl Workload {
    /// All workloads, in the order in which they are measured.
    pub(crate) const ALL: [Self; 6] =
        [Self::Large, Self::Small, Self::Burst, Self::Idle, Self::Connect, Self::Growth];
}

/// Sizes of the workloads.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sizes")]
pub(crate) struct Sizes {
    /// large: sockets, in one organisation
    #[arg(long, default_value_t = 5000)]
    large_sockets: usize,
    /// large: events per second
    #[arg(long, default_value_t = 20.0)]
    large_rate: f64,
    /// small: sockets, in one organisation
    #[arg(long, default_value_t = 200)]
    small_sockets: usize,
    /// small: events per second
    #[arg(long, default_value_t = 500.0)]
    small_rate: f64,
    /// burst: sockets, in one organisation
    #[arg(long, default_value_t = 200)]
    burst_sockets: usize,
    /// burst: events per transaction
    #[arg(long, default_value_t = 50)]
    burst_events: u32,
    /// burst: transactions per second
    #[arg(long, default_value_t = 10.0)]
    burst_rate: f64,
    /// idle: sockets; each joins two topics
    #[arg(long, default_value_t = 15_000)]
    pub(crate) idle_sockets: usize,
    /// connect: handshakes; each is followed by a join
    #[arg(long, default_value_t = 5000)]
    pub(crate) connects: usize,
    /// growth: numbers of sockets in one organisation; one measurement each
    #[arg(long, value_delimiter = ',', default_value = "1000,5000,18000")]
    growth_sockets: Vec<usize>,
    /// growth: numbers of organisations; one measurement each
    #[arg(long, value_delimiter = ',', default_value = "1,50,2000")]
    growth_orgs: Vec<usize>,
    /// growth: sockets in total when the number of organisations grows
    #[arg(long, default_value_t = 4000)]
    growth_org_sockets: usize,
    /// growth: deliveries per second to aim at
    #[arg(long, default_value_t = 100_000.0)]
    growth_rate: f64,
}

/// Highest rate at which `growth` writes to the database.
const GROWTH_EVENTS_PER_SECOND_MAX: f64 = 500.0;

impl Sizes {
    /// The fan-out measurements of a workload.
    pub(crate) fn fanouts(&self, workload: Workload) -> Vec<Fanout> {
        let one = |name: &str, sockets, burst, bursts_per_second| Fanout {
            name: name.to_owned(),
            sockets,
            groups: 1,
            burst,
            bursts_per_second,
        };
        match workload {
            Workload::Large => vec![one("large", self.large_sockets, 1, self.large_rate)],
            Workload::Small => vec![one("small", self.small_sockets, 1, self.small_rate)],
            Workload::Burst => vec![one("burst", self.burst_sockets, self.burst_events, self.burst_rate)],
            Workload::Growth => self.growth(),
            Workload::Idle | Workload::Connect => Vec::new(),
        }
    }

    fn growth(&self) -> Vec<Fanout> {
        let measurement = |sockets: usize, groups: usize| {
            let sockets_per_event = sockets as f64 / groups as f64;
            Fanout {
                name: "growth".to_owned(),
                sockets,
                groups,
                burst: 1,
                bursts_per_second: (self.growth_rate / sockets_per_event).min(GROWTH_EVENTS_PER_SECOND_MAX),
            }
        };
        let by_sockets = self.growth_sockets.iter().map(|sockets| measurement(*sockets, 1));
        let by_orgs = self.growth_orgs.iter().map(|orgs| measurement(self.growth_org_sockets, *orgs));
        by_sockets.chain(by_orgs).collect()
    }
}

/// Sockets in groups, and events that reach all sockets of one group.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Fanout {
    /// Name of the workload.
    pub(crate) name: String,
    /// Sockets over all groups.
    pub(crate) sockets: usize,
    /// Organisations or channels. Their sizes differ by one socket at most.
    pub(crate) groups: usize,
    /// Events that are published together.
    pub(crate) burst: u32,
    /// Bursts per second, over all groups.
    pub(crate) bursts_per_second: f64,
}

impl Fanout {
    /// Rejects sizes that cannot be measured.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        let Self { name, sockets, groups, burst, bursts_per_second: rate } = self;
        ensure!(*sockets > 0, "{name}: the number of sockets must be at least 1");
        ensure!(*burst > 0, "{name}: a burst must have at least 1 event");
        ensure!(*groups > 0, "{name}: the number of organisations must be at least 1");
        ensure!(
            sockets >= groups,
            "{name}: {groups} organisations need at least {groups} sockets, but there are {sockets}"
        );
        ensure!(rate.is_finite() && *rate > 0.0, "{name}: the rate must be above 0 per second");
        Ok(())
    }

    /// The number of bursts that fill a duration, rounded up so that all groups get equally many.
    pub(crate) fn bursts(&self, duration: Duration) -> anyhow::Result<u64> {
        let groups = u64::try_from(self.groups).context("too many groups")?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "hours of bursts are far below 2^53"
        )]
        let wanted = (self.bursts_per_second * duration.as_secs_f64()).ceil() as u64;
        Ok(wanted.div_ceil(groups).max(1) * groups)
    }

    /// Name and sizes, for people.
    pub(crate) fn title(&self) -> String {
        let rate = self.bursts_per_second;
        let rate = if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") };
        let events = match self.burst {
            1 => format!("{rate} events/s"),
            burst => format!("{rate} bursts/s of {burst} events"),
        };
        let plural = if self.groups == 1 { "" } else { "s" };
        format!("{}: {} sockets in {} organisation{plural}, {events}", self.name, self.sockets, self.groups)
    }
}

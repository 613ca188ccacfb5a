//! What a scenario is made of: streams of changes, phases of which latencies are told apart, and acts
//! that the sockets' holders perform. It is data; others do it.

use std::time::Duration;

use crate::clock::nanos;
use crate::message::Order;

/// Changes that come at a rate of their own.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    /// Changes a second.
    pub(crate) rate: f64,
    /// Changes in each transaction, all of one organisation.
    pub(crate) per_commit: usize,
    /// All changes are of the first organisation; else the organisations take turns.
    pub(crate) first_org_only: bool,
    /// Connections that make them.
    pub(crate) writers: usize,
}

impl Stream {
    /// When the commit with this number is due, after the start; none where the stream has ended.
    pub(crate) fn due(&self, number: u64) -> Option<Duration> {
        // At rate 0 nothing is ever due, and the division gives infinity or NaN.
        let after = Duration::try_from_secs_f64(number as f64 * self.per_commit as f64 / self.rate).ok()?;
        self.from.checked_add(after).filter(|due| *due < self.until)
    }

    /// Index of the organisation whose changes the commit holds.
    pub(crate) fn org(&self, number: u64, orgs: usize) -> usize {
        match usize::try_from(number % orgs as u64) {
            Ok(org) if !self.first_org_only => org,
            _ => 0,
        }
    }
}

/// A part of the time whose latencies are told apart, up to the next one.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) from: Duration,
}

/// Something that happens to the sockets.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) at: Duration,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// Until so many sockets are open, over all holders, so many a second.
    Open { until: usize, per_second: f64 },
    /// A share of all sockets drops at once; they come back after a while, so many a second (0: at once).
    Storm { share: f64, away: Duration, per_second: f64 },
    /// So many sockets a second leave, each followed by a new one.
    Churn { per_second: f64 },
}

impl What {
    /// What one holder is told, who holds `share` of the sockets and opens its own up to `until`.
    pub(crate) fn order(self, share: f64, until: usize) -> Order {
        match self {
            Self::Open { per_second, .. } => Order::Open { until, per_second: per_second * share },
            Self::Storm { share: dropped, away, per_second } => {
                Order::Storm { share: dropped, away: nanos(away), per_second: per_second * share }
            }
            Self::Churn { per_second } => Order::Churn { per_second: per_second * share },
        }
    }
}

/// All that happens once publishing has begun.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    pub(crate) streams: Vec<Stream>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) acts: Vec<Act>,
    pub(crate) duration: Duration,
    /// Sockets that are open before it begins.
    pub(crate) open_first: usize,
}

impl Timeline {
    /// Which phase a moment after the start is in.
    pub(crate) fn phase_at(&self, offset: Duration) -> usize {
        self.phases.iter().rposition(|phase| phase.from <= offset).unwrap_or(0)
    }

    /// Changes a second that are asked for, while all streams run.
    pub(crate) fn rate(&self) -> f64 {
        let seconds = self.duration.as_secs_f64().max(f64::MIN_POSITIVE);
        self.streams.iter().map(|s| s.rate * s.until.saturating_sub(s.from).as_secs_f64()).sum::<f64>()
            / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(rate: f64, per_commit: usize) -> Stream {
        let (from, until) = (Duration::from_secs(2), Duration::from_secs(4));
        Stream { from, until, rate, per_commit, first_org_only: false, writers: 1 }
    }

    #[test]
    fn a_schedule_has_its_rate_whatever_goes_into_a_commit() {
        let dues = |stream: &Stream| (0..).map_while(|n| stream.due(n)).collect::<Vec<_>>();
        assert_eq!(dues(&stream(50.0, 1)).len(), 100);
        assert_eq!(dues(&stream(50.0, 50)), [Duration::from_secs(2), Duration::from_secs(3)]);
        assert!(dues(&stream(0.0, 1)).is_empty());
    }

    #[test]
    fn organisations_take_turns_unless_one_is_meant() {
        let orgs = |stream: &Stream| (0..5).map(|n| stream.org(n, 3)).collect::<Vec<_>>();
        assert_eq!(orgs(&stream(1.0, 1)), [0, 1, 2, 0, 1]);
        assert_eq!(orgs(&Stream { first_org_only: true, ..stream(1.0, 1) }), [0; 5]);
    }

    #[test]
    fn a_moment_is_in_the_phase_that_began_last() {
        let phase = |name: &str, s| Phase { name: name.to_owned(), from: Duration::from_secs(s) };
        let timeline = Timeline {
            streams: vec![stream(10.0, 1)],
            phases: vec![phase("before", 0), phase("during", 3), phase("after", 6)],
            acts: Vec::new(),
            duration: Duration::from_secs(10),
            open_first: 1,
        };
        let phases: Vec<_> = [0, 2, 3, 5, 6, 60].map(|s| timeline.phase_at(Duration::from_secs(s))).to_vec();
        assert_eq!(phases, [0, 0, 1, 1, 2, 2]);
        assert!((timeline.rate() - 2.0).abs() < 1e-9);
    }
}

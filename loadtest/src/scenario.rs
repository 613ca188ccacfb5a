//! The data of a scenario: streams of changes, phases whose latencies are reported separately, and actions on
//! the sockets. Other modules execute it.

use std::time::Duration;

use crate::clock::nanos;
use crate::message::Command;

/// Changes at a rate of their own.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    /// Changes per second.
    pub(crate) rate: f64,
    /// Changes per transaction, all of one organisation.
    pub(crate) per_commit: usize,
    /// Whether all changes belong to the first organisation. Otherwise the organisations alternate.
    pub(crate) first_org_only: bool,
    /// Database connections that make the changes.
    pub(crate) writers: usize,
}

impl Stream {
    /// When commit number `number` is due, after the start. `None` if the stream has ended by then.
    pub(crate) fn due(&self, number: u64) -> Option<Duration> {
        // At rate 0 the division gives infinity or NaN, which is not a duration: nothing is ever due.
        let after = Duration::try_from_secs_f64(number as f64 * self.per_commit as f64 / self.rate).ok()?;
        self.from.checked_add(after).filter(|due| *due < self.until)
    }

    /// Index of the organisation whose changes commit number `number` contains.
    pub(crate) fn org(&self, number: u64, orgs: usize) -> usize {
        match usize::try_from(number % orgs as u64) {
            Ok(org) if !self.first_org_only => org,
            _ => 0,
        }
    }
}

/// A part of the run whose latencies are reported separately. It lasts until the next phase.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) from: Duration,
}

/// An action on the sockets, and when it happens.
#[derive(Clone, Debug)]
pub(crate) struct ScheduledAction {
    pub(crate) at: Duration,
    pub(crate) action: SocketAction,
}

/// An action on the sockets of all workers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SocketAction {
    /// Opens sockets until `until` sockets were opened in total.
    Open { until: usize, per_second: f64 },
    /// Drops a share of all sockets at once. They reconnect after `away`, at this rate (0: all at once).
    Storm { share: f64, away: Duration, per_second: f64 },
    /// Lets this many sockets per second leave, each followed by a new one.
    Churn { per_second: f64 },
}

impl SocketAction {
    /// The command for one worker, which holds `share` of all sockets and opens its own up to `until`.
    pub(crate) fn command(self, share: f64, until: usize) -> Command {
        match self {
            Self::Open { per_second, .. } => Command::Open { until, per_second: per_second * share },
            Self::Storm { share: dropped, away, per_second } => {
                Command::Storm { share: dropped, away: nanos(away), per_second: per_second * share }
            }
            Self::Churn { per_second } => Command::Churn { per_second: per_second * share },
        }
    }
}

/// Everything that happens after publishing has begun.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    pub(crate) streams: Vec<Stream>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) actions: Vec<ScheduledAction>,
    pub(crate) duration: Duration,
    /// Sockets that are opened before publishing begins.
    pub(crate) open_first: usize,
}

impl Timeline {
    /// The phase in which a moment after the start is.
    pub(crate) fn phase_at(&self, offset: Duration) -> usize {
        self.phases.iter().rposition(|phase| phase.from <= offset).unwrap_or(0)
    }

    /// Scheduled changes per second, averaged over the duration.
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
    fn the_rate_does_not_depend_on_the_size_of_a_commit() {
        let dues = |stream: &Stream| (0..).map_while(|n| stream.due(n)).collect::<Vec<_>>();
        assert_eq!(dues(&stream(50.0, 1)).len(), 100);
        assert_eq!(dues(&stream(50.0, 50)), [Duration::from_secs(2), Duration::from_secs(3)]);
        assert!(dues(&stream(0.0, 1)).is_empty());
    }

    #[test]
    fn organisations_alternate_unless_only_the_first_is_meant() {
        let orgs = |stream: &Stream| (0..5).map(|n| stream.org(n, 3)).collect::<Vec<_>>();
        assert_eq!(orgs(&stream(1.0, 1)), [0, 1, 2, 0, 1]);
        assert_eq!(orgs(&Stream { first_org_only: true, ..stream(1.0, 1) }), [0; 5]);
    }

    #[test]
    fn a_moment_belongs_to_the_phase_that_began_last() {
        let phase = |name: &str, s| Phase { name: name.to_owned(), from: Duration::from_secs(s) };
        let timeline = Timeline {
            streams: vec![stream(10.0, 1)],
            phases: vec![phase("before", 0), phase("during", 3), phase("after", 6)],
            actions: Vec::new(),
            duration: Duration::from_secs(10),
            open_first: 1,
        };
        let phases: Vec<_> = [0, 2, 3, 5, 6, 60].map(|s| timeline.phase_at(Duration::from_secs(s))).to_vec();
        assert_eq!(phases, [0, 0, 1, 1, 2, 2]);
        assert!((timeline.rate() - 2.0).abs() < 1e-9);
    }
}

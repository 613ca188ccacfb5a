//! The result of a run: what was counted and measured, in one place, and whether the run passed. It
//! shows nothing itself: `table`, `live` and `html` do.

pub(crate) mod html;
pub(crate) mod live;
pub(crate) mod plot;
pub(crate) mod table;

use serde::Serialize;

use crate::meters::Percentiles;
use crate::slo::Held;

/// The result of a run. The field names are those of the JSON report.
#[derive(Serialize, Default)]
pub(crate) struct Report {
    /// Nothing lost, doubled, misplaced or leaked, all sockets joined and stayed, all changes were made.
    pub(crate) passed: bool,
    pub(crate) scenario: &'static str,
    pub(crate) run: String,
    pub(crate) interrupted: bool,
    /// When, in UTC (RFC 3339).
    pub(crate) began: String,
    pub(crate) version: &'static str,
    pub(crate) debug_build: bool,
    pub(crate) machine: String,
    pub(crate) gateways: Vec<String>,
    pub(crate) sockets_asked: usize,
    /// Opened, over the whole run.
    pub(crate) sockets: u64,
    pub(crate) sockets_refused: u64,
    pub(crate) sockets_dropped: u64,
    /// Tried again after a 429 or 503.
    pub(crate) sockets_retried: u64,
    pub(crate) orgs: usize,
    pub(crate) skew: String,
    pub(crate) topics: Vec<String>,
    pub(crate) source_addresses: usize,
    pub(crate) duration_s: f64,
    pub(crate) changes_due: u64,
    pub(crate) changes: u64,
    pub(crate) changes_failed: u64,
    pub(crate) changes_unknown: usize,
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    pub(crate) missing: u64,
    pub(crate) duplicates: u64,
    pub(crate) cross_org: u64,
    pub(crate) out_of_order: u64,
    pub(crate) unexpected: u64,
    pub(crate) rolled_back: u64,
    pub(crate) resyncs: u64,
    pub(crate) rate_asked: f64,
    pub(crate) rate: f64,
    pub(crate) deliveries_per_s: f64,
    pub(crate) connects_per_s: f64,
    /// From COMMIT sent to event read.
    pub(crate) latency_ms: Percentiles,
    /// From the moment at which the change was due to event read.
    pub(crate) schedule_latency_ms: Percentiles,
    pub(crate) commit_ms: Percentiles,
    pub(crate) schedule_lag_ms: Percentiles,
    pub(crate) connect_ms: Percentiles,
    pub(crate) join_ms: Percentiles,
    pub(crate) phases: Vec<PhaseReport>,
    pub(crate) storm: Option<StormReport>,
    pub(crate) churned: Option<u64>,
    pub(crate) server: ServerReport,
    pub(crate) tester: TesterReport,
    pub(crate) slo: Vec<Held>,
    /// The first findings, in words.
    pub(crate) faults: Vec<String>,
    pub(crate) series: Vec<Row>,
    /// Beginnings of what is told apart, in seconds since the first socket, for the plots.
    #[serde(skip)]
    pub(crate) moments: Vec<plot::Moment>,
}

/// Latencies of changes that were due in a part of the time.
#[derive(Serialize, Default)]
pub(crate) struct PhaseReport {
    pub(crate) name: String,
    pub(crate) from_s: f64,
    /// From COMMIT sent; where one organisation is apart, of the others.
    pub(crate) latency_ms: Percentiles,
    /// From the schedule, likewise.
    pub(crate) schedule_latency_ms: Percentiles,
    /// From COMMIT sent, of the organisation that is apart.
    pub(crate) first_org_latency_ms: Option<Percentiles>,
}

/// What became of sockets that dropped together.
#[derive(Serialize, Default)]
pub(crate) struct StormReport {
    pub(crate) dropped: u64,
    pub(crate) returned: u64,
    pub(crate) caught_up: u64,
    /// Events that they had missed, and got.
    pub(crate) replayed: u64,
    /// From the moment at which a socket was to come back to its last join's answer.
    pub(crate) back_ms: Percentiles,
    /// The same, to the last event that it had missed.
    pub(crate) caught_up_ms: Percentiles,
}

/// What the gateways' processes used; nulls where they can't be seen from here.
#[derive(Serialize, Default)]
pub(crate) struct ServerReport {
    pub(crate) pids: Vec<u32>,
    /// Over the time of publishing and what came after, and all that was read then. It holds the
    /// reading of the database as well.
    pub(crate) cpu_us_per_delivery: Option<f64>,
    /// CPU in cores over the time of publishing.
    pub(crate) cores: Option<f64>,
    /// CPU while the sockets connected, for each that joined.
    pub(crate) cpu_us_per_connect: Option<f64>,
    pub(crate) resident_mib_start: Option<f64>,
    pub(crate) resident_mib_end: Option<f64>,
    pub(crate) resident_mib_max: Option<f64>,
    /// Growth while the sockets connected, for each that joined.
    pub(crate) kib_per_socket: Option<f64>,
    /// Slope from the second quarter of the time of publishing on.
    pub(crate) growth_mib_per_h: Option<f64>,
    pub(crate) threads: Option<u32>,
}

/// What this tester used itself.
#[derive(Serialize, Default)]
pub(crate) struct TesterReport {
    pub(crate) processes: usize,
    pub(crate) cores: Option<f64>,
    pub(crate) cpu_us_per_event: Option<f64>,
    pub(crate) resident_mib_max: Option<f64>,
}

/// One interval of the run.
#[derive(Serialize, Default, Clone)]
pub(crate) struct Row {
    /// Its end, in seconds since the first socket.
    pub(crate) t_s: f64,
    pub(crate) sockets: u64,
    pub(crate) connecting: u64,
    pub(crate) changes_per_s: f64,
    pub(crate) events_per_s: f64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p90_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    pub(crate) server_cores: Option<f64>,
    pub(crate) server_mib: Option<f64>,
    pub(crate) tester_cores: Option<f64>,
}

impl Report {
    /// Decides whether the run passed, apart from thresholds.
    pub(crate) fn judge(mut self) -> Self {
        let sockets = self.sockets_refused == 0 && self.sockets_dropped == 0 && self.sockets > 0;
        let all_opened = self.interrupted || self.sockets >= self.sockets_asked as u64;
        let changes = self.changes_failed == 0
            && self.changes_unknown == 0
            && (self.interrupted || self.changes >= self.changes_due);
        let faults = self.missing
            + self.duplicates
            + self.cross_org
            + self.out_of_order
            + self.unexpected
            + self.rolled_back;
        let storm = self.storm.as_ref().is_none_or(|storm| storm.returned == storm.dropped);
        self.passed = sockets && all_opened && changes && faults == 0 && storm;
        self
    }

    pub(crate) fn meets_slo(&self) -> bool {
        self.slo.iter().all(|held| held.holds)
    }

    /// Of the organisations that do not flood, while one does.
    pub(crate) fn others_during(&self) -> Option<&Percentiles> {
        let phase = self.phases.iter().find(|p| p.first_org_latency_ms.is_some() && p.name == "during");
        phase.map(|phase| &phase.latency_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report { sockets: 2, sockets_asked: 2, changes: 5, changes_due: 5, ..Report::default() }
    }

    #[test]
    fn each_kind_of_fault_fails_the_run() {
        assert!(good().judge().passed);
        let storm = StormReport { dropped: 2, returned: 1, ..StormReport::default() };
        let bad = [
            Report { missing: 1, ..good() },
            Report { duplicates: 1, ..good() },
            Report { cross_org: 1, ..good() },
            Report { out_of_order: 1, ..good() },
            Report { unexpected: 1, ..good() },
            Report { rolled_back: 1, ..good() },
            Report { sockets_refused: 1, ..good() },
            Report { sockets_dropped: 1, ..good() },
            Report { sockets: 1, ..good() },
            Report { changes: 4, ..good() },
            Report { changes_failed: 1, ..good() },
            Report { changes_unknown: 1, ..good() },
            Report { storm: Some(storm), ..good() },
        ];
        for (n, report) in bad.into_iter().enumerate() {
            assert!(!report.judge().passed, "{n}");
        }
        let interrupted = Report { interrupted: true, sockets: 1, changes: 1, ..good() };
        assert!(interrupted.judge().passed, "what happened until then was good");
    }
}

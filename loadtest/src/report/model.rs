//! The data of a report, and the verdict.

use serde::Serialize;

use super::plot::Marker;
use crate::histograms::Percentiles;

/// The result of a run. The field names are those of the JSON report.
#[derive(Serialize, Default)]
pub(crate) struct Report {
    /// No event was lost, duplicated, reordered or leaked, all sockets joined and stayed, and all changes
    /// were made.
    pub(crate) passed: bool,
    pub(crate) scenario: &'static str,
    /// Id of the run.
    pub(crate) run: String,
    pub(crate) interrupted: bool,
    /// Start time in UTC (RFC 3339).
    pub(crate) began: String,
    pub(crate) version: &'static str,
    pub(crate) debug_build: bool,
    pub(crate) machine: String,
    pub(crate) gateways: Vec<String>,
    pub(crate) sockets_asked: usize,
    /// Sockets that were opened during the run.
    pub(crate) sockets: u64,
    /// Sockets whose handshake or join failed.
    pub(crate) sockets_refused: u64,
    /// Sockets that the gateway or the network ended.
    pub(crate) sockets_dropped: u64,
    /// Connections that were attempted again after a 429, a 503 or a timeout.
    pub(crate) sockets_retried: u64,
    pub(crate) orgs: usize,
    pub(crate) skew: String,
    pub(crate) topics: Vec<String>,
    /// Different filters of each organisation; 0: none.
    pub(crate) filters: usize,
    pub(crate) filter_skew: Option<String>,
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
    /// Events of rows that entered a filter.
    pub(crate) entered: u64,
    /// Events of rows that left a filter.
    pub(crate) left: u64,
    pub(crate) rate_asked: f64,
    pub(crate) rate: f64,
    pub(crate) deliveries_per_s: f64,
    pub(crate) connects_per_s: f64,
    /// Latency from the sending of COMMIT to the reading of the event.
    pub(crate) latency_ms: Percentiles,
    /// Latency from the scheduled time of the change to reading the event.
    pub(crate) schedule_latency_ms: Percentiles,
    pub(crate) commit_ms: Percentiles,
    pub(crate) schedule_lag_ms: Percentiles,
    pub(crate) connect_ms: Percentiles,
    pub(crate) join_ms: Percentiles,
    pub(crate) phases: Vec<PhaseReport>,
    pub(crate) storm: Option<StormReport>,
    /// Sockets that left for the churn.
    pub(crate) churned: Option<u64>,
    pub(crate) server: ServerReport,
    pub(crate) tester: TesterReport,
    pub(crate) slo: Vec<ThresholdResult>,
    /// The first findings, in words.
    #[serde(rename = "faults")]
    pub(crate) findings: Vec<String>,
    pub(crate) series: Vec<IntervalRow>,
    /// Beginnings of the phases, for the plots.
    #[serde(skip)]
    pub(crate) markers: Vec<Marker>,
}

/// Latencies of the changes that were due in one phase.
#[derive(Serialize, Default)]
pub(crate) struct PhaseReport {
    pub(crate) name: String,
    pub(crate) from_s: f64,
    /// Latency from the sending of COMMIT to the reading of the event. Without the first organisation if that
    /// is reported separately.
    pub(crate) latency_ms: Percentiles,
    /// From the schedule to event read, of the same organisations.
    pub(crate) schedule_latency_ms: Percentiles,
    /// Latency from the sending of COMMIT to the reading of the event, of the first organisation if it is
    /// reported separately.
    pub(crate) first_org_latency_ms: Option<Percentiles>,
}

/// The sockets that a storm dropped.
#[derive(Serialize, Default)]
pub(crate) struct StormReport {
    pub(crate) dropped: u64,
    #[serde(rename = "returned")]
    pub(crate) reconnected: u64,
    pub(crate) caught_up: u64,
    /// Missed events that arrived after the reconnect.
    pub(crate) replayed: u64,
    /// From the moment at which a socket was due to reconnect to the answer to its last join.
    #[serde(rename = "back_ms")]
    pub(crate) reconnect_ms: Percentiles,
    /// From the moment at which a socket was due to reconnect to its last missed event.
    pub(crate) caught_up_ms: Percentiles,
}

/// Usage of the gateways' processes. Values that cannot be measured from here are null.
#[derive(Serialize, Default)]
pub(crate) struct ServerReport {
    pub(crate) pids: Vec<u32>,
    /// CPU time per event, from the beginning of publishing until all events had arrived. It includes reading
    /// the log.
    pub(crate) cpu_us_per_delivery: Option<f64>,
    /// CPU time in cores while publishing.
    pub(crate) cores: Option<f64>,
    /// CPU time per socket while the sockets connected.
    pub(crate) cpu_us_per_connect: Option<f64>,
    pub(crate) resident_mib_start: Option<f64>,
    pub(crate) resident_mib_end: Option<f64>,
    pub(crate) resident_mib_max: Option<f64>,
    /// Growth of memory per socket while the sockets connected.
    pub(crate) kib_per_socket: Option<f64>,
    /// Growth of memory after the first quarter of publishing.
    pub(crate) growth_mib_per_h: Option<f64>,
    pub(crate) threads: Option<u32>,
}

/// Usage of the load tester itself.
#[derive(Serialize, Default)]
pub(crate) struct TesterReport {
    pub(crate) processes: usize,
    pub(crate) cores: Option<f64>,
    pub(crate) cpu_us_per_event: Option<f64>,
    pub(crate) resident_mib_max: Option<f64>,
}

/// The result of one threshold.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ThresholdResult {
    pub(crate) rule: String,
    /// In the rule's own unit (times in milliseconds, memory in MiB); null if it was not measured.
    pub(crate) value: Option<f64>,
    pub(crate) holds: bool,
}

/// One interval of the run.
#[derive(Serialize, Default, Clone)]
pub(crate) struct IntervalRow {
    /// End of the interval, in seconds since the first socket.
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
    /// Sets whether the run passed, apart from thresholds.
    pub(crate) fn judge(mut self) -> Self {
        let sockets_ok = self.sockets_refused == 0 && self.sockets_dropped == 0 && self.sockets > 0;
        // An interrupted run need not be complete.
        let all_opened = self.interrupted || self.sockets >= self.sockets_asked as u64;
        let changes_ok = self.changes_failed == 0
            && self.changes_unknown == 0
            && (self.interrupted || self.changes >= self.changes_due);
        let faults = self.missing
            + self.duplicates
            + self.cross_org
            + self.out_of_order
            + self.unexpected
            + self.rolled_back;
        let storm_ok = self.storm.as_ref().is_none_or(|storm| storm.reconnected == storm.dropped);
        self.passed = sockets_ok && all_opened && changes_ok && faults == 0 && storm_ok;
        self
    }

    pub(crate) fn meets_slo(&self) -> bool {
        self.slo.iter().all(|result| result.holds)
    }

    /// The verdict for people.
    pub(crate) fn verdict(&self) -> &'static str {
        match (self.passed, self.meets_slo()) {
            (true, true) => "PASSED",
            (true, false) => "SLO MISSED",
            (false, _) => "FAILED",
        }
    }

    /// Latencies of the other organisations while the first one floods.
    pub(crate) fn others_during_flood(&self) -> Option<&Percentiles> {
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
        let storm = StormReport { dropped: 2, reconnected: 1, ..StormReport::default() };
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
    }

    #[test]
    fn an_interrupted_run_passes_although_it_is_incomplete() {
        assert!(Report { interrupted: true, sockets: 1, changes: 1, ..good() }.judge().passed);
    }
}

//! Histograms of durations, by label. Workers record them, send them as counts, and the main process adds
//! them up.

use std::collections::HashMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::Nanos;

/// Longer durations are recorded as this one; no wait of a run is longer.
const MICROSECONDS_MAX: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
const NANOS_PER_MICRO: u64 = 1000;

/// Kinds of durations.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LatencyKind {
    /// From COMMIT sent to event read.
    Commit,
    /// From the schedule to event read.
    Schedule,
    /// From the start of the TCP connection to the 101.
    Connect,
    /// From the start of the TCP connection to the answer to the last join.
    Join,
    /// From the moment at which a socket was due to reconnect after a storm to the answer to its last join.
    Reconnect,
    /// From the moment at which a socket was due to reconnect after a storm to its last missed event.
    CatchUp,
}

/// The label of a histogram.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Label {
    pub(crate) kind: LatencyKind,
    /// Phase in which the change was due.
    pub(crate) phase: usize,
    /// Group of organisations: 0 is the organisation that is reported separately, if there is one; 1 the
    /// others.
    pub(crate) group: usize,
}

/// A histogram as a message.
#[derive(Serialize, Deserialize)]
pub(crate) struct HistogramCounts {
    pub(crate) label: Label,
    /// Microseconds, and how often they occurred.
    pub(crate) counts: Vec<(u64, u64)>,
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MICROSECONDS_MAX, SIGNIFICANT_DIGITS)
        .unwrap_or_else(|_| unreachable!("the bounds are valid constants"))
}

/// Histograms by label.
#[derive(Default)]
pub(crate) struct Histograms(HashMap<Label, Histogram<u64>>);

impl Histograms {
    pub(crate) fn record(&mut self, label: Label, nanos: Nanos) {
        self.0.entry(label).or_insert_with(new_histogram).saturating_record(nanos / NANOS_PER_MICRO);
    }

    /// Removes and returns everything that was recorded since the last call.
    pub(crate) fn take(&mut self) -> Vec<HistogramCounts> {
        let counts = |(label, histogram): (&Label, &mut Histogram<u64>)| {
            let counts: Vec<_> =
                histogram.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect();
            histogram.reset();
            HistogramCounts { label: *label, counts }
        };
        self.0.iter_mut().map(counts).filter(|counts| !counts.counts.is_empty()).collect()
    }

    /// Adds what a worker recorded.
    pub(crate) fn add(&mut self, added: &HistogramCounts) {
        let histogram = self.0.entry(added.label).or_insert_with(new_histogram);
        for (value, count) in &added.counts {
            histogram.saturating_record_n(*value, *count);
        }
    }

    /// Percentiles of one kind over all labels that match.
    pub(crate) fn percentiles(&self, kind: LatencyKind, matches: impl Fn(&Label) -> bool) -> Percentiles {
        let mut sum = new_histogram();
        for (label, histogram) in &self.0 {
            if label.kind == kind && matches(label) {
                // All have the same bounds, so this cannot fail.
                let _ = sum.add(histogram);
            }
        }
        Percentiles::of(&sum)
    }
}

/// Percentiles in milliseconds; null in JSON if nothing was measured.
#[derive(Serialize, Clone, Copy, Debug, Default)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50: Option<f64>,
    pub(crate) p90: Option<f64>,
    pub(crate) p99: Option<f64>,
    #[serde(rename = "p99.9")]
    pub(crate) p99_9: Option<f64>,
    pub(crate) max: Option<f64>,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let milliseconds = |value: u64| (!histogram.is_empty()).then_some(value as f64 / 1000.0);
        let quantile = |q: f64| milliseconds(histogram.value_at_quantile(q));
        Self {
            count: histogram.len(),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: milliseconds(histogram.max()),
        }
    }

    /// The values with their names in tables and thresholds.
    pub(crate) fn named(&self) -> [(&'static str, Option<f64>); 5] {
        [("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("p99.9", self.p99_9), ("max", self.max)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_survive_their_way_through_messages() {
        let label = |phase| Label { kind: LatencyKind::Commit, phase, group: 1 };
        let mut worker = Histograms::default();
        for ms in 1..=1000 {
            worker.record(label(ms % 2), ms as u64 * 1_000_000);
            worker.record(label(ms % 2), ms as u64 * 1_000_000);
        }
        let mut sum = Histograms::default();
        for counts in worker.take() {
            sum.add(&counts);
        }
        assert!(worker.take().is_empty());
        let all = sum.percentiles(LatencyKind::Commit, |_| true);
        assert_eq!(all.count, 2000);
        for (name, expected) in [("p50", 500.0), ("p99", 990.0), ("max", 1000.0)] {
            let value = all.named().into_iter().find(|(n, _)| *n == name).unwrap().1.unwrap();
            assert!((value - expected).abs() / expected < 0.002, "{name}: {value}");
        }
        assert_eq!(sum.percentiles(LatencyKind::Commit, |label| label.phase == 0).count, 1000);
        assert_eq!(sum.percentiles(LatencyKind::Schedule, |_| true).p50, None);
    }
}

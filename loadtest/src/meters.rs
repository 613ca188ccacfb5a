//! Histograms of durations, by label. They are recorded in holders, travel as counts, and are added up
//! by whoever reports. What they mean is said by their labels alone.

use std::collections::HashMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::clock::Nanos;
use crate::message::{Label, Timed, Timing};

/// What lies beyond is recorded as this; the longest wait of a run is shorter.
const MICROSECONDS_MAX: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
const NANOS_PER_MICRO: u64 = 1000;

/// An empty histogram of microseconds.
pub(crate) fn histogram() -> Histogram<u64> {
    // The bounds are constants, and good ones.
    Histogram::new_with_bounds(1, MICROSECONDS_MAX, SIGNIFICANT_DIGITS)
        .unwrap_or_else(|_| unreachable!("constant bounds"))
}

/// Histograms by label.
#[derive(Default)]
pub(crate) struct Meters(HashMap<Label, Histogram<u64>>);

impl Meters {
    pub(crate) fn record(&mut self, label: Label, nanos: Nanos) {
        self.0.entry(label).or_insert_with(histogram).saturating_record(nanos / NANOS_PER_MICRO);
    }

    /// Everything that was recorded since the last time.
    pub(crate) fn take(&mut self) -> Vec<Timing> {
        let timing = |(label, histogram): (&Label, &mut Histogram<u64>)| {
            let counts: Vec<_> =
                histogram.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect();
            histogram.reset();
            Timing { label: *label, counts }
        };
        self.0.iter_mut().map(timing).filter(|timing| !timing.counts.is_empty()).collect()
    }

    /// Adds what a holder recorded.
    pub(crate) fn add(&mut self, timing: &Timing) {
        let histogram = self.0.entry(timing.label).or_insert_with(histogram);
        for (value, count) in &timing.counts {
            histogram.saturating_record_n(*value, *count);
        }
    }

    /// All that was recorded of a kind, where phase and group are as wanted.
    pub(crate) fn sum(&self, timed: Timed, wanted: impl Fn(&Label) -> bool) -> Histogram<u64> {
        let mut sum = histogram();
        for (label, histogram) in &self.0 {
            if label.timed == timed && wanted(label) {
                // All have the same bounds.
                let _ = sum.add(histogram);
            }
        }
        sum
    }

    pub(crate) fn percentiles(&self, timed: Timed) -> Percentiles {
        Percentiles::of(&self.sum(timed, |_| true))
    }
}

/// Percentiles in milliseconds; null in JSON where nothing was measured.
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
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
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

    /// With the names that tables and thresholds use.
    pub(crate) fn named(&self) -> [(&'static str, Option<f64>); 5] {
        [("p50", self.p50), ("p90", self.p90), ("p99", self.p99), ("p99.9", self.p99_9), ("max", self.max)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_travelled_is_what_was_recorded() {
        let label = |phase| Label { timed: Timed::Commit, phase, group: 1 };
        let mut holder = Meters::default();
        for ms in 1..=1000 {
            holder.record(label(ms % 2), ms as u64 * 1_000_000);
            holder.record(label(ms % 2), ms as u64 * 1_000_000);
        }
        let mut sum = Meters::default();
        for timing in holder.take() {
            sum.add(&timing);
        }
        assert!(holder.take().is_empty());
        let all = sum.percentiles(Timed::Commit);
        assert_eq!(all.count, 2000);
        for (name, expected) in [("p50", 500.0), ("p99", 990.0), ("max", 1000.0)] {
            let value = all.named().into_iter().find(|(n, _)| *n == name).unwrap().1.unwrap();
            assert!((value - expected).abs() / expected < 0.002, "{name}: {value}");
        }
        assert_eq!(sum.sum(Timed::Commit, |l| l.phase == 0).len(), 1000);
        assert_eq!(sum.percentiles(Timed::Due).p50, None);
    }
}

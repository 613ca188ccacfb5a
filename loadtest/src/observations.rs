//! Everything that is known of a run so far: the workers' reports and the usage of processes, interval by
//! interval. It adds up and does not judge.

use std::time::Duration;

use crate::check::Counts;
use crate::clock::{Nanos, now, seconds};
use crate::histograms::{Histograms, Label, LatencyKind, Percentiles};
use crate::message::{Progress, SocketCounts};
use crate::process::{ProcessMeter, Usage};
use crate::report::IntervalRow;

const BYTES_PER_MIB: f64 = 1024.0 * 1024.0;

/// The observations of a run.
pub(crate) struct Observations {
    /// Beginning of the first interval.
    pub(crate) epoch: Nanos,
    interval: Duration,
    /// The latest counts of each worker.
    workers: Vec<WorkerCounts>,
    histograms: Histograms,
    intervals: Vec<Interval>,
    server: Vec<ProcessMeter>,
    tester: Vec<ProcessMeter>,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Clone, Copy, Default)]
struct WorkerCounts {
    counts: Counts,
    sockets: SocketCounts,
}

#[derive(Default)]
struct Interval {
    /// The counts of each worker at its end, once reported.
    workers: Vec<Option<WorkerCounts>>,
    histograms: Histograms,
}

/// Usage at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Nanos,
    pub(crate) changes: u64,
    pub(crate) server: Option<Usage>,
    pub(crate) tester: Option<Usage>,
}

impl Observations {
    pub(crate) fn new(
        epoch: Nanos,
        interval: Duration,
        workers: usize,
        server: Vec<ProcessMeter>,
        tester: Vec<ProcessMeter>,
    ) -> Self {
        Self {
            epoch,
            interval,
            workers: vec![WorkerCounts::default(); workers],
            histograms: Histograms::default(),
            intervals: Vec::new(),
            server,
            tester,
            samples: Vec::new(),
        }
    }

    /// Adds the report of a worker.
    pub(crate) fn add(&mut self, worker: usize, progress: &Progress) {
        if self.intervals.len() <= progress.interval {
            self.intervals.resize_with(progress.interval + 1, Interval::default);
        }
        let counts = WorkerCounts { counts: progress.counts, sockets: progress.sockets };
        self.workers[worker] = counts;
        let interval = &mut self.intervals[progress.interval];
        interval.workers.resize(self.workers.len(), None);
        interval.workers[worker] = Some(counts);
        for histogram in &progress.histograms {
            self.histograms.add(histogram);
            if histogram.label.kind == LatencyKind::Commit {
                interval.histograms.add(histogram);
            }
        }
    }

    /// Measures the processes now.
    pub(crate) fn sample(&mut self, changes: u64) -> Sample {
        let sample = Sample { at: now(), changes, server: sum(&self.server), tester: sum(&self.tester) };
        self.samples.push(sample);
        sample
    }

    pub(crate) fn server_pids(&self) -> Vec<u32> {
        self.server.iter().map(ProcessMeter::pid).collect()
    }

    /// Latest counts over all workers.
    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.workers.iter().for_each(|worker| sum.add(&worker.counts));
        sum
    }

    /// Latest numbers of sockets over all workers.
    pub(crate) fn sockets(&self) -> SocketCounts {
        let mut sum = SocketCounts::default();
        self.workers.iter().for_each(|worker| sum.add(&worker.sockets));
        sum
    }

    /// Latencies of the newest interval that every worker has reported.
    pub(crate) fn latest_latency(&self) -> Option<Percentiles> {
        let is_complete = |interval: &&Interval| {
            !interval.workers.is_empty() && interval.workers.iter().all(Option::is_some)
        };
        let newest = self.intervals.iter().rev().find(is_complete);
        newest.map(|interval| interval.histograms.percentiles(LatencyKind::Commit, |_| true))
    }

    /// Percentiles of one kind over all labels that match.
    pub(crate) fn percentiles(&self, kind: LatencyKind, matches: impl Fn(&Label) -> bool) -> Percentiles {
        self.histograms.percentiles(kind, matches)
    }

    /// The intervals as rows of the report.
    pub(crate) fn rows(&self) -> Vec<IntervalRow> {
        let seconds = self.interval.as_secs_f64();
        let mut latest = vec![WorkerCounts::default(); self.workers.len()];
        let (mut rows, mut events_before) = (Vec::new(), 0);
        for (n, interval) in self.intervals.iter().enumerate() {
            // A worker that did not report this interval keeps its former counts.
            for (known, new) in latest.iter_mut().zip(&interval.workers) {
                *known = new.unwrap_or(*known);
            }
            let latency = interval.histograms.percentiles(LatencyKind::Commit, |_| true);
            let events: u64 = latest.iter().map(|worker| worker.counts.events).sum();
            let mut row = IntervalRow {
                t_s: (n as f64 + 1.0) * seconds,
                sockets: latest.iter().map(|worker| worker.sockets.open).sum(),
                connecting: latest.iter().map(|worker| worker.sockets.connecting).sum(),
                events_per_s: events.saturating_sub(events_before) as f64 / seconds,
                p50_ms: latency.p50,
                p90_ms: latency.p90,
                p99_ms: latency.p99,
                max_ms: latency.max,
                ..IntervalRow::default()
            };
            events_before = events;
            self.add_usage(&mut row);
            rows.push(row);
        }
        rows
    }

    /// Adds the usage between the two samples around the end of an interval.
    fn add_usage(&self, row: &mut IntervalRow) {
        let end = self.epoch + seconds(row.t_s);
        let after = self.samples.partition_point(|sample| sample.at < end);
        let Some(pair) =
            after.min(self.samples.len().saturating_sub(1)).checked_sub(1).map(|n| &self.samples[n..n + 2])
        else {
            return;
        };
        let [a, b] = pair else { return };
        row.changes_per_s = b.changes.saturating_sub(a.changes) as f64 / between(a, b).as_secs_f64();
        row.server_cores = cores(a, b, |sample| sample.server);
        row.tester_cores = cores(a, b, |sample| sample.tester);
        row.server_mib = b.server.map(mib);
    }

    /// Growth of the server's memory between two moments: the slope of a least-squares fit, in MiB per hour.
    pub(crate) fn growth(&self, from: Nanos, until: Nanos) -> Option<f64> {
        let samples = self.samples.iter().filter(|sample| (from..=until).contains(&sample.at));
        let point = |sample: &Sample| Some(((sample.at - from) as f64 / 3.6e12, mib(sample.server?)));
        slope(&samples.filter_map(point).collect::<Vec<_>>())
    }
}

fn slope(points: &[(f64, f64)]) -> Option<f64> {
    /// A slope of fewer points is mostly noise.
    const POINTS_MIN: usize = 4;
    if points.len() < POINTS_MIN {
        return None;
    }
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    (variance > 0.0).then(|| covariance / variance)
}

fn sum(meters: &[ProcessMeter]) -> Option<Usage> {
    let mut usages = meters.iter().filter_map(ProcessMeter::sample);
    let first = usages.next()?;
    Some(usages.fold(first, |sum, usage| Usage {
        cpu: sum.cpu + usage.cpu,
        resident_bytes: sum.resident_bytes + usage.resident_bytes,
        threads: sum.threads + usage.threads,
    }))
}

pub(crate) fn mib(usage: Usage) -> f64 {
    usage.resident_bytes as f64 / BYTES_PER_MIB
}

/// Time between two samples.
pub(crate) fn between(a: &Sample, b: &Sample) -> Duration {
    Duration::from_nanos(b.at.saturating_sub(a.at).max(1))
}

/// CPU time that was used between two samples.
pub(crate) fn cpu(a: &Sample, b: &Sample, usage: impl Fn(&Sample) -> Option<Usage>) -> Option<Duration> {
    Some(usage(b)?.cpu.saturating_sub(usage(a)?.cpu))
}

/// CPU time between two samples, in cores.
pub(crate) fn cores(a: &Sample, b: &Sample, usage: impl Fn(&Sample) -> Option<Usage>) -> Option<f64> {
    Some(cpu(a, b, usage)?.as_secs_f64() / between(a, b).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_include_workers_that_did_not_report_an_interval() {
        let mut observations = Observations::new(0, Duration::from_secs(1), 2, Vec::new(), Vec::new());
        let progress = |interval, events, open| Progress {
            interval,
            counts: Counts { events, ..Counts::default() },
            sockets: SocketCounts { open, ..SocketCounts::default() },
            histograms: Vec::new(),
        };
        observations.add(0, &progress(0, 10, 5));
        observations.add(1, &progress(0, 20, 6));
        observations.add(0, &progress(1, 15, 5));
        observations.add(0, &progress(2, 20, 5));
        observations.add(1, &progress(2, 50, 7));
        let rows: Vec<_> =
            observations.rows().iter().map(|row| (row.sockets, row.events_per_s.round())).collect();
        assert_eq!(rows, [(11, 30.0), (11, 5.0), (12, 35.0)]);
        assert_eq!(observations.counts().events, 70);
    }

    #[test]
    fn growth_is_the_slope_of_the_memory() {
        let points: Vec<_> = (0..10).map(|n| (f64::from(n), 100.0 + 3.0 * f64::from(n))).collect();
        assert!((slope(&points).unwrap() - 3.0).abs() < 1e-9);
        assert_eq!(slope(&points[..2]), None);
        assert_eq!(slope(&[(1.0, 1.0); 5]), None);
    }
}

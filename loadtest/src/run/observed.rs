//! What is known of a run so far: the holders' words and the processes' usage, interval by interval. It
//! adds up and judges nothing.

use std::time::Duration;

use crate::check::Counts;
use crate::clock::{Nanos, now};
use crate::message::{Label, Progress, SocketCounts, Timed};
use crate::meters::{Meters, Percentiles};
use crate::process::{Meter, Usage};
use crate::report::Row;

const BYTES_PER_MIB: f64 = 1024.0 * 1024.0;

/// Everything that was seen.
pub(crate) struct Observed {
    pub(crate) epoch: Nanos,
    interval: Duration,
    /// What each holder said last.
    holders: Vec<(Counts, SocketCounts)>,
    pub(crate) meters: Meters,
    intervals: Vec<Interval>,
    server: Vec<Meter>,
    tester: Vec<Meter>,
    pub(crate) samples: Vec<Sample>,
}

#[derive(Default)]
struct Interval {
    /// What each holder said at its end.
    holders: Vec<Option<(Counts, SocketCounts)>>,
    meters: Meters,
}

/// Usage at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Nanos,
    pub(crate) changes: u64,
    pub(crate) server: Option<Usage>,
    pub(crate) tester: Option<Usage>,
}

impl Observed {
    pub(crate) fn new(
        epoch: Nanos,
        interval: Duration,
        holders: usize,
        server: Vec<Meter>,
        tester: Vec<Meter>,
    ) -> Self {
        Self {
            epoch,
            interval,
            holders: vec![Default::default(); holders],
            meters: Meters::default(),
            intervals: Vec::new(),
            server,
            tester,
            samples: Vec::new(),
        }
    }

    pub(crate) fn progress(&mut self, holder: usize, progress: &Progress) {
        if self.intervals.len() <= progress.interval {
            self.intervals.resize_with(progress.interval + 1, Interval::default);
        }
        let stand = (progress.counts, progress.sockets);
        self.holders[holder] = stand;
        let interval = &mut self.intervals[progress.interval];
        interval.holders.resize(self.holders.len(), None);
        interval.holders[holder] = Some(stand);
        for timing in &progress.timings {
            self.meters.add(timing);
            if timing.label.timed == Timed::Commit {
                interval.meters.add(timing);
            }
        }
    }

    /// Notes what the processes use now.
    pub(crate) fn sample(&mut self, changes: u64) -> Sample {
        let sample = Sample { at: now(), changes, server: sum(&self.server), tester: sum(&self.tester) };
        self.samples.push(sample);
        sample
    }

    pub(crate) fn server_pids(&self) -> Vec<u32> {
        self.server.iter().map(Meter::pid).collect()
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.holders.iter().for_each(|(counts, _)| sum.add(counts));
        sum
    }

    pub(crate) fn sockets(&self) -> SocketCounts {
        let mut sum = SocketCounts::default();
        self.holders.iter().for_each(|(_, sockets)| sum.add(sockets));
        sum
    }

    /// Percentiles of the newest interval that every holder told of.
    pub(crate) fn latest_latency(&self) -> Option<Percentiles> {
        let complete = |interval: &&Interval| {
            !interval.holders.is_empty() && interval.holders.iter().all(Option::is_some)
        };
        self.intervals.iter().rev().find(complete).map(|interval| interval.meters.percentiles(Timed::Commit))
    }

    pub(crate) fn percentiles(&self, timed: Timed, wanted: impl Fn(&Label) -> bool) -> Percentiles {
        Percentiles::of(&self.meters.sum(timed, wanted))
    }

    /// The curves of the report.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let seconds = self.interval.as_secs_f64();
        let mut stand = vec![(Counts::default(), SocketCounts::default()); self.holders.len()];
        let (mut rows, mut events_before) = (Vec::new(), 0);
        for (n, interval) in self.intervals.iter().enumerate() {
            for (known, new) in stand.iter_mut().zip(&interval.holders) {
                *known = new.unwrap_or(*known);
            }
            let latency = interval.meters.percentiles(Timed::Commit);
            let events: u64 = stand.iter().map(|(counts, _)| counts.events).sum();
            let mut row = Row {
                t_s: (n as f64 + 1.0) * seconds,
                sockets: stand.iter().map(|(_, sockets)| sockets.open).sum(),
                connecting: stand.iter().map(|(_, sockets)| sockets.connecting).sum(),
                events_per_s: events.saturating_sub(events_before) as f64 / seconds,
                p50_ms: latency.p50,
                p90_ms: latency.p90,
                p99_ms: latency.p99,
                max_ms: latency.max,
                ..Row::default()
            };
            events_before = events;
            self.add_usage(&mut row);
            rows.push(row);
        }
        rows
    }

    /// What the processes used around the end of an interval.
    fn add_usage(&self, row: &mut Row) {
        let end = self.epoch + crate::clock::seconds(row.t_s);
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

    /// Slope of the server's memory between two moments, in MiB an hour, by least squares.
    pub(crate) fn growth(&self, from: Nanos, until: Nanos) -> Option<f64> {
        let wanted = self.samples.iter().filter(|sample| (from..=until).contains(&sample.at));
        let point = |sample: &Sample| Some(((sample.at - from) as f64 / 3.6e12, mib(sample.server?)));
        slope(&wanted.filter_map(point).collect::<Vec<_>>())
    }
}

fn slope(points: &[(f64, f64)]) -> Option<f64> {
    /// Fewer tell nothing.
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

fn sum(meters: &[Meter]) -> Option<Usage> {
    let mut usages = meters.iter().filter_map(Meter::sample);
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

pub(crate) fn between(a: &Sample, b: &Sample) -> Duration {
    Duration::from_nanos(b.at.saturating_sub(a.at).max(1))
}

/// CPU time that was used between two samples.
pub(crate) fn cpu(a: &Sample, b: &Sample, whose: impl Fn(&Sample) -> Option<Usage>) -> Option<Duration> {
    Some(whose(b)?.cpu.saturating_sub(whose(a)?.cpu))
}

pub(crate) fn cores(a: &Sample, b: &Sample, whose: impl Fn(&Sample) -> Option<Usage>) -> Option<f64> {
    Some(cpu(a, b, whose)?.as_secs_f64() / between(a, b).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_add_up_what_holders_say_even_where_one_is_silent() {
        let mut observed = Observed::new(0, Duration::from_secs(1), 2, Vec::new(), Vec::new());
        let progress = |interval, events, open| Progress {
            interval,
            counts: Counts { events, ..Counts::default() },
            sockets: SocketCounts { open, ..SocketCounts::default() },
            timings: Vec::new(),
        };
        observed.progress(0, &progress(0, 10, 5));
        observed.progress(1, &progress(0, 20, 6));
        observed.progress(0, &progress(1, 15, 5));
        observed.progress(0, &progress(2, 20, 5));
        observed.progress(1, &progress(2, 50, 7));
        let rows: Vec<_> =
            observed.rows().iter().map(|row| (row.sockets, row.events_per_s.round())).collect();
        assert_eq!(rows, [(11, 30.0), (11, 5.0), (12, 35.0)]);
        assert_eq!(observed.counts().events, 70);
    }

    #[test]
    fn growth_is_a_slope() {
        let points: Vec<_> = (0..10).map(|n| (f64::from(n), 100.0 + 3.0 * f64::from(n))).collect();
        assert!((slope(&points).unwrap() - 3.0).abs() < 1e-9);
        assert_eq!(slope(&points[..2]), None);
        assert_eq!(slope(&[(1.0, 1.0); 5]), None);
    }
}

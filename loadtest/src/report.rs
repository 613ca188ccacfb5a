//! What the operator sees: histograms, the live line, and the final report as a table or as JSON.
//! It only shows what check.rs found; whether the run passed is said in one place, `Report::passed`.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal as _, Write as _, stderr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::client::Shared;

/// What lies beyond is recorded as this; the longest wait of a run is shorter.
const MICROSECONDS_MAX: u64 = 3_600_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
/// Sockets record into one of several histograms, so that they seldom wait for each other.
const LATENCY_SHARDS: usize = 8;
const LINE_EVERY: Duration = Duration::from_secs(1);

/// A histogram of durations, in microseconds.
pub(crate) struct Meter(Mutex<Histogram<u64>>);

impl Meter {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Mutex::new(Histogram::new_with_bounds(1, MICROSECONDS_MAX, SIGNIFICANT_DIGITS)?)))
    }

    pub(crate) fn record(&self, duration: Duration) {
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(MICROSECONDS_MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(microseconds);
    }
}

/// All that is timed.
pub(crate) struct Timings {
    /// From the start of the TCP connection to the 101.
    pub(crate) connect: Meter,
    /// The same, to the last answer to a join.
    pub(crate) join: Meter,
    /// From COMMIT sent to COMMIT answered.
    pub(crate) commit: Meter,
    /// From the moment at which a change was due to its COMMIT sent.
    pub(crate) lag: Meter,
    latency: Vec<Meter>,
}

impl Timings {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            connect: Meter::new()?,
            join: Meter::new()?,
            commit: Meter::new()?,
            lag: Meter::new()?,
            latency: (0..LATENCY_SHARDS).map(|_| Meter::new()).collect::<Result<_, _>>()?,
        })
    }

    /// From COMMIT sent to the event out of the socket.
    pub(crate) fn latency(&self, socket: usize) -> &Meter {
        &self.latency[socket % LATENCY_SHARDS]
    }

    pub(crate) fn latencies(&self) -> anyhow::Result<Percentiles> {
        Percentiles::of(&self.latency)
    }
}

/// Percentiles in milliseconds; null in JSON where nothing was measured.
#[derive(Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    #[serde(rename = "p99.9")]
    p99_9: Option<f64>,
    max: Option<f64>,
}

impl Percentiles {
    pub(crate) fn of(meters: &[Meter]) -> anyhow::Result<Self> {
        let mut all = Histogram::<u64>::new_with_bounds(1, MICROSECONDS_MAX, SIGNIFICANT_DIGITS)?;
        for meter in meters {
            all.add(&*meter.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        }
        let milliseconds = |value: u64| (!all.is_empty()).then_some(value as f64 / 1000.0);
        let quantile = |q: f64| milliseconds(all.value_at_quantile(q));
        Ok(Self {
            count: all.len(),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p99_9: quantile(0.999),
            max: milliseconds(all.max()),
        })
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for value in [self.p50, self.p90, self.p99, self.p99_9, self.max] {
            match value {
                Some(milliseconds) => write!(f, "{milliseconds:>10.2}")?,
                None => write!(f, "{:>10}", "-")?,
            }
        }
        Ok(())
    }
}

/// The result of a run. The field names are those of the JSON report.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) passed: bool,
    pub(crate) run: String,
    pub(crate) interrupted: bool,
    pub(crate) sockets_asked: usize,
    pub(crate) sockets: usize,
    pub(crate) sockets_refused: usize,
    pub(crate) sockets_dropped: usize,
    pub(crate) orgs: usize,
    pub(crate) topics: Vec<String>,
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
    pub(crate) latency_ms: Percentiles,
    pub(crate) commit_ms: Percentiles,
    pub(crate) schedule_lag_ms: Percentiles,
    pub(crate) connect_ms: Percentiles,
    pub(crate) join_ms: Percentiles,
    pub(crate) faults: Vec<String>,
}

impl Report {
    /// Says whether the run passed: all sockets stayed, and each got exactly what it should. A run
    /// that published nothing though it should have has shown nothing.
    pub(crate) fn judge(mut self) -> Self {
        let sockets = self.sockets == self.sockets_asked && self.sockets_dropped == 0;
        let changes = (self.changes > 0 || self.rate_asked == 0.0)
            && self.changes_failed == 0
            && self.changes_unknown == 0;
        let faults = self.missing
            + self.duplicates
            + self.cross_org
            + self.out_of_order
            + self.unexpected
            + self.rolled_back;
        self.passed = sockets && changes && faults == 0;
        self
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_table(&mut text);
        text
    }

    fn write_table(&self, out: &mut String) -> fmt::Result {
        let verdict = if self.passed { "PASSED" } else { "FAILED" };
        let interrupted =
            if self.interrupted { " (interrupted; this is what happened until then)" } else { "" };
        writeln!(out, "warden-loadtest {}: {verdict}{interrupted}\n", self.run)?;
        writeln!(
            out,
            "  sockets        {:>10}   of {} asked; {} refused, {} dropped",
            self.sockets, self.sockets_asked, self.sockets_refused, self.sockets_dropped
        )?;
        writeln!(out, "  organisations  {:>10}   topics {}", self.orgs, self.topics.join(","))?;
        writeln!(
            out,
            "  changes        {:>10}   {} failed, {} of unknown outcome",
            self.changes, self.changes_failed, self.changes_unknown
        )?;
        writeln!(out, "  expected       {:>10}", self.expected)?;
        writeln!(out, "  delivered      {:>10}", self.delivered)?;
        writeln!(out, "  missing        {:>10}", self.missing)?;
        writeln!(out, "  duplicates     {:>10}", self.duplicates)?;
        writeln!(out, "  cross-org      {:>10}", self.cross_org)?;
        writeln!(out, "  out of order   {:>10}", self.out_of_order)?;
        writeln!(
            out,
            "  unexpected     {:>10}   and {} of rolled-back changes",
            self.unexpected, self.rolled_back
        )?;
        writeln!(out, "  resyncs        {:>10}", self.resyncs)?;
        writeln!(out, "  changes/s      {:>10.1}   of {} asked", self.rate, self.rate_asked)?;
        writeln!(out, "  deliveries/s   {:>10.0}", self.deliveries_per_s)?;
        writeln!(out, "  connects/s     {:>10.0}\n", self.connects_per_s)?;
        writeln!(
            out,
            "  {:<16}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "milliseconds", "p50", "p90", "p99", "p99.9", "max"
        )?;
        writeln!(out, "  commit to socket{}", self.latency_ms)?;
        writeln!(out, "  commit          {}", self.commit_ms)?;
        writeln!(out, "  schedule lag    {}", self.schedule_lag_ms)?;
        writeln!(out, "  connect         {}", self.connect_ms)?;
        writeln!(out, "  connect and join{}", self.join_ms)?;
        if !self.faults.is_empty() {
            writeln!(out, "\nThe first that was wrong:")?;
            for fault in &self.faults {
                writeln!(out, "  {fault}")?;
            }
        }
        Ok(())
    }
}

/// Rewrites one line a second on standard error while the test runs, if that is a terminal.
pub(crate) async fn live_line(shared: &Shared, asked: usize, done: CancellationToken) {
    if !stderr().is_terminal() {
        return;
    }
    let (counts, sockets) = (&shared.ledger.counts, &shared.sockets);
    let (mut tick, mut before) = (interval(LINE_EVERY), 0);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = done.cancelled() => break,
        }
        let delivered = counts.delivered.load(Relaxed);
        let mut line = format!(
            "sockets {}/{asked}  changes {}  expected {}  delivered {delivered} (+{}/s)",
            sockets.joined.load(Relaxed),
            counts.changes.load(Relaxed),
            counts.expected.load(Relaxed),
            delivered.saturating_sub(before),
        );
        before = delivered;
        for (name, value) in [
            ("duplicates", counts.duplicates.load(Relaxed)),
            ("CROSS-ORG", counts.cross_org.load(Relaxed)),
            ("out of order", counts.out_of_order.load(Relaxed)),
            ("unexpected", counts.unexpected.load(Relaxed)),
            ("dropped", sockets.dropped.load(Relaxed) as u64),
        ] {
            if value > 0 {
                let _ = write!(line, "  {name} {value}");
            }
        }
        // Nobody is harmed by a line that can't be written.
        let _ = write!(stderr(), "\r\x1b[K{line}");
    }
    let _ = write!(stderr(), "\r\x1b[K");
}

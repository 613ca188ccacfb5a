//! The report, computed from the observations: sums, rates and differences.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bench_support::machine::Machine;

use super::context::{Milestones, RunContext};
use crate::clock::{Nanos, nanos, now};
use crate::histograms::{Histograms, Label, LatencyKind, Percentiles};
use crate::message::SocketCounts;
use crate::observations::{Observations, Sample, between, cores, cpu, mib};
use crate::publisher::Publisher;
use crate::report::{Marker, PhaseReport, Report, ServerReport, StormReport, TesterReport};
use crate::scenario::{Phase, SocketAction, Stream, Timeline};
use crate::sync::lock;

/// Maximum number of findings in the report.
const FINDINGS_MAX: usize = 10;
/// Group of the organisation that is reported separately.
const FIRST_ORG: usize = 0;
/// Shortest CPU time from which a cost is computed. The kernel counts hundredths of a second, so less is
/// mostly rounding.
const CPU_MIN: Duration = Duration::from_millis(200);
/// Shortest run whose growth of memory is reported. In a shorter one it is noise.
const GROWTH_MIN: Duration = Duration::from_secs(60);

pub(super) fn report(
    context: &RunContext,
    publisher: &Publisher,
    milestones: &Milestones,
    changes_unknown: usize,
    worker_findings: Vec<String>,
    interrupted: bool,
) -> Report {
    let observations = lock(&context.observations);
    let (counts, sockets) = (observations.counts(), observations.sockets());
    let (plan, published) = (&context.plan, &publisher.published);
    let changes = published.changes.load(Relaxed);
    let seconds = between(&milestones.open, &milestones.published).as_secs_f64();
    let mut findings = lock(&published.findings).clone();
    findings.extend(worker_findings);
    findings.truncate(FINDINGS_MAX);
    let all = |kind| observations.percentiles(kind, |_| true);
    let mut report = Report {
        sockets: distinct_sockets(context, &sockets),
        sockets_refused: sockets.failed,
        sockets_dropped: sockets.dropped,
        sockets_retried: sockets.retries,
        changes,
        changes_failed: published.failed.load(Relaxed),
        changes_unknown,
        expected: counts.expected,
        delivered: counts.delivered,
        missing: counts.missing(),
        duplicates: counts.duplicates,
        cross_org: counts.cross_org,
        out_of_order: counts.out_of_order,
        unexpected: counts.unexpected,
        rolled_back: counts.rolled_back,
        resyncs: counts.resyncs,
        entered: counts.entered,
        left: counts.left,
        rate: changes as f64 / seconds,
        deliveries_per_s: counts.delivered as f64 / seconds,
        connects_per_s: connects_per_s(context, milestones, &sockets),
        latency_ms: all(LatencyKind::Commit),
        schedule_latency_ms: all(LatencyKind::Schedule),
        commit_ms: own_percentiles(&lock(&published.commit), LatencyKind::Commit),
        schedule_lag_ms: own_percentiles(&lock(&published.lag), LatencyKind::Schedule),
        connect_ms: all(LatencyKind::Connect),
        join_ms: all(LatencyKind::Join),
        phases: phases(plan.separate_first_org, &plan.timeline, &observations),
        storm: storm(&plan.timeline, &observations),
        churned: (plan.scenario == "churn").then_some(sockets.left),
        server: server(&observations, milestones, publisher),
        tester: tester(context.workers, &observations, milestones),
        findings,
        series: observations.rows(),
        markers: markers(&plan.timeline, publisher.start - observations.epoch),
        interrupted,
        ..description(context)
    }
    .judge();
    if let Some(slo) = &plan.common.output.slo {
        report.slo = slo.evaluate(&report);
    }
    report
}

/// The parts of a report that are known before the run: the machine and the requested load.
fn description(context: &RunContext) -> Report {
    let plan = &context.plan;
    let sockets = &plan.common.sockets;
    Report {
        scenario: plan.scenario,
        run: context.run.clone(),
        began: context.began.clone(),
        version: env!("CARGO_PKG_VERSION"),
        debug_build: cfg!(debug_assertions),
        machine: Machine::this().to_string(),
        gateways: context.gateways.iter().map(|gateway| gateway.authority.clone()).collect(),
        source_addresses: context.source_addresses,
        sockets_asked: sockets.sockets,
        orgs: sockets.orgs,
        skew: sockets.skew.to_string(),
        topics: sockets.topics.clone(),
        filters: sockets.filters,
        filter_skew: (sockets.filters > 0).then(|| sockets.filter_skew.to_string()),
        duration_s: plan.timeline.duration.as_secs_f64(),
        changes_due: changes_due(&plan.timeline),
        rate_asked: plan.timeline.rate(),
        ..Report::default()
    }
}

/// Percentiles of histograms that the publisher recorded itself.
fn own_percentiles(histograms: &Histograms, kind: LatencyKind) -> Percentiles {
    histograms.percentiles(kind, |_| true)
}

/// Number of opened sockets, without those that replaced others.
fn distinct_sockets(context: &RunContext, sockets: &SocketCounts) -> u64 {
    sockets.opened.min(context.plan.common.sockets.sockets as u64)
}

fn connects_per_s(context: &RunContext, milestones: &Milestones, sockets: &SocketCounts) -> f64 {
    let opened = context.plan.timeline.open_first.min(usize::try_from(sockets.opened).unwrap_or(0));
    opened as f64 / between(&milestones.begin, &milestones.open).as_secs_f64()
}

/// Changes of the whole schedule.
fn changes_due(timeline: &Timeline) -> u64 {
    let of_stream = |stream: &Stream| {
        // Binary search for the number of commits: commit number `low - 1` is due, `high - 1` is not.
        let (mut low, mut high) = (0, 1);
        while stream.due(high - 1).is_some() {
            (low, high) = (high, high * 2);
        }
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if stream.due(middle - 1).is_some() { low = middle } else { high = middle }
        }
        low * stream.per_commit as u64
    };
    timeline.streams.iter().map(of_stream).sum()
}

fn phases(separate_first_org: bool, timeline: &Timeline, observations: &Observations) -> Vec<PhaseReport> {
    let phase = |(n, phase): (usize, &Phase)| {
        let group = |first: bool| {
            move |label: &Label| {
                label.phase == n && (!separate_first_org || (label.group == FIRST_ORG) == first)
            }
        };
        PhaseReport {
            name: phase.name.clone(),
            from_s: phase.from.as_secs_f64(),
            latency_ms: observations.percentiles(LatencyKind::Commit, group(false)),
            schedule_latency_ms: observations.percentiles(LatencyKind::Schedule, group(false)),
            first_org_latency_ms: separate_first_org
                .then(|| observations.percentiles(LatencyKind::Commit, group(true))),
        }
    };
    timeline.phases.iter().enumerate().map(phase).collect()
}

/// Markers of the phases. Publishing begins `delay` after the first socket.
fn markers(timeline: &Timeline, delay: Nanos) -> Vec<Marker> {
    let marker = |phase: &Phase| Marker {
        at: delay as f64 / 1e9 + phase.from.as_secs_f64(),
        name: if phase.name == "all" { "publishing".to_owned() } else { phase.name.clone() },
    };
    timeline.phases.iter().map(marker).collect()
}

fn storm(timeline: &Timeline, observations: &Observations) -> Option<StormReport> {
    timeline.actions.iter().find(|scheduled| matches!(scheduled.action, SocketAction::Storm { .. }))?;
    let sockets = observations.sockets();
    Some(StormReport {
        dropped: sockets.storm_dropped,
        reconnected: sockets.reconnected,
        caught_up: sockets.caught_up,
        replayed: observations.counts().replayed,
        reconnect_ms: observations.percentiles(LatencyKind::Reconnect, |_| true),
        caught_up_ms: observations.percentiles(LatencyKind::CatchUp, |_| true),
    })
}

/// Microseconds per event or socket; `None` if the CPU time is too short.
fn us_per(total: Option<Duration>, count: u64) -> Option<f64> {
    let total = total.filter(|total| *total >= CPU_MIN)?;
    (count > 0).then(|| total.as_secs_f64() * 1e6 / count as f64)
}

fn server(observations: &Observations, milestones: &Milestones, publisher: &Publisher) -> ServerReport {
    let Milestones { begin, open, published, settled } = milestones;
    let usage = |sample: &Sample| sample.server;
    let mib_at = |sample: &Sample| sample.server.map(mib);
    let joined = publisher.timeline.open_first as u64;
    let kib_per_socket = || Some((mib_at(open)? - mib_at(begin)?) * 1024.0 / joined as f64);
    let quarter = nanos(publisher.timeline.duration / 4);
    let growth = || observations.growth(open.at + quarter, published.at.min(now()));
    ServerReport {
        pids: observations.server_pids(),
        cpu_us_per_delivery: us_per(cpu(open, settled, usage), observations.counts().events),
        cores: cores(open, published, usage),
        cpu_us_per_connect: us_per(cpu(begin, open, usage), joined),
        resident_mib_start: mib_at(begin),
        resident_mib_end: mib_at(published),
        resident_mib_max: observations.samples.iter().filter_map(mib_at).reduce(f64::max),
        // In a ramp only one socket is opened first.
        kib_per_socket: kib_per_socket().filter(|_| joined > 1),
        growth_mib_per_h: (publisher.timeline.duration >= GROWTH_MIN).then(growth).flatten(),
        threads: published.server.map(|usage| usage.threads),
    }
}

fn tester(workers: usize, observations: &Observations, milestones: &Milestones) -> TesterReport {
    let Milestones { open, published, .. } = milestones;
    let usage = |sample: &Sample| sample.tester;
    TesterReport {
        processes: workers + 1,
        cores: cores(open, published, usage),
        cpu_us_per_event: us_per(cpu(open, published, usage), observations.counts().events),
        resident_mib_max: observations.samples.iter().filter_map(|s| s.tester.map(mib)).reduce(f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_due_change_is_counted() {
        for (rate, per_commit, seconds, expected) in
            [(20.0, 1, 10, 200), (0.0, 1, 10, 0), (7.0, 1, 3, 21), (50.0, 50, 10, 500), (0.1, 1, 1, 1)]
        {
            let until = Duration::from_secs(seconds);
            let stream =
                Stream { from: Duration::ZERO, until, rate, per_commit, first_org_only: false, writers: 1 };
            let (phases, actions) = (Vec::new(), Vec::new());
            let timeline =
                Timeline { streams: vec![stream], phases, actions, duration: until, open_first: 1 };
            assert_eq!(changes_due(&timeline), expected, "{rate} {per_commit}");
        }
    }
}

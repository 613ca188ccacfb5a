//! From what was observed to the report: sums, rates and differences. It shows nothing.

use std::sync::atomic::Ordering::Relaxed;

use bench_support::machine::Machine;

use super::observed::{between, cores, cpu, mib};
use super::{Marks, Observed, Sample, Scene};
use crate::clock::{nanos, now};
use crate::message::{Label, Timed};
use crate::publisher::{Publisher, lock};
use crate::report::plot::Moment;
use crate::report::{PhaseReport, Report, ServerReport, StormReport, TesterReport};
use crate::scenario::{Timeline, What};

/// Faults that are told in words.
const FAULTS_MAX: usize = 10;
/// The group of the organisation that stands apart.
const FIRST_ORG: usize = 0;

pub(super) fn report(
    scene: &Scene,
    publisher: &Publisher,
    marks: &Marks,
    changes_unknown: usize,
    holders_faults: Vec<String>,
    interrupted: bool,
) -> Report {
    let observed = lock(&scene.observed);
    let (counts, sockets) = (observed.counts(), observed.sockets());
    let (plan, published) = (&scene.plan, &publisher.published);
    let changes = published.changes.load(Relaxed);
    let seconds = between(&marks.open, &marks.published).as_secs_f64();
    let mut faults = lock(&published.faults).clone();
    faults.extend(holders_faults);
    faults.truncate(FAULTS_MAX);
    let all = |timed| observed.percentiles(timed, |_| true);
    let mut report = Report {
        scenario: plan.scenario,
        run: scene.run.clone(),
        interrupted,
        began: scene.began.clone(),
        version: env!("CARGO_PKG_VERSION"),
        debug_build: cfg!(debug_assertions),
        machine: Machine::this().to_string(),
        gateways: scene.gateways.iter().map(|gateway| gateway.authority.clone()).collect(),
        sockets_asked: plan.common.sockets.sockets,
        sockets: distinct_sockets(scene, &sockets),
        sockets_refused: sockets.refused,
        sockets_dropped: sockets.dropped,
        sockets_retried: sockets.retries,
        orgs: plan.common.sockets.orgs,
        skew: plan.common.sockets.skew.to_string(),
        topics: plan.common.sockets.topics.clone(),
        source_addresses: scene.source_addresses,
        duration_s: plan.timeline.duration.as_secs_f64(),
        changes_due: due(&plan.timeline),
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
        rolled_back: counts.phantoms,
        resyncs: counts.resyncs,
        rate_asked: plan.timeline.rate(),
        rate: changes as f64 / seconds,
        deliveries_per_s: counts.delivered as f64 / seconds,
        connects_per_s: connects_per_s(scene, marks, &observed),
        latency_ms: all(Timed::Commit),
        schedule_latency_ms: all(Timed::Due),
        commit_ms: lock(&published.commit).percentiles(Timed::Commit),
        schedule_lag_ms: lock(&published.lag).percentiles(Timed::Due),
        connect_ms: all(Timed::Connect),
        join_ms: all(Timed::Join),
        phases: phases(plan.first_org_apart, &plan.timeline, &observed),
        storm: storm(&plan.timeline, &observed),
        churned: (plan.scenario == "churn").then_some(sockets.left),
        server: server(&observed, marks, publisher),
        tester: tester(scene.processes, &observed, marks),
        slo: Vec::new(),
        faults,
        series: observed.rows(),
        moments: moments(&plan.timeline, publisher.start - observed.epoch),
        passed: false,
    }
    .judge();
    if let Some(slo) = &plan.common.output.slo {
        report.slo = slo.hold_against(&report);
    }
    report
}

/// Those that came in the place of one that left are not counted again.
fn distinct_sockets(scene: &Scene, sockets: &crate::message::SocketCounts) -> u64 {
    sockets.opened.min(scene.plan.common.sockets.sockets as u64)
}

fn connects_per_s(scene: &Scene, marks: &Marks, observed: &Observed) -> f64 {
    let opened = scene.plan.timeline.open_first.min(usize::try_from(observed.sockets().opened).unwrap_or(0));
    opened as f64 / between(&marks.begin, &marks.open).as_secs_f64()
}

/// Changes of the whole schedule.
fn due(timeline: &Timeline) -> u64 {
    let commits = |stream: &crate::scenario::Stream| {
        // The last one that is due stands before the first that is not.
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
    timeline.streams.iter().map(commits).sum()
}

fn phases(apart: bool, timeline: &Timeline, observed: &Observed) -> Vec<PhaseReport> {
    let phase = |(n, phase): (usize, &crate::scenario::Phase)| {
        let group = |of_first: bool| {
            move |label: &Label| label.phase == n && (!apart || (label.group == FIRST_ORG) == of_first)
        };
        PhaseReport {
            name: phase.name.clone(),
            from_s: phase.from.as_secs_f64(),
            latency_ms: observed.percentiles(Timed::Commit, group(false)),
            schedule_latency_ms: observed.percentiles(Timed::Due, group(false)),
            first_org_latency_ms: apart.then(|| observed.percentiles(Timed::Commit, group(true))),
        }
    };
    timeline.phases.iter().enumerate().map(phase).collect()
}

/// Publishing begins later than the first socket by `after`.
fn moments(timeline: &Timeline, after: crate::clock::Nanos) -> Vec<Moment> {
    let named = |phase: &crate::scenario::Phase| Moment {
        at: after as f64 / 1e9 + phase.from.as_secs_f64(),
        name: if phase.name == "all" { "publishing".to_owned() } else { phase.name.clone() },
    };
    timeline.phases.iter().map(named).collect()
}

fn storm(timeline: &Timeline, observed: &Observed) -> Option<StormReport> {
    timeline.acts.iter().find(|act| matches!(act.what, What::Storm { .. }))?;
    let sockets = observed.sockets();
    Some(StormReport {
        dropped: sockets.stormed,
        returned: sockets.returned,
        caught_up: sockets.caught_up,
        replayed: observed.counts().replayed,
        back_ms: observed.percentiles(Timed::Back, |_| true),
        caught_up_ms: observed.percentiles(Timed::CaughtUp, |_| true),
    })
}

fn per(total: Option<std::time::Duration>, count: u64) -> Option<f64> {
    /// The kernel counts in hundredths of a second: less is mostly rounding.
    const CPU_MIN: std::time::Duration = std::time::Duration::from_millis(200);
    let total = total.filter(|total| *total >= CPU_MIN)?;
    (count > 0).then(|| total.as_secs_f64() * 1e6 / count as f64)
}

fn server(observed: &Observed, marks: &Marks, publisher: &Publisher) -> ServerReport {
    let used = |sample: &Sample| sample.server;
    let mib_at = |sample: &Sample| sample.server.map(mib);
    let joined = publisher.timeline.open_first as u64;
    let growth = || Some((mib_at(&marks.open)? - mib_at(&marks.begin)?) * 1024.0 / joined as f64);
    let quarter = nanos(publisher.timeline.duration / 4);
    // Over less it is noise.
    let long = publisher.timeline.duration >= std::time::Duration::from_secs(60);
    let until = marks.published.at.min(now());
    ServerReport {
        pids: observed.server_pids(),
        cpu_us_per_delivery: per(cpu(&marks.open, &marks.settled, used), observed.counts().events),
        cores: cores(&marks.open, &marks.published, used),
        cpu_us_per_connect: per(cpu(&marks.begin, &marks.open, used), joined),
        resident_mib_start: mib_at(&marks.begin),
        resident_mib_end: mib_at(&marks.published),
        resident_mib_max: observed.samples.iter().filter_map(mib_at).reduce(f64::max),
        kib_per_socket: growth().filter(|_| joined > 1),
        growth_mib_per_h: long.then(|| observed.growth(marks.open.at + quarter, until)).flatten(),
        threads: marks.published.server.map(|usage| usage.threads),
    }
}

fn tester(processes: usize, observed: &Observed, marks: &Marks) -> TesterReport {
    let used = |sample: &Sample| sample.tester;
    TesterReport {
        processes: processes + 1,
        cores: cores(&marks.open, &marks.published, used),
        cpu_us_per_event: per(cpu(&marks.open, &marks.published, used), observed.counts().events),
        resident_mib_max: observed.samples.iter().filter_map(|s| s.tester.map(mib)).reduce(f64::max),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scenario::Stream;

    #[test]
    fn all_that_is_due_is_counted() {
        for (rate, per_commit, seconds, expected) in
            [(20.0, 1, 10, 200), (0.0, 1, 10, 0), (7.0, 1, 3, 21), (50.0, 50, 10, 500), (0.1, 1, 1, 1)]
        {
            let until = Duration::from_secs(seconds);
            let stream =
                Stream { from: Duration::ZERO, until, rate, per_commit, first_org_only: false, writers: 1 };
            let (phases, acts) = (Vec::new(), Vec::new());
            let timeline = Timeline { streams: vec![stream], phases, acts, duration: until, open_first: 1 };
            assert_eq!(due(&timeline), expected, "{rate} {per_commit}");
        }
    }
}

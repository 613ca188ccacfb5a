//! One comparison from beginning to end: every workload, every server, round after round. It does not judge
//! figures.

use std::future::Future;
use std::io::IsTerminal as _;
use std::time::Instant;

use bench_support::machine::Machine;
use bench_support::process::raise_open_files;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::args::{CompareArgs, commit_of};
use crate::conditions::Conditions;
use crate::cores;
use crate::measure::{ConnectCost, FanoutCost, IdleCost, MeasureSetup, Measurement};
use crate::report::{Medians, Report, Row, Table};
use crate::servers::{ServerKind, ServerSetup};
use crate::workload::Workload;

/// Runs all workloads. An error means that nothing could be started; later failures are part of the report.
pub(crate) async fn run(args: &CompareArgs) -> anyhow::Result<Report> {
    args.validate()?;
    let (kinds, missing) = args.servers();
    let gateway = if kinds.contains(&ServerKind::Gateway) { Some(args.gateway()?) } else { None };
    raise_open_files();
    // Read first: afterwards this process may use fewer cores than the machine has.
    let machine = Machine::this();
    if !args.share_cores {
        cores::divide();
    }
    let report = Report {
        conditions: Conditions::now(machine, cores::are_divided()),
        commit: gateway.as_ref().and_then(commit_of),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        rounds: args.rounds,
        bytes: args.bytes,
        missing,
        ..Report::default()
    };
    let setup = MeasureSetup {
        servers: ServerSetup { programs: args.programs(), gateway },
        duration: args.duration,
        event_bytes: args.bytes,
    };
    let stop = stop_on_signal()?;
    // Two comparisons on one machine begin with different source addresses.
    let run = usize::try_from(std::process::id()).unwrap_or(0) * 7;
    let mut comparison = Comparison { args, setup, kinds, report, run, stop };
    for workload in args.workloads() {
        comparison.measure(workload).await;
    }
    let mut report = comparison.report;
    report.interrupted = comparison.stop.is_cancelled();
    report.compute_medians();
    Ok(report)
}

/// A token that Ctrl-C and SIGTERM cancel.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("\nInterrupted: stopping the servers");
        stopped.cancel();
    });
    Ok(stop)
}

struct Comparison<'a> {
    args: &'a CompareArgs,
    setup: MeasureSetup,
    kinds: Vec<ServerKind>,
    report: Report,
    /// Counts measurements.
    run: usize,
    stop: CancellationToken,
}

impl Comparison<'_> {
    async fn measure(&mut self, workload: Workload) {
        match workload {
            Workload::Idle => {
                let sockets = self.args.sizes.idle_sockets;
                let measure = async |mut m: Measurement<'_>| m.idle(sockets).await;
                let servers = self.rounds("idle", measure, IdleCost::summary).await;
                self.report.idle.push(Table { workload: (), servers });
            }
            Workload::Connect => {
                let connects = self.args.sizes.connects;
                let measure = async |mut m: Measurement<'_>| m.connect(connects).await;
                let servers = self.rounds("connect", measure, ConnectCost::summary).await;
                self.report.connect.push(Table { workload: (), servers });
            }
            Workload::Large | Workload::Small | Workload::Burst | Workload::Growth => {
                for fanout in self.args.fanouts(workload) {
                    let measure = async |mut m: Measurement<'_>| m.fanout(&fanout).await;
                    let servers = self.rounds(&fanout.title(), measure, FanoutCost::summary).await;
                    self.report.fanout.push(Table { workload: fanout, servers });
                }
            }
        }
    }

    /// Measures every server once per round.
    async fn rounds<C>(
        &mut self,
        title: &str,
        measure: impl AsyncFn(Measurement<'_>) -> anyhow::Result<C>,
        summary: impl Fn(&C) -> String,
    ) -> Vec<Row<C>> {
        let row = |kind: &ServerKind| Row { server: *kind, medians: Medians::default(), rounds: Vec::new() };
        let mut rows: Vec<Row<C>> = self.kinds.iter().map(row).collect();
        print_progress(title);
        for round in 1..=self.args.rounds {
            for row in &mut rows {
                if self.stop.is_cancelled() {
                    return rows;
                }
                let began = Instant::now();
                let measurement = Measurement { setup: &self.setup, kind: row.server, run: &mut self.run };
                // Dropping a measurement ends its server and its clients.
                let Some(result) = unless_stopped(&self.stop, measure(measurement)).await else {
                    return rows;
                };
                let outcome = match &result {
                    Ok(cost) => summary(cost),
                    Err(error) => format!("FAILED: {error:#}"),
                };
                let name = row.server.name();
                let (rounds, seconds) = (self.args.rounds, began.elapsed().as_secs_f64());
                print_progress(&format!(
                    "  round {round} of {rounds}, {name:<10} {outcome} ({seconds:.0} s)"
                ));
                if let Err(error) = &result {
                    self.report.failures.push(format!("{title}, round {round}, {name}: {error:#}"));
                }
                row.rounds.push(result.ok());
            }
        }
        rows
    }
}

async fn unless_stopped<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        done = work => Some(done),
    }
}

fn print_progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[2m{line}\x1b[0m");
    } else {
        eprintln!("{line}");
    }
}

//! `warden-loadtest compare`: what a delivery, an idle socket and a handshake cost the server, for the floor, the
//! gateway and the peers that are installed, in turn on one machine, with the same sockets, rate and bytes. It
//! judges no figure against a bar.

mod args;
mod clients;
mod cores;
mod machine;
mod measure;
mod report;
mod servers;
mod workload;

use std::future::Future;
use std::io::IsTerminal as _;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(crate) use args::CompareArgs;
pub(crate) use clients::hold;
use machine::Machine;
use measure::Place;
pub(crate) use report::Report;
use report::{Medians, Row, Table};
use servers::Kind;
use workload::Workload;

/// Measures everything that was asked for. An error means that nothing could be begun; what failed on the way is in
/// the report.
pub(crate) async fn run(args: &CompareArgs) -> anyhow::Result<Report> {
    args.validate()?;
    let (kinds, missing) = args.servers();
    if kinds.contains(&Kind::Gateway) {
        args.gateway()?;
    }
    allow_open_files();
    if !args.share_cores {
        cores::divide();
    }
    let mut comparison = Comparison {
        args,
        kinds,
        report: Report {
            machine: Machine::this(),
            commit: args.commit(),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            rounds: args.rounds,
            bytes: args.bytes,
            missing,
            ..Report::default()
        },
        run: usize::try_from(std::process::id()).unwrap_or(0) * 7,
        stop: CancellationToken::new(),
    };
    let stop = comparison.stop.clone();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("\nStopping: ending the servers");
        stop.cancel();
    });
    for workload in args.workloads() {
        comparison.measure(workload).await;
    }
    let mut report = comparison.report;
    report.interrupted = comparison.stop.is_cancelled();
    report.conclude();
    Ok(report)
}

struct Comparison<'a> {
    args: &'a CompareArgs,
    kinds: Vec<Kind>,
    report: Report,
    /// Counts measurements.
    run: usize,
    stop: CancellationToken,
}

impl Comparison<'_> {
    async fn measure(&mut self, workload: Workload) {
        match workload {
            Workload::Idle => {
                let sockets = self.args.idle_sockets();
                let say = |cost: &measure::IdleCost| format!("{:.2} KiB per socket", cost.socket_kib);
                let servers =
                    self.rounds("idle", async |mut place: Place<'_>| place.idle(sockets).await, say).await;
                self.report.idle.push(Table { workload: (), servers });
            }
            Workload::Connect => {
                let connects = self.args.connects();
                let say =
                    |cost: &measure::ConnectCost| format!("{:.1} us per upgrade and join", cost.connect_us);
                let servers = self
                    .rounds("connect", async |mut place: Place<'_>| place.connect(connects).await, say)
                    .await;
                self.report.connect.push(Table { workload: (), servers });
            }
            Workload::Large | Workload::Small | Workload::Burst | Workload::Growth => {
                for fanout in self.args.fanouts(workload) {
                    let say = |cost: &measure::FanoutCost| {
                        let loss = if cost.complete { "" } else { ", LOSS" };
                        format!(
                            "{:.2} us per delivery, {:.2} without intake{loss}",
                            cost.delivery_us, cost.delivery_without_intake_us
                        )
                    };
                    let title = fanout.title();
                    let servers = self
                        .rounds(&title, async |mut place: Place<'_>| place.fanout(&fanout).await, say)
                        .await;
                    self.report.fanout.push(Table { workload: fanout, servers });
                }
            }
        }
    }

    /// Measures every server in turn, round after round.
    async fn rounds<C>(
        &mut self,
        title: &str,
        measure: impl AsyncFn(Place<'_>) -> anyhow::Result<C>,
        say: impl Fn(&C) -> String,
    ) -> Vec<Row<C>> {
        let mut rows: Vec<Row<C>> = self
            .kinds
            .iter()
            .map(|kind| Row { server: *kind, medians: Medians::default(), rounds: Vec::new() })
            .collect();
        progress(title);
        for round in 1..=self.args.rounds {
            for row in &mut rows {
                if self.stop.is_cancelled() {
                    return rows;
                }
                let began = Instant::now();
                let place = Place { args: self.args, kind: row.server, run: &mut self.run };
                // Dropping a measurement ends its server and its clients.
                let Some(result) = unless_stopped(&self.stop, measure(place)).await else { return rows };
                let what = match &result {
                    Ok(cost) => say(cost),
                    Err(error) => format!("FAILED: {error:#}"),
                };
                let name = row.server.name();
                let (rounds, took) = (self.args.rounds, began.elapsed().as_secs_f64());
                progress(&format!("  round {round} of {rounds}, {name:<10} {what} ({took:.0} s)"));
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

fn progress(line: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[2m{line}\x1b[0m");
    } else {
        eprintln!("{line}");
    }
}

/// Servers and clients inherit it. Where it can't be raised, opening sockets fails and says so.
fn allow_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

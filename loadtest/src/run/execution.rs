//! The steps of a run.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use bench_support::database::{Database, Organisations};
use bench_support::endpoint::Endpoint;
use bench_support::token::TokenSettings;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::context::{Milestones, RunContext};
use super::signals::Signals;
use super::{progress, summary};
use crate::args::{Common, Plan, PublishBy};
use crate::clock::{nanos, now, until};
use crate::message::{Command, WorkerTask};
use crate::observations::Observations;
use crate::pool::{self, CommandSender, WorkerPool, WorkerProcess};
use crate::process::ProcessMeter;
use crate::publisher::{CallPool, CallWriter, EntityPool, EventWriter, Publish, Publisher};
use crate::report::Report;
use crate::spread;
use crate::sync::lock;

/// The report's intervals have at least this length, and there are at most `INTERVALS_MAX` of them.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVALS_MAX: u32 = 600;
/// Time by which tokens outlive the run.
const TOKEN_RESERVE: Duration = Duration::from_secs(600);

/// Runs the test. An error means that it could not be carried out; findings are part of the report.
pub(crate) async fn run(plan: Plan) -> anyhow::Result<Report> {
    let mut gateways = Vec::new();
    for url in &plan.common.gateway.url {
        gateways.push(Endpoint::resolve(url).await?);
    }
    let database = Database::parse(&plan.common.changes.database_url, "warden-loadtest")?;
    let workers = pool::process_count(plan.common.sockets.sockets, plan.common.sockets.processes)?;
    let signals = Signals::default();
    let mut watcher = JoinSet::new();
    watcher.spawn(signals.clone().watch());
    let run = format!("{:08x}", fastrand::u32(..));
    let orgs = Organisations::create(&database, &run, plan.common.sockets.orgs).await?;
    let preparation = Preparation { plan, run, gateways, workers, database, orgs: &orgs, signals };
    let result = preparation.run().await;
    if let Err(error) = orgs.remove().await {
        eprintln!("warden-loadtest: {error:#}");
    }
    result
}

/// Everything that is known before the workers are started.
struct Preparation<'a> {
    plan: Plan,
    run: String,
    gateways: Vec<Endpoint>,
    /// Worker processes.
    workers: usize,
    database: Database,
    orgs: &'a Organisations,
    signals: Signals,
}

impl Preparation<'_> {
    /// Runs the test while the organisations exist. A preflight finds missing privileges before any socket
    /// connects.
    async fn run(self) -> anyhow::Result<Report> {
        let (database, orgs) = (self.database.clone(), &self.orgs.ids);
        match self.plan.common.changes.by {
            PublishBy::Calls => {
                let sockets = &self.plan.common.sockets;
                let agents = sockets.filter_skew.cumulative_weights(sockets.filters);
                let pool = Arc::new(CallPool::new(orgs.len(), agents));
                CallWriter::connect(&database, &pool).await?.preflight(orgs[0]).await?;
                self.execute(async || CallWriter::connect(&database, &pool).await).await
            }
            PublishBy::Publish => {
                let pool = Arc::new(EntityPool::new(orgs.len()));
                let padding = self.plan.common.changes.padding;
                EventWriter::connect(&database, &pool, padding).await?.preflight(orgs[0]).await?;
                self.execute(async || EventWriter::connect(&database, &pool, padding).await).await
            }
        }
    }

    /// Starts the workers, and runs the test with writers that `connect` returns.
    async fn execute<P: Publish + 'static>(
        self,
        connect: impl AsyncFn() -> anyhow::Result<P>,
    ) -> anyhow::Result<Report> {
        let (database, signals, orgs) = (self.database.clone(), self.signals.clone(), self.orgs.ids.clone());
        let (context, workers, commands) = self.start_workers().await?;
        let mut writers = Vec::new();
        for stream in &context.plan.timeline.streams {
            let mut of_stream = Vec::new();
            for _ in 0..stream.writers {
                of_stream.push(connect().await?);
            }
            writers.push(of_stream);
        }
        let observations = Arc::clone(&context.observations);
        let pool = WorkerPool::new(workers, commands.clone(), observations);
        Execution { context, pool, commands, orgs, database, signals }.run(writers).await
    }

    async fn start_workers(self) -> anyhow::Result<(Arc<RunContext>, Vec<WorkerProcess>, CommandSender)> {
        let Common { gateway, sockets, changes, .. } = &self.plan.common;
        let addresses: Vec<_> = self.gateways.iter().map(|gateway| gateway.address).collect();
        let from = spread::source_addresses(&addresses, sockets.sockets, &sockets.bind);
        let sizes = sockets.skew.sizes(sockets.sockets, sockets.orgs);
        let mut specs = spread::socket_specs(&sizes, self.gateways.len(), &from);
        if sockets.filters > 0 {
            spread::assign_filters(&mut specs, &sizes, sockets.filters, sockets.filter_skew);
        }
        let connecting = Duration::from_secs_f64(sockets.sockets as f64 / sockets.connect_rate);
        let lifetime =
            connecting + self.plan.timeline.duration + changes.late + changes.settle + TOKEN_RESERVE;
        let tokens = TokenSettings {
            secret: gateway.jwt_secret.clone(),
            audience: gateway.jwt_audience.clone(),
            issuer: gateway.jwt_issuer.clone(),
            lifetime_seconds: lifetime.as_secs(),
        };
        let interval = interval(&self.plan);
        let epoch = now();
        let task = |sockets_of_worker| WorkerTask {
            run: self.run.clone(),
            orgs: self.orgs.ids.clone(),
            gateways: self.gateways.clone(),
            topics: sockets.topics.clone(),
            sockets: sockets_of_worker,
            tokens: tokens.clone(),
            epoch,
            interval: nanos(interval),
            separate_first_org: self.plan.separate_first_org,
        };
        let (workers, commands) = pool::start(spread::shares(&specs, self.workers), task).await?;
        let server = server_meters(&gateway.server_pid, &addresses)?;
        let own_pids = workers.iter().filter_map(WorkerProcess::pid).chain([std::process::id()]);
        let tester = own_pids.filter_map(ProcessMeter::for_pid).collect();
        let observations = Observations::new(epoch, interval, workers.len(), server, tester);
        let context = RunContext {
            run: self.run,
            gateways: self.gateways,
            source_addresses: from.len(),
            workers: self.workers,
            began: OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?,
            observations: Arc::new(Mutex::new(observations)),
            plan: self.plan,
        };
        Ok((Arc::new(context), workers, commands))
    }
}

/// Length of the report's intervals.
fn interval(plan: &Plan) -> Duration {
    (plan.timeline.duration / INTERVALS_MAX).max(INTERVAL_MIN)
}

/// Meters for the gateways' processes: those of `--server-pid`, or else those that listen on the gateways'
/// addresses.
fn server_meters(pids: &[u32], addresses: &[SocketAddr]) -> anyhow::Result<Vec<ProcessMeter>> {
    let named = |pid: &u32| {
        ProcessMeter::for_pid(*pid)
            .with_context(|| format!("--server-pid {pid}: there is no such process on this machine"))
    };
    if !pids.is_empty() {
        return pids.iter().map(named).collect();
    }
    let mut found: Vec<ProcessMeter> = Vec::new();
    for meter in addresses.iter().filter_map(|address| ProcessMeter::listening_on(*address)) {
        // One process may listen on several addresses.
        if found.iter().all(|known| known.pid() != meter.pid()) {
            found.push(meter);
        }
    }
    Ok(found)
}

/// A run whose workers are started.
struct Execution {
    context: Arc<RunContext>,
    pool: WorkerPool,
    commands: CommandSender,
    orgs: Vec<uuid::Uuid>,
    database: Database,
    signals: Signals,
}

impl Execution {
    async fn run<P: Publish + 'static>(mut self, writers: Vec<Vec<P>>) -> anyhow::Result<Report> {
        let context = Arc::clone(&self.context);
        let sample = |changes| lock(&context.observations).sample(changes);
        let begin = sample(0);
        self.open_sockets().await?;
        let open = sample(0);

        let publisher = Arc::new(Publisher::new(
            context.run.clone(),
            self.orgs.clone(),
            self.commands.clone(),
            context.plan.timeline.clone(),
            now(),
            context.plan.common.changes.late,
        ));
        let changes = || publisher.published.changes.load(Relaxed);
        let finished = CancellationToken::new();
        let mut helpers = JoinSet::new();
        helpers.spawn(progress::show(Arc::clone(&context), Arc::clone(&publisher), finished.clone()));
        helpers.spawn(sample_usage(Arc::clone(&context), Arc::clone(&publisher), finished.clone()));
        helpers.spawn(perform_actions(Arc::clone(&publisher), self.signals.stop.clone()));
        let finish_on_drop = finished.drop_guard();
        self.pool.run_until_worker_ends(publisher.publish(writers, &self.signals.stop)).await?;
        let published = sample(changes());

        let deadline = now() + nanos(context.plan.common.changes.settle);
        self.commands.send_to_all(&Command::Settle { deadline }).await?;
        let unknown = publisher.resolve_unknown(&self.database, deadline, &self.signals.hurry).await;
        let findings = self.pool.collect_results(deadline, &self.signals.hurry).await?;
        let settled = sample(changes());
        drop(finish_on_drop);
        while helpers.join_next().await.is_some() {}

        let milestones = Milestones { begin, open, published, settled };
        let interrupted = self.signals.stop.is_cancelled();
        Ok(summary::report(&context, &publisher, &milestones, unknown, findings, interrupted))
    }

    /// Opens the sockets with which the test begins: the first one alone, then the others.
    async fn open_sockets(&mut self) -> anyhow::Result<()> {
        let (until, per_second) =
            (self.context.plan.timeline.open_first, self.context.plan.common.sockets.connect_rate);
        self.pool.open_first_socket(per_second, &self.signals.stop).await?;
        let opened = CancellationToken::new();
        let shown = tokio::spawn(progress::show_opening(Arc::clone(&self.context), opened.clone()));
        let finish_on_drop = opened.drop_guard();
        let result = self.pool.open_sockets(until, per_second, &self.signals.stop).await;
        drop(finish_on_drop);
        let _ = shown.await;
        result
    }
}

/// Performs each action of the timeline when it is due.
async fn perform_actions(publisher: Arc<Publisher>, stop: CancellationToken) {
    for scheduled in &publisher.timeline.actions {
        tokio::select! {
            () = sleep(until(publisher.start + nanos(scheduled.at))) => {}
            () = stop.cancelled() => return,
        }
        if publisher.commands.perform(scheduled.action).await.is_err() {
            return; // A worker has ended, which ends the run elsewhere.
        }
    }
}

/// Measures the processes once per interval.
async fn sample_usage(context: Arc<RunContext>, publisher: Arc<Publisher>, finished: CancellationToken) {
    let every = interval(&context.plan);
    loop {
        tokio::select! {
            () = sleep(every) => {}
            () = finished.cancelled() => return,
        }
        lock(&context.observations).sample(publisher.published.changes.load(Relaxed));
    }
}

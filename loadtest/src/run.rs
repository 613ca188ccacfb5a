//! One run from beginning to end: organisations, sockets, changes, the wait for what is missing,
//! and the removal of the organisations, whatever happened between. It measures and judges nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use jsonwebtoken::EncodingKey;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::args::Args;
use crate::check::{Ledger, Subscription, Tally};
use crate::client::{Session, Shared, SocketCounts};
use crate::publisher::{self, Publisher};
use crate::report::{self, Percentiles, Report, Timings};
use crate::target::Target;
use crate::wire::Signer;

/// Tokens outlive the run by this.
const TOKEN_SPARE: Duration = Duration::from_secs(600);
/// When everything has arrived, the sockets stay this long: what comes twice or to the wrong
/// place may come last.
const LINGER: Duration = Duration::from_millis(500);
const SETTLE_POLL: Duration = Duration::from_millis(10);
/// Files beside the sockets and the writers' connections.
const OPEN_FILES_SPARE: u64 = 64;
/// Exit code of a process that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

/// What Ctrl-C and SIGTERM ask for: first `stop`, then also `hurry`, then the process ends.
#[derive(Clone, Default)]
struct Signals {
    stop: CancellationToken,
    hurry: CancellationToken,
}

impl Signals {
    async fn watch(self) -> anyhow::Result<()> {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        for n in 0.. {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            match n {
                0 => {
                    eprintln!("\nStopping: waiting for what is still on its way (Ctrl-C again: don't wait)");
                    self.stop.cancel();
                }
                1 => {
                    eprintln!("\nNot waiting; removing the organisations (Ctrl-C again: leave them)");
                    self.hurry.cancel();
                }
                _ => std::process::exit(INTERRUPTED),
            }
        }
        Ok(())
    }
}

/// Runs the test. An error means that it could not be begun; what it found is in the report.
pub(crate) async fn run(args: &Args) -> anyhow::Result<Report> {
    args.validate()?;
    allow_open_files(args)?;
    let ramp = Duration::from_secs_f64(args.sockets.sockets as f64 / args.sockets.connect_rate);
    let signer = Signer {
        key: EncodingKey::from_secret(args.gateway.jwt_secret.as_bytes()),
        audience: args.gateway.jwt_audience.clone(),
        issuer: args.gateway.jwt_issuer.clone(),
        lifetime: ramp + args.duration + args.settle + TOKEN_SPARE,
    };
    let target = Target::resolve(&args.gateway.url, &args.sockets.bind, &args.topics, signer).await?;
    // The error of the parser may quote the URL, and with it the password.
    let options: PgConnectOptions = args.database_url.parse().ok().context(
        "--database-url is no PostgreSQL URL: write e.g. postgres://user:password@localhost:5432/app",
    )?;
    let mut connection = publisher::connect(&options).await?;
    let signals = Signals::default();
    let mut watcher = JoinSet::new();
    watcher.spawn(signals.clone().watch());

    let run = format!("{:08x}", fastrand::u32(..));
    let orgs = publisher::create_orgs(&mut connection, &run, args.orgs).await?;
    let result = test(args, run.clone(), target, &options, connection, &orgs, &signals).await;
    if let Err(error) = publisher::remove_orgs(&options, &orgs).await {
        eprintln!("warden-loadtest: could not remove the organisations: {error:#}. Later, by hand:");
        eprintln!("  delete from public.organizations where name like 'loadtest {run} %';");
    }
    result
}

/// Everything for which the organisations must exist.
async fn test(
    args: &Args,
    run: String,
    target: Target,
    options: &PgConnectOptions,
    mut connection: PgConnection,
    orgs: &[Uuid],
    signals: &Signals,
) -> anyhow::Result<Report> {
    publisher::try_insert(&mut connection, orgs[0]).await?;
    let _ = connection.close().await;
    let shared = Arc::new(Shared {
        run,
        target,
        ledger: Ledger::new(orgs),
        timings: Timings::new()?,
        sockets: SocketCounts::default(),
        closing: CancellationToken::new(),
    });
    let line_done = CancellationToken::new();
    let mut line = JoinSet::new();
    let (lined, asked, done) = (shared.clone(), args.sockets.sockets, line_done.clone());
    line.spawn(async move { report::live_line(&lined, asked, done).await });
    let measured = measure(args, &shared, options, signals).await;
    line_done.cancel();
    while line.join_next().await.is_some() {}
    let (connects_per_s, published, changes_unknown, tally) = measured?;
    summarise(args, &shared, signals, connects_per_s, published, changes_unknown, tally)
}

async fn measure(
    args: &Args,
    shared: &Arc<Shared>,
    options: &PgConnectOptions,
    signals: &Signals,
) -> anyhow::Result<(f64, Duration, usize, Tally)> {
    let mut sockets = JoinSet::new();
    let ramp = open_sockets(args, shared, &mut sockets, &signals.stop).await?;
    let connects_per_s = shared.sockets.joined.load(Relaxed) as f64 / ramp.as_secs_f64();
    let (publisher, published) = publish(args, shared, options, &signals.stop).await?;
    let deadline = Instant::now() + args.settle;
    let unknown = publisher.resolve_unknown(deadline, &signals.hurry).await;
    settle(&shared.ledger, deadline, &signals.hurry).await;
    shared.closing.cancel();
    let mut tally = Tally::default();
    while let Some(subscriptions) = sockets.join_next().await {
        for subscription in subscriptions.context("a socket's task failed")? {
            shared.ledger.close(&subscription, &mut tally);
        }
    }
    Ok((connects_per_s, published, unknown, tally))
}

/// Opens all sockets, the first alone: if that one fails, nothing else would do better.
async fn open_sockets(
    args: &Args,
    shared: &Arc<Shared>,
    sockets: &mut JoinSet<Vec<Subscription>>,
    stop: &CancellationToken,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    // Nothing is ever sent: the channel closes when the last socket has let go of its end.
    let (opening, mut all_open) = mpsc::channel::<()>(1);
    let first = Session::open(shared, 0).await?;
    shared.sockets.joined.fetch_add(1, Relaxed);
    let socket = shared.clone();
    sockets.spawn(async move { first.run(&socket).await });
    for index in 1..args.sockets.sockets {
        let due = start + Duration::from_secs_f64(index as f64 / args.sockets.connect_rate);
        tokio::select! {
            () = sleep_until(due.into()) => {}
            () = stop.cancelled() => break,
        }
        let (socket, opening) = (shared.clone(), opening.clone());
        sockets.spawn(async move {
            let opened = Session::open(&socket, index).await;
            let count = if opened.is_ok() { &socket.sockets.joined } else { &socket.sockets.refused };
            count.fetch_add(1, Relaxed);
            drop(opening);
            match opened {
                Ok(session) => session.run(&socket).await,
                Err(error) => {
                    socket.ledger.sample(|| format!("socket {index} refused: {error:#}"));
                    Vec::new()
                }
            }
        });
    }
    drop(opening);
    all_open.recv().await;
    Ok(start.elapsed())
}

async fn publish(
    args: &Args,
    shared: &Arc<Shared>,
    options: &PgConnectOptions,
    stop: &CancellationToken,
) -> anyhow::Result<(Arc<Publisher>, Duration)> {
    let mut connections = Vec::new();
    for _ in 0..args.writers {
        connections.push(publisher::connect(options).await?);
    }
    let publisher = Arc::new(Publisher::new(shared.clone(), options.clone(), args.rate, args.duration));
    let mut writers = JoinSet::new();
    for connection in connections {
        let (publisher, stop) = (publisher.clone(), stop.clone());
        writers.spawn(async move { publisher.write(connection, &stop).await });
    }
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer's task failed")?;
    }
    let elapsed = publisher.elapsed();
    Ok((publisher, elapsed))
}

/// Waits until all has arrived or the deadline passes, then a moment for what should not arrive.
async fn settle(ledger: &Ledger, deadline: Instant, hurry: &CancellationToken) {
    while !ledger.is_complete() && Instant::now() < deadline && !hurry.is_cancelled() {
        sleep(SETTLE_POLL).await;
    }
    tokio::select! {
        () = sleep(LINGER) => {}
        () = hurry.cancelled() => {}
    }
}

fn summarise(
    args: &Args,
    shared: &Shared,
    signals: &Signals,
    connects_per_s: f64,
    published: Duration,
    changes_unknown: usize,
    tally: Tally,
) -> anyhow::Result<Report> {
    let (counts, timings) = (&shared.ledger.counts, &shared.timings);
    let changes = counts.changes.load(Relaxed);
    let percentiles = |meter| Percentiles::of(std::slice::from_ref(meter));
    let report = Report {
        passed: false,
        run: shared.run.clone(),
        interrupted: signals.stop.is_cancelled(),
        sockets_asked: args.sockets.sockets,
        sockets: shared.sockets.joined.load(Relaxed),
        sockets_refused: shared.sockets.refused.load(Relaxed),
        sockets_dropped: shared.sockets.dropped.load(Relaxed),
        orgs: args.orgs,
        topics: args.topics.clone(),
        changes,
        changes_failed: counts.changes_failed.load(Relaxed),
        changes_unknown,
        expected: tally.expected,
        delivered: tally.delivered,
        missing: tally.missing,
        duplicates: counts.duplicates.load(Relaxed),
        cross_org: counts.cross_org.load(Relaxed),
        out_of_order: counts.out_of_order.load(Relaxed),
        unexpected: counts.unexpected.load(Relaxed),
        rolled_back: tally.phantoms,
        resyncs: counts.resyncs.load(Relaxed),
        rate_asked: args.rate,
        rate: changes as f64 / published.as_secs_f64(),
        deliveries_per_s: tally.delivered as f64 / published.as_secs_f64(),
        connects_per_s,
        latency_ms: timings.latencies()?,
        commit_ms: percentiles(&timings.commit)?,
        schedule_lag_ms: percentiles(&timings.lag)?,
        connect_ms: percentiles(&timings.connect)?,
        join_ms: percentiles(&timings.join)?,
        faults: shared.ledger.samples(),
    };
    Ok(report.judge())
}

/// Raises the limit of open files as far as this user may, and says so if that is not enough.
fn allow_open_files(args: &Args) -> anyhow::Result<()> {
    let needed = u64::try_from(args.sockets.sockets + args.writers)? + OPEN_FILES_SPARE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= needed),
        "{} sockets need {needed} open files, but the limit is {}: raise it (ulimit -n, LimitNOFILE) or ask for fewer",
        args.sockets.sockets,
        limit.maximum.unwrap_or_default(),
    );
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum: limit.maximum }).with_context(|| {
        format!("cannot raise the limit of open files to {needed}: run `ulimit -n {needed}` first")
    })
}

//! Measures how many events a second back ends publish, by SQL and through HTTP, and what a page of rows
//! costs compared with `psql`.
//!
//! Every event is delivered to 100 sockets, and a run ends when all of them have received all of its events.
//! The variants take turns in each round. A process of its own holds the sockets. Callers, gateway and
//! PostgreSQL share the machine.
//!
//! `cargo bench --bench publish -- --seconds 2 --rounds 5 --only rates`

mod callers;
mod snapshots;
mod sockets;
#[path = "../support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use anyhow::bail;
use sqlx::postgres::PgPool;
use warden::metrics::CloseLabels;
use warden_devkit::cluster::{Cluster, SUPERUSER};

use callers::{BATCH, Callers, KINDS, Kind};
use sockets::SocketProcess;

/// Sockets to which every event is delivered.
const SOCKETS: usize = 100;
/// Callers at a time.
const CALLERS: [usize; 2] = [1, 16];
/// An idle connection reports its commits to PostgreSQL's statistics after 10 s at most.
const STATISTICS_DELAY: Duration = Duration::from_secs(11);
/// Bytes that may wait for one socket, for the events of one run.
const OUTBOX_BYTES: usize = 64 * 1024 * 1024;

struct Options {
    seconds: u64,
    rounds: usize,
    only: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if let [command, addr, org] = &args[..]
        && command == "hold"
    {
        return runtime.block_on(sockets::hold(addr.parse()?, org.parse()?, SOCKETS));
    }
    let mut options = Options { seconds: 2, rounds: 5, only: None };
    for pair in args.chunks(2) {
        let [name, value] = pair else { bail!("{} needs a value", pair[0]) };
        match name.as_str() {
            "--seconds" => options.seconds = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            "--only" => options.only = Some(value.clone()),
            other => {
                bail!("unknown option {other}: use --seconds, --rounds, --only rates or --only snapshots")
            }
        }
    }
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let mut cluster = support::cluster().await?;
    let result = measure(&cluster, options).await;
    cluster.stop().await?;
    result
}

async fn measure(cluster: &Cluster, options: &Options) -> anyhow::Result<()> {
    let pool = support::migrated(&cluster.url("postgres", SUPERUSER)).await?;
    let org = support::create_orgs(&pool, 1).await?[0];
    sqlx::raw_sql("select warden.declare_topic('invoices')").execute(&pool).await?;
    // Back ends publish faster than a hundred sockets on the same cores read, and none of them may be closed.
    let gateway = support::gateway(cluster, |limits| {
        limits.outbox.queue_bytes_max = OUTBOX_BYTES;
        limits.outbox.queue_chunks_max = OUTBOX_BYTES;
        limits.outbox.memory_bytes_max = 16 * OUTBOX_BYTES;
    })
    .await?;
    let is_chosen = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    if is_chosen("rates") {
        let mut sockets = SocketProcess::start(gateway.public_addr(), org)?;
        let target = Callers::new(gateway.public_addr(), &cluster.url("postgres", SUPERUSER), org)?;
        rates(&pool, &target, &mut sockets, options).await.inspect_err(|_| {
            let metrics = gateway.metrics();
            let slow = metrics.closed.get_or_create(&CloseLabels { code: 4429 }).get();
            eprintln!("sessions closed as too slow: {slow}; resyncs: {}", metrics.resyncs.get());
        })?;
    }
    if is_chosen("snapshots") {
        snapshots::measure(cluster, &pool, gateway.public_addr(), org).await?;
    }
    gateway.stop().await;
    Ok(())
}

/// Results of one variant.
struct Variant {
    kind: Kind,
    callers: usize,
    /// Events a second of each round.
    rates: Vec<f64>,
    commits_per_event: f64,
}

async fn rates(
    pool: &PgPool,
    target: &Callers,
    sockets: &mut SocketProcess,
    options: &Options,
) -> anyhow::Result<()> {
    let length = Duration::from_secs(options.seconds);
    let mut variants: Vec<Variant> = KINDS
        .iter()
        .flat_map(|kind| CALLERS.map(|callers| (*kind, callers)))
        .map(|(kind, callers)| Variant { kind, callers, rates: Vec::new(), commits_per_event: 0.0 })
        .collect();
    // The first round warms up, and counts commits. Those of an idle gateway are subtracted.
    let before = commits(pool).await?;
    let begun = Instant::now();
    let idle = (commits(pool).await? - before) / begun.elapsed().as_secs_f64();
    for variant in &mut variants {
        let (begun, before) = (Instant::now(), commits(pool).await?);
        let (events, _) = run_once(target, variant, length, sockets).await?;
        let commits = commits(pool).await? - before - idle * begun.elapsed().as_secs_f64();
        variant.commits_per_event = commits.max(0.0) / events as f64;
    }
    for _ in 0..options.rounds {
        for variant in &mut variants {
            let (events, elapsed) = run_once(target, variant, length, sockets).await?;
            variant.rates.push(events as f64 / elapsed.as_secs_f64());
        }
    }
    println!("| publisher | callers | events/s, median | lowest | highest | commits per event |");
    println!("|---|---:|---:|---:|---:|---:|");
    for variant in &mut variants {
        variant.rates.sort_unstable_by(f64::total_cmp);
        let rates = &variant.rates;
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.3} |",
            variant.kind.name(),
            variant.callers,
            rates[rates.len() / 2],
            rates[0],
            rates[rates.len() - 1],
            variant.commits_per_event,
        );
    }
    println!();
    for callers in CALLERS {
        let median = |kind| {
            let variant = variants.iter().find(|v| v.kind == kind && v.callers == callers);
            variant.map_or(f64::NAN, |variant| variant.rates[variant.rates.len() / 2])
        };
        let ratio = median(Kind::HttpBatch) / median(Kind::SqlBulk);
        let bar = if ratio >= 0.7 { "within" } else { "**missed**" };
        println!(
            "HTTP batches of {BATCH} compared with SQL bulk of {BATCH}, {callers} callers: {ratio:.2} ({bar}; the bar is 0.7)"
        );
    }
    println!();
    Ok(())
}

/// Publishes for this time. Returns the number of events, and the time until all sockets had received them.
async fn run_once(
    target: &Callers,
    variant: &Variant,
    length: Duration,
    sockets: &mut SocketProcess,
) -> anyhow::Result<(u64, Duration)> {
    let callers = target.connect(variant.kind, variant.callers).await?;
    let begun = Instant::now();
    let events = callers::publish(callers, begun + length).await?;
    sockets.have_received(events)?;
    Ok((events, begun.elapsed()))
}

/// Transactions of the database that were committed, when all connections have reported theirs.
async fn commits(pool: &PgPool) -> anyhow::Result<f64> {
    tokio::time::sleep(STATISTICS_DELAY).await;
    let commits = "select xact_commit::float8 from pg_stat_database where datname = current_database()";
    Ok(sqlx::query_scalar(commits).fetch_one(pool).await?)
}

/// Median of some times.
fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

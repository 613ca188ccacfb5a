//! Measures whether a flooded organisation delays the events of a small one.
//!
//! Organisation A has thousands of sockets and gets more events than fan-out can write one by one.
//! Organisation B has a few sockets and gets 100 events a second. Phases without and with the flood alternate
//! in one run. The result is B's time from the read of an event to its write, as the gateway measures it
//! (`warden_fanout_seconds`).
//!
//! A process of its own holds the sockets, at the lowest priority (SCHED_IDLE), because it shares the machine
//! with the measured gateway. At nice 19 it preempted the writing thread at every write, 50 times per event
//! (`perf sched`). A client on another machine cannot do that.
//!
//! `cargo bench --bench fairness -- --sockets 8000 --seconds 10 --rounds 5`

mod support;

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use sqlx::postgres::PgPool;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use uuid::Uuid;
use warden::app::Gateway;
use warden_devkit::cluster::{Cluster, SUPERUSER};

/// Sockets of the small organisation.
const SMALL_SOCKETS: usize = 50;
/// Events per second of the small organisation.
const SMALL_RATE: u64 = 100;
/// Events per second of the large organisation. At 8,000 sockets this is several times what a core can write
/// one by one.
const FLOOD_RATE: u64 = 200;
/// Label of the small organisation's slices in the metric. The large organisation's topic has more
/// subscribers.
const SMALL_LABEL: &str = "up to 64";

struct Options {
    sockets: usize,
    seconds: u64,
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if let [command, addr, org, sockets] = &args[..]
        && command == "hold"
    {
        return runtime.block_on(hold(addr.parse()?, org.parse()?, sockets.parse()?));
    }
    let mut options = Options { sockets: 8000, seconds: 10, rounds: 5 };
    for pair in args.chunks(2) {
        let [name, value] = pair else { bail!("{} needs a value", pair[0]) };
        match name.as_str() {
            "--sockets" => options.sockets = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            other => bail!("unknown option {other}: use --sockets, --seconds, --rounds"),
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
    let url = cluster.url("postgres", SUPERUSER);
    let pool = support::migrated(&url).await?;
    let orgs = support::create_orgs(&pool, 2).await?;
    let [large, small] = orgs[..] else { bail!("two organisations") };
    let gateway = support::gateway(cluster, |_| ()).await?;
    let addr = gateway.public_addr();
    let processes = [
        SocketProcess::start(addr, large, options.sockets)?,
        SocketProcess::start(addr, small, SMALL_SOCKETS)?,
    ];

    println!("{} sockets in A, {SMALL_SOCKETS} in B; {SMALL_RATE} events/s to B", options.sockets);
    println!("| round | B alone: p50 | p99 | A flooded: p50 | p99 | ratio of p99 | deliveries/s |");
    println!("|---|---|---|---|---|---|---|");
    let mut ratios = Vec::new();
    for round in 1..=options.rounds {
        let alone = phase(&gateway, &pool, small, None, options.seconds).await?;
        let loaded = phase(&gateway, &pool, small, Some(large), options.seconds).await?;
        let ratio = loaded.p99 / alone.p99;
        ratios.push(ratio);
        println!(
            "| {round} | {:.0} us | {:.0} us | {:.0} us | {:.0} us | {ratio:.1} | {:.0} |",
            alone.p50, alone.p99, loaded.p50, loaded.p99, loaded.deliveries_per_second
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("median of the ratios of p99: {:.1}", ratios[ratios.len() / 2]);
    println!("resyncs for overload: {}", gateway.metrics().overloads.get());
    drop(processes);
    gateway.stop().await;
    Ok(())
}

/// Result of a phase: microseconds from read to write, of the small organisation.
struct Phase {
    p50: f64,
    p99: f64,
    deliveries_per_second: f64,
}

async fn phase(
    gateway: &Gateway,
    pool: &PgPool,
    small: Uuid,
    flooded: Option<Uuid>,
    seconds: u64,
) -> anyhow::Result<Phase> {
    let (before, deliveries) = (buckets(gateway), gateway.metrics().deliveries.get());
    let length = Duration::from_secs(seconds);
    let quick = publish(pool, small, SMALL_RATE, length);
    match flooded {
        Some(large) => {
            let flood = publish(pool, large, FLOOD_RATE, length);
            tokio::try_join!(quick, flood)?;
        }
        None => quick.await?,
    }
    let deliveries = gateway.metrics().deliveries.get() - deliveries;
    let after = buckets(gateway);
    // The metric has no buckets before its first slice.
    let then = before.iter().map(|(_, count)| *count).chain(std::iter::repeat(0.0));
    let counts: Vec<(f64, f64)> =
        after.iter().zip(then).map(|((bound, now), then)| (*bound, now - then)).collect();
    // Waits until the rest of the flood was sent, so that it does not affect the next phase.
    while gateway.metrics().deliveries.get() != {
        tokio::time::sleep(Duration::from_millis(500)).await;
        gateway.metrics().deliveries.get()
    } {}
    Ok(Phase {
        p50: quantile(&counts, 0.50)? * 1e6,
        p99: quantile(&counts, 0.99)? * 1e6,
        deliveries_per_second: deliveries as f64 / seconds as f64,
    })
}

async fn publish(pool: &PgPool, org: Uuid, rate: u64, length: Duration) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(rate)?);
    for _ in 0..rate * length.as_secs() {
        ticks.tick().await;
        sqlx::query(
            "select warden.publish($1, 'calls', 'bench.event', jsonb_build_object('x', repeat('x', 150)))",
        )
        .bind(org)
        .execute(pool)
        .await?;
    }
    Ok(())
}

/// Cumulative buckets of the small organisation: upper bound in seconds, and count.
fn buckets(gateway: &Gateway) -> Vec<(f64, f64)> {
    let label = format!("subscribers=\"{SMALL_LABEL}\"");
    gateway
        .metrics()
        .encode()
        .lines()
        .filter(|line| line.starts_with("warden_fanout_seconds_bucket") && line.contains(&label))
        .filter_map(|line| {
            let bound = line.split("le=\"").nth(1)?.split('"').next()?.replace("+Inf", "inf");
            Some((bound.parse().ok()?, line.rsplit(' ').next()?.parse().ok()?))
        })
        .collect()
}

/// Quantile of cumulative buckets, by linear interpolation within a bucket.
fn quantile(cumulative: &[(f64, f64)], q: f64) -> anyhow::Result<f64> {
    let total = cumulative.last().context("the metric has no buckets")?.1;
    anyhow::ensure!(total > 0.0, "the small organisation received no event");
    let (mut lower, mut below) = (0.0, 0.0);
    for (bound, count) in cumulative {
        if *count >= q * total {
            let share = (q * total - below) / (count - below);
            return Ok(if bound.is_finite() { lower + (bound - lower) * share } else { lower });
        }
        (lower, below) = (*bound, *count);
    }
    bail!("the counts of the buckets are not cumulative")
}

/// A process that holds sockets until this is dropped.
struct SocketProcess(Child);

impl SocketProcess {
    fn start(addr: SocketAddr, org: Uuid, sockets: usize) -> anyhow::Result<Self> {
        let mut child = Command::new("chrt")
            .args(["--idle", "0"])
            .arg(std::env::current_exe()?)
            .args(["hold", &addr.to_string(), &org.to_string(), &sockets.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start chrt, which is part of util-linux: install it")?;
        let stdout = child.stdout.take().context("piped")?;
        let mut line = String::new();
        std::io::BufReader::new(stdout).read_line(&mut line)?;
        anyhow::ensure!(line.trim() == "ready", "the process that holds the sockets could not open them");
        Ok(Self(child))
    }
}

impl Drop for SocketProcess {
    fn drop(&mut self) {
        // The process ends when its standard input is closed.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Runs the process that holds the sockets: joins, reports `ready`, and discards everything that it reads.
async fn hold(addr: SocketAddr, org: Uuid, sockets: usize) -> anyhow::Result<()> {
    let mut readers = JoinSet::new();
    for _ in 0..sockets {
        let mut stream = support::join(addr, org, "calls", None).await?.0.into_inner();
        readers.spawn(async move {
            let mut bytes = vec![0; 16 * 1024];
            while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
        });
    }
    println!("ready");
    let ended = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)
    });
    ended.await??;
    readers.abort_all();
    Ok(())
}

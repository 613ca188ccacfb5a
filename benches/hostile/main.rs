//! Measures how much an attacking organisation, or a stranger, delays another organisation.
//!
//! Each attack runs in a process of its own at nice 19. Phases without and with the attack alternate, and in
//! each of them a client of another organisation connects, joins, resumes and receives. The bar: its p99
//! stays within twice the p99 without the attack, or below 10 ms, and nothing fails. The gateway is a
//! separate process with default limits. Its memory is sampled. It must return to its size before the attack,
//! within 4 MiB. The attack runs once before the measurement, because the first run fills caches and pools
//! that it keeps. If a bar is missed, the benchmark names it and exits with 1.
//!
//! `cargo bench --bench hostile -- --rounds 5 --seconds 2 --only notifications`

mod attacks;
mod floods;
#[path = "../../tests/hostile/gateway.rs"]
mod gateway;
mod joins;
#[path = "../../tests/hostile/tokens.rs"]
mod tokens;
mod victim;

use std::io::BufRead as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use sqlx::postgres::PgPool;
use uuid::Uuid;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};

use attacks::{ATTACKS, Target};
use gateway::Gateway;
use victim::{OPERATIONS, PUBLISH, Samples, Victim};

const MIB: u64 = 1024 * 1024;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Longest wait until the gateway has closed the attackers' connections.
const QUIET_MAX: Duration = Duration::from_secs(20);
/// Longest wait until the allocator has returned the attack's memory.
const RETURN_MAX: Duration = Duration::from_secs(20);
/// Memory above that before the attack that is not taken for a leak: the allocator keeps some for each
/// thread.
const MEMORY_TOLERANCE: u64 = 4 * MIB;
/// A p99 below this is good enough, whatever it is without the attack.
const GOOD: Duration = Duration::from_millis(10);

struct Options {
    rounds: usize,
    seconds: u64,
    only: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if let [command, attack, addr, url, org] = &args[..]
        && command == "attack"
    {
        let target = Target { addr: addr.parse()?, url: url.clone(), org: org.parse()? };
        return runtime.block_on(attacks::run(attack, target));
    }
    let mut options = Options { rounds: 5, seconds: 2, only: None };
    for pair in args.chunks(2) {
        let [name, value] = pair else { bail!("{} needs a value", pair[0]) };
        match name.as_str() {
            "--rounds" => options.rounds = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--only" => options.only = Some(value.clone()),
            other => bail!("unknown option {other}: use --rounds, --seconds, --only"),
        }
    }
    runtime.block_on(run(&options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let cluster_options = ClusterOptions {
        binaries: Binaries::find(None, std::env::var_os("PATH").as_deref())?,
        data_dir: DataDir::Temporary,
        settings: Vec::new(),
        max_connections: 50,
        durable: false,
    };
    let mut cluster = Cluster::start(cluster_options).await?;
    let result = measure_all(&cluster, options).await;
    cluster.stop().await?;
    result
}

async fn measure_all(cluster: &Cluster, options: &Options) -> anyhow::Result<()> {
    let url = cluster.url("postgres", SUPERUSER);
    warden::postgres::migrate_platform(&url).await?;
    let pool = PgPool::connect(&url).await?;
    sqlx::raw_sql("alter role warden_gateway login").execute(&pool).await?;
    let insert = "insert into organizations (name) select 'bench' from generate_series(1, 2) returning id";
    let orgs: Vec<Uuid> = sqlx::query_scalar(insert).fetch_all(&pool).await?;
    println!(
        "| attack | operation | alone: p50 | p99 | attacked: p50 | p99 | ratio | bar | memory: before | highest | after | sent |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|");
    let mut missed = Vec::new();
    for attack in ATTACKS.iter().filter(|name| options.only.as_deref().is_none_or(|only| only == **name)) {
        // Each attack gets a gateway of its own, so that its memory does not contain that of former attacks.
        let gateway = Gateway::start(&cluster.url("postgres", "warden_gateway"), &[]).await;
        let target = Target { addr: gateway.addr, url: url.clone(), org: orgs[0] };
        let mut victim = Victim::start(gateway.addr, pool.clone(), orgs[1]).await?;
        missed.extend(measure(attack, &target, &gateway, &mut victim, options).await?);
        drop(victim);
        eprintln!("limits reached by {attack}: {}", gateway.limits_reached().await.join(", "));
        gateway.end().await;
    }
    ensure!(missed.is_empty(), "{} bars are missed:\n{}", missed.len(), missed.join("\n"));
    println!("all bars are met");
    Ok(())
}

/// Runs all rounds of one attack, and prints its rows of the table. Returns the missed bars.
async fn measure(
    attack: &str,
    target: &Target,
    gateway: &Gateway,
    victim: &mut Victim,
    options: &Options,
) -> anyhow::Result<Vec<String>> {
    let (mut alone, mut attacked) = (Samples::default(), Samples::default());
    let length = Duration::from_secs(options.seconds);
    let idle = gateway.usage().await;
    // The first operations connect to the database, and those under attack fill caches and pools.
    attack_once(attack, target, victim, length, &mut Samples::default()).await?;
    settle(gateway, idle.sessions).await?;
    memory_afterwards(gateway, idle.rss_bytes).await;
    let before = gateway.usage().await;
    let highest = AtomicU64::new(before.rss_bytes);
    let mut sent: u64 = 0;
    for _ in 0..options.rounds {
        victim.run(length, &mut alone).await;
        let sampling = async {
            loop {
                highest.fetch_max(gateway.usage().await.rss_bytes, Ordering::Relaxed);
                tokio::time::sleep(SAMPLE_INTERVAL).await;
            }
        };
        let attacking = attack_once(attack, target, victim, length, &mut attacked);
        sent += tokio::select! { () = sampling => 0, count = attacking => count? };
        settle(gateway, before.sessions).await?;
    }
    let after = memory_afterwards(gateway, before.rss_bytes).await;
    let mut missed = Vec::new();
    if after > before.rss_bytes + MEMORY_TOLERANCE {
        let [before, after] = [before.rss_bytes, after].map(|bytes| bytes / MIB);
        missed.push(format!("{attack}: memory is {after} MiB afterwards, and was {before} MiB"));
    }
    for (n, operation) in OPERATIONS.iter().enumerate() {
        let [alone_p50, alone_p99] = alone.quantiles(n);
        let [p50, p99] = attacked.quantiles(n);
        let ratio = p99.as_secs_f64() / alone_p99.as_secs_f64();
        let bar = match p99 <= GOOD.max(2 * alone_p99) {
            _ if n == PUBLISH => "no bar",
            true => "within",
            false => "**missed**",
        };
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        if bar == "**missed**" {
            missed.push(format!("{attack}: {operation} has a p99 of {}, alone {}", ms(p99), ms(alone_p99)));
        }
        println!(
            "| {attack} | {operation} | {} | {} | {} | {} | {ratio:.1} | {bar} | {} MiB | {} MiB | {} MiB | {sent} |",
            ms(alone_p50),
            ms(alone_p99),
            ms(p50),
            ms(p99),
            before.rss_bytes / MIB,
            highest.load(Ordering::Relaxed) / MIB,
            after / MIB,
        );
    }
    let errors: Vec<&String> = alone.errors.iter().chain(&attacked.errors).collect();
    println!("| {attack} | errors | | | {} | | | | | | | |", errors.len());
    if let Some(first) = errors.first() {
        eprintln!("{attack}: {first}");
        missed.push(format!("{attack}: {} operations failed", errors.len()));
    }
    Ok(missed)
}

/// Runs the attack for this time, beside the other organisation's client. Returns the number of messages that
/// the attack has sent.
async fn attack_once(
    attack: &str,
    target: &Target,
    victim: &mut Victim,
    length: Duration,
    samples: &mut Samples,
) -> anyhow::Result<u64> {
    let process = tokio::task::block_in_place(|| AttackProcess::start(attack, target))?;
    victim.run(length, samples).await;
    tokio::task::block_in_place(|| process.finish())
}

/// Resident memory once it is back at its size before the attack, or else when the time is over: the
/// allocator returns unused memory after some seconds.
async fn memory_afterwards(gateway: &Gateway, before: u64) -> u64 {
    let deadline = Instant::now() + RETURN_MAX;
    loop {
        let now = gateway.usage().await.rss_bytes;
        if now <= before + MIB || Instant::now() > deadline {
            return now;
        }
        tokio::time::sleep(SAMPLE_INTERVAL).await;
    }
}

/// Waits until the attackers' connections are closed.
async fn settle(gateway: &Gateway, sessions: u64) -> anyhow::Result<()> {
    let quiet = async {
        loop {
            let usage = gateway.usage().await;
            if usage.sessions <= sessions && usage.pending == 0 {
                break;
            }
            tokio::time::sleep(SAMPLE_INTERVAL).await;
        }
    };
    let settled = tokio::time::timeout(QUIET_MAX, quiet).await;
    let descriptors = gateway.usage().await.descriptors;
    ensure!(settled.is_ok(), "the attack's connections remain open: {descriptors} file descriptors");
    Ok(())
}

/// The process of an attack, which ends when this is dropped.
struct AttackProcess(Child, std::io::BufReader<ChildStdout>);

impl AttackProcess {
    /// Starts an attack, and returns when it runs at full strength.
    fn start(attack: &str, target: &Target) -> anyhow::Result<Self> {
        let mut child = Command::new("nice")
            .args(["-n", "19"])
            .arg(std::env::current_exe()?)
            .args(["attack", attack, &target.addr.to_string(), &target.url, &target.org.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the attack")?;
        let stdout = child.stdout.take().context("piped")?;
        let mut process = Self(child, std::io::BufReader::new(stdout));
        let mut line = String::new();
        process.1.read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the attack could not begin");
        Ok(process)
    }

    /// Ends the attack. Returns the number of messages that it has sent.
    fn finish(mut self) -> anyhow::Result<u64> {
        drop(self.0.stdin.take());
        let mut line = String::new();
        self.1.read_line(&mut line)?;
        line.trim().parse().context("the attack ended too early")
    }
}

impl Drop for AttackProcess {
    fn drop(&mut self) {
        // The process ends when its standard input is closed.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

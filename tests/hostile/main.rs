//! Hostile load: strangers send invalid handshakes and insiders send invalid frames, while well-behaved
//! sockets keep receiving. No hostile input is accepted, nothing panics, no event is lost, and in the end the
//! gateway holds the resources that it held before. Linux only, because the test reads /proc and gives
//! attackers their own addresses in 127.0.0.0/8, which puts the limits per address under test.
//!
//! The attack runs twice: with default limits and so few addresses that strangers exceed them, and without
//! numeric limits, so that all input reaches the parsers. `WARDEN_HOSTILE=full` sends 100,000 handshakes and
//! 1,000,000 frames in each run beside 500 well-behaved sockets; `WARDEN_HOSTILE=20` sends a fifth of that.
//! `WARDEN_SEED` repeats the input, but not its timing. The test always ends by itself, with a verdict.

mod attack;
mod frames;
mod gateway;
mod handshakes;
mod tally;
mod tokens;
mod witnesses;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{Connection as _, Executor as _};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};

use attack::{Countdown, per_second};
use gateway::{Gateway, Usage};
use tally::Tally;
use witnesses::Witnesses;

/// Marker in all data that insiders try to send to others.
const MARK: &str = "h0stile-mark";
/// Organisations with well-behaved sockets. The insiders belong to one of them.
const ORGS: i32 = 5;
const MIB: u64 = 1024 * 1024;
/// Allowed growth of memory over the attack, for memory that the allocator does not return. Recent events do
/// not count, because their limit is filled before.
const MEMORY_GROWTH_MAX: u64 = 12 * MIB;
/// Default limit of handshakes of one address: burst, and rate per second.
const BURST: u64 = 500;
const RATE: u64 = 50;
/// Addresses of strangers in the run without limits.
const ADDRESSES: u8 = 64;
/// Events in one statement while memory is being filled.
const FILL_PAGE: u64 = 5_000;
/// Time after the deadline in which the run can report what hung.
const VERDICT_GRACE: Duration = Duration::from_secs(60);
/// Allowed growth of descriptors: connections of the gateway's pool.
const DESCRIPTORS_GROWTH_MAX: u64 = 16;
/// Divisor that gives the size of the first wave.
const FIRST_WAVE_PART: u64 = 10;
/// Deadline for releasing resources. It exceeds the time for which a hostile connection may stay open.
const QUIET_DEADLINE: Duration = Duration::from_secs(90);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Size of a run, and its deadline.
struct Plan {
    seed: u64,
    handshakes: u64,
    frames: u64,
    witnesses: usize,
    strangers: usize,
    insiders: usize,
    /// Addresses of strangers in the run with default limits: so few that limits are exceeded.
    addresses: u8,
    /// Events of each organisation that are published before the first measurement. They fill the limit of
    /// recent events, so that the run's own events evict others.
    fill: u64,
    /// Deadline of one wave.
    deadline: Duration,
    /// The gateway's deadline for a request head.
    handshake_seconds: &'static str,
}

impl Plan {
    fn from_environment() -> Self {
        let seed = std::env::var("WARDEN_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        let size = std::env::var("WARDEN_HOSTILE").unwrap_or_default();
        let percent = if size == "full" { Some(100) } else { size.parse::<u64>().ok() };
        if let Some(percent) = percent {
            Self {
                seed,
                handshakes: 1_000 * percent,
                frames: 10_000 * percent,
                witnesses: 500,
                strangers: 1_000,
                insiders: 100,
                addresses: 2,
                fill: 25_000,
                deadline: Duration::from_mins(10),
                handshake_seconds: "10",
            }
        } else {
            Self {
                seed,
                handshakes: 3_000,
                frames: 30_000,
                witnesses: 50,
                strangers: 600,
                insiders: 32,
                addresses: 2,
                fill: 1_000,
                deadline: Duration::from_mins(3),
                handshake_seconds: "2",
            }
        }
    }
}

/// Amounts that one wave sends.
struct Wave {
    seed: u64,
    handshakes: u64,
    frames: u64,
    strangers: usize,
    insiders: usize,
    deadline: Duration,
}

impl Plan {
    /// Deadline of both runs, each with two waves and a quiet period after each wave.
    fn whole_deadline(&self) -> Duration {
        2 * (self.deadline + 3 * QUIET_DEADLINE)
    }

    fn wave(&self, seed: u64, is_first: bool) -> Wave {
        let part = |count: u64| if is_first { count / FIRST_WAVE_PART } else { count };
        let two_for_each = 2 * self.strangers as u64;
        Wave {
            seed,
            handshakes: part(self.handshakes).max(two_for_each),
            frames: part(self.frames),
            strangers: self.strangers,
            insiders: self.insiders,
            deadline: self.deadline,
        }
    }
}

/// Target and counters of the attackers.
struct Attack {
    addr: SocketAddr,
    /// The insiders' organisation, and the one that they try to reach.
    insiders: Uuid,
    victim: Uuid,
    has_limits: bool,
    /// Addresses of strangers.
    addresses: u8,
    /// Sessions that insiders opened, frames that they sent, and the answers.
    opened: AtomicU64,
    frames: AtomicU64,
    replies: AtomicU64,
}

struct Database {
    _cluster: Cluster,
    url: String,
    gateway_url: String,
    orgs: Vec<Uuid>,
}

async fn database() -> Database {
    let path = std::env::var_os("PATH");
    let options = ClusterOptions {
        binaries: Binaries::find(None, path.as_deref()).expect("PostgreSQL is installed"),
        data_dir: DataDir::Temporary,
        settings: Vec::new(),
        max_connections: 50,
        durable: false,
    };
    let cluster = Cluster::start(options).await.expect("PostgreSQL starts");
    let url = cluster.url("postgres", SUPERUSER);
    warden::postgres::migrate_platform(&url).await.expect("migrates");
    let mut connection = sqlx::PgConnection::connect(&url).await.expect("connects");
    connection.execute("alter role warden_gateway login").await.expect("alters");
    let sql = "insert into organizations (name) select 'hostile' from generate_series(1, $1) returning id";
    let orgs = sqlx::query_scalar(sql).bind(ORGS).fetch_all(&mut connection).await.expect("inserts");
    let gateway_url = cluster.url("postgres", "warden_gateway");
    Database { _cluster: cluster, url, gateway_url, orgs }
}

#[test]
fn hostile_load_is_rejected_and_leaks_nothing_with_and_without_limits() {
    let plan = Plan::from_environment();
    println!("WARDEN_SEED={}", plan.seed);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let deadline = plan.whole_deadline();
    // If even the runtime hangs, this thread ends the process, and with it the gateway and PostgreSQL.
    std::thread::spawn(move || {
        std::thread::sleep(deadline + VERDICT_GRACE);
        eprintln!("FAILED: the run hangs");
        std::process::exit(1);
    });
    runtime.block_on(async {
        let all = async {
            let database = database().await;
            run(&plan, &database, true).await;
            run(&plan, &database, false).await;
        };
        assert!(tokio::time::timeout(deadline, all).await.is_ok(), "FAILED: no end within {deadline:?}");
    });
    println!("PASSED");
}

/// Numeric limits that loopback cannot reach. Limits on the contents of requests and frames stay in force.
const RAISED_LIMITS: &[(&str, &str)] = &[
    ("WARDEN_ARRIVALS_PER_ADDRESS", "1000000:1000000"),
    ("WARDEN_HANDSHAKES", "1000000:1000000"),
    ("WARDEN_HANDSHAKES_PER_ADDRESS", "1000000:1000000"),
    ("WARDEN_PENDING_PER_ADDRESS", "4096"),
    ("WARDEN_MESSAGES", "1000000:1000000"),
    ("WARDEN_MESSAGES_PER_ORG", "1000000:1000000"),
    ("WARDEN_REFUSAL_DELAY_MS", "0"),
];

async fn run(plan: &Plan, database: &Database, has_limits: bool) {
    let mut settings = vec![("WARDEN_HANDSHAKE_SECONDS", plan.handshake_seconds)];
    if !has_limits {
        settings.extend(RAISED_LIMITS);
    }
    let gateway = Gateway::start(&database.gateway_url, &settings).await;
    fill(database, plan.fill).await;
    let mut witnesses = Witnesses::start(gateway.addr, &database.url, &database.orgs, plan.witnesses).await;
    while witnesses.seen.load(Ordering::Relaxed) < 10 * plan.witnesses as u64 {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let fresh = gateway.usage().await;
    let attack = Arc::new(Attack {
        addr: gateway.addr,
        insiders: database.orgs[0],
        victim: database.orgs[1],
        has_limits,
        addresses: if has_limits { plan.addresses } else { ADDRESSES },
        opened: AtomicU64::new(0),
        frames: AtomicU64::new(0),
        replies: AtomicU64::new(0),
    });
    let title = if has_limits { "default limits" } else { "raised limits" };
    // The first wave is as wide as the second, so that the allocator already holds the memory that this
    // concurrency needs. Memory that leaks per client then shows after the second wave.
    let first = plan.wave(plan.seed.wrapping_add(1), true);
    wave(&first, &attack, &gateway, &witnesses, &format!("{title}, first wave")).await;
    let before = wait_for_release(&gateway, &fresh, u64::MAX).await;
    let second = plan.wave(plan.seed, false);
    wave(&second, &attack, &gateway, &witnesses, title).await;
    let (published, seen) = witnesses.settle().await;
    println!("{published} events published, {seen} received by {} witnesses", plan.witnesses);
    let after = wait_for_release(&gateway, &before, before.rss_bytes + MEMORY_GROWTH_MAX).await;
    for (when, usage) in [("fresh", fresh), ("after the first wave", before), ("after the second", after)] {
        println!("{when}: {} MiB, {usage:?}", usage.rss_bytes / MIB);
    }
    // Every accepted session must belong to an insider or a witness.
    let accepted = gateway.metric("warden_upgrades_accepted_total").await;
    let known = attack.opened.load(Ordering::Relaxed) + plan.witnesses as u64;
    assert_eq!(accepted, known, "unknown sessions were accepted");
    drop(witnesses::join(gateway.addr, database.orgs[2], 0).await);
    witnesses.end().await;
    gateway.end().await;
}

/// Publishes events without subscribers, as large as those of the witnesses.
async fn fill(database: &Database, count: u64) {
    let mut connection = sqlx::PgConnection::connect(&database.url).await.expect("connects");
    for org in &database.orgs {
        for from in (0..count).step_by(usize::try_from(FILL_PAGE).expect("small")) {
            sqlx::query(
                "select count(warden.publish($1, 'recordings', 'witness.fill', jsonb_build_object('org', $1, 'n', n)))
                 from generate_series($2, $3) n",
            )
            .bind(org)
            .bind(i64::try_from(from).expect("small"))
            .bind(i64::try_from((from + FILL_PAGE).min(count) - 1).expect("small"))
            .execute(&mut connection)
            .await
            .expect("publishes");
        }
    }
}

/// Runs one wave and reports its result.
async fn wave(wave: &Wave, attack: &Arc<Attack>, gateway: &Gateway, witnesses: &Witnesses, title: &str) {
    let start = Instant::now();
    attack.frames.store(0, Ordering::Relaxed);
    attack.replies.store(0, Ordering::Relaxed);
    let (handshakes, frames, peak) = run_attackers(wave, attack, gateway, witnesses).await;
    let sent = attack.frames.load(Ordering::Relaxed);
    let limited = handshakes.answers("429");
    println!(
        "\n## {title}: {} handshakes, {sent} frames, in {} s ({} frames a second), with {} MiB at most",
        handshakes.total(),
        start.elapsed().as_secs(),
        per_second(sent, start),
        peak / MIB,
    );
    println!("limits reached so far: {}", gateway.limits_reached().await.join(", "));
    println!(
        "stopped by a limit: {limited} handshakes; replies and pongs: {}; sessions of insiders so far: {}",
        attack.replies.load(Ordering::Relaxed),
        attack.opened.load(Ordering::Relaxed)
    );
    handshakes.report("handshake");
    frames.report("frame");
    assert!(!witnesses.have_failed() || sent >= wave.frames);
    assert!(attack.has_limits || limited == 0, "{limited} requests did not reach the parser");
    // A small first wave may stay within the limit, on a slow machine even if it exceeds the bursts.
    let allowed = BURST + RATE * (start.elapsed().as_secs() + 1);
    let is_within = wave.handshakes <= u64::from(attack.addresses) * allowed;
    assert!(!attack.has_limits || is_within || limited > 0, "no address exceeded its limit");
}

/// Runs all attackers until they have sent their share. Returns the result and the peak memory.
async fn run_attackers(
    wave: &Wave,
    attack: &Arc<Attack>,
    gateway: &Gateway,
    witnesses: &Witnesses,
) -> (Arc<Tally>, Arc<Tally>, u64) {
    let mut rng = fastrand::Rng::with_seed(wave.seed);
    let (handshakes, frames) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
    let (handshakes_left, frames_left) =
        (Arc::new(Countdown::new(wave.handshakes)), Arc::new(Countdown::new(wave.frames)));
    let mut attackers = JoinSet::new();
    for _ in 0..wave.strangers {
        let (left, tally) = (Arc::clone(&handshakes_left), Arc::clone(&handshakes));
        attackers.spawn(attack::strangers(Arc::clone(attack), left, tally, rng.fork()));
    }
    for _ in 0..wave.insiders {
        let (left, tally) = (Arc::clone(&frames_left), Arc::clone(&frames));
        attackers.spawn(attack::insiders(Arc::clone(attack), left, tally, rng.fork()));
    }
    let end = Instant::now() + wave.deadline;
    let mut peak = 0;
    let mut samples = tokio::time::interval(Duration::from_secs(1));
    while !attackers.is_empty() {
        tokio::select! {
            ended = attackers.join_next() => ended.expect("there is one").expect("an attacker does not panic"),
            _ = samples.tick() => {
                peak = peak.max(gateway.usage().await.rss_bytes);
                if witnesses.have_failed() {
                    attackers.abort_all();
                    break;
                }
                assert!(
                    Instant::now() < end,
                    "after {:?} only {} handshakes and {} frames were sent",
                    wave.deadline,
                    handshakes.total(),
                    attack.frames.load(Ordering::Relaxed)
                );
            }
        }
    }
    (handshakes, frames, peak)
}

/// Waits until the gateway holds the resources that it held before.
async fn wait_for_release(gateway: &Gateway, before: &Usage, rss_bytes_max: u64) -> Usage {
    let end = Instant::now() + QUIET_DEADLINE;
    loop {
        let now = gateway.usage().await;
        if now.sessions == before.sessions
            && now.pending <= before.pending
            && now.descriptors <= before.descriptors + DESCRIPTORS_GROWTH_MAX
            && now.rss_bytes <= rss_bytes_max
        {
            return now;
        }
        assert!(Instant::now() < end, "resources were not released: before {before:?}, now {now:?}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

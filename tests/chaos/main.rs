//! Chaos: everything that may fail fails, for a while and all at once, and every follower still sees every
//! committed event of its organisation once, in order, and nothing else.
//!
//! `WARDEN_CHAOS_SECONDS` says for how long (30; from 120 on it is the long run, with more followers and a
//! larger bulk), `WARDEN_SEED` repeats the choices of a run, though not the timing of machine and kernel.
//!
//! What must be seen comes from the writers' own record; where the database was killed under a commit, a
//! row of that transaction tells whether it happened. A resync is a failure, but for `unavailable` within
//! the aftermath of an outage, or of the bulk: then a follower asks again with the cursor that it has, so
//! that nothing is excused from the check. The bulk of the long run stays below the 50,000 events that a
//! replay brings, with room for what is written meanwhile, so `too_many` is a failure too.

mod faults;
mod follower;
mod gateways;
mod proxy;
mod record;
mod writers;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;
use warden::postgres::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};

use follower::{Follower, Following, LAST};
use gateways::Gateway;
use proxy::Proxy;
use record::{Expected, Record, Transaction};
use writers::World;

const GATEWAYS: usize = 3;
const ORGS: usize = 3;
const WRITERS: u64 = 6;
const CONNECTIONS_MAX: u32 = 100;
const SECONDS_DEFAULT: u64 = 30;
/// From here on a run is a long one.
const SECONDS_LONG: u64 = 120;
/// Until every follower has its first cursor.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// From the end of the faults until every follower has seen the last event.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(120);

/// The size of a run.
struct Plan {
    seed: u64,
    duration: Duration,
    followers: usize,
    bulk_rows: u32,
}

impl Plan {
    fn from_environment() -> Self {
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let seconds = number("WARDEN_CHAOS_SECONDS").unwrap_or(SECONDS_DEFAULT);
        let is_long = seconds >= SECONDS_LONG;
        Self {
            seed: number("WARDEN_SEED").unwrap_or_else(|| fastrand::u64(..)),
            duration: Duration::from_secs(seconds),
            followers: if is_long { 200 } else { 60 },
            bulk_rows: if is_long { 40_000 } else { 3_000 },
        }
    }
}

async fn start_cluster() -> Cluster {
    let path = std::env::var_os("PATH");
    let options = ClusterOptions {
        binaries: Binaries::find(None, path.as_deref()).expect("PostgreSQL is installed"),
        data_dir: DataDir::Temporary,
        settings: Vec::new(),
        max_connections: CONNECTIONS_MAX,
        durable: false,
    };
    let cluster = Cluster::start(options).await.expect("PostgreSQL starts");
    warden::postgres::migrate(&cluster.url("postgres", SUPERUSER)).await.expect("migrates");
    cluster
}

/// Organisations, and the table of marks.
async fn prepare(world: &World) -> Vec<Uuid> {
    let mut connection = world.connect().await;
    connection.execute("alter role warden_gateway login").await.expect("alters");
    connection.execute(AssertSqlSafe(writers::MARKS)).await.expect("creates");
    let sql = "insert into organizations (name) select 'chaos' from generate_series(1, $1) returning id";
    let count = i32::try_from(ORGS).expect("small");
    sqlx::query_scalar(sql).bind(count).fetch_all(&mut connection).await.expect("inserts")
}

type Followers = Vec<JoinHandle<Follower>>;

/// Starts the followers; resolves when each has its first cursor.
async fn follow(
    plan: &Plan,
    world: &World,
    proxies: &[Proxy],
    quiet: &watch::Receiver<bool>,
    random: &mut fastrand::Rng,
) -> Followers {
    let (ready, mut are_ready) = mpsc::unbounded_channel();
    let mut followers = Vec::new();
    for n in 0..plan.followers {
        let topics: &[&'static str] = match n % 8 {
            0 => &["org"],
            1 => &["org", "calls"],
            _ => &["calls"],
        };
        let org = world.orgs[n % ORGS];
        let mut follower = Follower {
            name: format!("follower {n} of {org}"),
            org,
            topics: topics.iter().copied().map(Following::new).collect(),
            nodes: proxies.iter().map(Proxy::addr).collect(),
            record: Arc::clone(&world.record),
            random: random.fork(),
            quiet: quiet.clone(),
            ready: Some(ready.clone()),
        };
        followers.push(tokio::spawn(async move {
            follower.run().await;
            follower
        }));
    }
    let all = async {
        for _ in 0..plan.followers {
            are_ready.recv().await.expect("followers run");
        }
    };
    tokio::time::timeout(START_DEADLINE, all).await.expect("every follower joins");
    followers
}

/// Publishes the last event, and reads which transactions happened.
async fn conclude(world: &World) -> HashSet<Uuid> {
    let mut connection = world.connect().await;
    for org in &*world.orgs {
        let sql = "select warden.publish($1, 'calls', $2, '{}')";
        sqlx::query(sql).bind(org).bind(LAST).execute(&mut connection).await.expect("publishes");
    }
    let marks: Vec<Uuid> =
        sqlx::query_scalar("select mark from chaos_marks").fetch_all(&mut connection).await.expect("reads");
    marks.into_iter().collect()
}

async fn check(followers: Followers, expected: &Expected, record: &Record) {
    let deadline = tokio::time::Instant::now() + CATCH_UP_DEADLINE;
    for (n, follower) in followers.into_iter().enumerate() {
        match tokio::time::timeout_at(deadline, follower).await {
            Err(_) => record.complain(format!("follower {n} has not seen the last event in time")),
            Ok(follower) => {
                let follower = follower.expect("follows");
                for topic in &follower.topics {
                    let who = format!("{} on {}", follower.name, topic.name);
                    expected.check(&who, follower.org, topic.name == "calls", &topic.seen, record);
                }
            }
        }
    }
}

/// At the end all of them run, and none has panicked.
fn look_at(gateways: &mut [Gateway], record: &Record) {
    for gateway in &mut *gateways {
        for wrong in [gateway.has_ended(), gateway.panics()].into_iter().flatten() {
            record.complain(wrong);
        }
    }
    if record.complaints() == 0 {
        gateways.iter().for_each(Gateway::discard_log);
    }
}

/// A gateway for each proxy, on logs of their own.
async fn start_gateways(database_url: &str) -> (Vec<Gateway>, Vec<Proxy>) {
    let (mut gateways, mut proxies) = (Vec::new(), Vec::new());
    for n in 0..GATEWAYS {
        let log = format!("chaos-{}-{n}.log", std::process::id());
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(log);
        let gateway = Gateway::start(database_url, log);
        proxies.push(Proxy::start(gateway.addr()).await);
        gateways.push(gateway);
    }
    (gateways, proxies)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_committed_event_is_seen_once() {
    let plan = Plan::from_environment();
    println!("WARDEN_SEED={} WARDEN_CHAOS_SECONDS={}", plan.seed, plan.duration.as_secs());
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let record = Arc::new(Record::default());
    let cluster = start_cluster().await;
    let (stop, stopped) = watch::channel(false);
    let url = cluster.url("postgres", SUPERUSER);
    let mut world = World { url, orgs: Arc::default(), record: Arc::clone(&record), stop: stopped.clone() };
    world.orgs = Arc::new(prepare(&world).await);

    let (gateways, proxies) = start_gateways(&cluster.url("postgres", "warden_gateway")).await;
    let followers = follow(&plan, &world, &proxies, &stopped, &mut random).await;

    let mut writers: Vec<JoinHandle<Vec<Transaction>>> =
        (1..=WRITERS).map(|id| tokio::spawn(writers::write(world.clone(), id, random.fork()))).collect();
    let database =
        tokio::spawn(faults::database(cluster, Arc::clone(&record), stopped.clone(), random.fork()));
    let gateways =
        tokio::spawn(faults::gateways(gateways, Arc::clone(&record), stopped.clone(), random.fork()));
    let network = tokio::spawn(faults::network(proxies, Arc::clone(&record), stopped, random.fork()));
    // Chaos lasts so long; the bulk comes in its middle.
    tokio::time::sleep(plan.duration / 2).await;
    let bulk = writers::bulk(world.clone(), WRITERS + 1, plan.bulk_rows, random.fork());
    writers.push(tokio::spawn(bulk));
    tokio::time::sleep(plan.duration / 2).await;

    stop.send_replace(true);
    network.await.expect("runs");
    let (cluster, mut gateways) = (database.await.expect("runs"), gateways.await.expect("runs"));
    let mut transactions = Vec::new();
    for writer in writers {
        transactions.append(&mut writer.await.expect("writes"));
    }
    let marks = conclude(&world).await;
    let quiet = Instant::now();
    let expected = Expected::new(&transactions, &marks, &record);
    check(followers, &expected, &record).await;
    let caught_up = quiet.elapsed();
    look_at(&mut gateways, &record);
    println!(
        "{} followers of {ORGS} organisations on {GATEWAYS} gateways; caught up within {caught_up:?}",
        plan.followers
    );
    record.print();
    drop(gateways);
    cluster.close().await.expect("ends");
    // The test has shown something only if all this happened.
    for what in ["kill -9 of PostgreSQL", "connections cut", "resumes", "events seen"] {
        assert!(record.counted(what) > 0, "no {what}: WARDEN_SEED={}", plan.seed);
    }
    assert_eq!(record.complaints(), 0, "see WRONG above: WARDEN_SEED={}", plan.seed);
}

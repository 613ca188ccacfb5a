//! Chaos: everything that may fail fails, for a while and all at once, and every follower still sees every
//! committed event of its organisation once, in order, and nothing else.
//!
//! `WARDEN_CHAOS_SECONDS` says for how long (30; from 120 on it is the long run, with more clients),
//! `WARDEN_CHAOS_CLIENTS` with how many clients, `WARDEN_SEED` repeats the choices of a run, though not the
//! timing of machine and kernel.
//!
//! What must be seen comes from the writers' own record; where the database was killed under a commit, a
//! row of that transaction tells whether it happened. A resync is a failure, but for
//! - `unavailable` where the database was away while the client waited, and
//! - `too_many` where the client skipped thousands of events: a bulk statement alone has as many as a replay
//!   brings.
//!
//! A patience of 60 s may run out on a machine that is much too busy: it is counted, and printed, and more than a few fail.
//!
//! When all is over and everybody is back, transactions come one by one, and nothing rings but they (`calm`).
//!
//! Nothing is excused from the check: a client that is told to resync reads the state anew (or, half of those
//! told `unavailable`, comes back with the cursor that it has), the rows of transactions tell which events
//! that state held already, and all others must come. Some begin anew without being told to. At the end each
//! client's rows, the state that it read and the changes since, must be those of the table.

mod calm;
mod faults;
mod follower;
mod following;
mod gateways;
mod phoenix;
mod record;
mod snapshot;
mod writers;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor as _};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};
use warden_testkit::TcpProxy;

use calm::Truth;
use follower::{Follower, Topic};
use following::{Following, Overlap, PATIENCE_RAN_OUT};
use gateways::Gateway;
use record::{Expected, Record, Transaction};
use writers::{BULK_ORG, Bulk, World};

const GATEWAYS: usize = 3;
const ORGS: usize = 7;
const WRITERS: u64 = 6;
/// One in so many followers is of the organisation that the bulk statements write to.
const OF_BULK_ONE_IN: usize = 24;
/// In turn: more than a replay brings, and less.
const BULK_ROWS: [u32; 2] = [50_000, 20_000];
/// Two bulk statements come in a short run, evenly; in a long one they come so often.
const BULK_INTERVAL: Duration = Duration::from_secs(40);
const CONNECTIONS_MAX: u32 = 100;
/// A third of the clients are phoenix.
const CLIENTS: usize = 144;
const CLIENTS_LONG: usize = 384;
const PHOENIX_PER_PROCESS: usize = 48;
/// On a quiet machine there is none.
const PATIENCE_RAN_OUT_MAX: u64 = 8;
const SECONDS_DEFAULT: u64 = 30;
/// From here on a run is a long one.
const SECONDS_LONG: u64 = 120;
/// Until every follower has its first cursor.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// From the end of the faults until every follower has seen the last event.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(300);

/// The size of a run.
struct Plan {
    seed: u64,
    duration: Duration,
    followers: usize,
    /// Node processes, and the clients in each.
    phoenix: (usize, usize),
}

impl Plan {
    fn from_environment() -> Self {
        let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
        let seconds = number("WARDEN_CHAOS_SECONDS").unwrap_or(SECONDS_DEFAULT);
        let default = if seconds >= SECONDS_LONG { CLIENTS_LONG } else { CLIENTS };
        let clients = number("WARDEN_CHAOS_CLIENTS").and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
        let phoenix = clients / 3;
        let processes = phoenix.div_ceil(PHOENIX_PER_PROCESS);
        Self {
            seed: number("WARDEN_SEED").unwrap_or_else(|| fastrand::u64(..)),
            duration: Duration::from_secs(seconds),
            followers: clients - phoenix,
            phoenix: (processes, phoenix / processes.max(1)),
        }
    }
}

/// Which organisation and topics the nth client follows.
fn part(world: &World, n: usize) -> (Uuid, &'static [&'static str]) {
    let topics: &[&'static str] = match n % 8 {
        0 => &["org"],
        1 => &["org", "calls"],
        _ => &["calls"],
    };
    let others = 1 + n % (ORGS - 1);
    (world.orgs[if n % OF_BULK_ONE_IN == 2 { BULK_ORG } else { others }], topics)
}

async fn start_cluster() -> Cluster {
    let path = std::env::var_os("PATH");
    let options = ClusterOptions {
        binaries: Binaries::find(None, path.as_deref()).expect("PostgreSQL is installed"),
        data_dir: DataDir::Temporary,
        settings: vec![("max_prepared_transactions".into(), "16".into())],
        max_connections: CONNECTIONS_MAX,
        durable: false,
    };
    let cluster = Cluster::start(options).await.expect("PostgreSQL starts");
    warden::postgres::migrate_platform(&cluster.url("postgres", SUPERUSER)).await.expect("migrates");
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

/// What a client was called and whose it is, with what it knows of each topic.
type Known = Vec<(String, Uuid, Vec<Following>)>;

/// Starts the followers; resolves when each has its first cursor. They, and how many topics they follow.
async fn follow(
    plan: &Plan,
    world: &World,
    proxies: &[TcpProxy],
    random: &mut fastrand::Rng,
) -> (Vec<JoinHandle<Known>>, usize) {
    let (ready, mut are_ready) = mpsc::unbounded_channel();
    let mut followers = Vec::new();
    let mut awaited = plan.followers;
    let mut topics_in_all = 0;
    for n in 0..plan.followers {
        let (org, topics) = part(world, n);
        topics_in_all += topics.len();
        let topic =
            |name: &&'static str| Topic { following: Following::new(name, Overlap::None), cursor: None };
        let mut follower = Follower {
            name: format!("follower {n} of {org}"),
            org,
            topics: topics.iter().map(topic).collect(),
            nodes: proxies.iter().map(TcpProxy::addr).collect(),
            world: world.clone(),
            random: random.fork(),
            ready: Some(ready.clone()),
        };
        followers.push(tokio::spawn(async move {
            follower.run().await;
            let topics = follower.topics.into_iter().map(|topic| topic.following).collect();
            vec![(follower.name, follower.org, topics)]
        }));
    }
    // The last proxy leads to all gateways: a client that has one URL resumes on any of them.
    let node = proxies.last().expect("there are some").addr();
    let (processes, clients) = plan.phoenix;
    for process in 0..processes {
        let client = |n| {
            let (org, topics) = part(world, n);
            phoenix::Client::new(format!("phoenix {process}.{n} of {org}"), org, topics)
        };
        let clients: Vec<_> = (0..clients).map(client).collect();
        let topics = clients.iter().map(|client| client.topics.len()).sum::<usize>();
        awaited += topics;
        topics_in_all += topics;
        let run = phoenix::run(world.clone(), node, clients, ready.clone(), random.fork());
        followers.push(tokio::spawn(async move {
            run.await.into_iter().map(|client| (client.name, client.org, client.topics)).collect()
        }));
    }
    let all = async {
        for _ in 0..awaited {
            are_ready.recv().await.expect("followers run");
        }
    };
    tokio::time::timeout(START_DEADLINE, all).await.expect("every follower joins");
    (followers, topics_in_all)
}

async fn check(followers: Vec<JoinHandle<Known>>, expected: &Expected, truth: &Truth, record: &Record) {
    let deadline = tokio::time::Instant::now() + CATCH_UP_DEADLINE;
    for (n, follower) in followers.into_iter().enumerate() {
        let Ok(known) = tokio::time::timeout_at(deadline, follower).await else {
            record.complain(format!("follower {n} has not seen the last event in time"));
            continue;
        };
        for (name, org, topics) in known.expect("follows") {
            record.count("followers checked");
            for following in &topics {
                let who = format!("{name} on {}", following.name);
                expected.check(&who, org, following, record);
                record.count_many("rows compared with the table", following.rows.len());
                if following.rows != truth.rows[&org] {
                    record.verdict(format!("{who}: state and changes do not add up to the table"));
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

/// A proxy before each gateway, and one before all of them.
async fn start_gateways(database_url: &str) -> (Vec<Gateway>, Vec<TcpProxy>) {
    let (mut gateways, mut proxies) = (Vec::new(), Vec::new());
    for n in 0..GATEWAYS {
        let log = format!("chaos-{}-{n}.log", std::process::id());
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(log);
        let gateway = Gateway::start(database_url, log).await;
        proxies.push(TcpProxy::start(vec![gateway.addr()]).await);
        gateways.push(gateway);
    }
    proxies.push(TcpProxy::start(gateways.iter().map(Gateway::addr).collect()).await);
    (gateways, proxies)
}

/// Bulk statements now and then, for as long as chaos lasts: rows, and with the next ones the end of these.
async fn bulks(plan: &Plan, world: &World, random: &mut fastrand::Rng) -> Vec<JoinHandle<Vec<Transaction>>> {
    let interval = (plan.duration / 3).min(BULK_INTERVAL);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    let end = tokio::time::Instant::now() + plan.duration;
    let mut statements = Vec::new();
    let mut former: Option<oneshot::Receiver<Bulk>> = None;
    for (id, rows) in (WRITERS + 1..).zip(BULK_ROWS.into_iter().cycle()) {
        if tokio::time::timeout_at(end, ticks.tick()).await.is_err() {
            break;
        }
        let (done, is_done) = oneshot::channel();
        statements.push(tokio::spawn(writers::bulk(world.clone(), id, rows, random.fork(), done)));
        if let Some(former) = former.replace(is_done) {
            statements.push(tokio::spawn(writers::delete_bulk(world.clone(), former, random.fork())));
        }
    }
    statements
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_committed_event_is_seen_once() {
    let plan = Plan::from_environment();
    println!("WARDEN_SEED={} WARDEN_CHAOS_SECONDS={}", plan.seed, plan.duration.as_secs());
    let mut random = fastrand::Rng::with_seed(plan.seed);
    let record = Arc::new(Record::new());
    let cluster = start_cluster().await;
    let (stop, stopped) = watch::channel(false);
    let mut world = World {
        url: cluster.url("postgres", SUPERUSER),
        orgs: Arc::default(),
        record: Arc::clone(&record),
        stop: stopped.clone(),
        snapshots: Arc::new(Semaphore::new(snapshot::AT_ONCE_MAX)),
    };
    world.orgs = Arc::new(prepare(&world).await);

    let (gateways, proxies) = start_gateways(&cluster.url("postgres", "warden_gateway")).await;
    let (followers, topics) = follow(&plan, &world, &proxies, &mut random).await;

    let mut writers: Vec<JoinHandle<Vec<Transaction>>> =
        (1..=WRITERS).map(|id| tokio::spawn(writers::write(world.clone(), id, random.fork()))).collect();
    let database =
        tokio::spawn(faults::database(cluster, Arc::clone(&record), stopped.clone(), random.fork()));
    let gateways =
        tokio::spawn(faults::gateways(gateways, Arc::clone(&record), stopped.clone(), random.fork()));
    let network = tokio::spawn(faults::network(proxies, Arc::clone(&record), stopped.clone(), random.fork()));
    let retention = tokio::spawn(faults::retention(world.clone(), stopped));
    writers.append(&mut bulks(&plan, &world, &mut random).await);

    stop.send_replace(true);
    network.await.expect("runs");
    retention.await.expect("runs");
    let (cluster, mut gateways) = (database.await.expect("runs"), gateways.await.expect("runs"));
    let mut transactions = Vec::new();
    for writer in writers {
        transactions.append(&mut writer.await.expect("writes"));
    }
    let is_calm = calm::rounds(&world, topics).await;
    if !is_calm {
        record.print();
        panic!("see WRONG above: WARDEN_SEED={}", plan.seed);
    }
    let truth = calm::conclude(&world).await;
    let quiet = Instant::now();
    let expected = Expected::new(&transactions, &truth.marks, &record);
    check(followers, &expected, &truth, &record).await;
    let caught_up = quiet.elapsed();
    look_at(&mut gateways, &record);
    println!("{ORGS} organisations on {GATEWAYS} gateways; all caught up within {caught_up:.1?}");
    record.print();
    drop(gateways);
    cluster.close().await.expect("ends");
    // The test has shown something only if all this happened.
    for what in HAPPENED {
        assert!(record.counted(what) > 0, "no {what}: WARDEN_SEED={}", plan.seed);
    }
    let ran_out = record.counted(PATIENCE_RAN_OUT);
    assert!(ran_out <= PATIENCE_RAN_OUT_MAX, "{ran_out} {PATIENCE_RAN_OUT}: WARDEN_SEED={}", plan.seed);
    assert_eq!(record.complaints(), 0, "see WRONG above: WARDEN_SEED={}", plan.seed);
}

/// Counts that are above zero in any run of 30 s.
const HAPPENED: &[&str] = &[
    "kill -9 of PostgreSQL",
    "kill -9 of a gateway",
    "SIGTERM of a gateway",
    "connections cut",
    "connections stalled",
    "freezes",
    "resumes",
    "resumes of phoenix",
    "bulk statements of 50000 rows",
    "bulk statements of 20000 rows",
    "bulk deletions",
    "transactions held open",
    "transactions rolled back",
    "rollbacks to a savepoint",
    "transactions committed without a bell",
    "transactions committed in two phases",
    "snapshots taken",
    "rows compared with the table",
    "events seen",
    "times that all saw a transaction in the calm",
];

//! Chaos: the database, the gateways, the network and the clients fail at the same time. Nevertheless every
//! client sees every committed event of its organisation once, in order, and no other event.
//!
//! | variable | meaning |
//! |---|---|
//! | `WARDEN_CHAOS_SECONDS` | length of the faults, 30 by default; 120 or more is a long run, with more clients |
//! | `WARDEN_CHAOS_CLIENTS` | number of clients |
//! | `WARDEN_SEED` | repeats the choices of a run, but not the timing of machine and kernel |
//!
//! The writers record what they commit, and the record is the expectation. If the database is killed during a
//! commit, a row of that transaction (its mark) shows whether it was committed. A resync is a failure, with
//! two exceptions:
//! - `unavailable`, if the database was unavailable while the client waited;
//! - `too_many`, if the client skipped thousands of events. A single bulk statement has as many as a replay
//!   may contain.
//!
//! On a machine that is far too busy, timeouts of 60 s may expire. Such resyncs are counted and printed. More
//! than a few fail the test.
//!
//! After the faults, when all clients have reconnected, transactions are committed one at a time (`calm`).
//!
//! No event is exempt from the check. A client that must resync reads the state again. (After `unavailable`,
//! half of the clients reconnect with their cursor instead.) The marks in that state show which events it
//! contains, and all other events must arrive. Some clients reload without a reason. At the end, the rows of
//! each client, from its state and the changes since, must equal the rows of the table.
//!
//! Most clients have random filters, of their token, of their joins, or of both. They must get the events of
//! the rows that PostgreSQL selects, and no others.

mod bulk;
mod calm;
mod faults;
mod filters;
mod follower;
mod gateways;
mod phoenix;
mod record;
mod snapshot;
mod topic_state;
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

use bulk::Bulk;
use calm::Truth;
use filters::{Condition, Filters};
use follower::{Follower, Topic};
use gateways::Gateway;
use record::{Expected, Record, Transaction};
use topic_state::{Overlap, TIMEOUT_EXPIRED, TopicState};
use writers::{BULK_ORG, World};

const GATEWAYS: usize = 3;
const ORGS: usize = 7;
const WRITERS: u64 = 6;
/// One in this many followers belongs to the organisation of the bulk statements.
const BULK_FOLLOWER_ONE_IN: usize = 24;
/// Rows of the bulk statements, alternately: more than a replay may contain, and fewer.
const BULK_ROWS: [u32; 2] = [50_000, 20_000];
/// Interval of bulk statements in a long run. A short run has two of them, evenly spaced.
const BULK_INTERVAL: Duration = Duration::from_secs(40);
const CONNECTIONS_MAX: u32 = 100;
/// Clients of a short run. A third of them use the phoenix package.
const CLIENTS: usize = 144;
/// Clients of a long run.
const CLIENTS_LONG: usize = 384;
const PHOENIX_PER_PROCESS: usize = 48;
/// Most resyncs after an expired timeout. On a quiet machine there are none.
const TIMEOUT_EXPIRED_MAX: u64 = 8;
const SECONDS_DEFAULT: u64 = 30;
/// Shortest length of a long run.
const SECONDS_LONG: u64 = 120;
/// Longest start: until every follower has its first cursor.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Longest time from the end of the faults until every follower has seen the last event.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(300);

/// Parameters of a run.
struct Plan {
    seed: u64,
    duration: Duration,
    followers: usize,
    /// Node processes, and clients of each.
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

/// Organisation and topics of the nth client.
fn assignment(world: &World, n: usize) -> (Uuid, &'static [&'static str]) {
    let topics: &[&'static str] = match n % 8 {
        0 => &["org"],
        1 => &["org", "calls"],
        _ => &["calls"],
    };
    let others = 1 + n % (ORGS - 1);
    (world.orgs[if n % BULK_FOLLOWER_ONE_IN == 2 { BULK_ORG } else { others }], topics)
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

/// Creates the organisations, the table of marks, and filters.
async fn prepare(world: &World, random: &mut fastrand::Rng) -> (Vec<Uuid>, Vec<Arc<Condition>>) {
    let mut connection = world.connect().await;
    connection.execute("alter role warden_gateway login").await.expect("alters");
    connection.execute(AssertSqlSafe(writers::MARKS)).await.expect("creates");
    let sql = "insert into organizations (name) select 'chaos' from generate_series(1, $1) returning id";
    let count = i32::try_from(ORGS).expect("small");
    let orgs = sqlx::query_scalar(sql).bind(count).fetch_all(&mut connection).await.expect("inserts");
    (orgs, filters::prepare(&mut connection, random.fork()).await)
}

/// Name and organisation of each client, with the state of its topics.
type Known = Vec<(String, Uuid, Vec<TopicState>)>;

/// Starts the followers and waits until each has its first cursor. Returns them, and the number of followed
/// topics.
async fn follow(
    plan: &Plan,
    world: &World,
    proxies: &[TcpProxy],
    conditions: &[Arc<Condition>],
    random: &mut fastrand::Rng,
) -> (Vec<JoinHandle<Known>>, usize) {
    let (ready, mut are_ready) = mpsc::unbounded_channel();
    let mut followers = Vec::new();
    let mut awaited = plan.followers;
    let mut topics_in_all = 0;
    for n in 0..plan.followers {
        let (org, topics) = assignment(world, n);
        topics_in_all += topics.len();
        // A bulk statement is more than a busy machine can evaluate before it overloads the organisation.
        let is_bulk = org == world.orgs[BULK_ORG];
        let filters = if is_bulk { Filters::default() } else { Filters::random(conditions, random) };
        let topic = |name: &&'static str| Topic::new(TopicState::new(name, Overlap::None, &filters));
        let mut follower = Follower {
            name: format!("follower {n} of {org}"),
            org,
            topics: topics.iter().map(topic).collect(),
            filters: filters.clone(),
            nodes: proxies.iter().map(TcpProxy::addr).collect(),
            world: world.clone(),
            random: random.fork(),
            ready: Some(ready.clone()),
        };
        followers.push(tokio::spawn(async move {
            follower.run().await;
            let topics = follower.topics.into_iter().map(|topic| topic.state).collect();
            vec![(follower.name, follower.org, topics)]
        }));
    }
    // The last proxy leads to all gateways, so a client with a single URL resumes on any of them.
    let node = proxies.last().expect("there are some").addr();
    let (processes, clients) = plan.phoenix;
    for process in 0..processes {
        let client = |n| {
            let (org, topics) = assignment(world, n);
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
            record.report_failure(format!("follower {n} did not see the last event in time"));
            continue;
        };
        for (name, org, topics) in known.expect("follows") {
            record.count("followers checked");
            for topic in &topics {
                let client = format!("{name} on {}", topic.name);
                expected.check(&client, org, topic, record);
                record.count_many("rows compared with the table", topic.rows.len());
                if topic.rows != truth.snapshots[&org].rows_of(&topic.filters) {
                    record.report_final_failure(format!(
                        "{client}: its state and changes differ from the table"
                    ));
                }
            }
        }
    }
}

/// Checks that all gateways run and none has panicked.
fn check_gateways(gateways: &mut [Gateway], record: &Record) {
    for gateway in &mut *gateways {
        for failure in [gateway.unexpected_end(), gateway.panic_line()].into_iter().flatten() {
            record.report_failure(failure);
        }
    }
    if record.failures() == 0 {
        gateways.iter().for_each(Gateway::discard_log);
    }
}

/// Starts the gateways, a proxy in front of each, and one in front of all.
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

/// Runs bulk statements during the faults. Each one but the first also deletes the rows of the one before.
async fn bulks(plan: &Plan, world: &World, random: &mut fastrand::Rng) -> Vec<JoinHandle<Vec<Transaction>>> {
    let interval = (plan.duration / 3).min(BULK_INTERVAL);
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    let end = tokio::time::Instant::now() + plan.duration;
    let mut statements = Vec::new();
    let mut previous: Option<oneshot::Receiver<Bulk>> = None;
    for (id, rows) in (WRITERS + 1..).zip(BULK_ROWS.into_iter().cycle()) {
        if tokio::time::timeout_at(end, ticks.tick()).await.is_err() {
            break;
        }
        let (done, is_done) = oneshot::channel();
        statements.push(tokio::spawn(bulk::insert(world.clone(), id, rows, random.fork(), done)));
        if let Some(previous) = previous.replace(is_done) {
            statements.push(tokio::spawn(bulk::delete(world.clone(), previous, random.fork())));
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
    let (orgs, conditions) = prepare(&world, &mut random).await;
    world.orgs = Arc::new(orgs);

    let (gateways, proxies) = start_gateways(&cluster.url("postgres", "warden_gateway")).await;
    let (followers, topics) = follow(&plan, &world, &proxies, &conditions, &mut random).await;

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
        panic!("see FAILURE above; WARDEN_SEED={}", plan.seed);
    }
    let truth = calm::conclude(&world).await;
    let quiet = Instant::now();
    let expected = Expected::new(&transactions, &truth.marks, &record);
    check(followers, &expected, &truth, &record).await;
    filters::check(&mut world.connect().await, &conditions, &record).await;
    let caught_up = quiet.elapsed();
    check_gateways(&mut gateways, &record);
    println!("{ORGS} organisations on {GATEWAYS} gateways; every client caught up within {caught_up:.1?}");
    record.print();
    drop(gateways);
    cluster.close().await.expect("ends");
    // The run proves something only if all of these happened.
    for name in REQUIRED_COUNTS {
        assert!(record.counted(name) > 0, "no {name}; WARDEN_SEED={}", plan.seed);
    }
    let expired = record.counted(TIMEOUT_EXPIRED);
    assert!(expired <= TIMEOUT_EXPIRED_MAX, "{expired} {TIMEOUT_EXPIRED}; WARDEN_SEED={}", plan.seed);
    assert_eq!(record.failures(), 0, "see FAILURE above; WARDEN_SEED={}", plan.seed);
}

/// Counts that are above zero in every run of 30 s.
const REQUIRED_COUNTS: &[&str] = &[
    "kill -9 of PostgreSQL",
    "kill -9 of a gateway",
    "SIGTERM of a gateway",
    "connections cut",
    "connections stalled",
    "freezes of a follower",
    "resumes",
    "resumes of phoenix",
    "bulk statements of 50000 rows",
    "bulk statements of 20000 rows",
    "bulk deletions",
    "transactions held open",
    "transactions rolled back",
    "rollbacks to a savepoint",
    "transactions committed without a doorbell",
    "transactions committed in two phases",
    "snapshots taken",
    "rows compared with the table",
    "events seen",
    "events seen with a filter",
    "events of rows that entered a filter",
    "events of rows that left a filter",
    "resumes with a filter",
    "transactions of the calm seen by all",
];

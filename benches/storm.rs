//! A reconnect storm: thousands of sockets disconnect at once, and later resume all together, each with its
//! cursor.
//!
//! Gateway, clients and PostgreSQL share one machine. The benchmark reports the time until all clients have
//! caught up, and the number of queries.
//!
//! ```text
//! cargo bench --bench storm -- --sockets 5000 --orgs 20 --away 10 --rate 200
//! ```
//!
//! With `--restart yes` the gateway restarts while the clients are away, so the missed events are not in its
//! memory. With `--bulk 1000000` the first organisation writes that number of rows in one statement while the
//! clients are away. The latency of the second organisation's live events is measured meanwhile.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sqlx::postgres::PgPool;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use uuid::Uuid;
use warden::app::Gateway;
use warden::auth::VerifierConfig;
use warden::config::{Config, DEFAULT_AUDIENCE, Edge, Limits};
use warden::log::TailerState;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};
use warden_devkit::token::{TokenClaims, sign};
use warden_testkit::phoenix::{self, Received, Socket};

const SECRET: &str = "the storm's secret, which has 32 bytes";
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// The event after which a socket has caught up.
const LAST: &str = "storm.last";

struct Options {
    sockets: usize,
    orgs: usize,
    away: Duration,
    rate: u32,
    restart: bool,
    bulk: i32,
}

fn main() -> anyhow::Result<()> {
    let mut options = Options {
        sockets: 5000,
        orgs: 20,
        away: Duration::from_secs(10),
        rate: 200,
        restart: false,
        bulk: 0,
    };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} needs a value"))?;
        match arg.as_str() {
            "--sockets" => options.sockets = value.parse()?,
            "--orgs" => options.orgs = value.parse()?,
            "--away" => options.away = Duration::from_secs(value.parse()?),
            "--rate" => options.rate = value.parse()?,
            "--restart" => options.restart = value == "yes",
            "--bulk" => options.bulk = value.parse()?,
            other => {
                bail!("unknown option {other}: use --sockets, --orgs, --away, --rate, --restart, --bulk")
            }
        }
    }
    tokio::runtime::Runtime::new()?.block_on(run(&options))
}

async fn run(options: &Options) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        binaries: Binaries::find(None, std::env::var_os("PATH").as_deref())?,
        data_dir: DataDir::Temporary,
        settings: Vec::new(),
        max_connections: 40,
        durable: false,
    })
    .await?;
    let result = storm(&cluster, options).await;
    cluster.stop().await?;
    result
}

async fn storm(cluster: &Cluster, options: &Options) -> anyhow::Result<()> {
    let url = cluster.url("postgres", SUPERUSER);
    warden::postgres::migrate_platform(&url).await?;
    let pool = PgPool::connect(&url).await?;
    sqlx::raw_sql("alter role warden_gateway login").execute(&pool).await?;
    let orgs: Vec<Uuid> = sqlx::query_scalar(
        "insert into organizations (name) select 'storm' from generate_series(1, $1) returning id",
    )
    .bind(i32::try_from(options.orgs)?)
    .fetch_all(&pool)
    .await?;
    let mut gateway = start(cluster).await?;
    let mut addr = gateway.public_addr();

    let before = join_all(addr, &orgs, options.sockets, None).await?;
    let cursors: Vec<String> = before.iter().map(|(_, cursor)| cursor.clone()).collect();
    drop(before);
    let changes = u32::try_from(options.away.as_secs())? * options.rate;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / options.rate);
    for n in 0..changes {
        ticks.tick().await;
        sqlx::query("insert into calls (org_id) values ($1)")
            .bind(orgs[n as usize % orgs.len()])
            .execute(&pool)
            .await?;
    }
    for org in &orgs {
        sqlx::query("select warden.publish($1, 'calls', $2)").bind(org).bind(LAST).execute(&pool).await?;
    }
    if options.bulk > 0 {
        bulk(&gateway, &pool, &orgs, options.bulk).await?;
    }
    if options.restart {
        gateway.stop().await;
        gateway = start(cluster).await?;
        addr = gateway.public_addr();
    }

    let metrics = gateway.metrics();
    let queries = || metrics.directory_org_queries.get() + metrics.replay_queries.get();
    let queries_before = queries();
    let started = Instant::now();
    let caught_up = join_all(addr, &orgs, options.sockets, Some(cursors)).await?;
    let took = started.elapsed();
    let query_count = queries() - queries_before;
    println!(
        "{} sockets in {} organisations, away for {:?}, {changes} changes{}",
        options.sockets,
        options.orgs,
        options.away,
        if options.restart { ", gateway restarted" } else { "" }
    );
    println!(
        "all clients caught up after {:.2} s ({:.0} sockets/s)",
        took.as_secs_f64(),
        caught_up.len() as f64 / took.as_secs_f64()
    );
    println!("queries {query_count}, per socket {:.4}", query_count as f64 / options.sockets as f64);
    println!("resident {} MiB", resident_mib()?);
    println!(
        "replays from memory {}, from the log {}; resyncs {}",
        metrics.replays_from_memory.get(),
        metrics.replays_from_log.get(),
        metrics.resyncs.get()
    );
    drop(caught_up);
    gateway.stop().await;
    Ok(())
}

/// One organisation writes many rows in one statement. Until the gateway has read all of them, the latency of
/// another organisation's events is measured, from before their commit to the socket.
async fn bulk(gateway: &Gateway, pool: &PgPool, orgs: &[Uuid], rows: i32) -> anyhow::Result<()> {
    let (large, other) = (orgs[0], *orgs.get(1).context("--bulk needs --orgs 2 or more")?);
    let (mut socket, _) = join(gateway.public_addr(), 0, other, None).await?;
    let enough = gateway.metrics().events.get() + u64::from(rows.unsigned_abs());
    let resident_before = resident_mib()?;
    let started = Instant::now();
    let insert = tokio::spawn({
        let pool = pool.clone();
        async move {
            sqlx::query("insert into calls (org_id) select $1 from generate_series(1, $2)")
                .bind(large)
                .bind(rows)
                .execute(&pool)
                .await
                .map(|_| Instant::now())
        }
    });
    let (mut before, mut after, mut resident) = (Vec::new(), Vec::new(), resident_before);
    while gateway.metrics().events.get() < enough {
        let sent = Instant::now();
        sqlx::query("select warden.publish($1, 'calls', 'tick')").bind(other).execute(pool).await?;
        loop {
            // A heartbeat keeps the session open, because reading a large bulk takes longer than the idle
            // timeout.
            match tokio::time::timeout(HEARTBEAT_INTERVAL, phoenix::receive(&mut socket)).await {
                Ok(Received::Message(message)) if message.event == "tick" => break,
                Ok(Received::Message(_)) => {}
                Ok(other) => bail!("the socket closed or failed: {other:?}"),
                Err(_) => phoenix::send_heartbeat(&mut socket).await?,
            }
        }
        let times = if insert.is_finished() { &mut after } else { &mut before };
        times.push(sent.elapsed());
        resident = resident.max(resident_mib()?);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let read = Instant::now();
    let committed = insert.await??;
    println!(
        "bulk of {rows} rows: written in {:.1} s, read {:.1} s later; \
         resident {resident_before} MiB before, {resident} MiB peak",
        (committed - started).as_secs_f64(),
        (read - committed).as_secs_f64()
    );
    for (when, mut times) in [("written", before), ("read", after)] {
        times.sort_unstable();
        let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1)));
        println!(
            "live events of another organisation while the bulk was {when}: \
             {} events, p50 {:?}, p99 {:?}, max {:?}",
            times.len(),
            at(50),
            at(99),
            at(100)
        );
    }
    Ok(())
}

/// Resident memory of this process, which contains gateway and clients.
fn resident_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("/proc/self/status has no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? / 1024)
}

/// Connects all sockets at once. With cursors, each socket reads until the last event that it missed.
async fn join_all(
    addr: SocketAddr,
    orgs: &[Uuid],
    sockets: usize,
    cursors: Option<Vec<String>>,
) -> anyhow::Result<Vec<(Socket, String)>> {
    let mut joins = JoinSet::new();
    for n in 0..sockets {
        let org = orgs[n % orgs.len()];
        let since = cursors.as_ref().map(|cursors| cursors[n].clone());
        joins.spawn(async move { (n, join(addr, n, org, since).await) });
    }
    let mut joined: Vec<Option<(Socket, String)>> = (0..sockets).map(|_| None).collect();
    while let Some(done) = joins.join_next().await {
        let (n, result) = done?;
        joined[n] = Some(result?);
    }
    Ok(joined.into_iter().flatten().collect())
}

async fn join(
    addr: SocketAddr,
    n: usize,
    org: Uuid,
    since: Option<String>,
) -> anyhow::Result<(Socket, String)> {
    let claims = TokenClaims {
        org,
        sub: "storm",
        role: "authenticated",
        ttl: Duration::from_hours(1),
        audience: DEFAULT_AUDIENCE,
        issuer: None,
        topics: None,
        filters: None,
    };
    let stream = TcpStream::connect(addr).await?;
    let config = WebSocketConfig::default().read_buffer_size(4096);
    let opened = phoenix::connect_over(stream, &sign(&claims, SECRET)?, Some(config)).await;
    let mut socket = opened.map_err(|error| anyhow::anyhow!("socket {n}: {error:?}"))?;
    phoenix::send_join(&mut socket, "1", "calls", since.as_deref()).await?;
    let mut id = 0;
    loop {
        let Received::Message(message) = phoenix::receive(&mut socket).await else {
            bail!("socket {n} closed")
        };
        match message.event.as_str() {
            "phx_reply" if since.is_none() => {
                let cursor = message.cursor().context("the reply has no cursor")?.to_owned();
                return Ok((socket, cursor));
            }
            "phx_reply" if message.cursor() == since.as_deref() => {}
            LAST | "warden.resync" => return Ok((socket, String::new())),
            "call.created" => {
                let next = message.payload["id"].as_i64().context("the event has no id")?;
                anyhow::ensure!(next > id, "socket {n}: event {next} arrived after {id}");
                id = next;
            }
            _ => bail!("socket {n}: unexpected message {message:?}"),
        }
    }
}

async fn start(cluster: &Cluster) -> anyhow::Result<Gateway> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let gateway = Gateway::start(Config {
        database: warden::postgres::options(&cluster.url("postgres", "warden_gateway"))?,
        verifier: VerifierConfig::hs256(SECRET, DEFAULT_AUDIENCE, None),
        topics_need_claim: Vec::new(),
        listen: any_port,
        admin_listen: any_port,
        allowed_origins: Vec::new(),
        edge: Edge::default(),
        limits: Limits::for_one_machine(),
    })
    .await?;
    gateway.reader().wait_for(|state| *state == TailerState::Following).await?;
    Ok(gateway)
}

//! The cost of the tunnel and of TLS: the round trip of a query, the time from a commit to its notification,
//! and the time of a large result. The variants take turns within one run.
//!
//! `cargo bench -p warden-connect`. It starts a private PostgreSQL.

use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rcgen::{CertificateParams, KeyPair};
use sqlx::postgres::{PgConnection, PgListener, PgPoolOptions};
use sqlx::{Connection as _, Executor as _};
use warden_connect::{Environment, Link, parse};
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};

/// An address that no test uses, because every private cluster has the same port.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 77, 82, 85);
const QUERIES: usize = 10_000;
const COMMITS: usize = 3_000;
const RESULTS: usize = 300;
/// Measurements of one variant before the next has its turn.
const TURN: usize = 50;

/// Name of a variant, and its parameters. `allow` uses the tunnel in plain text.
const VARIANTS: [(&str, &str); 3] = [
    ("no tunnel (`disable`)", "sslmode=disable"),
    ("tunnel, plain text (`allow`)", "sslmode=allow"),
    ("tunnel, TLS 1.3 (`require`)", "sslmode=require"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        binaries: Binaries::find(None, std::env::var_os("PATH").as_deref())?,
        data_dir: DataDir::Temporary,
        settings: vec![("listen_addresses".to_owned(), ADDRESS.to_string())],
        max_connections: 50,
        durable: false,
    })
    .await?;
    let mut local = connect(&link(&cluster.url("postgres", SUPERUSER)).await?).await?;
    serve_tls(&mut local).await?;
    let mut links = Vec::new();
    for (_, parameters) in VARIANTS {
        links.push(link(&format!("postgres://{SUPERUSER}@{ADDRESS}/postgres?{parameters}")).await?);
    }
    println!(
        "| variant | query, p50 | query, p99 | commit to notification, p50 | p99 | result of 1 MiB, p50 |"
    );
    println!("|---|---:|---:|---:|---:|---:|");
    let queries = take_turns(&links, "select 1", QUERIES).await?;
    let results = take_turns(&links, "select repeat('x', 1048576)", RESULTS).await?;
    let commits = notifications(&links, &mut local).await?;
    for (n, (name, _)) in VARIANTS.iter().enumerate() {
        let at = |times: &[Duration], percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
        println!(
            "| {name} | {:.0} µs | {:.0} µs | {:.0} µs | {:.0} µs | {:.0} µs |",
            at(&queries[n], 50),
            at(&queries[n], 99),
            at(&commits[n], 50),
            at(&commits[n], 99),
            at(&results[n], 50)
        );
    }
    cluster.close().await?;
    Ok(())
}

async fn link(url: &str) -> Result<Link> {
    let addresses = parse(url, &Environment::new(&[], None))?;
    Ok(addresses.first().context("an address")?.link().await?)
}

async fn connect(link: &Link) -> Result<PgConnection> {
    Ok(PgConnection::connect_with(link).await?)
}

/// Turns TLS on, and admits the superuser by TCP.
async fn serve_tls(local: &mut PgConnection) -> Result<()> {
    let dir: String =
        sqlx::query_scalar("select current_setting('data_directory')").fetch_one(&mut *local).await?;
    let dir = PathBuf::from(dir);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![ADDRESS.to_string()])?.self_signed(&key)?;
    let hba = dir.join("pg_hba.conf");
    let rules = format!("host all {SUPERUSER} all trust\n{}", std::fs::read_to_string(&hba)?);
    std::fs::write(hba, rules)?;
    let owner = std::fs::metadata(&dir)?;
    for (name, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
        let file = dir.join(name);
        std::fs::write(&file, text)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        chown(&file, Some(owner.uid()), Some(owner.gid()))?;
    }
    local.execute("alter system set ssl = on").await?;
    local.execute("select pg_reload_conf()").await?;
    let mut is_on = false;
    while !is_on {
        tokio::time::sleep(Duration::from_millis(20)).await;
        is_on = sqlx::query_scalar("select current_setting('ssl')::bool").fetch_one(&mut *local).await?;
    }
    Ok(())
}

/// Sorted times of a query, for each link.
async fn take_turns(links: &[Link], query: &'static str, count: usize) -> Result<Vec<Vec<Duration>>> {
    let mut connections = Vec::new();
    for link in links {
        connections.push(connect(link).await?);
    }
    let mut times = vec![Vec::with_capacity(count); links.len()];
    for _ in 0..count / TURN {
        for (connection, times) in connections.iter_mut().zip(&mut times) {
            for _ in 0..TURN {
                let start = Instant::now();
                sqlx::query(query).fetch_one(&mut *connection).await?;
                times.push(start.elapsed());
            }
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    Ok(times)
}

/// Sorted times from the start of a commit with NOTIFY, on a Unix socket, to the notification.
async fn notifications(links: &[Link], writer: &mut PgConnection) -> Result<Vec<Vec<Duration>>> {
    let mut listeners = Vec::new();
    for (n, link) in links.iter().enumerate() {
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with((**link).clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(&format!("variant_{n}")).await?;
        listeners.push(listener);
    }
    let mut times = vec![Vec::with_capacity(COMMITS); links.len()];
    for _ in 0..COMMITS / TURN {
        for (n, (listener, times)) in listeners.iter_mut().zip(&mut times).enumerate() {
            for _ in 0..TURN {
                let start = Instant::now();
                let notify = sqlx::query("select pg_notify('variant_' || $1, '')").bind(n.to_string());
                let (sent, received) = tokio::join!(notify.execute(&mut *writer), listener.recv());
                sent?;
                received?;
                times.push(start.elapsed());
            }
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable());
    Ok(times)
}

//! Measures the cost of the doorbell for writers: commits per second of 16 writers to a watched table,
//!
//! - with the log, but without a doorbell and without a gateway,
//! - as shipped, without a gateway,
//! - as shipped, with a gateway attached,
//! - with a NOTIFY for every row, as a plain trigger would do it, with a gateway attached,
//! - as shipped, with a gateway attached, but without the index by organisation, which serves resumes.
//!
//! The variants alternate in one run on one private PostgreSQL. The result is a table of medians and ratios.
//!
//! `cargo bench --bench doorbell -- --seconds 4 --rounds 9`. It needs `pgbench`, which comes with the server.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use sqlx::postgres::PgPool;
use warden::app::Gateway;
use warden::auth::VerifierConfig;
use warden::config::{Config, Edge, Limits};
use warden::log::TailerState;
use warden_devkit::cluster::{Binaries, Cluster, ClusterOptions, DataDir, SUPERUSER};

const WRITERS: u32 = 16;
const ORGS: u32 = 20;

/// A trigger that executes NOTIFY for each row, with which the coalesced doorbell is compared.
const NOTIFY_PER_ROW: &str = "
    create or replace function public.naive_ring() returns trigger language plpgsql as $$
    begin perform pg_notify('warden', new.id::text); return null; end $$;
    create or replace trigger naive_ring after insert on warden.events
      for each row execute function public.naive_ring();
    alter table warden.events disable trigger naive_ring;";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Variant {
    NoDoorbell,
    CoalescedAlone,
    Coalesced,
    NotifyPerRow,
    NoOrgIndex,
}

const VARIANTS: [Variant; 5] = [
    Variant::NoDoorbell,
    Variant::CoalescedAlone,
    Variant::Coalesced,
    Variant::NotifyPerRow,
    Variant::NoOrgIndex,
];

/// Index of the variant with which the others are compared.
const SHIPPED: usize = 2;

fn main() -> anyhow::Result<()> {
    let (mut seconds, mut rounds) = (4_u32, 9_usize);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.next().context("--seconds needs a value")?.parse()?,
            "--rounds" => rounds = args.next().context("--rounds needs a value")?.parse()?,
            // Passed by cargo.
            "--bench" => {}
            other => bail!("unknown option {other}: use --seconds, --rounds"),
        }
    }
    tokio::runtime::Runtime::new()?.block_on(run(seconds, rounds))
}

async fn run(seconds: u32, rounds: usize) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        binaries: Binaries::find(None, std::env::var_os("PATH").as_deref())?,
        data_dir: DataDir::Temporary,
        settings: vec![("max_wal_size".into(), "4GB".into()), ("shared_buffers".into(), "512MB".into())],
        max_connections: 60,
        durable: false,
    })
    .await?;
    let result = measure(&cluster, seconds, rounds).await;
    cluster.stop().await?;
    result
}

async fn measure(cluster: &Cluster, seconds: u32, rounds: usize) -> anyhow::Result<()> {
    let pgbench =
        cluster.pgbench_path().context("pgbench is missing: it comes with PostgreSQL's server package")?;
    let url = cluster.url("postgres", SUPERUSER);
    warden::postgres::migrate_platform(&url).await?;
    let pool = PgPool::connect(&url).await?;
    sqlx::raw_sql("alter role warden_gateway login").execute(&pool).await?;
    sqlx::raw_sql(NOTIFY_PER_ROW).execute(&pool).await?;
    sqlx::query(
        "insert into organizations (id, name)
         select ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'bench' from generate_series(1, $1) n",
    )
    .bind(i32::try_from(ORGS)?)
    .execute(&pool)
    .await?;
    let script = std::env::temp_dir().join(format!("warden-doorbell-{}.sql", std::process::id()));
    std::fs::write(
        &script,
        format!(
            "\\set org random(1, {ORGS})\n\
             insert into calls (org_id, from_number) values \
             (('00000000-0000-4000-8000-' || lpad((:org)::text, 12, '0'))::uuid, '+15550100');\n"
        ),
    )?;
    let mut rates: [Vec<f64>; 5] = Default::default();
    for round in 0..rounds {
        for (n, variant) in VARIANTS.iter().enumerate() {
            prepare(&pool, *variant).await?;
            let gateway = match variant {
                Variant::NoDoorbell | Variant::CoalescedAlone => None,
                _ => Some(gateway(cluster).await?),
            };
            let rate = tokio::task::spawn_blocking({
                let (pgbench, script, url) = (pgbench.clone(), script.clone(), url.clone());
                move || pgbench_rate(&pgbench, &script, &url, seconds)
            })
            .await??;
            rates[n].push(rate);
            eprintln!("round {} of {rounds}: {variant:?} {rate:.0} commits/s", round + 1);
            if let Some(gateway) = gateway {
                let (reads, events) = (gateway.metrics().reads.get(), gateway.metrics().events.get());
                eprintln!("    the gateway read {events} events in {reads} reads");
                gateway.stop().await;
            }
        }
    }
    let _ = std::fs::remove_file(&script);
    report(&pool, &rates, seconds).await
}

/// Prepares a variant: empties the tables, so that no variant pays for another's rows, and switches triggers
/// and index.
async fn prepare(pool: &PgPool, variant: Variant) -> anyhow::Result<()> {
    let (ring, naive) = match variant {
        Variant::NoDoorbell => ("disable", "disable"),
        Variant::CoalescedAlone | Variant::Coalesced | Variant::NoOrgIndex => ("enable", "disable"),
        Variant::NotifyPerRow => ("disable", "enable"),
    };
    // Each statement is a transaction: the log cannot be truncated while its deferred trigger is pending.
    for sql in [
        "truncate calls cascade".to_owned(),
        "truncate warden.events".to_owned(),
        match variant {
            Variant::NoOrgIndex => "drop index warden.events_org".to_owned(),
            _ => "create index if not exists events_org on warden.events (org_id, xid, id)".to_owned(),
        },
        format!("alter table warden.events {ring} trigger ring"),
        format!("alter table warden.events {naive} trigger naive_ring"),
        "checkpoint".to_owned(),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(pool).await?;
    }
    Ok(())
}

async fn gateway(cluster: &Cluster) -> anyhow::Result<Gateway> {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let gateway = Gateway::start(Config {
        database: warden::postgres::options(&cluster.url("postgres", "warden_gateway"))?,
        verifier: VerifierConfig::hs256("x".repeat(32), "authenticated", None),
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

fn pgbench_rate(pgbench: &Path, script: &Path, url: &str, seconds: u32) -> anyhow::Result<f64> {
    let writers = WRITERS.to_string();
    let seconds = seconds.to_string();
    let output = Command::new(pgbench)
        .args(["-n", "-M", "prepared", "-j", "2", "-c", &writers, "-T", &seconds, "-f"])
        .arg(script)
        .arg(url)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok())
        .with_context(|| format!("pgbench failed: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

async fn report(pool: &PgPool, rates: &[Vec<f64>; 5], seconds: u32) -> anyhow::Result<()> {
    let version: String =
        sqlx::query_scalar("select current_setting('server_version')").fetch_one(pool).await?;
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output()?;
    let cores = std::thread::available_parallelism()?;
    println!(
        "\n{cores} cores, PostgreSQL {version}, commit {}; {WRITERS} writers, {} rounds of {seconds} s each, medians\n",
        String::from_utf8_lossy(&commit.stdout).trim(),
        rates[0].len()
    );
    println!(
        "| variant | commits/s | lowest | highest | throughput of the shipped doorbell / of the variant (median of the rounds) |"
    );
    println!("|---|---|---|---|---|");
    let names = [
        "log, no doorbell, no gateway",
        "coalesced doorbell, no gateway",
        "**coalesced doorbell, gateway attached**",
        "NOTIFY per row, gateway attached",
        "coalesced doorbell, gateway attached, no index by organisation",
    ];
    for (name, of) in names.iter().zip(rates) {
        let ratios: Vec<f64> =
            rates[SHIPPED].iter().zip(of).map(|(shipped, other)| shipped / other).collect();
        let (low, high) = of.iter().fold((f64::MAX, 0.0_f64), |(low, high), r| (low.min(*r), high.max(*r)));
        println!("| {name} | {:.0} | {low:.0} | {high:.0} | {:.2} |", median(of), median(&ratios));
    }
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

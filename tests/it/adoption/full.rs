//! Full-size adoption for `make adopt-full`: a million call logs, writers at full speed, and a durable
//! server.

use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use warden_devkit::cluster::{Cluster, ClusterOptions, SUPERUSER};

use super::{killed, legacy_db, migrate_within, partitioned_legacy_db, tables_with_null};
use crate::harness::cluster_options;
use crate::legacy::{self, APP_ROLE, Writers};

const WRITERS: u64 = 4;
/// Longest time that any statement of a writer may take.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Duration of the measurement without a migration.
const BASELINE: Duration = Duration::from_secs(10);
/// Rounds of kills; each kills two runs.
const ROUNDS: u64 = 10;
/// Deadline of one run. The writers keep every core busy, and the machine may have other work.
const DEADLINE: Duration = Duration::from_mins(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make adopt-full"]
async fn a_million_rows_are_adopted_without_long_pauses() {
    adopts_without_long_pauses(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make adopt-full"]
async fn a_million_rows_partitioned_by_month_are_adopted_without_long_pauses() {
    adopts_without_long_pauses(true).await;
}

async fn adopts_without_long_pauses(is_partitioned: bool) {
    let factor = std::env::var("WARDEN_ADOPT_FACTOR").ok().and_then(|f| f.parse().ok()).unwrap_or(1.0);
    let options = ClusterOptions { durable: true, ..cluster_options() };
    let cluster = Cluster::start(options).await.expect("PostgreSQL starts");
    let url = cluster.url("postgres", SUPERUSER);
    let app_url = cluster.url("postgres", APP_ROLE);
    let mut admin = PgConnection::connect(&url).await.expect("connects");
    legacy::load(&mut admin, factor).await;
    if is_partitioned {
        legacy::partition_call_logs(&mut admin).await;
    }
    sqlx::raw_sql("vacuum analyze").execute(&mut admin).await.expect("analyses");
    let before = legacy::counts(&mut admin).await;

    // Baseline on this machine: the same writers and tables, without a migration.
    let writers = Writers::start(&app_url, WRITERS, 1).await;
    tokio::time::sleep(BASELINE).await;
    let alone = writers.stop().await;

    let writers = Writers::start(&app_url, WRITERS, 2).await;
    let begun = Instant::now();
    let run = migrate_within(DEADLINE, &url, &[]).await;
    let took = begun.elapsed();
    let during = writers.stop().await;
    println!("{}", run.stdout);
    let run = run.must(0);
    drop(run);

    let after = legacy::counts(&mut admin).await;
    for (table, count) in before {
        let own = |totals: &legacy::Totals| totals.rows.get(table.as_str()).copied().unwrap_or(0);
        let expected = count + own(&alone) + own(&during) + i64::from(table == "organizations");
        assert_eq!(after[&table], expected, "{table}");
    }
    assert_eq!(tables_with_null(&mut admin).await, Vec::<String>::new());
    println!("| writers ({WRITERS} connections) | statements/s | longest statement |\n|---|---|---|");
    for (what, totals, time) in [("alone", &alone, BASELINE), ("during the run", &during, took)] {
        let rate = totals.statements as f64 / time.as_secs_f64();
        println!("| {what} | {rate:.0} | {:.0} ms |", totals.longest.0.as_secs_f64() * 1000.0);
    }
    println!(
        "the longest during the run came after {:.1} s: {}",
        during.longest.2.as_secs_f64(),
        during.longest.1
    );
    assert!(during.errors.is_empty() && alone.errors.is_empty(), "{:?} {:?}", alone.errors, during.errors);

    let begun = Instant::now();
    migrate_within(DEADLINE, &url, &[]).await.must(0).idle();
    println!("a second run: {:.1} s", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    let enforced = migrate_within(DEADLINE, &url, &["--enforce", "--yes"]).await.must(0);
    println!("--enforce: {:.1} s\n{}", begun.elapsed().as_secs_f64(), enforced.stdout);
    assert!(during.longest.0 < PAUSE_MAX, "a writer waited for {:?}", during.longest.0);
    cluster.close().await.expect("ends");
}

#[tokio::test]
#[ignore = "takes minutes: make adopt-full"]
async fn runs_killed_at_twenty_points_are_completed_by_the_next() {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("WARDEN_SEED={seed}");
    killed::assert_next_run_completes(legacy_db, ROUNDS, seed).await;
    killed::assert_next_run_completes(partitioned_legacy_db, ROUNDS, seed).await;
}

//! A run killed at any moment is completed by the next run, with the same result as an undisturbed run.

use std::time::{Duration, Instant};

use super::{connect, legacy_db, migrate, spawn};
use crate::harness::TestDb;
use crate::legacy::dump;

/// Kills one run of each phase per round, at random moments of its duration, and compares the completed
/// database with an undisturbed one.
pub(super) async fn assert_next_run_completes(new_db: impl AsyncFn() -> TestDb, rounds: u64, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let phases: [&[&str]; 2] = [&[], &["--enforce", "--yes"]];
    let whole = new_db().await;
    let mut times = Vec::new();
    for args in phases {
        let begun = Instant::now();
        migrate(whole.url(), args).await.must(0);
        times.push(begun.elapsed());
    }
    let expected = dump(&mut connect(&whole).await).await;

    let mut hits = 0;
    for round in 0..rounds {
        let killed = new_db().await;
        for (args, time) in phases.into_iter().zip(&times) {
            hits += u64::from(kill_after(&killed, args, time.mul_f64(random.f64() * 0.6)).await);
            migrate(killed.url(), args).await.must(0);
        }
        let found = dump(&mut connect(&killed).await).await;
        let differences: Vec<&String> = expected
            .iter()
            .filter(|l| !found.contains(l))
            .chain(found.iter().filter(|l| !expected.contains(l)))
            .collect();
        assert!(differences.is_empty(), "seed {seed}, round {round}: {differences:#?}");
    }
    println!("{hits} of {} runs were killed before they ended (seed {seed})", rounds * 2);
    assert!(hits > 0, "no run was killed while it ran");
}

/// Sends SIGKILL after `time`. Returns whether the run was still in progress.
async fn kill_after(db: &TestDb, args: &[&str], time: Duration) -> bool {
    let mut child = spawn(db.url(), args);
    // The timeout varies the moment of the kill; no condition is awaited.
    let ended = tokio::time::timeout(time, child.wait()).await.is_ok();
    if !ended {
        child.kill().await.expect("is killed");
    }
    !ended
}

#[tokio::test]
async fn a_killed_run_is_completed_by_the_next() {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("WARDEN_SEED={seed}");
    assert_next_run_completes(legacy_db, 2, seed).await;
}

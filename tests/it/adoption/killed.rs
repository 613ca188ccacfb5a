//! A run that is killed at any moment is completed by the next, to the same end.

use std::time::Duration;

use super::{connect, legacy_db, migrate, spawn};
use crate::harness::TestDb;
use crate::legacy::dump;

/// Kills a run of each phase at moments that are spread over the time that one takes.
pub(super) async fn is_completed(kills: u64, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let whole = legacy_db().await;
    let begun = std::time::Instant::now();
    migrate(whole.url(), &[]).await.must(0);
    let expand_time = begun.elapsed();
    let begun = std::time::Instant::now();
    migrate(whole.url(), &["--enforce", "--yes"]).await.must(0);
    let enforce_time = begun.elapsed();
    let expected = dump(&mut connect(&whole).await).await;

    let killed = legacy_db().await;
    let mut hits = 0;
    for n in 0..kills {
        // The first phase is longer: three kills of four are for it.
        let (args, time): (&[&str], Duration) = if n * 4 < kills * 3 {
            (&[], expand_time)
        } else {
            if n * 4 < kills * 3 + 4 {
                migrate(killed.url(), &[]).await.must(0);
            }
            (&["--enforce", "--yes"], enforce_time)
        };
        hits += u64::from(kill_after(&killed, args, time.mul_f64(random.f64() * 0.9)).await);
    }
    println!("{hits} of {kills} runs were killed before they ended (seed {seed})");
    assert!(hits > 0, "some run was killed while it ran");
    migrate(killed.url(), &[]).await.must(0);
    migrate(killed.url(), &["--enforce", "--yes"]).await.must(0);
    let found = dump(&mut connect(&killed).await).await;
    let differences: Vec<&String> = expected
        .iter()
        .filter(|l| !found.contains(l))
        .chain(found.iter().filter(|l| !expected.contains(l)))
        .collect();
    assert!(differences.is_empty(), "seed {seed}: {differences:#?}");
}

/// SIGKILL; whether the run had not ended by itself.
async fn kill_after(db: &TestDb, args: &[&str], time: Duration) -> bool {
    let mut child = spawn(db.url(), args);
    // The moment is what is varied here, nothing is awaited by it.
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
    is_completed(4, seed).await;
}

//! A server that fails at random, users that change meanwhile, and a command that is killed.

use std::process::Stdio;

use tokio::process::{Child, Command};

use super::stand_in::{KEY, StandIn, StoredUser};
use super::{FAST, expect_all_right, summary, sync, tempfile};
use crate::cli::Outcome;
use crate::harness::{TestDb, eventually};

/// Memory that a run of any size may need beyond a small one, in KiB.
const GROWTH_KIB_MAX: u64 = 16 * 1024;

fn users(count: usize) -> Vec<StoredUser> {
    (0..count).map(|n| StoredUser::new(i64::try_from(n).expect("fits") * 600)).collect()
}

fn spawn(db: &TestDb, api: &StandIn, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
    command.args(FAST).args(args).env_clear();
    command.env("DATABASE_URL", db.url()).env("WARDEN_AUTH_URL", api.url()).env("WARDEN_SERVICE_KEY", KEY);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().expect("starts")
}

/// Runs the command to its end. Returns its peak of resident memory in KiB, as last seen.
async fn measured(db: &TestDb, api: &StandIn, args: &[&str]) -> (Outcome, u64) {
    let child = spawn(db, api, args);
    let status = format!("/proc/{}/status", child.id().expect("runs"));
    let mut peak = 0;
    let mut read = || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = peak.max(line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0));
    };
    let mut output = std::pin::pin!(child.wait_with_output());
    let mut interval = tokio::time::interval(std::time::Duration::from_millis(20));
    let output = loop {
        tokio::select! {
            output = &mut output => break output.expect("ends"),
            _ = interval.tick() => read(),
        }
    };
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    (Outcome { code: output.status.code(), stdout, stderr }, peak)
}

/// `make claims` sets the number of users.
#[tokio::test]
async fn every_user_is_right_in_spite_of_faults_changes_and_kills() {
    let count: usize =
        std::env::var("WARDEN_CLAIMS_USERS").map_or(300, |text| text.parse().expect("a number"));
    let seed =
        std::env::var("WARDEN_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("a seed"));
    println!("WARDEN_SEED={seed}");
    let db = TestDb::create().await;
    let api = StandIn::start(users(count), seed).await;
    {
        let mut world = api.world();
        world.has_faults = true;
        world.changes_left = u32::try_from(count / 5).expect("fits");
    }
    let state = tempfile(&db);
    let args = ["--timeout", "1", "--page-size", "50", "--state-file", &state];
    for part in 1..=2 {
        let mut child = spawn(&db, &api, &args);
        let writes = u64::try_from(count * part / 4).expect("fits");
        // The whole run may be slow, so the deadline is for each part of it.
        for step in 1..=20 {
            let reached = writes * step / 20;
            eventually("users are written", async || api.world().writes >= reached).await;
        }
        child.kill().await.expect("is killed");
    }
    let text = std::fs::read_to_string(&state).expect("a killed run leaves its state file");
    let position: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let next = position["page"].as_u64().and_then(|page| usize::try_from(page).ok()).expect("a page");
    assert!(next < count / 50, "page {next}");
    let pages = api.world().pages.len();
    let (outcome, peak) = measured(&db, &api, &args).await;
    let done = summary(&outcome, 0);
    assert_eq!(api.world().pages[pages], next, "the run continues where the killed one was");
    expect_all_right(&db, &api).await;
    let world_users = api.world().users.len();
    let requests = api.world().requests;
    println!("{world_users} users, {requests} requests in three runs, {peak} KiB: {done}");
    let (small_db, small) = (TestDb::create().await, StandIn::start(users(300), seed).await);
    let (outcome, small_peak) = measured(&small_db, &small, &["--page-size", "50"]).await;
    let done = summary(&outcome, 0);
    // One request to read, one to write, and those for the pages.
    assert!(done["requests"].as_u64().expect("a number") <= 2 * 300 + 12, "{done}");
    assert!(peak < small_peak + GROWTH_KIB_MAX, "{peak} KiB for {count} users, {small_peak} KiB for 300");
    api.world().has_faults = false;
    let verified = sync(&db, &api, &["--verify"]).await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
}

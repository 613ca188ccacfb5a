//! Access is never wider and never narrower: for every role, claims and command, the rows that can be reached
//! after each phase of an adoption are those that could be reached before, within the organisation once the
//! tables are enforced.
//!
//! - `world`: random tables, grants, policies, memberships, views and functions.
//! - `property`: compares the rows, one by one, in every phase.
//! - `streams`: compares what watched tables send, live and by replay, with what the same claims may SELECT.
//! - `examples`: named cases.
//! - `remedies`: what blocks the enforce phase, and the statements that a run prints.
//! - `relaxing`: what the application restricts meanwhile stays restricted.
//! - `filling`: which organisation a row gets, whatever a request does.
//! - `conditions`: policies that read other tables are questions before these are isolated.
//! - `errors`: the documentation explains what PostgreSQL rejects.
//!
//! `WARDEN_SEED` repeats a run, and `WARDEN_ACCESS_CASES` sets the number of worlds.

mod conditions;
mod errors;
mod examples;
mod filling;
mod property;
mod relaxing;
mod remedies;
mod streams;
mod world;

use std::process::Stdio;

use crate::harness::TestDb;

/// Runs `warden migrate` with these arguments. Returns its exit code, and what it printed.
async fn migrate(db: &TestDb, args: &[&str]) -> (Option<i32>, String) {
    warden(db, "migrate", args).await
}

/// Runs `warden audit`. Returns what it printed.
async fn audited(db: &TestDb) -> String {
    warden(db, "audit", &[]).await.1
}

async fn warden(db: &TestDb, command: &str, args: &[&str]) -> (Option<i32>, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_warden"))
        .arg(command)
        .args(args)
        .env_clear()
        .env("DATABASE_URL", db.url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code(), text.concat())
}

/// Runs `warden migrate`, which must succeed.
async fn migrated(db: &TestDb, args: &[&str]) -> String {
    let (code, text) = migrate(db, args).await;
    assert_eq!(code, Some(0), "warden migrate {args:?}: {text}");
    text
}

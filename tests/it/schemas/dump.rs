//! A dump of the database, restored into a new one, as the operator does it.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::cluster_options;
use crate::harness::managed::{ManagedDb, Operator};

/// Errors of a restore that concern only what the provider already created.
const ALLOWED_ERRORS: [&str; 2] = ["must be owner of extension", "must be owner of schema public"];

/// `pg_dump` and `pg_restore` for this server, if the machine has them. The server binaries of npm lack them.
fn programs() -> Option<(PathBuf, PathBuf)> {
    let binaries = cluster_options().binaries;
    Some((binaries.client("pg_dump")?, binaries.client("pg_restore")?))
}

/// Restores a dump of this database into a new one of the same operator. Returns nothing if the machine lacks
/// `pg_dump`.
pub async fn restored(app: &ManagedDb, extensions: &[&str]) -> Option<ManagedDb> {
    let (pg_dump, pg_restore) = programs()?;
    // Without BYPASSRLS, the operator cannot dump tables whose row-level security is forced for it. Its
    // provider makes backups as a superuser.
    let is_own = app.operator == Operator::Managed;
    let target = ManagedDb::create(app.operator).await;
    target.create_extensions(extensions).await;
    let url = |db: &ManagedDb| if is_own { db.operator_url() } else { db.url_of("postgres") };
    let file = std::env::temp_dir().join(format!("warden-{}-{}.dump", std::process::id(), app.db.name));
    run(
        Command::new(pg_dump).args(["-Fc", "-N", "auth", "-N", "extensions", "-f"]).arg(&file).arg(url(app)),
        &[],
    );
    run(Command::new(pg_restore).arg("-d").arg(url(&target)).arg(&file), &ALLOWED_ERRORS);
    std::fs::remove_file(file).expect("removes");
    Some(target)
}

fn run(command: &mut Command, allowed: &[&str]) {
    let output = command.output().expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let unexpected: Vec<&str> = stderr
        .lines()
        .filter(|line| line.contains("error:") && !allowed.iter().any(|text| line.contains(text)))
        .collect();
    assert!(unexpected.is_empty(), "{command:?}: {stderr}");
    assert!(output.status.success() || !allowed.is_empty(), "{command:?}: {stderr}");
}

//! `pg_dump` of a test's database.

use std::process::Command;

use super::{TestDb, cluster_options};

/// A dump as text, without the lines that differ in each run. Without `pg_dump` of the server's version (npm
/// has server binaries only), the text is empty, and comparisons of dumps show nothing.
pub fn pg_dump(db: &TestDb, args: &[&str]) -> String {
    let Some(program) = cluster_options().binaries.client("pg_dump") else {
        eprintln!("dumps are not compared: pg_dump of this version is not installed");
        return String::new();
    };
    let output = Command::new(program).args(args).arg(db.url()).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().filter(|line| !line.contains("restrict ")).map(|line| format!("{line}\n")).collect()
}

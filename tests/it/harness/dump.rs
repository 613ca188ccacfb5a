//! `pg_dump` of a test's database.

use std::process::Command;

use warden_devkit::cluster::Binaries;

use super::TestDb;

/// A program of the PostgreSQL installation whose server the tests run.
pub fn postgres_program(name: &str) -> Command {
    let binaries =
        Binaries::find(None, std::env::var_os("PATH").as_deref()).expect("PostgreSQL is installed");
    Command::new(binaries.client(name).unwrap_or_else(|| panic!("{name} is installed")))
}

/// A dump as text, without the lines that differ in each run.
pub fn pg_dump(db: &TestDb, args: &[&str]) -> String {
    let output = postgres_program("pg_dump").args(args).arg(db.url()).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().filter(|line| !line.contains("restrict ")).map(|line| format!("{line}\n")).collect()
}

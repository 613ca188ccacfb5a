//! Limits of an owner that is no superuser: errors name the statements that a superuser must run.

use std::process::Stdio;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tokio::process::Command;
use warden_devkit::cluster::{Cluster, SUPERUSER};

use crate::harness::cluster_options;

/// Most statements that a superuser has to run for an owner.
const STATEMENTS_MAX: usize = 12;

/// Migrates a database as its owner. Runs each statement for a superuser that an error names, and returns
/// them.
async fn complete(cluster: &Cluster, admin: &mut PgConnection, database: &str, owner: &str) -> Vec<String> {
    let mut statements = Vec::new();
    loop {
        let mut command = Command::new(env!("CARGO_BIN_EXE_warden"));
        command.arg("migrate").env_clear().env("DATABASE_URL", cluster.url(database, owner));
        let output = command.stdin(Stdio::null()).output().await.expect("runs");
        if output.status.success() {
            break;
        }
        let stderr = String::from_utf8(output.stderr).expect("text");
        let statement =
            stderr.split_once("As a superuser: ").map(|(_, rest)| rest.lines().next().unwrap_or_default());
        let statement = statement.unwrap_or_else(|| panic!("names no statement for a superuser: {stderr}"));
        assert!(!statements.contains(&statement.to_owned()), "{statement} does not help: {stderr}");
        admin
            .execute(sqlx::raw_sql(AssertSqlSafe(statement.to_owned())))
            .await
            .unwrap_or_else(|e| panic!("{statement}: {e}"));
        statements.push(statement.to_owned());
        assert!(statements.len() <= STATEMENTS_MAX, "{statements:#?}");
    }
    statements
}

/// An owner may not create roles. Each error names the statement for a superuser, and with these statements
/// the migration succeeds.
#[tokio::test]
async fn an_error_names_the_statement_that_needs_a_superuser() {
    let cluster = Cluster::start(cluster_options()).await.expect("PostgreSQL starts");
    let mut admin = PgConnection::connect(&cluster.url("postgres", SUPERUSER)).await.expect("connects");
    for sql in ["create role poor_owner login", "create database poor owner poor_owner"] {
        admin.execute(sql).await.expect("prepares");
    }
    let statements = complete(&cluster, &mut admin, "poor", "poor_owner").await;
    assert!(statements.iter().any(|sql| sql.contains("create role warden_owner")), "{statements:#?}");
    // Another owner may create roles, but the superuser created those of Warden. Before PostgreSQL 16 it may
    // also grant them.
    admin.execute("create role late_owner login createrole").await.expect("prepares");
    admin.execute("create database late owner late_owner").await.expect("prepares");
    let granted = complete(&cluster, &mut admin, "late", "late_owner").await;
    assert!(granted.iter().all(|sql| sql.starts_with("grant ")), "{granted:#?}");
    cluster.close().await.expect("closes");
}

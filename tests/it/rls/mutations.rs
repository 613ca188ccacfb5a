//! Breaks every isolating object once: a check, and the view `warden.tenant_objects`, must report it.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Executor as _};

use super::check::Check;
use super::{OWNER, Suite, actors};
use crate::harness::Sample;
use crate::harness::tenancy::{Mutation, mutations};

#[tokio::test]
async fn every_broken_object_fails_a_check() {
    let mut suite = Suite::start().await;
    let all = mutations(&mut suite.connection).await;
    let mut by_table: BTreeMap<&str, Vec<&Mutation>> = BTreeMap::new();
    let sample = Sample::one_in(3);
    for (_, mutation) in all.iter().enumerate().filter(|(index, _)| sample.contains(*index)) {
        by_table.entry(&mutation.table).or_default().push(mutation);
    }
    let actors = actors::few(suite.tenants, OWNER);
    let mut unnoticed = Vec::new();
    for (table, mutations) in by_table {
        let mut left = mutations;
        // With an application's policy that grants everything, only the restrictive policy isolates.
        for is_rogue in [false, true] {
            let table = suite.schema.table(table);
            suite.connection.execute("begin").await.expect("begins");
            let mut check = Check::new(&mut suite.connection, &suite.schema, table, suite.tenants);
            check.stops_at_first = true;
            if is_rogue {
                check.go_rogue().await;
            }
            assert_eq!(check.prepare().await, Ok(()), "{}", table.name);
            let mut still = Vec::new();
            for mutation in left {
                check.execute(&format!("savepoint mutation; {}", mutation.sql)).await;
                // Each part of the check must notice its kind of object by itself.
                match mutation.kind.as_str() {
                    "policy" | "row_security" => check.check_actors(&actors).await,
                    _ => check.check_schema().await,
                }
                check.execute("rollback to mutation; release mutation").await;
                if check.failures.is_empty() {
                    still.push(mutation);
                }
                check.failures.clear();
            }
            left = still;
            suite.connection.execute("rollback").await.expect("rolls back");
        }
        unnoticed.extend(left.into_iter().map(|mutation| mutation.sql.clone()));
    }
    assert_eq!(unnoticed, Vec::<String>::new(), "of {}", all.len());
    assert!(all.len() > 500, "{}", all.len());
}

/// Adoption and the audit rely on this view.
#[tokio::test]
async fn every_broken_object_is_reported_by_the_view() {
    let mut suite = Suite::start().await;
    let all = mutations(&mut suite.connection).await;
    // One round breaks the n-th object of every table at once. A table and its partitions count as one.
    let mut rounds: Vec<Vec<&Mutation>> = Vec::new();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for mutation in &all {
        let n = seen.entry(&mutation.whole).or_default();
        if rounds.len() <= *n {
            rounds.push(Vec::new());
        }
        rounds[*n].push(mutation);
        *n += 1;
    }
    let sample = Sample::one_in(3);
    for (_, round) in rounds.into_iter().enumerate().filter(|(index, _)| sample.contains(*index)) {
        suite.connection.execute("begin").await.expect("begins");
        for mutation in &round {
            let sql = AssertSqlSafe(mutation.sql.clone());
            suite.connection.execute(sql).await.unwrap_or_else(|e| panic!("{}: {e}", mutation.sql));
        }
        let reported: Vec<(String, String, String)> = sqlx::query_as(
            "select format('%I.%I', schema_name, table_name), kind, name from warden.tenant_objects
             where problem is not null and phase <> 'fill'",
        )
        .fetch_all(&mut suite.connection)
        .await
        .expect("reads");
        for mutation in round {
            let wanted = (mutation.table.clone(), mutation.kind.clone(), mutation.name.clone());
            assert!(reported.contains(&wanted), "{} is not reported", mutation.sql);
        }
        suite.connection.execute("rollback").await.expect("rolls back");
    }
}

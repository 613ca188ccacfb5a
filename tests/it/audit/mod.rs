//! The audit: a sound database is clean, and for each rule there is a database in which exactly this rule is
//! broken.
//!
//! - `advice`: remedies and findings that must not be reported.
//! - `breaks`: the list of breaks, each with its exact findings.
//! - `databases`: databases in other states: without Warden, partly migrated, read without privileges.
//! - `decisions`: findings that an operator accepted.
//! - `remedies`: applies every remedy to the letter.
//!
//! Breaks run in transactions that are rolled back. Independent breaks share a transaction.

mod advice;
mod breaks;
mod databases;
mod decisions;
mod remedies;

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use warden::tenancy::audit::{self, AuditOptions, AuditProgress, Finding, RULES, Report, Rule, Severity};

use self::breaks::{Break, breaks};
use crate::harness::tenancy::{Mutation, mutations};
use crate::harness::{Sample, TestDb, is_full};

/// Rule, and the table or else the object that it reports.
type Key = (String, String);

fn key(finding: &Finding) -> Key {
    let place = match finding.rule {
        // Its object is a number.
        "watch-table" => "dropped".to_owned(),
        _ => finding.table.clone().unwrap_or_else(|| finding.object.clone()),
    };
    (finding.rule.to_owned(), place)
}

/// Runs statements as the superuser; they must succeed.
async fn execute(connection: &mut PgConnection, sql: &str) {
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn inspect(connection: &mut PgConnection) -> Report {
    let options = AuditOptions::default();
    audit::inspect(connection, options, &mut AuditProgress::silent()).await.expect("the audit runs")
}

/// Findings of this database. Roles belong to the cluster, so findings about other tests' roles are dropped.
fn findings(report: Report) -> Vec<Finding> {
    let is_ours = |finding: &Finding| match finding.rule {
        "bypassing-role" | "all-data-role" | "role-creator" => finding.object.starts_with("audited_"),
        // Before PostgreSQL 15 a new database grants this to PUBLIC.
        "schema-right" => finding.object != "PUBLIC",
        "token-hook-caller" => false,
        _ => true,
    };
    report.findings.into_iter().filter(is_ours).collect()
}

/// Groups of breaks that can be combined.
fn rounds() -> Vec<Vec<&'static Break>> {
    let mut rounds: Vec<Vec<&Break>> = Vec::new();
    for broken in breaks() {
        let round = rounds.iter_mut().find(|round| {
            round.iter().all(|other| {
                other.place != broken.place && !other.finds.iter().any(|f| broken.finds.contains(f))
            })
        });
        match round {
            Some(round) => round.push(broken),
            None => rounds.push(vec![broken]),
        }
    }
    rounds
}

#[tokio::test]
async fn a_fresh_database_is_clean() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    for is_deep in [false, true] {
        let options = AuditOptions { is_deep, ..AuditOptions::default() };
        let database = warden::postgres::reading_options(db.url()).await.expect("a URL");
        let report =
            audit::run(&database, options, &mut AuditProgress::silent()).await.expect("the audit runs");
        assert_eq!((report.tables, report.rules), (47, RULES.len()));
        assert_eq!(findings(report), Vec::new(), "deep: {is_deep}");
    }
    // The audit also works within an open transaction, and leaves it unchanged.
    execute(&mut connection, "begin; set local search_path = public; savepoint mine").await;
    let report = inspect(&mut connection).await;
    assert!(
        report.findings.iter().any(|f| f.rule == "bypassing-role" && f.severity == Severity::Notice),
        "superusers"
    );
    execute(&mut connection, "create table left_as_it_was (); rollback to mine; rollback").await;
}

#[tokio::test]
async fn each_break_is_reported() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    for round in rounds() {
        execute(&mut connection, "begin").await;
        for broken in &round {
            execute(&mut connection, broken.sql).await;
        }
        let found = findings(inspect(&mut connection).await);
        let keys: BTreeSet<Key> = found.iter().map(key).collect();
        let wanted: BTreeSet<Key> = round
            .iter()
            .flat_map(|broken| broken.finds)
            .map(|(rule, place)| ((*rule).to_owned(), (*place).to_owned()))
            .collect();
        let unexpected: Vec<&Finding> = found.iter().filter(|f| !wanted.contains(&key(f))).collect();
        let missing: Vec<&Key> = wanted.difference(&keys).collect();
        assert!(
            unexpected.is_empty() && missing.is_empty(),
            "unexpected: {unexpected:#?}\nmissing: {missing:#?}"
        );
        execute(&mut connection, "rollback").await;
    }
}

/// Rules that report an object of `warden.tenant_objects`.
fn rules_for(mutation: &Mutation) -> &'static [&'static str] {
    match mutation.kind.as_str() {
        "column" => &["org-column"],
        "index" => &["org-index", "unique-index"],
        "unique" => &["parent-key"],
        "foreign_key" => &["organization-key", "parent-foreign-key"],
        "trigger" => &["immutability", "org-default"],
        "default" => &["org-default"],
        "not_null" => &["not-null"],
        "policy" => &["policy", "not-enforced"],
        "row_security" => &["row-security"],
        other => panic!("no rule is known for objects of kind {other}"),
    }
}

/// Breaks every object in every way. One round breaks the n-th object of each table.
#[tokio::test]
async fn every_broken_object_of_the_registry_is_reported() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut rounds: Vec<BTreeMap<String, Mutation>> = Vec::new();
    for mutation in mutations(&mut connection).await {
        match rounds.iter_mut().find(|round| !round.contains_key(&mutation.table)) {
            Some(round) => drop(round.insert(mutation.table.clone(), mutation)),
            None => rounds.push(BTreeMap::from([(mutation.table.clone(), mutation)])),
        }
    }
    let mut reported = 0;
    let sample = Sample::one_in(3);
    for (_, round) in rounds.into_iter().enumerate().filter(|(index, _)| sample.contains(*index)) {
        execute(&mut connection, "begin").await;
        for mutation in round.values() {
            execute(&mut connection, &mutation.sql).await;
        }
        let found = findings(inspect(&mut connection).await);
        for mutation in round.values() {
            let rules = rules_for(mutation);
            let is_reported = |finding: &Finding| {
                finding.table.as_deref() == Some(&mutation.table)
                    && rules.contains(&finding.rule)
                    && finding.severity == Severity::Finding
            };
            assert!(found.iter().any(is_reported), "{} is not reported: {found:#?}", mutation.sql);
            reported += 1;
        }
        execute(&mut connection, "rollback").await;
    }
    assert!(reported > if is_full() { 500 } else { 100 }, "{reported}");
}

#[test]
fn every_rule_has_a_break() {
    let broken: BTreeSet<&str> = breaks()
        .flat_map(|broken| broken.finds)
        .map(|(rule, _)| *rule)
        .chain(databases::RULES_BROKEN)
        .collect();
    let rules: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(broken, rules);
    assert_eq!(rules.len(), RULES.len(), "an id occurs twice");
}

#[test]
fn the_documentation_lists_every_rule() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tenancy.md");
    let text = std::fs::read_to_string(path).expect("reads");
    let table = Rule::markdown();
    assert!(text.contains(&table), "docs/tenancy.md must contain:\n{table}");
}

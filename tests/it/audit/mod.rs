//! The audit: clean where all is well, and for each rule a database in which exactly that is broken.
//!
//! - `breaks` is the list: what is broken, and which findings that must make, no more and no fewer.
//! - `databases` are those that are met in other states: without Warden, half way, without rights.
//!
//! Breaks are made in transactions that are rolled back, several at once where they don't meet.

mod breaks;
mod databases;

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use warden::tenancy::audit::{
    self, AuditOptions, AuditProgress, Finding, RULES, RemedyKind, Report, Rule, Severity,
};

use self::breaks::{BREAKS, Break};
use crate::harness::TestDb;
use crate::harness::tenancy::{Mutation, mutations};

/// A rule, and the table or else the object that it is about.
type Key = (String, String);

fn key(finding: &Finding) -> Key {
    let place = match finding.rule {
        // Its object is a number.
        "watch-table" => "dropped".to_owned(),
        _ => finding.table.clone().unwrap_or_else(|| finding.object.clone()),
    };
    (finding.rule.to_owned(), place)
}

/// Runs statements that must work, as the superuser.
async fn execute(connection: &mut PgConnection, sql: &str) {
    let done = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn inspect(connection: &mut PgConnection) -> Report {
    let options = AuditOptions::default();
    audit::inspect(connection, options, &mut AuditProgress::silent()).await.expect("the audit runs")
}

/// Roles belong to the cluster: what other tests make of them doesn't count.
fn findings(report: Report) -> Vec<Finding> {
    let is_ours = |finding: &Finding| match finding.rule {
        "bypassing-role" => finding.object.starts_with("audited_"),
        "token-hook-caller" => false,
        _ => true,
    };
    report.findings.into_iter().filter(is_ours).collect()
}

/// Breaks that don't meet, at once.
fn rounds() -> Vec<Vec<&'static Break>> {
    let mut rounds: Vec<Vec<&Break>> = Vec::new();
    for broken in BREAKS {
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
    // It finds its way also in a transaction that is under way, and leaves that as it was.
    execute(&mut connection, "begin; set local search_path = public; savepoint mine").await;
    let report = inspect(&mut connection).await;
    assert!(
        report.findings.iter().any(|f| f.rule == "bypassing-role" && f.severity == Severity::Notice),
        "superusers"
    );
    execute(&mut connection, "create table left_as_it_was (); rollback to mine; rollback").await;
}

#[tokio::test]
async fn each_break_makes_its_findings_and_is_mended_by_what_they_say() {
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

        mend(&mut connection, &round, &found).await;
        let left: Vec<Finding> = findings(inspect(&mut connection).await);
        assert_eq!(left, Vec::new(), "was {found:#?}");
        execute(&mut connection, "rollback").await;
    }
}

/// Does what the findings say. On tables that hold no rows `warden.enact` makes what `warden migrate` would.
async fn mend(connection: &mut PgConnection, round: &[&Break], found: &[Finding]) {
    for finding in found.iter().filter(|finding| finding.remedy.kind == RemedyKind::Sql) {
        execute(connection, &finding.remedy.text).await;
    }
    for broken in round {
        execute(connection, broken.decision).await;
    }
    let mut tables = BTreeSet::new();
    for finding in found.iter().filter(|finding| finding.remedy.kind == RemedyKind::Shell) {
        assert!(
            ["warden migrate", "warden migrate --enforce"].contains(&finding.remedy.text.as_str()),
            "{finding:?}"
        );
        tables.extend(finding.table.iter().map(|table| format!("'{table}'::regclass")));
    }
    let tables: Vec<String> = tables.into_iter().collect();
    execute(connection, &format!("select warden.enact(array[{}]::regclass[])", tables.join(", "))).await;
}

/// The rule that tells of an object of `warden.tenant_objects`.
fn rules_for(mutation: &Mutation) -> &'static [&'static str] {
    match mutation.kind.as_str() {
        "column" => &["org-column"],
        "index" => &["org-index", "unique-index"],
        "unique" => &["parent-key"],
        "foreign_key" => &["organization-key", "parent-foreign-key"],
        "trigger" => &["immutability"],
        "not_null" => &["not-null"],
        "policy" => &["policy", "not-enforced"],
        "row_security" => &["row-security"],
        other => panic!("nobody knows which rule tells of a {other}"),
    }
}

/// Whatever the registry asks for, broken in every way: on each table the n-th at once.
#[tokio::test]
async fn every_object_of_the_registry_is_told_when_it_is_broken() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut rounds: Vec<BTreeMap<String, Mutation>> = Vec::new();
    for mutation in mutations(&mut connection).await {
        match rounds.iter_mut().find(|round| !round.contains_key(&mutation.table)) {
            Some(round) => drop(round.insert(mutation.table.clone(), mutation)),
            None => rounds.push(BTreeMap::from([(mutation.table.clone(), mutation)])),
        }
    }
    let mut told = 0;
    for round in rounds {
        execute(&mut connection, "begin").await;
        for mutation in round.values() {
            execute(&mut connection, &mutation.sql).await;
        }
        let found = findings(inspect(&mut connection).await);
        for mutation in round.values() {
            let rules = rules_for(mutation);
            let is_told = |finding: &Finding| {
                finding.table.as_deref() == Some(&mutation.table)
                    && rules.contains(&finding.rule)
                    && finding.severity == Severity::Finding
            };
            assert!(found.iter().any(is_told), "{} is not told: {found:#?}", mutation.sql);
            told += 1;
        }
        execute(&mut connection, "rollback").await;
    }
    assert!(told > 500, "{told}");
}

#[test]
fn every_rule_has_a_break() {
    let broken: BTreeSet<&str> = BREAKS
        .iter()
        .flat_map(|broken| broken.finds)
        .map(|(rule, _)| *rule)
        .chain(databases::RULES_BROKEN)
        .collect();
    let rules: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(broken, rules);
    assert_eq!(rules.len(), RULES.len(), "no id twice");
}

#[test]
fn the_documentation_lists_every_rule() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tenancy.md");
    let text = std::fs::read_to_string(path).expect("reads");
    let table = Rule::markdown();
    assert!(text.contains(&table), "docs/tenancy.md must contain:\n{table}");
}

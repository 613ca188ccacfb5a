//! Findings that an operator accepted: they are notices. Rules that isolation rests on cannot be accepted.

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use warden::tenancy::audit::{Finding, RULES, Severity};

use super::{execute, findings, inspect};
use crate::harness::TestDb;

async fn attempt(connection: &mut PgConnection, sql: &str) -> Result<(), String> {
    execute(connection, "savepoint attempt").await;
    let done = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut *connection).await;
    execute(connection, "rollback to attempt").await;
    done.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_database_accepts_exactly_the_rules_that_the_audit_lets_accept() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut acceptable: Vec<String> = sqlx::query_scalar("select unnest(warden.acceptable_rules())")
        .fetch_all(&mut connection)
        .await
        .expect("reads");
    acceptable.sort();
    let mut expected: Vec<&str> =
        RULES.iter().filter(|rule| rule.is_acceptable).map(|rule| rule.id).collect();
    expected.sort_unstable();
    assert_eq!(acceptable, expected);
    execute(&mut connection, "begin").await;
    for rule in RULES {
        let sql = format!("select warden.accept_finding('{}', 'it', 'because')", rule.id);
        let done = attempt(&mut connection, &sql).await;
        assert_eq!(done.is_ok(), rule.is_acceptable, "{}: {done:?}", rule.id);
    }
    for (rule, reason) in [("no-such-rule", "'because'"), ("other-policy", "'  '"), ("other-policy", "null")]
    {
        let sql = format!("select warden.accept_finding('{rule}', 'it', {reason})");
        attempt(&mut connection, &sql).await.expect_err(rule);
    }
}

#[tokio::test]
async fn an_accepted_finding_is_a_notice_until_it_is_reopened() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    execute(
        &mut connection,
        "begin; create schema \"My App\"; create table \"My App\".\"User's \"\"Notes\"\"\" (id uuid, user_id uuid);
         create table tags (id int, user_id uuid)",
    )
    .await;
    let found = findings(inspect(&mut connection).await);
    let objects: Vec<String> = found.iter().map(Finding::decided_object).collect();
    assert_eq!(objects, ["\"My App\".\"User's \"\"Notes\"\"\"", "public.tags"], "{found:#?}");
    execute(
        &mut connection,
        "select warden.accept_finding('unregistered-table', '\"My App\".\"User''s \"\"Notes\"\"\"', 'read by nobody')",
    )
    .await;
    let accepted = findings(inspect(&mut connection).await);
    let severities: Vec<Severity> = accepted.iter().map(|finding| finding.severity).collect();
    assert_eq!(severities, [Severity::Notice, Severity::Finding], "{accepted:#?}");
    assert!(accepted[0].cause.starts_with("accepted by postgres: read by nobody ("), "{accepted:#?}");
    let reopening = accepted[0].remedy.text.split_once(": ").expect("a statement").1;
    execute(&mut connection, reopening).await;
    assert_eq!(findings(inspect(&mut connection).await), found);
    let reopened_twice = attempt(&mut connection, reopening).await.expect_err("no decision is left");
    assert!(reopened_twice.contains("no decision about"), "{reopened_twice}");
}

/// A row of `warden.decisions` that was inserted by hand cannot hide what isolation rests on.
#[tokio::test]
async fn a_decision_about_a_foundation_of_isolation_has_no_effect() {
    let db = TestDb::create().await;
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    execute(
        &mut connection,
        "begin; alter table calls disable row level security;
         insert into warden.decisions (rule, object, choice, reason)
         values ('row-security', 'public.calls.enabled', 'accept', 'by hand')",
    )
    .await;
    let found = findings(inspect(&mut connection).await);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].decided_object(), "public.calls.enabled");
    assert_eq!(found[0].severity, Severity::Finding);
}

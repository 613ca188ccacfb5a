//! The documents that events contain: whatever the type and content of a column, the write succeeds, and the
//! document depends on the row alone.
//!
//! `make types` checks every type of `pg_type` on each version of PostgreSQL; the suite checks a random
//! sample (`WARDEN_SEED`, and `WARDEN_TYPES=all` for every type).

mod altered;
mod attached;
mod deferrable;
mod identity;
mod keys;
mod kinds;
mod members;
mod memory;
mod nested;
mod replicated;
mod rewritten;
mod settings;
mod truncated;
mod unfit;
mod virtual_columns;

use sqlx::AssertSqlSafe;

use crate::harness::TestDb;

/// Random types of the suite, beside those that every run checks.
const SAMPLE: usize = 3;

/// Types that every run checks: each kind of representation and of failure.
const ALWAYS: [&str; 5] =
    ["json", "timestamp with time zone", "double precision", "hidden.place", "geometry"];

#[tokio::test]
async fn documents_of_every_type_depend_on_the_row_alone() {
    let db = TestDb::create().await;
    db.run(include_str!("values.sql")).await;
    db.run(include_str!("check.sql")).await;
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("WARDEN_SEED={seed}");
    let all = "select type::text from hostile union select type::text from sources order by 1";
    let mut types = strings(&db, all).await;
    let required = std::env::var("WARDEN_TYPES_REQUIRED").unwrap_or_default();
    for name in required.split(',').filter(|name| !name.is_empty()) {
        assert!(types.iter().any(|t| t == name), "the type {name} is missing: run scripts/setup types");
    }
    if std::env::var("WARDEN_TYPES").is_err() {
        let (mut always, mut others): (Vec<_>, Vec<_>) =
            types.into_iter().partition(|t| ALWAYS.contains(&t.as_str()));
        fastrand::Rng::with_seed(seed).shuffle(&mut others);
        always.extend(others.into_iter().take(SAMPLE));
        types = always;
    }
    for name in types {
        db.run(format!("call check_type('{}')", name.replace('\'', "''"))).await;
    }
    for line in strings(&db, include_str!("summary.sql")).await {
        eprintln!("{line}");
    }
    let failures = strings(&db, "select what || ': ' || detail from failures").await;
    assert!(failures.is_empty(), "WARDEN_SEED={seed}: {failures:#?}");
}

#[tokio::test]
async fn one_value_that_jsonb_cannot_represent_marks_its_row_only() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create table notes (id bigint primary key, org_id uuid not null, payload json);
         select warden.watch('notes', 'notes', 'note')",
    )
    .await;
    db.run(format!(
        r#"insert into notes select n, '{org}', case when n = 5 then '"\u0000"' else '1' end::json
           from generate_series(1, 10) n"#
    ))
    .await;
    let truncated = "select data::text from warden.events where topic = 'notes' and truncated";
    let expected = format!(r#"{{"id": 5, "org_id": "{org}"}}"#);
    assert_eq!(strings(&db, truncated).await, [expected]);
    let whole = "select count(*)::text from warden.events where topic = 'notes' and data ? 'payload'";
    assert_eq!(strings(&db, whole).await, ["9"]);
    db.run(format!("delete from organizations where id = '{org}'; delete from notes")).await;
}

#[tokio::test]
async fn columns_given_as_text_are_sent_as_strings() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create table bills (id bigint primary key, org_id uuid not null, total numeric, parts bigint[], extra jsonb,
                             day date);
         select warden.watch('bills', 'bills', 'bill', as_text => '{id,total,parts,extra,day}')",
    )
    .await;
    db.run(format!(
        r#"insert into bills values (9007199254740993, '{org}', 0.10, '{{1,NULL}}', '{{"n": 1e2}}', '2026-02-03');
           update bills set total = 5"#
    ))
    .await;
    let sent = "select concat(data - 'org_id', old) from warden.events where topic = 'bills' order by id";
    let row = |total: &str| {
        format!(
            r#"{{"id": "9007199254740993", "day": "2026-02-03", "extra": "{{\"n\": 100}}", "parts": ["1", null], "total": "{total}"}}"#
        )
    };
    assert_eq!(strings(&db, sent).await, [row("0.10"), row("5") + r#"{"total": "0.10"}"#]);
    let unknown = db.error("select warden.watch('bills', 'bills', 'bill', as_text => '{sum}')").await;
    assert!(unknown.contains("public.bills has no column \"sum\" (given in as_text)"), "{unknown}");
}

async fn strings(db: &TestDb, query: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&db.pool).await.expect("reads")
}

//! Databases whose settings change how PostgreSQL reads SQL, prints definitions, and applies policies, and
//! databases that publish their tables. An adoption creates the same objects as on any other database.

use sqlx::Connection as _;

use super::{RUN_DEADLINE, Run, audit, connect, ended, small_db, warden};
use crate::harness::TestDb;
use crate::legacy::catalog;

/// Settings of a database that some installations have. Each changes the result of a statement.
const SETTINGS: [&str; 20] = [
    "DateStyle = 'German, DMY'",
    "IntervalStyle = sql_standard",
    "TimeZone = 'Asia/Kathmandu'",
    "array_nulls = off",
    "bytea_output = escape",
    "check_function_bodies = off",
    "client_min_messages = error",
    "default_transaction_deferrable = on",
    "default_transaction_isolation = serializable",
    "enable_seqscan = off",
    "extra_float_digits = -3",
    "idle_in_transaction_session_timeout = '5s'",
    "lock_timeout = '1s'",
    "plpgsql.extra_errors = 'all'",
    "quote_all_identifiers = on",
    "row_security = off",
    "search_path = elsewhere",
    "standard_conforming_strings = off",
    "statement_timeout = '2s'",
    "transform_null_equals = on",
];

const APPLICATION: &str = "
    create schema elsewhere;
    create table accounts (id uuid primary key default gen_random_uuid(), owner_id uuid not null);
    create table invoices (id bigserial primary key, account_id uuid not null references accounts, total numeric);
    insert into accounts (owner_id) select gen_random_uuid() from generate_series(1, 3);
    insert into invoices (account_id, total) select id, 1 from accounts";

/// Runs `warden migrate`.
async fn migrate(db: &TestDb, args: &[&str]) -> Run {
    let mut command = warden(db.url(), "migrate");
    command.args(args);
    ended(RUN_DEADLINE, command).await
}

/// Adopts a database with these settings, and returns its catalog.
async fn adopted(settings: &[&str]) -> Vec<String> {
    let db = small_db(APPLICATION).await;
    for setting in settings {
        db.run(format!("alter database {} set {setting}", db.name)).await;
    }
    for args in [
        &["--plan", "--tables", "public.accounts,public.invoices"][..],
        &["--tables", "public.accounts,public.invoices"],
        &["--plan", "--enforce"],
        &["--enforce", "--yes"],
        &["--relax", "--yes"],
        &["--enforce", "--yes"],
        &[],
    ] {
        migrate(&db, args).await.must(0);
    }
    audit(db.url()).await.must(0);
    db.run(format!("alter database {} reset all", db.name)).await;
    let mut connection = connect(&db).await;
    let objects = catalog(&mut connection).await;
    connection.close().await.expect("closes");
    objects
}

#[tokio::test]
async fn settings_of_the_database_change_nothing() {
    let (plain, unusual) = tokio::join!(adopted(&[]), adopted(&SETTINGS));
    let missing: Vec<_> = plain.iter().filter(|line| !unusual.contains(line)).collect();
    let other: Vec<_> = unusual.iter().filter(|line| !plain.contains(line)).collect();
    assert!(missing.is_empty() && other.is_empty(), "missing {missing:#?}\nother {other:#?}");
}

/// PostgreSQL rejects updates of a published table whose rows subscribers cannot identify. An application
/// that only inserts does not notice it, but the backfill updates.
#[tokio::test]
async fn a_published_table_without_a_key_is_filled_once_it_has_a_replica_identity() {
    let db = small_db(APPLICATION).await;
    db.run(
        "create table \"Log Lines\" (account_id uuid references accounts, line text);
         insert into \"Log Lines\" select id, 'x' from accounts;
         create publication everything for all tables",
    )
    .await;
    let tables = "public.accounts,public.\"Log Lines\"";
    let remedy = r#"alter table "public"."Log Lines" replica identity full;"#;
    let run =
        migrate(&db, &["--tables", tables]).await.must(1).says(&["does not have a replica identity", remedy]);
    db.run(remedy).await;
    migrate(&db, &[]).await.must(0);
    let back = r#"alter table "public"."Log Lines" replica identity default;"#;
    run.says(&[back]);
    db.run(back).await;
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
}

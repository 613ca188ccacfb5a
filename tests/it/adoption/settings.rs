//! Databases whose settings change how PostgreSQL reads SQL, prints definitions, and applies policies, and
//! databases that publish their tables. An adoption creates the same objects as on any other database.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::{RUN_DEADLINE, Run, audit, bare_db, connect, ended, warden};
use crate::harness::TestDb;
use crate::legacy::catalog;

/// Settings of a database that some installations have. Each changes the result of a statement.
const SETTINGS: [&str; 25] = [
    "DateStyle = 'German, DMY'",
    "IntervalStyle = sql_standard",
    "TimeZone = 'Asia/Kathmandu'",
    "array_nulls = off",
    "bytea_output = escape",
    "check_function_bodies = off",
    "client_min_messages = error",
    "default_table_access_method = other_heap",
    "default_transaction_deferrable = on",
    "default_transaction_isolation = serializable",
    "default_transaction_read_only = on",
    "enable_seqscan = off",
    "extra_float_digits = -3",
    "idle_in_transaction_session_timeout = '1s'",
    "idle_session_timeout = '1s'",
    "lock_timeout = '1s'",
    "plpgsql.extra_errors = 'all'",
    "quote_all_identifiers = on",
    "row_security = off",
    "search_path = elsewhere",
    "session_replication_role = replica",
    "standard_conforming_strings = off",
    "statement_timeout = '1s'",
    "temp_file_limit = 0",
    "transform_null_equals = on",
];

/// Settings of this kind that only some versions have.
const NEWER_SETTINGS: [(&str, &str); 4] = [
    ("createrole_self_grant", "createrole_self_grant = 'set, inherit'"),
    ("event_triggers", "event_triggers = off"),
    ("restrict_nonsystem_relation_kind", "restrict_nonsystem_relation_kind = 'view, foreign-table'"),
    ("transaction_timeout", "transaction_timeout = '1s'"),
];

const APPLICATION: &str = "
    create access method other_heap type table handler heap_tableam_handler;
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
    let db = bare_db(APPLICATION).await;
    // A session from before the settings, which restores them at the end.
    let mut before = connect(&db).await;
    for setting in settings {
        let set = format!("alter database {} set {setting}", db.name);
        before.execute(AssertSqlSafe(set)).await.unwrap_or_else(|e| panic!("{setting}: {e}"));
    }
    for args in [
        &["--plan", "--tables", "public.accounts,public.invoices", "--default-organization"][..],
        &["--tables", "public.accounts,public.invoices", "--default-organization"],
        &["--plan", "--enforce"],
        &["--enforce", "--yes"],
        &["--relax", "--yes"],
        &["--enforce", "--yes"],
        &[],
    ] {
        migrate(&db, args).await.must(0);
    }
    // The audit reports this one by itself.
    let reset = format!("alter database {} reset session_replication_role", db.name);
    before.execute(AssertSqlSafe(reset)).await.expect("is reset");
    audit(db.url()).await.must(0);
    let reset = format!("alter database {} reset all", db.name);
    before.execute(AssertSqlSafe(reset)).await.expect("is reset");
    let mut connection = connect(&db).await;
    let objects = catalog(&mut connection).await;
    connection.close().await.expect("closes");
    objects
}

#[tokio::test]
async fn settings_of_the_database_change_nothing() {
    let existing: Vec<String> = sqlx::query_scalar("select name from pg_settings where name = any ($1)")
        .bind(NEWER_SETTINGS.map(|(name, _)| name))
        .fetch_all(&mut connect(&TestDb::create().await).await)
        .await
        .expect("is read");
    let newer = NEWER_SETTINGS.iter().filter(|(name, _)| existing.iter().any(|n| n == name));
    let settings: Vec<&str> = SETTINGS.into_iter().chain(newer.map(|(_, setting)| *setting)).collect();
    let (plain, unusual) = tokio::join!(adopted(&[]), adopted(&settings));
    let missing: Vec<_> = plain.iter().filter(|line| !unusual.contains(line)).collect();
    let other: Vec<_> = unusual.iter().filter(|line| !plain.contains(line)).collect();
    assert!(missing.is_empty() && other.is_empty(), "missing {missing:#?}\nother {other:#?}");
}

/// A login role can act as another role from its first statement, as dynamic credentials do. If the role may
/// not change a setting, the error names the setting and the remedy.
#[tokio::test]
async fn settings_of_the_login_role_are_followed_or_named() {
    let (cluster, db) = TestDb::create_alone().await;
    db.run(
        "create role app_owner createrole;
         grant warden_owner, authenticated, anon, service_role to app_owner with admin option;
         create role deployer login noinherit;
         grant app_owner to deployer;
         alter role deployer set role = 'app_owner'",
    )
    .await;
    db.run("create database application template template0 owner app_owner").await;
    let url = cluster.url("application", "deployer");
    let run = |args: &'static [&'static str]| {
        let mut command = warden(&url, "migrate");
        command.args(args);
        ended(RUN_DEADLINE, command)
    };
    let mut owner = sqlx::PgConnection::connect(&url).await.expect("connects");
    let sql = "create schema if not exists public;
        create table accounts (id uuid primary key default gen_random_uuid(), owner_id uuid not null);
        insert into accounts (owner_id) select gen_random_uuid() from generate_series(1, 3)";
    sqlx::raw_sql(sql).execute(&mut owner).await.expect("creates");
    db.run("alter role deployer set session_replication_role = replica").await;
    let rejected = run(&["--plan"]).await.must(1).stderr;
    for part in [
        "needs the setting session_replication_role = 'origin'",
        "alter role ... reset session_replication_role;",
    ] {
        assert!(rejected.contains(part), "{rejected}");
    }
    db.run("alter role deployer reset session_replication_role; alter role deployer set default_transaction_read_only = on").await;
    for args in [
        &["--plan", "--tables", "accounts", "--default-organization"][..],
        &["--tables", "accounts", "--default-organization"],
        &["--enforce", "--yes"],
        &[],
    ] {
        run(args).await.must(0);
    }
    let owners: Vec<String> = sqlx::query_scalar(
        "select distinct relowner::regrole::text from pg_class where relnamespace = 'public'::regnamespace",
    )
    .fetch_all(&mut owner)
    .await
    .expect("is read");
    assert_eq!(owners, ["app_owner"]);
    drop(owner);
    cluster.close().await.expect("ends");
}

/// PostgreSQL rejects updates of a published table whose rows subscribers cannot identify. An application
/// that only inserts does not notice it, but the backfill updates.
#[tokio::test]
async fn a_published_table_without_a_key_is_filled_once_it_has_a_replica_identity() {
    let db = bare_db(APPLICATION).await;
    db.run(
        "create table \"Log Lines\" (account_id uuid references accounts, line text);
         insert into \"Log Lines\" select id, 'x' from accounts;
         create publication everything for all tables",
    )
    .await;
    let tables = "public.accounts,public.\"Log Lines\"";
    let remedy = r#"alter table "public"."Log Lines" replica identity full;"#;
    let run = migrate(&db, &["--tables", tables, "--default-organization"])
        .await
        .must(1)
        .says(&["does not have a replica identity", remedy]);
    db.run(remedy).await;
    migrate(&db, &[]).await.must(0);
    let back = r#"alter table "public"."Log Lines" replica identity default;"#;
    run.says(&[back]);
    db.run(back).await;
    migrate(&db, &["--enforce", "--yes"]).await.must(0);
}

//! Databases that move to another cluster: by `pg_upgrade`, and by a restore where Warden's roles are
//! missing.

use std::collections::BTreeSet;

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use warden::postgres::migrate;
use warden_devkit::cluster::{Cluster, SUPERUSER};

use super::restore::{REGISTRY, Scratch, audit, begin_use, dump, has_programs, objects, run, warden, write};
use super::texts;
use crate::harness::{TestDb, cluster_options};

/// A database of this cluster.
async fn database_of(cluster: &Cluster, name: &str) -> TestDb {
    TestDb::at(name, &cluster.url(name, SUPERUSER), &cluster.url(name, "warden_gateway")).await
}

/// Registered tables, and the calls that create the watches.
const CALLS: &str = "select t::text from warden.tenant_tables t
                     union all select warden.watch_call(w) from warden.watches w order by 1";

/// Rules and tables of the audit's findings.
async fn findings(db: &TestDb) -> BTreeSet<String> {
    let report = audit(db).await;
    let all = report["findings"].as_array().expect("a list").iter();
    all.filter(|f| f["severity"] == "finding").map(|f| format!("{} {}", f["rule"], f["table"])).collect()
}

#[tokio::test]
async fn a_database_moved_by_pg_upgrade_is_complete() {
    if cluster_options().binaries.client("pg_upgrade").is_none() {
        eprintln!("not tested: pg_upgrade of this version is not installed");
        return;
    }
    let (mut cluster, db) = TestDb::create_alone().await;
    begin_use(&db).await;
    let (wanted, registry) = (objects(&db).await, texts(&db, REGISTRY).await);
    let found = findings(&db).await;
    db.pool.close().await;
    cluster.stop().await.expect("stops");
    let upgraded = cluster.start_upgraded().await.expect("is upgraded");

    let moved = database_of(&upgraded, db.name()).await;
    assert_eq!(texts(&moved, REGISTRY).await, registry);
    assert_eq!(migrate(moved.url()).await.expect("migrates").applied, Vec::new());
    assert_eq!(objects(&moved).await, wanted);
    assert_eq!(findings(&moved).await, found);
    write(&moved).await;
    moved.pool.close().await;
    upgraded.close().await.expect("is removed");
    cluster.close().await.expect("is removed");
}

#[tokio::test]
async fn a_restore_into_a_cluster_without_the_roles_is_completed() {
    if !has_programs() {
        return;
    }
    let db = TestDb::create().await;
    begin_use(&db).await;
    // Rights on the tables of an application are the operator's.
    let own = |lines: Vec<String>| -> BTreeSet<String> {
        lines.into_iter().filter(|l| !l.starts_with("table ") || l.starts_with("table warden.")).collect()
    };
    let (wanted, registry) = (own(objects(&db).await), texts(&db, CALLS).await);
    let dir = Scratch::new(&db);
    let to = dir.0.join("dump");
    dump(&db, &["-Fp"], &to);

    let cluster = Cluster::start(cluster_options()).await.expect("PostgreSQL starts");
    let mut admin = PgConnection::connect(&cluster.url("postgres", SUPERUSER)).await.expect("connects");
    admin.execute(AssertSqlSafe("create database restored template template0")).await.expect("creates");
    let restored = database_of(&cluster, "restored").await;
    // Without ON_ERROR_STOP, the statements that name the roles fail, and the others are executed.
    let messages = run("psql", |c| c.args(["-qX", "-f"]).arg(&to).arg(restored.url()));
    assert!(messages.contains(r#"role "warden_owner" does not exist"#), "{messages}");
    migrate(restored.url()).await.expect("completes");
    assert_eq!(texts(&restored, CALLS).await, registry);
    // Policies for roles that were missing belong to the enforce phase. Until then nobody sees the rows.
    let found = own(objects(&restored).await);
    let lost: Vec<&String> = wanted.symmetric_difference(&found).collect();
    let of_policies = |line: &&&String| line.starts_with("policy ") || line.starts_with("comment warden_");
    assert!(!lost.is_empty() && lost.iter().all(|line| of_policies(&line)), "{lost:#?}");
    let reported = findings(&restored).await;
    assert!(reported.contains(r#""policy" "public.calls""#), "{reported:#?}");
    warden(&restored, &["migrate", "--enforce", "--yes"]).await;
    let found = own(objects(&restored).await);
    let differences: Vec<&String> = wanted.symmetric_difference(&found).collect();
    assert!(differences.is_empty(), "{differences:#?}");
    write(&restored).await;
    assert_eq!(migrate(restored.url()).await.expect("migrates").applied, Vec::new());
    restored.pool.close().await;
    cluster.close().await.expect("is removed");
}

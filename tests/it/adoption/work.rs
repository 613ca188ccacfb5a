//! The work that a run gives to the database, in calls of functions. Each call of these queries the catalogs.

use std::collections::HashMap;

use super::migrate;
use crate::harness::{TestDb, eventually};

/// Watches of the platform, that of the organisations included.
const WATCHES: i64 = 4;
/// Files of the platform that create tables.
const TABLE_FILES: i64 = 7;

/// Calls of each function since the database was created. Every `warden migrate` is over, and a backend
/// reports its calls when it ends.
async fn calls(db: &TestDb) -> HashMap<String, i64> {
    let name = db.name().to_owned();
    eventually("the backends end", async || {
        let sql = "select count(*) = 0 from pg_stat_activity where datname = $1 and application_name like 'warden%'";
        sqlx::query_scalar::<_, bool>(sql).bind(&name).fetch_one(&db.pool).await.expect("reads")
    })
    .await;
    let sql = "select funcname::text, sum(calls)::bigint from pg_stat_user_functions group by 1";
    let calls: Vec<(String, i64)> = sqlx::query_as(sql).fetch_all(&db.pool).await.expect("reads");
    calls.into_iter().collect()
}

#[tokio::test]
async fn a_run_reads_what_it_needs_once() {
    let db = TestDb::create_from("template0").await;
    db.run(format!("alter database {} set track_functions = 'all'", db.name())).await;
    db.pool.close().await;
    let db = TestDb::at(&db.name, db.url(), db.gateway_url()).await;

    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(&db.pool)
        .await
        .expect("reads");
    if version < 150_000 {
        // There, a process collects the statistics, and nothing tells when it has them all.
        return;
    }

    migrate(db.url(), &["--platform"]).await.must(0);
    let first = calls(&db).await;
    // Once for the new and once for the old row of each watch.
    assert_eq!(first["document_columns"] - first["key_parts"], 2 * WATCHES, "{first:?}");
    // The files create tables, and look for what is missing of these; and one plan.
    assert_eq!(first["tenant_objects_of"], TABLE_FILES + 2, "{first:?}");
    // The event trigger checks no statement of a migration: each watch is completed when it is created.
    assert!(first["trigger_words"] <= 3 * WATCHES, "{first:?}");

    migrate(db.url(), &[]).await.must(0);
    let second = calls(&db).await;
    assert_eq!(second["tenant_objects_of"] - first["tenant_objects_of"], 1, "a run that has nothing to do");
    assert_eq!(second["document_columns"], first["document_columns"], "no log function is generated again");

    migrate(db.url(), &["--plan", "--enforce"]).await.must(0);
    let third = calls(&db).await;
    assert_eq!(third["tenant_objects_of"] - second["tenant_objects_of"], 1, "a plan");
}

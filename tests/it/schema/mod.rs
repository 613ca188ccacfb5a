//! The schema without a gateway: claims, rights, arguments that `warden.watch` and `warden.publish` reject,
//! and properties of the log on which the cursor relies.

mod again;
mod claims;
mod default_privileges;
mod existing;
mod file_by_file;
mod moved;
mod planted_types;
mod publish;
mod recipes;
mod restore;
mod rights;
pub mod sets;
mod states;
mod tenancy;
mod token_hook;
mod watch;

use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Executor as _};
use uuid::Uuid;

use crate::harness::TestDb;

/// The database's error for a statement that it must reject.
#[derive(Debug)]
struct Rejection {
    sqlstate: String,
    message: String,
    hint: String,
}

async fn rejection(db: &TestDb, sql: &str) -> Rejection {
    match db.pool.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await {
        Ok(_) => panic!("{sql}: no error"),
        Err(error) => {
            let error = error.into_database_error().expect("the database's own error");
            let error = error.downcast_ref::<PgDatabaseError>();
            Rejection {
                sqlstate: error.code().to_owned(),
                message: error.message().to_owned(),
                hint: error.hint().unwrap_or_default().to_owned(),
            }
        }
    }
}

/// Reads one number.
async fn count(db: &TestDb, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&db.pool)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// Reads one column of strings.
async fn texts(db: &TestDb, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(&db.pool)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
}

#[tokio::test]
async fn migrating_again_does_nothing() {
    let db = TestDb::create().await;
    let applied = "select (select count(*) from warden._sqlx_migrations where success)
                          + (select count(*) from warden._platform_migrations where success)";
    let objects = "select (select count(*) from pg_class) + (select count(*) from pg_proc) + (select count(*) from pg_trigger)";
    let before = (count(&db, applied).await, count(&db, objects).await);
    let migrated = warden::postgres::migrate_platform(db.url()).await.expect("migrates");
    assert!(migrated.applied.is_empty(), "{migrated:?}");
    assert_eq!(i64::try_from(migrated.total).expect("few"), before.0);
    assert_eq!((count(&db, applied).await, count(&db, objects).await), before);
}

#[tokio::test]
async fn the_default_organisation_exists() {
    let db = TestDb::create().await;
    let known: (Uuid, String) =
        sqlx::query_as("select id, name from organizations").fetch_one(&db.pool).await.expect("one");
    assert_eq!(
        known,
        (uuid::uuid!("a0000000-0000-0000-0000-000000000001"), "Default organization".to_owned())
    );
}

/// After a crash, PostgreSQL may hand out again only ids above the last committed one. A sequence that caches
/// a range per session would break that, and the cursor with it.
#[tokio::test]
async fn event_ids_are_not_cached() {
    let db = TestDb::create().await;
    let cache = count(
        &db,
        "select seqcache from pg_sequence
         where seqrelid = pg_get_serial_sequence('warden.events', 'id')::regclass",
    )
    .await;
    assert_eq!(cache, 1);
}

#[tokio::test]
async fn the_log_has_eight_slots_and_writes_to_the_current_one() {
    let db = TestDb::create().await;
    let bounds = texts(
        &db,
        "select pg_get_expr(c.relpartbound, c.oid) from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'warden.events'::regclass order by c.relname",
    )
    .await;
    let expected: Vec<String> = (0..8).map(|n| format!("FOR VALUES IN ('{n}')")).collect();
    assert_eq!(bounds, expected);
    // Events are written to the slot in the sequence.
    let org = db.create_org().await;
    for slot in 0..8 {
        db.run(format!("select setval('warden.events_slot', {slot})")).await;
        db.publish(org, "org", "test.note").await;
        let rows = format!("select count(*) from warden.events_{slot} where event = 'test.note'");
        assert_eq!(count(&db, &rows).await, 1, "slot {slot}");
    }
}

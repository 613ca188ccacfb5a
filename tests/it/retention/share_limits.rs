//! Limits of the share of the log: a pass that takes too long, a share of the whole log, isolation levels,
//! and writers beside a pass.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

use super::share::{LOG_BYTES, current_slot, flood, rotate_once, rotate_while_moving, rotate_with_share};
use super::tailer::{insert_numbered, own_connection};
use crate::harness::TestDb;

/// Events of more than 8 MiB in all, so a pass takes several steps.
const LARGE: usize = 8000;

async fn events_of(connection: &mut PgConnection, org: Uuid) -> i64 {
    let count =
        sqlx::query_scalar("select count(*) from warden.events where org_id = $1 and topic = 'calls'");
    count.bind(org).fetch_one(connection).await.expect("queries")
}

/// The log is far beyond twice its size, so after five minutes its size matters more than the events of
/// others.
#[tokio::test]
async fn a_pass_that_takes_too_long_ends_if_the_log_has_more_than_doubled() {
    for (age, expected, kept) in [("1 minute", "rotated by share", 1), ("6 minutes", "rotated", 0)] {
        let db = TestDb::create().await;
        let (quiet, loud) = (db.create_org().await, db.create_org().await);
        let mut connection = own_connection(&db).await;
        let start = current_slot(&mut connection).await;
        flood(&mut connection, loud, LARGE).await;
        insert_numbered(&mut connection, quiet, 1..=1).await;
        // Until the slot with these events is the oldest.
        while (current_slot(&mut connection).await + 1) % 8 != start {
            flood(&mut connection, loud, 100).await;
            assert_eq!(rotate_while_moving(&mut connection).await, ["rotated"]);
        }
        flood(&mut connection, loud, 100).await;
        assert_eq!(rotate_once(&mut connection).await, "moving");
        let backdate = format!("update warden.log_moves set started_at = started_at - interval '{age}'");
        connection.execute(AssertSqlSafe(backdate)).await.expect("updates");
        let results = rotate_while_moving(&mut connection).await;
        assert_eq!(results.last().map(String::as_str), Some(expected), "{age}: {results:?}");
        assert_eq!(events_of(&mut connection, quiet).await, kept, "{age}");
    }
}

#[tokio::test]
async fn a_share_of_the_whole_log_moves_nothing() {
    let db = TestDb::create().await;
    let (quiet, loud) = (db.create_org().await, db.create_org().await);
    let mut connection = own_connection(&db).await;
    insert_numbered(&mut connection, quiet, 1..=1).await;
    for _ in 0..8 {
        flood(&mut connection, loud, 100).await;
        assert_eq!(rotate_with_share(&mut connection, LOG_BYTES).await, "rotated");
    }
    assert_eq!(events_of(&mut connection, quiet).await, 0);
}

#[tokio::test]
async fn a_rotation_needs_the_isolation_level_read_committed() {
    let db = TestDb::create().await;
    let mut connection = own_connection(&db).await;
    for level in ["repeatable read", "serializable"] {
        let set = format!("set default_transaction_isolation = '{level}'");
        connection.execute(AssertSqlSafe(set)).await.expect("sets");
        let error = connection.execute("select warden.rotate_events('0', 0)").await.expect_err("fails");
        assert!(error.to_string().contains("needs the isolation level READ COMMITTED"), "{error}");
    }
}

/// No statement of a pass conflicts with a lock of a writer, however long it takes: here each one stays open
/// while every kind of write is done, so a write that waits for it waits until the lock limit. The limit is
/// long because commits with NOTIFY wait for each other in the whole cluster, which other tests use too.
#[tokio::test]
async fn writers_do_not_wait_while_events_are_moved() {
    let db = TestDb::create().await;
    let (quiet, loud) = (db.create_org().await, db.create_org().await);
    let (mut rotating, mut writing) = (own_connection(&db).await, own_connection(&db).await);
    let start = current_slot(&mut rotating).await;
    // Two steps of 8 MiB.
    flood(&mut writing, loud, LARGE).await;
    insert_numbered(&mut writing, quiet, 1..=1).await;
    while (current_slot(&mut rotating).await + 1) % 8 != start {
        flood(&mut writing, loud, 100).await;
        assert_eq!(rotate_while_moving(&mut rotating).await, ["rotated"]);
    }
    flood(&mut writing, loud, 100).await;
    // The earlier events of the organisations are in the slot that is being read.
    writing.execute("set lock_timeout = '20s'").await.expect("sets");
    let mut steps = 0;
    loop {
        let mut step = rotating.begin().await.expect("begins");
        let result = rotate_once(&mut step).await;
        if result != "moving" {
            assert_eq!(result, "rotated by share");
            step.rollback().await.expect("ends");
            break;
        }
        steps += 1;
        for org in [quiet, loud] {
            flood(&mut writing, org, 10).await;
            for write in [
                "update calls set metadata = '{}'",
                "delete from calls",
                "select warden.publish(org_id, 'calls', 'x.y', '{}') from calls",
            ] {
                let write = format!("{write} where org_id = '{org}' and metadata ? 'text'");
                writing.execute(AssertSqlSafe(write)).await.expect("does not wait");
            }
        }
        step.commit().await.expect("commits");
    }
    assert!(steps > 1, "{steps} steps");
    assert!(events_of(&mut rotating, quiet).await > 0);
}

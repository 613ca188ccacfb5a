//! Slots that are emptied behind, before and under the reader: it says that something is gone, and says so before
//! it passes on what lies beyond.

use std::time::Duration;

use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Transaction};
use uuid::Uuid;
use warden::log::LogReader;
use warden::postgres::Primary;
use warden_devkit::cluster::SUPERUSER;

use super::{CLOSE_TIMEOUT, client, forgetful};
use crate::harness::{Client, TestDb, TestGateway, eventually, shared_cluster_url};

async fn own_connection(db: &TestDb) -> PgConnection {
    PgConnection::connect(db.url()).await.expect("connects")
}

/// So many steps of the ring, each once nobody who reads the log just now is in its way any more.
async fn turn(connection: &mut PgConnection, steps: usize) {
    for _ in 0..steps {
        eventually("a step", async || {
            let step = sqlx::query_scalar("select warden.rotate_events('0', 0)");
            let done: String = step.fetch_one(&mut *connection).await.expect("rotates");
            assert!(["rotated", "blocked"].contains(&done.as_str()), "{done}");
            done == "rotated"
        })
        .await;
    }
}

/// One statement, so one transaction where none is open; the rows are told apart by their numbers.
async fn insert_numbered(connection: &mut PgConnection, org: Uuid, numbers: std::ops::RangeInclusive<i64>) {
    sqlx::query(
        "insert into calls (org_id, metadata)
         select $1, jsonb_build_object('n', n) from generate_series($2, $3) n",
    )
    .bind(org)
    .bind(numbers.start())
    .bind(numbers.end())
    .execute(connection)
    .await
    .expect("inserts");
}

async fn delete_org(connection: &mut PgConnection, org: Uuid) {
    let delete = sqlx::query("delete from organizations where id = $1").bind(org);
    delete.execute(connection).await.expect("deletes");
}

async fn expect_numbered(client: &mut Client, numbers: std::ops::RangeInclusive<i64>) {
    for n in numbers {
        assert_eq!(client.expect_event("calls", "call.created").await.data("metadata")["n"], n);
    }
}

async fn expect_too_old(client: &mut Client) {
    assert_eq!(client.expect_event("calls", "warden.resync").await.payload["reason"], "too_old");
}

/// Nobody else comes by the table until this ends.
async fn hold<'c>(connection: &'c mut PgConnection, table: &str) -> Transaction<'c, Postgres> {
    let mut tx = connection.begin().await.expect("begins");
    let lock = format!("lock table {table} in access exclusive mode");
    tx.execute(AssertSqlSafe(lock)).await.expect("locks");
    tx
}

/// Waits until the gateway waits for a lock, with a statement that has this in it.
async fn expect_waiting(connection: &mut PgConnection, part: &str) {
    eventually("the reader waits", async || {
        sqlx::query_scalar(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and usename = 'warden_gateway' and wait_event_type = 'Lock'
               and strpos(query, $1) > 0",
        )
        .bind(part)
        .fetch_one(&mut *connection)
        .await
        .expect("asks")
    })
    .await;
}

/// Whether anybody may connect to a database; said from another one, as PostgreSQL wants it.
async fn let_in(db: &TestDb, yes: bool) {
    let mut elsewhere =
        PgConnection::connect(&shared_cluster_url("postgres", SUPERUSER)).await.expect("connects");
    let sql = format!("alter database {} allow_connections {yes}", db.name());
    elsewhere.execute(AssertSqlSafe(sql)).await.expect("alters");
}

/// For the gateway the database is away until [`let_in`] ends it. Connections that are open stay open, but for
/// the gateway's.
async fn shut_out_gateway(db: &TestDb, connection: &mut PgConnection) {
    let_in(db, false).await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and usename = 'warden_gateway'";
    connection.execute(end).await.expect("ends the gateway's connections");
}

/// The reader asks for what is gone when it connects; here the slot is emptied between that and its first
/// read.
#[tokio::test]
async fn a_slot_that_is_emptied_before_the_first_read_is_told_before_what_lies_beyond_it() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = forgetful(&db).await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;
    // Both are open before nobody can connect any more.
    let (mut turning, mut writing) = (own_connection(&db).await, own_connection(&db).await);
    insert_numbered(&mut writing, org, 1..=1).await;
    expect_numbered(&mut follower, 1..=1).await;

    shut_out_gateway(&db, &mut writing).await;
    insert_numbered(&mut writing, org, 2..=2).await;
    turn(&mut turning, 1).await;
    // In a slot that stays: whoever has the cursor of this one counts the one before as seen.
    insert_numbered(&mut writing, org, 3..=3).await;
    turn(&mut turning, 6).await;
    let mut tx = turning.begin().await.expect("begins");
    turn(&mut tx, 1).await;
    let_in(&db, true).await;
    expect_waiting(&mut writing, "begun_since").await;
    tx.commit().await.expect("commits");
    expect_too_old(&mut follower).await;
    expect_numbered(&mut follower, 3..=3).await;
    insert_numbered(&mut writing, org, 4..=4).await;
    expect_numbered(&mut follower, 4..=4).await;
    gateway.stop().await;
}

/// A read of many pages holds no lock between them: what is emptied there is not taken for nothing, and is told
/// before the page that lies beyond it. And what the log would have told the node itself is asked for.
#[tokio::test]
async fn a_slot_that_is_emptied_between_pages_is_told_before_what_lies_beyond_it() {
    const PAGE_ROWS: u32 = 20;
    let page = i64::from(PAGE_ROWS);
    let db = TestDb::create().await;
    let (org, gone) = (db.create_org().await, db.create_org().await);
    // Only this test turns the ring, and waits for nobody else who does.
    db.run("revoke execute on function warden.rotate_events from warden_gateway").await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.tailer.page_rows_max = PAGE_ROWS;
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
        // Nothing here waits for the next time that the node would ask anyway.
        config.limits.reconciler.interval = Duration::from_hours(1);
    })
    .await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;
    let mut of_gone = client(&gateway, gone).await;
    of_gone.join("calls").await;
    let (mut turning, mut writing) = (own_connection(&db).await, own_connection(&db).await);
    let (mut asking, mut watching) = (own_connection(&db).await, own_connection(&db).await);

    // One transaction, so one read: two pages of it in the first slot, and half a page in the second.
    let mut bulk = writing.begin().await.expect("begins");
    insert_numbered(&mut bulk, org, 1..=2 * page).await;
    bulk.execute("select warden.declare_topic('invoices')").await.expect("declares");
    delete_org(&mut bulk, gone).await;
    turn(&mut turning, 1).await;
    insert_numbered(&mut bulk, org, 2 * page + 1..=2 * page + page / 2).await;
    // After each page the reader looks into the log's state. Stopped there with the first page, it finds the log
    // locked before the second.
    let held_state = hold(&mut asking, "warden.log_state").await;
    bulk.commit().await.expect("commits");
    expect_waiting(&mut watching, "is_truncated").await;
    let mut held_log = hold(&mut turning, "warden.events").await;
    held_state.commit().await.expect("ends");
    expect_numbered(&mut follower, 1..=page).await;
    turn(&mut held_log, 7).await;
    held_log.commit().await.expect("commits");

    expect_too_old(&mut follower).await;
    expect_numbered(&mut follower, 2 * page + 1..=2 * page + page / 2).await;
    follower.join("invoices").await;
    expect_too_old(&mut of_gone).await;
    of_gone.expect_close(4404).await;
    insert_numbered(&mut writing, org, 0..=0).await;
    expect_numbered(&mut follower, 0..=0).await;
    gateway.stop().await;
}

/// What would have told of a deletion may be gone with the rest: whoever was away for longer than the log is kept
/// asks which organisations there still are.
#[tokio::test]
async fn a_deletion_that_went_with_its_slot_ends_the_sessions_all_the_same() {
    let db = TestDb::create().await;
    let (org, gone) = (db.create_org().await, db.create_org().await);
    let gateway = TestGateway::gateway(&db, |config| {
        // Nothing here waits for the next time that the node would ask anyway.
        config.limits.reconciler.interval = Duration::from_hours(1);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;
    let mut of_gone = client(&gateway, gone).await;
    of_gone.join("calls").await;
    let mut elsewhere = own_connection(&db).await;
    insert_numbered(&mut elsewhere, org, 1..=1).await;
    expect_numbered(&mut follower, 1..=1).await;

    shut_out_gateway(&db, &mut elsewhere).await;
    delete_org(&mut elsewhere, gone).await;
    turn(&mut elsewhere, 8).await;
    let_in(&db, true).await;
    expect_too_old(&mut follower).await;
    expect_too_old(&mut of_gone).await;
    of_gone.expect_close(4404).await;
    assert_eq!(gateway.metrics().orgs_swept.get(), 1);
    insert_numbered(&mut elsewhere, org, 2..=2).await;
    expect_numbered(&mut follower, 2..=2).await;
    gateway.stop().await;
}

/// A node that begins makes up the point from which it has the last rows in memory. There is none where retention
/// has taken something that such a point does not cover, be it only a transaction that began later than those whose
/// rows are left.
#[tokio::test]
async fn no_point_is_made_up_from_which_something_is_gone() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let primary = Primary::new(warden::postgres::options(db.gateway_url()).expect("a URL"));
    let mut log = LogReader::connect(&primary, 100).await.expect("connects");
    let mut has_point = async |rows| log.point_before_last(rows).await.expect("asks").is_some();
    let (mut turning, mut writing) = (own_connection(&db).await, own_connection(&db).await);
    let mut early = own_connection(&db).await;
    let mut early = early.begin().await.expect("begins");
    sqlx::query("select pg_current_xact_id()").execute(&mut *early).await.expect("gets an id");
    // This one goes, and its transaction is later than that of the first which stays.
    insert_numbered(&mut writing, org, 1..=1).await;
    turn(&mut turning, 1).await;
    insert_numbered(&mut early, org, 2..=2).await;
    early.commit().await.expect("commits");
    for n in 3..=4 {
        insert_numbered(&mut writing, org, n..=n).await;
    }
    for rows in [1, 2, 3, 100] {
        assert!(has_point(rows).await, "nothing is gone, and the last {rows} can be had");
    }

    turn(&mut turning, 7).await;
    assert!(has_point(1).await, "all that wrote before the last row is covered, what is gone too");
    assert!(!has_point(2).await, "what is gone was written after the last transaction that is covered");
    assert!(!has_point(3).await, "only what is left lies beyond it, and there was more");
    assert!(!has_point(100).await, "nor from before the first row");
}

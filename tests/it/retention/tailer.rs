//! Slots that retention truncates behind, before and during the tailer's reads. The tailer sends a resync,
//! and sends it before it dispatches later events.

use std::time::Duration;

use serde_json::json;
use sqlx::postgres::{PgConnection, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Transaction};
use uuid::Uuid;
use warden::log::{LogReader, PageLimits};
use warden::postgres::Primary;
use warden_devkit::cluster::SUPERUSER;

use super::{CLOSE_TIMEOUT, client, gateway_without_recent};
use crate::harness::{Client, TestDb, TestGateway, eventually, rotate_log, shared_cluster_url};

pub(super) async fn own_connection(db: &TestDb) -> PgConnection {
    PgConnection::connect(db.url()).await.expect("connects")
}

/// Inserts calls with these numbers in one statement, which is one transaction if none is open.
pub(super) async fn insert_numbered(
    connection: &mut PgConnection,
    org: Uuid,
    numbers: std::ops::RangeInclusive<i64>,
) {
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

pub(super) async fn expect_numbered(client: &mut Client, numbers: std::ops::RangeInclusive<i64>) {
    for n in numbers {
        assert_eq!(client.expect_event("calls", "call.created").await.data("metadata")["n"], n);
    }
}

async fn expect_too_old(client: &mut Client) {
    assert_eq!(client.expect_event("calls", "warden.resync").await.payload["reason"], "too_old");
}

/// Locks a table until the transaction ends.
async fn lock_table<'c>(connection: &'c mut PgConnection, table: &str) -> Transaction<'c, Postgres> {
    let mut tx = connection.begin().await.expect("begins");
    let lock = format!("lock table {table} in access exclusive mode");
    tx.execute(AssertSqlSafe(lock)).await.expect("locks");
    tx
}

/// Waits until a statement of the gateway that contains `part` waits for a lock.
async fn expect_waiting(connection: &mut PgConnection, part: &str) {
    eventually("the tailer waits for a lock", async || {
        sqlx::query_scalar(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and usename = 'warden_gateway' and wait_event_type = 'Lock'
               and strpos(query, $1) > 0",
        )
        .bind(part)
        .fetch_one(&mut *connection)
        .await
        .expect("queries")
    })
    .await;
}

/// Allows or forbids connections to the database. PostgreSQL requires another database for this statement.
pub(super) async fn allow_connections(db: &TestDb, yes: bool) {
    let mut elsewhere =
        PgConnection::connect(&shared_cluster_url("postgres", SUPERUSER)).await.expect("connects");
    let sql = format!("alter database {} allow_connections {yes}", db.name());
    elsewhere.execute(AssertSqlSafe(sql)).await.expect("alters");
}

/// Makes the database unreachable for the gateway until [`allow_connections`] allows it again. Open
/// connections stay open, except those of the gateway.
pub(super) async fn disconnect_gateway(db: &TestDb, connection: &mut PgConnection) {
    allow_connections(db, false).await;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and usename = 'warden_gateway'";
    connection.execute(end).await.expect("ends the gateway's connections");
}

/// The tailer checks retention when it connects. Here the slot is truncated between that check and the first
/// read.
#[tokio::test]
async fn a_slot_truncated_before_the_first_read_causes_a_resync_before_later_events() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_without_recent(&db).await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;
    // Both connections are opened before connections are forbidden.
    let (mut rotating, mut writing) = (own_connection(&db).await, own_connection(&db).await);
    insert_numbered(&mut writing, org, 1..=1).await;
    expect_numbered(&mut follower, 1..=1).await;

    disconnect_gateway(&db, &mut writing).await;
    insert_numbered(&mut writing, org, 2..=2).await;
    rotate_log(&mut rotating, 1).await;
    // This event is in a slot that stays. Its cursor counts the event before it as seen.
    insert_numbered(&mut writing, org, 3..=3).await;
    rotate_log(&mut rotating, 6).await;
    let mut tx = rotating.begin().await.expect("begins");
    rotate_log(&mut tx, 1).await;
    allow_connections(&db, true).await;
    expect_waiting(&mut writing, "begun_since").await;
    tx.commit().await.expect("commits");
    expect_too_old(&mut follower).await;
    expect_numbered(&mut follower, 3..=3).await;
    insert_numbered(&mut writing, org, 4..=4).await;
    expect_numbered(&mut follower, 4..=4).await;
    gateway.stop().await;
}

/// A read of many pages holds no lock between them. If a slot is truncated there, the resync precedes the
/// next page. The node also reloads the state that the lost events would have updated.
#[tokio::test]
async fn a_slot_truncated_between_pages_causes_a_resync_before_later_events() {
    const PAGE_ROWS: u32 = 20;
    let page = i64::from(PAGE_ROWS);
    // In a shared cluster, transactions of other tests could cause a second resync, because the check after
    // several rotations relies on the oldest running transaction.
    let (cluster, db) = TestDb::create_alone().await;
    let (org, deleted) = (db.create_org().await, db.create_org().await);
    // Only this test rotates the log.
    db.run("revoke execute on function warden.rotate_events from warden_gateway").await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.tailer.page_rows_max = PAGE_ROWS;
        // The tailer polls on a ring only: a poll between the rotation and the commit below would wait in its
        // own check of the log's state.
        config.limits.tailer.poll_interval = Duration::from_hours(1);
        config.limits.tailer.retry_first = Duration::from_hours(1);
        config.limits.tailer.retry_max = Duration::from_hours(1);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
        // Disabled here, because the periodic reconciliation would hide that the node reconciles at once.
        config.limits.reconciler.interval = Duration::from_hours(1);
    })
    .await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;
    let mut deleted_client = client(&gateway, deleted).await;
    deleted_client.join("calls").await;
    let (mut rotating, mut writing) = (own_connection(&db).await, own_connection(&db).await);
    let (mut checking, mut watching) = (own_connection(&db).await, own_connection(&db).await);

    // One transaction is one read: two pages of it are in the first slot, and half a page is in the second.
    let mut bulk = writing.begin().await.expect("begins");
    insert_numbered(&mut bulk, org, 1..=2 * page).await;
    bulk.execute("select warden.declare_topic('invoices')").await.expect("declares");
    delete_org(&mut bulk, deleted).await;
    rotate_log(&mut rotating, 1).await;
    insert_numbered(&mut bulk, org, 2 * page + 1..=2 * page + page / 2).await;
    // After each page the tailer checks retention in the log's state. It is stopped there after the first
    // page, and then finds the log locked before the second page.
    let state_lock = lock_table(&mut checking, "warden.log_state").await;
    bulk.commit().await.expect("commits");
    expect_waiting(&mut watching, "truncated_since").await;
    let mut log_lock = lock_table(&mut rotating, "warden.events").await;
    state_lock.commit().await.expect("ends");
    expect_numbered(&mut follower, 1..=page).await;
    rotate_log(&mut log_lock, 7).await;
    log_lock.commit().await.expect("commits");

    expect_too_old(&mut follower).await;
    expect_numbered(&mut follower, 2 * page + 1..=2 * page + page / 2).await;
    follower.join("invoices").await;
    // A resync may precede the close, which is sent at once.
    deleted_client.expect_close(4404).await;
    insert_numbered(&mut writing, org, 0..=0).await;
    expect_numbered(&mut follower, 0..=0).await;
    gateway.stop().await;
    cluster.close().await.expect("ends");
}

/// The event that reported a deletion may be truncated too. So a node that was disconnected for longer than
/// the log is kept checks which organisations still exist.
#[tokio::test]
async fn a_truncated_deletion_event_still_closes_the_sessions() {
    let db = TestDb::create().await;
    let (org, deleted) = (db.create_org().await, db.create_org().await);
    let gateway = TestGateway::gateway(&db, |config| {
        // Disabled here, because the periodic reconciliation would hide that the node reconciles at once.
        config.limits.reconciler.interval = Duration::from_hours(1);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;
    let mut deleted_client = client(&gateway, deleted).await;
    deleted_client.join("calls").await;
    let mut elsewhere = own_connection(&db).await;
    insert_numbered(&mut elsewhere, org, 1..=1).await;
    expect_numbered(&mut follower, 1..=1).await;

    disconnect_gateway(&db, &mut elsewhere).await;
    delete_org(&mut elsewhere, deleted).await;
    rotate_log(&mut elsewhere, 8).await;
    allow_connections(&db, true).await;
    expect_too_old(&mut follower).await;
    // A resync may precede the close, which is sent at once.
    deleted_client.expect_close(4404).await;
    assert_eq!(gateway.metrics().orgs_swept.get(), 1);
    insert_numbered(&mut elsewhere, org, 2..=2).await;
    expect_numbered(&mut follower, 2..=2).await;
    gateway.stop().await;
}

/// A node that starts constructs the point from which it has the last rows in memory. There is no such point
/// if retention truncated an event that the point would not cover. That includes an event of a transaction
/// that began later than those whose rows remain.
#[tokio::test]
async fn no_warm_up_point_precedes_truncated_events() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let primary = Primary::new(warden::postgres::options(db.gateway_url()).expect("a URL"));
    let mut log = LogReader::connect(&primary, PageLimits { rows_max: 100, bytes_max: 1 << 20 })
        .await
        .expect("connects");
    let mut has_point = async |rows| log.point_before_last(rows).await.expect("queries").is_some();
    let (mut rotating, mut writing) = (own_connection(&db).await, own_connection(&db).await);
    let mut early = own_connection(&db).await;
    let mut early = early.begin().await.expect("begins");
    sqlx::query("select pg_current_xact_id()").execute(&mut *early).await.expect("gets an id");
    // This event will be truncated, and its transaction is later than that of the first event that stays.
    insert_numbered(&mut writing, org, 1..=1).await;
    rotate_log(&mut rotating, 1).await;
    insert_numbered(&mut early, org, 2..=2).await;
    early.commit().await.expect("commits");
    for n in 3..=4 {
        insert_numbered(&mut writing, org, n..=n).await;
    }
    for rows in [1, 2, 3, 100] {
        assert!(has_point(rows).await, "nothing is truncated, so the last {rows} rows can be warmed up");
    }

    rotate_log(&mut rotating, 7).await;
    assert!(
        has_point(1).await,
        "the point covers every transaction before the last row, and so the truncated one"
    );
    assert!(
        !has_point(2).await,
        "the truncated event was written after the last transaction that the point covers"
    );
    assert!(!has_point(3).await, "more events than the remaining ones are after the point");
    assert!(!has_point(100).await, "there is no point before the first row either");
}

/// A transaction may commit long after it wrote to a slot, and retention may empty that slot before the
/// tailer polls again. No row is left that shows this, so the tailer compares the number of the last
/// rotation.
#[tokio::test]
async fn a_late_commit_that_is_truncated_before_the_next_poll_causes_a_resync() {
    // In a shared cluster, transactions of other tests could cause an earlier resync.
    let (cluster, db) = TestDb::create_alone().await;
    let org = db.create_org().await;
    // Only this test rotates the log.
    db.run("revoke execute on function warden.rotate_events from warden_gateway").await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    let mut follower = client(&gateway, org).await;
    let before = follower.join("calls").await["cursor"].as_str().expect("a cursor").to_owned();
    let (mut rotating, mut writing) = (own_connection(&db).await, own_connection(&db).await);
    let (mut blocking, mut watching) = (own_connection(&db).await, own_connection(&db).await);

    // The last slot is emptied next, and the tailer reads the first slot first. So a lock on the first slot
    // stops the tailer, and does not keep the last slot from being emptied.
    rotate_log(&mut rotating, 7).await;
    let mut late = writing.begin().await.expect("begins");
    insert_numbered(&mut late, org, 1..=1).await;
    rotate_log(&mut rotating, 7).await;
    insert_numbered(&mut rotating, org, 2..=2).await;
    expect_numbered(&mut follower, 2..=2).await;
    let slot_lock = lock_table(&mut blocking, "warden.events_0").await;
    expect_waiting(&mut watching, "begun_since").await;
    late.commit().await.expect("commits");
    rotate_log(&mut rotating, 1).await;
    insert_numbered(&mut rotating, org, 3..=3).await;
    slot_lock.commit().await.expect("ends");

    expect_too_old(&mut follower).await;
    expect_numbered(&mut follower, 3..=3).await;
    // The node's memory of recent events does not contain the event either.
    let mut back = client(&gateway, org).await;
    back.join_with("calls", json!({"since": before})).await;
    expect_too_old(&mut back).await;
    gateway.stop().await;
    cluster.close().await.expect("ends");
}

/// While a transaction stays open, no snapshot is later than it. Rotations that remove delivered events must
/// not resync every client once a second because of it.
#[tokio::test]
async fn rotations_of_delivered_events_cause_no_resync_while_a_transaction_stays_open() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run("revoke execute on function warden.rotate_events from warden_gateway").await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
    })
    .await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;
    let (mut rotating, mut early) = (own_connection(&db).await, own_connection(&db).await);
    let (mut checking, mut writing) = (own_connection(&db).await, own_connection(&db).await);
    let mut early = early.begin().await.expect("begins");
    sqlx::query("select pg_current_xact_id()").execute(&mut *early).await.expect("gets an id");
    let delivered = async |connection: &mut PgConnection, client: &mut Client, n: i64| {
        insert_numbered(connection, org, n..=n).await;
        expect_numbered(client, n..=n).await;
    };
    for n in 1..=20 {
        // This transaction is late as well, but its event is delivered before its slot is emptied.
        let mut late = writing.begin().await.expect("begins");
        insert_numbered(&mut late, org, 100 + n..=100 + n).await;
        rotate_log(&mut rotating, 1).await;
        late.commit().await.expect("commits");
        expect_numbered(&mut follower, 100 + n..=100 + n).await;
        delivered(&mut rotating, &mut follower, n).await;
    }
    let is_truncated: bool =
        sqlx::query_scalar("select warden.is_truncated(pg_snapshot_xmin(pg_current_snapshot()))")
            .fetch_one(&mut checking)
            .await
            .expect("queries");
    assert!(is_truncated, "the open transaction is older than events that were removed");
    insert_numbered(&mut early, org, 0..=0).await;
    early.commit().await.expect("commits");
    expect_numbered(&mut follower, 0..=0).await;
    delivered(&mut rotating, &mut follower, 21).await;
    gateway.stop().await;
}

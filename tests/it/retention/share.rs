//! One organisation that fills the log loses its own oldest events, and no other organisation loses any.

use std::time::Duration;

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;
use warden::app::Gateway;
use warden::config::Config;

use super::tailer::{
    allow_connections, disconnect_gateway, expect_numbered, insert_numbered, own_connection,
};
use super::{CLOSE_TIMEOUT, client};
use crate::harness::{self, Client, TestDb, TestGateway, eventually};

/// Size of the log in these tests.
pub(super) const LOG_BYTES: u64 = 3 << 19;
const SLOT_BYTES: u64 = LOG_BYTES / 8;
const ORG_BYTES: u64 = LOG_BYTES / 4;

/// Events of a flood, which take about half a slot.
const FLOOD: usize = 40;

/// Rotations in which every slot is emptied at least once.
const ROUND: u64 = 9;

/// A rotation with these limits, as the gateway's job calls it.
pub(super) async fn rotate_once(connection: &mut PgConnection) -> String {
    rotate_with_share(connection, ORG_BYTES).await
}

/// A rotation with this share of one organisation.
pub(super) async fn rotate_with_share(connection: &mut PgConnection, org_bytes: u64) -> String {
    harness::rotate_once(connection, &format!("'1 hour', {SLOT_BYTES}, {org_bytes}")).await
}

/// Rotates until nothing more is to be done, and returns the results.
pub(super) async fn rotate_while_moving(connection: &mut PgConnection) -> Vec<String> {
    let mut results = Vec::new();
    loop {
        results.push(rotate_once(connection).await);
        if results.last().is_none_or(|result| result != "moving") {
            return results;
        }
    }
}

/// Logs events of more than a kilobyte each.
pub(super) async fn flood(connection: &mut PgConnection, org: Uuid, events: usize) {
    let insert = format!(
        "insert into calls (org_id, metadata)
         select '{org}', jsonb_build_object('text', (
           select string_agg(md5(m || '-' || n), '') from generate_series(1, 40) m))
         from generate_series(1, {events}) n"
    );
    connection.execute(AssertSqlSafe(insert)).await.expect("inserts");
}

/// The slot that is written.
pub(super) async fn current_slot(connection: &mut PgConnection) -> i64 {
    let slot = sqlx::query_scalar("select last_value from warden.events_slot");
    slot.fetch_one(connection).await.expect("queries")
}

async fn log_bytes(connection: &mut PgConnection) -> u64 {
    let bytes: i64 = sqlx::query_scalar(
        "select sum(pg_total_relation_size(format('warden.events_%s', n)::regclass))::bigint
         from generate_series(0, 7) n",
    )
    .fetch_one(connection)
    .await
    .expect("queries");
    u64::try_from(bytes).expect("is positive")
}

/// Starts a gateway whose job keeps the log small.
async fn gateway(db: &TestDb, change: impl FnOnce(&mut Config)) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.limits.retention.bytes_max = LOG_BYTES;
        config.limits.retention.org_bytes_max = ORG_BYTES;
        config.limits.retention.interval = Duration::from_millis(20);
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
        change(config);
    })
    .await
}

/// Floods the log until it is as small as configured. Without writes it might remain larger: a rotation is
/// only due once the current slot is half full.
async fn shrink(writing: &mut PgConnection, loud: Uuid) {
    let mut rotations = 0;
    while log_bytes(writing).await > LOG_BYTES {
        let former = current_slot(writing).await;
        flood(writing, loud, FLOOD).await;
        eventually("the log rotates", async || current_slot(writing).await != former).await;
        rotations += 1;
        assert!(rotations < 50, "the log stays larger than configured");
    }
}

async fn join_since(gateway: &Gateway, org: Uuid, since: &str) -> Client {
    let mut back = client(gateway, org).await;
    back.join_with("calls", json!({"since": since})).await;
    back
}

async fn cursor_of(gateway: &Gateway, org: Uuid) -> String {
    client(gateway, org).await.join("calls").await["cursor"].as_str().expect("a cursor").to_owned()
}

/// Floods the log while the job of a gateway keeps it small, until every slot was emptied. Meanwhile clients
/// of another organisation resume from their first cursor. Each of them receives every event once. Returns
/// the number of the last event.
async fn flood_while_clients_resume(
    gateway: &Gateway,
    writing: &mut PgConnection,
    loud: Uuid,
    (quiet, since, mut last): (Uuid, &str, i64),
) -> i64 {
    let enough = gateway.metrics().rotations_by_share.get() + ROUND;
    while gateway.metrics().rotations_by_share.get() < enough {
        flood(writing, loud, FLOOD).await;
        let mut back = join_since(gateway, quiet, since).await;
        last += 1;
        insert_numbered(writing, quiet, last..=last).await;
        expect_numbered(&mut back, 1..=last).await;
        assert!(last < 200, "the log is not rotated");
    }
    last
}

#[tokio::test]
async fn an_organisation_that_floods_the_log_loses_its_own_events_only() {
    // In a shared cluster, transactions of other tests would make cursors look older than they are.
    let (cluster, db) = TestDb::create_alone().await;
    let (quiet, loud) = (db.create_org().await, db.create_org().await);
    let first = gateway(&db, |config| config.limits.recent.bytes_max = 0).await;
    let (quiet_since, loud_since) = (cursor_of(&first, quiet).await, cursor_of(&first, loud).await);
    let mut writing = own_connection(&db).await;
    insert_numbered(&mut writing, quiet, 1..=10).await;

    let last = flood_while_clients_resume(&first, &mut writing, loud, (quiet, &quiet_since, 10)).await;
    // While no gateway runs, nothing rotates. The next one continues.
    first.stop().await;
    for _ in 0..4 {
        flood(&mut writing, loud, FLOOD).await;
    }
    let second = gateway(&db, |config| config.limits.recent.bytes_max = 0).await;
    let last = flood_while_clients_resume(&second, &mut writing, loud, (quiet, &quiet_since, last)).await;
    shrink(&mut writing, loud).await;

    // This node has the whole log in memory. It must not conclude that there never was more.
    let fresh = gateway(&db, |_| ()).await;
    for node in [&second, &fresh] {
        let mut back = join_since(node, loud, &loud_since).await;
        let resync = back.expect_event("calls", "warden.resync").await;
        assert_eq!(resync.payload["reason"], "log_share");
        let mut again = join_since(node, loud, resync.cursor()).await;
        insert_numbered(&mut writing, loud, 1..=1).await;
        expect_numbered(&mut back, 1..=1).await;
        expect_numbered(&mut again, 1..=1).await;
        expect_numbered(&mut join_since(node, quiet, &quiet_since).await, 1..=last).await;
    }
    second.stop().await;
    fresh.stop().await;
    cluster.close().await.expect("ends");
}

/// The pass that moves events has read the slot before the transaction commits. The slot must not be emptied
/// then. Meanwhile the loud organisation has lost only events that its client has seen.
#[tokio::test]
async fn a_late_commit_is_moved_too_before_its_slot_is_emptied() {
    let db = TestDb::create().await;
    let (quiet, loud) = (db.create_org().await, db.create_org().await);
    // Only this test rotates the log.
    db.run("revoke execute on function warden.rotate_events from warden_gateway").await;
    let gateway = gateway(&db, |config| config.limits.recent.bytes_max = 0).await;
    let quiet_since = cursor_of(&gateway, quiet).await;
    let mut follower = client(&gateway, loud).await;
    follower.join("calls").await;
    let (mut writing, mut rotating) = (own_connection(&db).await, own_connection(&db).await);
    let mut late = own_connection(&db).await;

    insert_numbered(&mut writing, quiet, 1..=2).await;
    let mut flood_until = async |wanted: &str| {
        for _ in 0..100 {
            flood(&mut writing, loud, FLOOD).await;
            for _ in 0..FLOOD {
                follower.expect_event("calls", "call.created").await;
            }
            if rotate_while_moving(&mut rotating).await.ends_with(&[wanted.to_owned()]) {
                return;
            }
        }
        panic!("no rotation was {wanted}");
    };
    flood_until("rotated by share").await;
    let mut late = late.begin().await.expect("begins");
    insert_numbered(&mut late, quiet, 3..=3).await;
    flood_until("blocked").await;
    late.commit().await.expect("commits");
    assert_eq!(rotate_while_moving(&mut rotating).await, ["moving", "moving", "rotated by share"]);
    expect_numbered(&mut join_since(&gateway, quiet, &quiet_since).await, 1..=3).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_node_that_was_disconnected_during_a_flood_resyncs_that_organisation_only() {
    let db = TestDb::create().await;
    let (quiet, loud) = (db.create_org().await, db.create_org().await);
    let gateway = gateway(&db, |_| ()).await;
    let (mut quiet_client, mut loud_client) = (client(&gateway, quiet).await, client(&gateway, loud).await);
    quiet_client.join("calls").await;
    loud_client.join("calls").await;
    // Both connections are opened before connections are forbidden.
    let (mut writing, mut rotating) = (own_connection(&db).await, own_connection(&db).await);

    disconnect_gateway(&db, &mut writing).await;
    insert_numbered(&mut writing, quiet, 1..=1).await;
    let mut by_share = 0;
    while by_share < ROUND {
        flood(&mut writing, loud, FLOOD).await;
        let results = rotate_while_moving(&mut rotating).await;
        by_share += u64::from(results.last().is_some_and(|last| last == "rotated by share"));
    }
    insert_numbered(&mut writing, quiet, 2..=2).await;
    allow_connections(&db, true).await;
    assert_eq!(loud_client.expect_event("calls", "warden.resync").await.payload["reason"], "log_share");
    loud_client.expect_event("calls", "call.created").await;
    expect_numbered(&mut quiet_client, 1..=2).await;
    insert_numbered(&mut writing, quiet, 3..=3).await;
    expect_numbered(&mut quiet_client, 3..=3).await;
    gateway.stop().await;
}

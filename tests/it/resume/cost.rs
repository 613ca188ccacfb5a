//! Cost of one cursor: the read that it causes, the memory that it takes, and the number of transactions that
//! it may name.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use warden::cursor::{Cursor, IN_PROGRESS_MAX, Point, Snapshot};

use super::log::insert_calls;
use super::{connect, cursor_after_one_call, gateway_without_recent};
use crate::harness::TestDb;

/// A cursor at this position, with a snapshot that names this many transactions in progress, far in the
/// future.
fn with_in_progress(cursor: &Cursor, count: usize) -> Cursor {
    const XMIN: u64 = 1_000_000_000;
    let in_progress: Vec<u64> = (0..count as u64).map(|n| XMIN + 2 * n).collect();
    let xmax = XMIN + 2 * count as u64;
    let snapshot = Snapshot { xmin: XMIN, xmax, in_progress };
    let point = Arc::new(Point { snapshot, max_id: cursor.id });
    Cursor { epoch: cursor.epoch, from: Arc::clone(&point), to: point, id: cursor.id }
}

/// Compared one by one, these rows and transactions take the server a minute.
#[tokio::test]
async fn a_read_takes_linear_time_in_the_transactions_of_its_cursors() {
    const ROWS: usize = 20_000;
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_without_recent(&db, |config| {
        config.limits.replay.log_read_timeout = Duration::from_secs(8);
    })
    .await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    let since = db.open_cursor(org, &since).await;
    insert_calls(&db, org, ROWS).await;
    db.publish(org, "recordings", "missed").await;
    let expensive = db.seal_cursor(org, &with_in_progress(&since, IN_PROGRESS_MAX / 2)).await;
    let mut client = connect(&gateway, org).await;
    client.join_with("recordings", json!({"since": expensive})).await;
    client.expect_only("recordings", "missed").await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_cursor_with_too_many_transactions_resyncs() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_without_recent(&db, |_| {}).await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    let since = db.open_cursor(org, &since).await;
    for (count, is_accepted) in [(IN_PROGRESS_MAX / 2, true), (IN_PROGRESS_MAX / 2 + 1, false)] {
        let mut client = connect(&gateway, org).await;
        let since = db.seal_cursor(org, &with_in_progress(&since, count)).await;
        let response = client.join_with("calls", json!({"since": since})).await;
        assert_eq!(response.get("resync").is_none(), is_accepted, "{count}");
    }
    gateway.stop().await;
}

/// A join may name two cursors, `since` and `seen`. Both take memory while it waits.
#[tokio::test]
async fn both_cursors_of_a_join_count_in_the_share_of_the_organisation() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway =
        gateway_without_recent(&db, |config| config.limits.replay.cursor_bytes_max = 16 * 1024).await;
    let small = cursor_after_one_call(&gateway, &db, org).await;
    let opened = db.open_cursor(org, &small).await;
    let large = db.seal_cursor(org, &with_in_progress(&opened, 1000)).await;
    for (payload, is_accepted) in [
        (json!({"since": small}), true),
        (json!({"since": small, "seen": small}), true),
        (json!({"since": large}), false),
        (json!({"since": small, "seen": large}), false),
    ] {
        let mut client = connect(&gateway, org).await;
        let response = client.join_with("calls", payload.clone()).await;
        assert!(response.get("resync").is_none(), "{payload}: {response}");
        if !is_accepted {
            let resync = client.expect_event("calls", "warden.resync").await;
            assert_eq!(resync.payload["reason"], "unavailable", "{payload}");
        }
        db.publish(org, "calls", "live").await;
        client.expect_only("calls", "live").await;
        client.push("calls", "phx_leave", json!({})).await;
    }
    gateway.stop().await;
}

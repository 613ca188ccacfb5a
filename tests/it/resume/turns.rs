//! Turns at the log that go wrong: one that takes too long is parted, and not everybody may wait for one.

use std::time::Duration;

use super::log::{expect_calls, hold_log, insert_calls, own_connection, resuming};
use super::{connect, forgetful, seen_one};
use crate::harness::{LogCapture, TestDb, eventually};

/// The read that they share takes too long: each half takes a turn of its own, and is served when the log can be
/// read again. One that was alone is told.
#[tokio::test]
async fn those_whose_read_takes_too_long_are_parted() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    let gateway = forgetful(&db, |config| {
        config.limits.replay.concurrent_reads_max = 1;
        config.limits.replay.log_read_timeout = Duration::from_secs(3);
    })
    .await;
    let of_other = seen_one(&gateway, &db, other).await;
    let first = seen_one(&gateway, &db, org).await;
    let second = seen_one(&gateway, &db, org).await;
    insert_calls(&db, org, 3).await;
    eventually("it is read", async || gateway.metrics().events.get() >= 6).await;

    let logs = LogCapture::begin();
    let mut connection = own_connection(&db).await;
    let held = hold_log(&mut connection).await;
    // The only one who reads is busy with another organisation: so these two share the next turn.
    let mut alone = resuming(&gateway, other, "calls", &of_other).await;
    let mut more = resuming(&gateway, org, "calls", &first).await;
    let mut less = resuming(&gateway, org, "calls", &second).await;
    let resync = alone.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "unavailable");
    let org_id = org.to_string();
    eventually("they are parted", async || {
        logs.text().lines().any(|line| line.contains("replay read split") && line.contains(&org_id))
    })
    .await;
    held.commit().await.expect("ends");
    expect_calls(&mut less, "calls", 3).await;
    expect_calls(&mut more, "calls", 4).await;
    assert_eq!(gateway.metrics().resyncs.get(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn beyond_those_who_may_wait_a_client_is_told() {
    const WAITING_MAX: usize = 2;
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = forgetful(&db, |config| {
        config.limits.replay.concurrent_reads_max = 1;
        config.limits.replay.waiting_max = WAITING_MAX;
    })
    .await;
    let since = seen_one(&gateway, &db, org).await;
    insert_calls(&db, org, 3).await;
    eventually("it is read", async || gateway.metrics().events.get() >= 4).await;
    let mut connection = own_connection(&db).await;
    let held = hold_log(&mut connection).await;
    let mut clients = vec![resuming(&gateway, org, "calls", &since).await];
    eventually("the first one's read is under way", async || {
        sqlx::query_scalar(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%org_id is null%'",
        )
        .fetch_one(&db.pool)
        .await
        .expect("asks")
    })
    .await;
    for _ in 0..WAITING_MAX {
        clients.push(resuming(&gateway, org, "calls", &since).await);
    }
    let mut beyond = resuming(&gateway, org, "calls", &since).await;
    let resync = beyond.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "unavailable");
    held.commit().await.expect("ends");
    for client in &mut clients {
        expect_calls(client, "calls", 3).await;
    }
    assert_eq!(gateway.metrics().resyncs.get(), 1);
    // There is room again.
    let mut again = connect(&gateway, org).await;
    again.join_with("calls", serde_json::json!({"since": since})).await;
    expect_calls(&mut again, "calls", 3).await;
    gateway.stop().await;
}

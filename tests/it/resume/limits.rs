//! Limits of reads for resumes: a read that times out is split, and the number of waiting clients is bounded.

use std::time::Duration;

use super::log::{expect_calls, insert_calls, lock_log, own_connection, resume_from_log};
use super::{connect, cursor_after_one_call, gateway_without_recent};
use crate::harness::{LogCapture, TestDb, eventually};

/// A shared read times out. Each half of its clients then gets a read of its own, and is served when the log
/// is readable again. A client that was alone in its read resyncs.
#[tokio::test]
async fn a_replay_read_that_times_out_is_split() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    let gateway = gateway_without_recent(&db, |config| {
        config.limits.replay.concurrent_reads_max = 1;
        config.limits.replay.log_read_timeout = Duration::from_secs(3);
    })
    .await;
    let other_cursor = cursor_after_one_call(&gateway, &db, other).await;
    let first = cursor_after_one_call(&gateway, &db, org).await;
    let second = cursor_after_one_call(&gateway, &db, org).await;
    insert_calls(&db, org, 3).await;
    eventually("the tailer has read the events", async || gateway.metrics().events.get() >= 6).await;

    let logs = LogCapture::begin();
    let mut connection = own_connection(&db).await;
    let lock = lock_log(&mut connection).await;
    // The only reading task is busy with the other organisation, so these two clients share the next read.
    let mut alone = resume_from_log(&gateway, other, "calls", &other_cursor).await;
    let mut more = resume_from_log(&gateway, org, "calls", &first).await;
    let mut less = resume_from_log(&gateway, org, "calls", &second).await;
    let resync = alone.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "unavailable");
    let org_id = org.to_string();
    eventually("the read is split", async || {
        logs.text().lines().any(|line| line.contains("replay read split") && line.contains(&org_id))
    })
    .await;
    lock.commit().await.expect("ends");
    expect_calls(&mut less, "calls", 3).await;
    expect_calls(&mut more, "calls", 4).await;
    assert_eq!(gateway.metrics().resyncs.get(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn resumes_above_the_waiting_limit_resync() {
    const WAITING_MAX: usize = 2;
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_without_recent(&db, |config| {
        config.limits.replay.concurrent_reads_max = 1;
        config.limits.replay.waiting_max = WAITING_MAX;
    })
    .await;
    let since = cursor_after_one_call(&gateway, &db, org).await;
    insert_calls(&db, org, 3).await;
    eventually("the tailer has read the events", async || gateway.metrics().events.get() >= 4).await;
    let mut connection = own_connection(&db).await;
    let lock = lock_log(&mut connection).await;
    let mut clients = vec![resume_from_log(&gateway, org, "calls", &since).await];
    eventually("the first client's read is under way", async || {
        sqlx::query_scalar(
            "select count(*) > 0 from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock' and query like '%org_id is null%'",
        )
        .fetch_one(&db.pool)
        .await
        .expect("queries")
    })
    .await;
    for _ in 0..WAITING_MAX {
        clients.push(resume_from_log(&gateway, org, "calls", &since).await);
    }
    let mut beyond = resume_from_log(&gateway, org, "calls", &since).await;
    let resync = beyond.expect_event("calls", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "unavailable");
    lock.commit().await.expect("ends");
    for client in &mut clients {
        expect_calls(client, "calls", 3).await;
    }
    assert_eq!(gateway.metrics().resyncs.get(), 1);
    // The queue has room again.
    let mut again = connect(&gateway, org).await;
    again.join_with("calls", serde_json::json!({"since": since})).await;
    expect_calls(&mut again, "calls", 3).await;
    gateway.stop().await;
}

//! Limits of reads for resumes: a read that times out is split.

use std::time::Duration;

use super::log::{expect_calls, insert_calls, lock_log, own_connection, resume_from_log};
use super::{cursor_after_one_call, gateway_without_recent};
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

//! Roles without rights can neither stop retention nor make a node read the log as often as they notify.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use warden::tailer::{EMPTY_READS, EMPTY_READS_PER_READ_WITH_EVENTS};

use super::{client, gateway_without_recent, readyz, rotate, warns_of_retention};
use crate::harness::{TestDb, TestGateway, eventually};

/// Time after which a flood has used up the budget of reads, unless the machine is too slow for a flood.
const SLOW_AFTER: Duration = Duration::from_secs(30);

/// Connects as a role without any right on the log.
async fn stranger(db: &TestDb) -> PgConnection {
    let mut stranger = PgConnection::connect(db.url()).await.expect("connects");
    stranger.execute("set role anon").await.expect("is no longer a superuser");
    stranger
}

#[tokio::test]
async fn roles_without_rights_cannot_stop_retention() {
    let db = TestDb::create().await;
    let mut stranger = stranger(&db).await;
    // The keys of the doorbell, and of the rotation in former versions.
    stranger
        .execute("select pg_advisory_lock(1463898692), pg_advisory_lock(1463898693)")
        .await
        .expect("every role may take advisory locks");
    for attempt in [
        "select from warden.last_rotation for update",
        "select from warden.log_state for key share",
        "do $$ begin lock table warden.last_rotation in access share mode; end $$",
        "do $$ begin lock table warden.events in access share mode; end $$",
        "truncate warden.last_rotation",
        "select nextval('warden.events_slot')",
        "select warden.rotate_events('0', 0)",
    ] {
        let error = stranger.execute(attempt).await.expect_err(attempt);
        assert!(error.to_string().contains("permission denied"), "{attempt}: {error}");
    }
    rotate(&db).await;
}

#[tokio::test]
async fn readyz_warns_if_rotation_stays_busy() {
    let db = TestDb::create().await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.retention.interval = Duration::from_millis(20);
        config.limits.session.close_timeout = super::CLOSE_TIMEOUT;
    })
    .await;
    let mut owner = PgConnection::connect(db.url()).await.expect("connects");
    let mut holder = owner.begin().await.expect("begins");
    holder.execute("select from warden.last_rotation for update").await.expect("locks");
    eventually("readyz warns", async || warns_of_retention(&gateway).await).await;
    holder.rollback().await.expect("ends");
    eventually("readyz no longer warns", async || !warns_of_retention(&gateway).await).await;
    gateway.stop().await;
}

/// Rings the doorbell as fast as one connection can, with both payloads.
async fn notify(stranger: &mut PgConnection) {
    for n in 0..150 {
        let payload = if n % 2 == 0 { "silenced" } else { "" };
        let notify = sqlx::query("select pg_notify('warden', $1)").bind(payload);
        notify.execute(&mut *stranger).await.expect("every role may notify");
    }
}

#[tokio::test]
async fn a_flood_of_notifications_causes_a_bounded_number_of_reads() {
    const CALLS: u32 = 10;
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let gateway = gateway_without_recent(&db).await;
    let mut follower = client(&gateway, org).await;
    follower.join("calls").await;
    let mut stranger = stranger(&db).await;
    stranger.execute("select pg_advisory_lock(1463898692)").await.expect("locks");

    let reads = || u32::try_from(gateway.metrics().reads.get()).expect("few reads");
    let (before, start) = (reads(), Instant::now());
    for _ in 0..CALLS {
        let call = db.insert_call(org).await;
        notify(&mut stranger).await;
        assert_eq!(follower.expect_event("calls", "call.created").await.row_id(), call.to_string());
    }
    let (reads, seconds) = (reads() - before, u32::try_from(start.elapsed().as_secs()).expect("short") + 1);
    let bound = EMPTY_READS.burst.get()
        + EMPTY_READS.per_second.get() * seconds
        + (EMPTY_READS_PER_READ_WITH_EVENTS + 1) * CALLS;
    assert!(reads <= bound, "{reads} reads in {seconds} s, the bound is {bound}");
    // A node so busy that it reads less often than it may has no flood to report.
    let (before, start) = (gateway.metrics().reads.get(), Instant::now());
    eventually("readyz warns", async || {
        notify(&mut stranger).await;
        let reads = (gateway.metrics().reads.get() - before) as f64;
        let is_slow = start.elapsed() > SLOW_AFTER
            && reads < f64::from(EMPTY_READS.per_second.get()) * start.elapsed().as_secs_f64();
        is_slow || readyz(&gateway).await.body.contains("reads wait")
    })
    .await;
    let is_flooded = readyz(&gateway).await.body.contains("reads wait");
    assert!(!is_flooded || gateway.metrics().doorbell_flooded.get() >= 1);

    stranger.close().await.expect("closes");
    eventually("readyz no longer warns", async || readyz(&gateway).await.body == "ok\n").await;
    gateway.stop().await;
}

//! The doorbell may be lost: that costs latency, never an event.

use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{Connection as _, Executor as _};

use super::{expect_row, joined, with_orgs};
use crate::harness::within;

#[tokio::test]
async fn a_stranger_who_holds_the_bells_lock_costs_latency_alone() {
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["calls"]).await;
    let mut bell = PgListener::connect(t.db.url()).await.expect("connects");
    bell.listen("warden").await.expect("listens");
    let mut stranger = PgConnection::connect(t.db.url()).await.expect("connects");
    stranger.execute("select pg_advisory_lock(1463898692)").await.expect("locks");
    for _ in 0..2 {
        let call = t.db.insert_call(org).await;
        expect_row(&mut client, "calls", "call.created", call).await;
    }
    // Nobody rang meanwhile: the first ring is that of the first commit after the lock was given up.
    assert!(bell.next_buffered().is_none());
    stranger.execute("select pg_advisory_unlock(1463898692)").await.expect("unlocks");
    let call = t.db.insert_call(org).await;
    within("the bell rings", bell.recv()).await.expect("rings");
    assert!(bell.next_buffered().is_none(), "the bell rang while a stranger held its lock");
    expect_row(&mut client, "calls", "call.created", call).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn without_any_ring_events_arrive_by_the_poll() {
    let (t, [org]) = with_orgs("alter table warden.events disable trigger ring").await;
    let enabled: i64 =
        sqlx::query_scalar("select count(*) from pg_trigger where tgname = 'ring' and tgenabled <> 'D'")
            .fetch_one(&t.db.pool)
            .await
            .expect("counts");
    assert_eq!(enabled, 0, "no partition rings");
    let mut client = joined(&t, org, &["calls"]).await;
    for _ in 0..2 {
        let call = t.db.insert_call(org).await;
        expect_row(&mut client, "calls", "call.created", call).await;
    }
    t.gateway.stop().await;
}

/// One row per statement rings, however many it writes, and never none of them.
#[tokio::test]
async fn every_statement_that_logs_anything_rings_once() {
    let (t, [org]) = with_orgs("").await;
    let call = t.db.insert_call(org).await;
    // The first row of each statement changes nothing, or is too large; it must not take the ring along.
    for sql in [
        format!("insert into calls (org_id) select '{org}' from generate_series(1, 3)"),
        format!("update calls set status = case when id = '{call}' then status else 'ringing' end"),
        format!(
            "update calls set metadata = jsonb_build_object('x', repeat('x', 100000)) where id = '{call}'"
        ),
        format!("delete from calls where id <> '{call}'"),
        format!("select warden.publish('{org}', 'org', 'test.note')"),
        "truncate recordings".to_owned(),
    ] {
        let before: i64 = sqlx::query_scalar("select coalesce(max(id), 0) from warden.events")
            .fetch_one(&t.db.pool)
            .await
            .expect("reads");
        t.db.run(sql.clone()).await;
        let rings: i64 = sqlx::query_scalar("select count(*) from warden.events where id > $1 and ring")
            .bind(before)
            .fetch_one(&t.db.pool)
            .await
            .expect("counts");
        assert_eq!(rings, 1, "{sql}");
    }
    t.gateway.stop().await;
}

//! Lost doorbell notifications cost latency, never an event.

use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{Connection as _, Executor as _};

use super::transactions::{connection, execute};
use super::{expect_row, joined, with_orgs};
use crate::harness::{TestDb, TestGateway, eventually, within};

#[tokio::test]
async fn a_foreign_holder_of_the_doorbells_lock_costs_latency_only() {
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["calls"]).await;
    let mut bell = PgListener::connect(t.db.url()).await.expect("connects");
    bell.listen("warden").await.expect("listens");
    let mut holder = PgConnection::connect(t.db.url()).await.expect("connects");
    holder.execute("select pg_advisory_lock(1463898692)").await.expect("locks");
    for _ in 0..2 {
        let call = t.db.insert_call(org).await;
        expect_row(&mut client, "calls", "call.created", call).await;
    }
    // No commit rang while the lock was held, so the first ring is that of the first commit after its
    // release.
    assert!(bell.next_buffered().is_none());
    holder.execute("select pg_advisory_unlock(1463898692)").await.expect("unlocks");
    let call = t.db.insert_call(org).await;
    within("the doorbell rings", bell.recv()).await.expect("rings");
    assert!(bell.next_buffered().is_none(), "the doorbell rang while its lock was held");
    expect_row(&mut client, "calls", "call.created", call).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn events_arrive_by_polling_when_the_doorbell_is_disabled() {
    let (t, [org]) = with_orgs("alter table warden.events disable trigger ring").await;
    let enabled: i64 =
        sqlx::query_scalar("select count(*) from pg_trigger where tgname = 'ring' and tgenabled <> 'D'")
            .fetch_one(&t.db.pool)
            .await
            .expect("counts");
    assert_eq!(enabled, 0, "the trigger is disabled on every partition");
    let mut client = joined(&t, org, &["calls"]).await;
    for _ in 0..2 {
        let call = t.db.insert_call(org).await;
        expect_row(&mut client, "calls", "call.created", call).await;
    }
    t.gateway.stop().await;
}

/// Exactly one row of each statement has the ring flag, regardless of the number of rows.
#[tokio::test]
async fn every_statement_that_logs_events_rings_once() {
    let (t, [org]) = with_orgs("").await;
    let call = t.db.insert_call(org).await;
    // The first row of each statement is unchanged or too large. The flag must then be on another row.
    for sql in [
        format!("insert into calls (org_id) select '{org}' from generate_series(1, 3)"),
        format!("update calls set status = case when id = '{call}' then status else 'ringing' end"),
        format!(
            "update calls set metadata = jsonb_build_object('x', repeat('x', 100000)) where id = '{call}'"
        ),
        format!("delete from calls where id <> '{call}'"),
        format!("select warden.publish('{org}', 'org', 'test.note')"),
        "truncate recordings cascade".to_owned(),
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

/// A snapshot's xmax is one above the highest transaction that has ended, so a transaction that began since
/// is in no list of the snapshot. If it did not get the doorbell's lock, it commits without ringing. The
/// tailer must read again although its snapshot lists no transaction.
#[tokio::test]
async fn a_silent_commit_above_the_snapshots_xmax_does_not_wait_for_the_poll() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    // At the commit, after the trigger `ring`, each transaction waits for an advisory lock of its own.
    db.run(
        "create function wait_at_commit() returns trigger language plpgsql as $$
         begin perform pg_advisory_xact_lock_shared(length(new.event)); return null; end $$;
         create constraint trigger zz_wait after insert on warden.events deferrable initially deferred
         for each row when (new.event in ('a', 'bb')) execute function wait_at_commit()",
    )
    .await;
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.tailer.poll_interval = std::time::Duration::from_secs(3600);
        config.limits.session.close_timeout = super::CLOSE_TIMEOUT;
    })
    .await;
    let t = TestGateway { db, gateway };
    let mut client = joined(&t, org, &["calls"]).await;

    let mut locks = connection(&t.db).await;
    execute(&mut locks, "select pg_advisory_lock(1), pg_advisory_lock(2)").await;
    let waiting = async || -> i64 {
        sqlx::query_scalar(
            "select count(*) from pg_locks where locktype = 'advisory' and not granted
             and database = (select oid from pg_database where datname = current_database())",
        )
        .fetch_one(&t.db.pool)
        .await
        .expect("counts")
    };
    let mut commits = Vec::new();
    for (n, event) in [(1, "a"), (2, "bb")] {
        let mut writer = connection(&t.db).await;
        let publish = format!("select warden.publish('{org}', 'calls', '{event}')");
        commits.push(tokio::spawn(async move { execute(&mut writer, publish).await }));
        eventually("the commit waits", async || waiting().await == n).await;
    }
    execute(&mut locks, "select pg_advisory_unlock(1)").await;
    client.expect_event("calls", "a").await;
    execute(&mut locks, "select pg_advisory_unlock(2)").await;
    client.expect_event("calls", "bb").await;
    for commit in commits {
        commit.await.expect("commits");
    }
    t.gateway.stop().await;
}

//! Bulk statements, and events in memory.

use futures_util::future::join_all;
use uuid::Uuid;
use warden::config::Limits;

use super::connect_user;
use crate::harness::{TestDb, TestGateway, Witness, eventually};

async fn publish_large(db: &TestDb, org: Uuid, events: u32) {
    db.run(format!(
        "select warden.publish('{org}', 'calls', 'large', jsonb_build_object('x', repeat('x', 60000)))
         from generate_series(1, {events})"
    ))
    .await;
}

/// Events of one organisation would fill the memory of recent events. Another one still resumes from memory.
#[tokio::test]
async fn events_of_one_organisation_leave_those_of_others_in_memory() {
    let t = TestGateway::start().await;
    let witness = t.witness().await;
    let greedy = t.db.create_org().await;
    let all = Limits::default().recent.bytes_max;
    let events = u32::try_from(all / 60_000 * 5 / 4).expect("few");
    publish_large(&t.db, greedy, events).await;
    let metrics = t.gateway.metrics();
    eventually("the tailer has read the events", async || metrics.events.get() > u64::from(events)).await;
    let from_log = metrics.replays_from_log.get();
    witness.expect_served().await;
    assert_eq!(metrics.replays_from_log.get(), from_log, "the witness resumed from memory");
    t.gateway.stop().await;
}

/// A statement of one organisation logs many pages, whose subscribers do not read. Events of others wait for
/// the pages, and none is lost.
#[tokio::test]
async fn a_bulk_statement_of_one_organisation_delays_others_and_loses_nothing() {
    const ROWS: u32 = 20_000;
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.tailer.page_rows_max = 500;
    })
    .await;
    let witness = t.witness().await;
    let greedy = t.db.create_org().await;
    let mut subscribers = join_all((0..20).map(|n| connect_user(&t, greedy, n))).await;
    for client in &mut subscribers {
        client.join("calls").await;
    }
    let before = t.gateway.metrics().events.get();
    t.db.run(format!("insert into calls (org_id) select '{greedy}' from generate_series(1, {ROWS})")).await;
    for _ in 0..3 {
        witness.expect_served().await;
    }
    assert!(
        t.gateway.metrics().events.get() >= before + u64::from(ROWS),
        "they followed the whole statement"
    );
    drop(subscribers);
    t.gateway.stop().await;
}

/// Clients of one organisation resume from the log, one read after the other.
#[tokio::test]
async fn resumes_of_one_organisation_from_the_log_take_turns_with_others() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.recent.bytes_max = 0;
    })
    .await;
    let witness = Witness::begin(&t.db, &t.gateway).await;
    let greedy = t.db.create_org().await;
    let mut first = connect_user(&t, greedy, 0).await;
    let since = first.join("calls").await["cursor"].clone();
    publish_large(&t.db, greedy, 100).await;
    first.expect_event("calls", "large").await;
    let mut sockets = Vec::new();
    for n in 1..60 {
        let mut client = connect_user(&t, greedy, n).await;
        let since = since.as_str().expect("a cursor");
        warden_testkit::phoenix::send_join(&mut client.socket, "1", "calls", Some(since))
            .await
            .expect("sends");
        sockets.push(client);
    }
    witness.expect_served().await;
    drop(sockets);
    t.gateway.stop().await;
}

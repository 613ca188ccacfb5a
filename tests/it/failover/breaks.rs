//! Connections that are cut, reset or half open, and a database that does not answer.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

use super::{client, expect_calls, expect_following, expect_lost, expect_open, gateway_at, through};
use crate::harness::{
    Client, ConnectError, LogCapture, PostgresProxy, TestDb, eventually, handshake, token, within,
};

async fn db_with_org() -> (TestDb, Uuid) {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    (db, org)
}

async fn insert_calls<const N: usize>(db: &TestDb, org: Uuid) -> [Uuid; N] {
    let mut calls = [Uuid::nil(); N];
    for call in &mut calls {
        *call = db.insert_call(org).await;
    }
    calls
}

/// Both addresses lead to the same server and timeline, so no topic resyncs.
#[tokio::test]
async fn another_address_of_the_same_server_needs_no_resync() {
    let (db, org) = db_with_org().await;
    let mut first = PostgresProxy::start(&db.socket_dir()).await;
    let mut second = PostgresProxy::start(&db.socket_dir()).await;
    let gateway = gateway_at(&db, &through(&[&first, &second], &db.name, "warden_gateway"), |_| {}).await;
    let mut session = client(&gateway, org).await;
    session.join("calls").await;
    expect_calls(&mut session, &insert_calls::<2>(&db, org).await).await;

    first.shut().await;
    let calls = insert_calls::<5>(&db, org).await;
    expect_calls(&mut session, &calls).await;
    expect_following(&gateway).await;
    // The doorbell and the pool have moved to the second address too.
    eventually("the doorbell listens there", async || second.listeners() >= 1).await;
    Client::connect(gateway.public_addr(), &token(db.create_org().await, &json!({}))).await;

    second.shut().await;
    expect_lost(&gateway, &[&format!("{}: connection refused", first.host()), &second.host()]).await;
    expect_open(&mut session).await;
    let calls = insert_calls::<5>(&db, org).await;
    first.reopen().await;
    expect_calls(&mut session, &calls).await;
    expect_following(&gateway).await;
    gateway.stop().await;
}

/// The first address accepts connections and never answers.
#[tokio::test]
async fn an_unresponsive_address_does_not_delay_the_connection() {
    let (db, org) = db_with_org().await;
    let (black_hole, good) =
        (PostgresProxy::start(&db.socket_dir()).await, PostgresProxy::start(&db.socket_dir()).await);
    black_hole.stall(true);
    // If the connection waited for the unresponsive address, the tailer would reach this timeout.
    let gateway = gateway_at(&db, &through(&[&black_hole, &good], &db.name, "warden_gateway"), |limits| {
        limits.tailer.read_timeout = Duration::from_secs(4);
    })
    .await;
    let mut session = client(&gateway, org).await;
    session.join("calls").await;
    expect_calls(&mut session, &insert_calls::<2>(&db, org).await).await;
    gateway.stop().await;
}

/// The tailer resumes at the page where the read of several pages was interrupted.
#[tokio::test]
async fn a_reset_during_a_paged_read_repeats_no_event() {
    const ROWS: i64 = 12_000;
    let (db, org) = db_with_org().await;
    let proxy = PostgresProxy::start(&db.socket_dir()).await;
    let gateway = gateway_at(&db, &through(&[&proxy], &db.name, "warden_gateway"), |_| {}).await;
    let mut session = client(&gateway, org).await;
    session.join("calls").await;
    let follower = tokio::spawn(async move {
        for n in 0..ROWS {
            let event = session.expect_event("calls", "test.row").await;
            assert_eq!(event.data("n"), &json!(n));
        }
        session
    });
    // A row takes some 220 bytes. The first 5,000 rows are read twice, because the first read only finds that
    // they exceed a page. The reset therefore falls into the second page.
    proxy.reset_after(2_700_000);
    db.run(format!(
        "select warden.publish('{org}', 'calls', 'test.row', jsonb_build_object('n', n, 'x', repeat('x', 80)))
         from generate_series(0, {}) n",
        ROWS - 1
    ))
    .await;
    let mut session = within("all rows arrive", follower).await.expect("in order");
    assert!(proxy.has_reset());
    for _ in 0..3 {
        proxy.reset();
        expect_calls(&mut session, &insert_calls::<3>(&db, org).await).await;
    }
    expect_following(&gateway).await;
    gateway.stop().await;
}

/// One node lost its database between the pages of a bulk; the client has read further on another node. The
/// lagging node answers the join at once and replays after it has caught up.
#[tokio::test]
async fn a_client_ahead_of_a_node_is_answered_at_once_and_served_later() {
    const ROWS: usize = 300;
    let (db, org) = db_with_org().await;
    let mut proxy = PostgresProxy::start(&db.socket_dir()).await;
    let ahead = gateway_at(&db, db.gateway_url(), |_| {}).await;
    let behind = gateway_at(&db, &through(&[&proxy], &db.name, "warden_gateway"), |limits| {
        limits.tailer.page_rows_max = 1;
    })
    .await;
    let (mut of_ahead, mut of_behind) = (client(&ahead, org).await, client(&behind, org).await);
    of_ahead.join("calls").await;
    db.run(format!("insert into calls (org_id) select '{org}' from generate_series(1, {ROWS})")).await;
    eventually("the tailer reads the pages", async || behind.metrics().events.get() > 2).await;
    proxy.shut().await;
    expect_lost(&behind, &[]).await;
    let read = behind.metrics().events.get();
    assert!(read < ROWS as u64, "the tailer has read the whole bulk, so the test proves nothing");

    let mut since = String::new();
    for _ in 0..ROWS {
        since = of_ahead.expect_event("calls", "call.created").await.cursor().to_owned();
    }
    let missed = insert_calls::<3>(&db, org).await;
    assert_eq!(of_behind.join_with("calls", json!({"since": since})).await, json!({"cursor": since}));
    assert_eq!(behind.metrics().events.get(), read, "the tailer still reads, so the test proves nothing");
    proxy.reopen().await;
    expect_calls(&mut of_behind, &missed).await;
    expect_calls(&mut of_behind, &insert_calls::<1>(&db, org).await).await;
    assert_eq!(behind.metrics().resyncs.get(), 0);
    ahead.stop().await;
    behind.stop().await;
}

/// All connections are half open; those of the pool are in the middle of a query. The tailer notices by its
/// timeout, look-ups are cancelled, and hanging connections leave the pool.
#[tokio::test]
async fn half_open_connections_are_detected_and_replaced() {
    let (db, org) = db_with_org().await;
    let proxy = PostgresProxy::start(&db.socket_dir()).await;
    let gateway = gateway_at(&db, &through(&[&proxy], &db.name, "warden_gateway"), |limits| {
        limits.tailer.read_timeout = Duration::from_millis(500);
        limits.look_up_timeout = Duration::from_millis(1500);
    })
    .await;
    let mut session = client(&gateway, org).await;
    session.join("calls").await;
    let mut orgs = Vec::new();
    for _ in 0..4 {
        orgs.push(db.create_org().await);
    }

    let mut locker = sqlx::PgConnection::connect(db.url()).await.expect("connects");
    locker.execute("begin; lock table organizations").await.expect("locks");
    let mut look_ups = Vec::new();
    for org in &orgs {
        let bearer = format!("Bearer {}", token(*org, &json!({})));
        let addr = gateway.public_addr();
        look_ups.push(tokio::spawn(async move {
            handshake(addr, "/socket/websocket?vsn=2.0.0", &[("authorization", &bearer)]).await.is_ok()
        }));
    }
    // These look-ups occupy every connection of the pool.
    eventually("all look-ups wait", async || waiting(&db).await == 4).await;
    proxy.stall(true);
    locker.execute("rollback").await.expect("unlocks");
    let calls = insert_calls::<3>(&db, org).await;
    expect_lost(&gateway, &["timed out"]).await;
    expect_open(&mut session).await;
    for look_up in look_ups {
        assert!(!look_up.await.expect("answers"));
    }

    proxy.carry_new();
    expect_calls(&mut session, &calls).await;
    expect_following(&gateway).await;
    let bearer = format!("Bearer {}", token(orgs[0], &json!({})));
    eventually("the pool has room", async || {
        let headers = [("authorization", bearer.as_str())];
        handshake(gateway.public_addr(), "/socket/websocket?vsn=2.0.0", &headers).await.is_ok()
    })
    .await;
    gateway.stop().await;
}

/// Backends of this database that wait for a lock.
async fn waiting(db: &TestDb) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    )
    .fetch_one(&db.pool)
    .await
    .expect("counts")
}

/// Only the doorbell's connection is half open. The poll still finds events, and the watchdog replaces the
/// connection.
#[tokio::test]
async fn a_half_open_doorbell_connection_is_replaced() {
    let (db, org) = db_with_org().await;
    let proxy = PostgresProxy::start(&db.socket_dir()).await;
    let gateway = gateway_at(&db, &through(&[&proxy], &db.name, "warden_gateway"), |limits| {
        limits.doorbell.watchdog_interval = Duration::from_millis(300);
        limits.doorbell.watchdog_timeout = Duration::from_millis(700);
    })
    .await;
    let mut session = client(&gateway, org).await;
    session.join("calls").await;
    eventually("the doorbell listens", async || proxy.listeners() == 1).await;
    assert_eq!(proxy.stall_listeners(), 1);
    let calls = insert_calls::<2>(&db, org).await;
    expect_calls(&mut session, &calls).await;
    expect_following(&gateway).await;
    eventually("another doorbell listens", async || proxy.listeners() >= 2).await;
    expect_calls(&mut session, &insert_calls::<2>(&db, org).await).await;
    gateway.stop().await;
}

/// The upgrade is rejected with 503 while the database hangs, and accepted afterwards.
#[tokio::test]
async fn a_hanging_look_up_is_cancelled() {
    let (db, org) = db_with_org().await;
    let gateway = gateway_at(&db, db.gateway_url(), |limits| {
        limits.look_up_timeout = Duration::from_millis(200);
    })
    .await;
    let logs = LogCapture::begin();
    let mut locker = sqlx::PgConnection::connect(db.url()).await.expect("connects");
    locker.execute("begin; lock table organizations").await.expect("locks");
    let bearer = format!("Bearer {}", token(org, &json!({})));
    let headers = [("authorization", bearer.as_str())];
    let path = "/socket/websocket?vsn=2.0.0";
    let answer = handshake(gateway.public_addr(), path, &headers).await;
    let Err(ConnectError::Rejected { status, body }) = answer else { panic!("not rejected: {answer:?}") };
    assert_eq!((status, &body["code"]), (503, &json!("unavailable")));
    // The gateway's own timeout fired, not the server's lock timeout, which is longer.
    let org = org.to_string();
    let cancelled = logs.lines_with(&["organisation lookup failed", &org]);
    assert!(cancelled.len() == 1 && !cancelled[0].contains("lock timeout"), "{cancelled:?}");
    // The statement does not keep waiting at the server, where such statements would accumulate.
    eventually("nobody waits for the lock", async || waiting(&db).await == 0).await;
    locker.execute("rollback").await.expect("unlocks");
    eventually("the upgrade is accepted", async || {
        handshake(gateway.public_addr(), path, &headers).await.is_ok()
    })
    .await;
    gateway.stop().await;
}

/// The pool retries while the server rejects its connections. The log has one warning per outage.
#[tokio::test]
async fn rejected_pool_connections_are_logged_once_per_outage() {
    let (db, _) = db_with_org().await;
    let gateway =
        gateway_at(&db, db.gateway_url(), |limits| limits.look_up_timeout = Duration::from_secs(1)).await;
    let status = async || {
        let bearer = format!("Bearer {}", token(db.create_org().await, &json!({})));
        let headers = [("authorization", bearer.as_str())];
        let answer = handshake(gateway.public_addr(), "/socket/websocket?vsn=2.0.0", &headers).await;
        answer.err().and_then(|error| error.status())
    };
    let logs = LogCapture::begin();
    for times in 1..=2 {
        db.run("revoke execute on function warden.epoch() from warden_gateway").await;
        for _ in 0..2 {
            assert_eq!(status().await, Some(503));
        }
        // Other tests write to the same log, but only this test revokes the privilege.
        let count = |what| logs.lines_with(&[what, "permission denied for function epoch"]).len();
        assert!(count("error returned from after_connect") > times, "the pool did not retry");
        assert_eq!(count("look-ups, replays, publishing and reads have no connection"), times);
        db.run("grant execute on function warden.epoch() to warden_gateway").await;
        assert_eq!(status().await, None);
    }
    gateway.stop().await;
}

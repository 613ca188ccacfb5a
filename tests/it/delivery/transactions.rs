//! Delivery follows commits: open transactions, rollbacks, many connections, bulk statements, and two-phase
//! commits.

use std::collections::HashSet;

use futures_util::StreamExt as _;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::{CLOSE_TIMEOUT, expect_row, joined, with_orgs};
use crate::harness::{TestDb, TestGateway, within};

pub(super) async fn connection(db: &TestDb) -> PgConnection {
    PgConnection::connect(db.url()).await.expect("connects")
}

pub(super) async fn execute(connection: &mut PgConnection, sql: impl Into<String>) {
    let sql = sql.into();
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(sql.clone())))
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"));
}

#[tokio::test]
async fn an_open_transaction_delays_only_its_own_events() {
    let (t, [org, other]) = with_orgs("").await;
    let mut ours = joined(&t, org, &["calls"]).await;
    let mut theirs = joined(&t, other, &["calls"]).await;
    let mut open = connection(&t.db).await;
    let late = Uuid::new_v4();
    execute(&mut open, format!("begin; insert into calls (id, org_id) values ('{late}', '{org}')")).await;

    for _ in 0..5 {
        let call = t.db.insert_call(org).await;
        expect_row(&mut ours, "calls", "call.created", call).await;
        let call = t.db.insert_call(other).await;
        expect_row(&mut theirs, "calls", "call.created", call).await;
    }
    execute(&mut open, "commit").await;
    expect_row(&mut ours, "calls", "call.created", late).await;
    let call = t.db.insert_call(other).await;
    expect_row(&mut theirs, "calls", "call.created", call).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn rolled_back_changes_are_never_delivered() {
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["calls", "org"]).await;
    let kept = Uuid::new_v4();
    let insert = |id: Uuid| format!("insert into calls (id, org_id) values ('{id}', '{org}');");
    let (gone, gone_too) = (insert(Uuid::new_v4()), insert(Uuid::new_v4()));
    let publish = format!("select warden.publish('{org}', 'org', 'test.gone');");
    t.db.run(format!("begin; {gone} {publish} rollback")).await;
    t.db.run(format!("begin; savepoint s; {gone_too} {publish} rollback to s; {} commit", insert(kept)))
        .await;
    // A failed statement delivers nothing either.
    t.db.error(format!(
        "insert into calls (org_id, status) values ('{org}', 'queued'), ('{org}', 'no such status')"
    ))
    .await;

    expect_row(&mut client, "calls", "call.created", kept).await;
    expect_row(&mut client, "org", "call.created", kept).await;
    let last = t.db.insert_call(org).await;
    expect_row(&mut client, "calls", "call.created", last).await;
    expect_row(&mut client, "org", "call.created", last).await;
    t.gateway.stop().await;
}

/// The statement fills four pages of the tailer. The outbox holds all of them, because on a busy machine the
/// client may get no time to read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_statement_arrives_complete_and_in_order() {
    const ROWS: i64 = 20_000;
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let t = TestGateway::start_with(db, |config| {
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
        config.limits.outbox.queue_bytes_max = 64 * 1024 * 1024;
    })
    .await;
    let mut client = t.connect(org).await;
    client.join("calls").await;
    let mut socket = client.socket;
    // The client reads as fast as a browser, and parses the messages later.
    let reading = tokio::spawn(async move {
        let mut frames = Vec::new();
        while (frames.len() as i64) < ROWS {
            match within("an event", socket.next()).await {
                Some(Ok(Message::Text(text))) => frames.push(text),
                other => panic!("after {} events, instead of an event: {other:?}", frames.len()),
            }
        }
        frames
    });
    t.db.run(format!(
        "insert into calls (org_id, duration_seconds) select '{org}', n from generate_series(1, {ROWS}) n"
    ))
    .await;
    let frames = reading.await.expect("all events arrive");
    let mut last_id = 0;
    for (frame, n) in frames.iter().zip(1..) {
        let message: serde_json::Value = serde_json::from_str(frame).expect("JSON");
        assert_eq!(message[3], "call.created");
        assert_eq!(message[4]["data"]["duration_seconds"], n, "in order");
        let id = message[4]["id"].as_i64().expect("an id");
        assert!(id > last_id, "{id} after {last_id}");
        last_id = id;
    }
    t.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_events_of_many_writers_arrive_once() {
    const WRITERS: usize = 16;
    const WRITES: usize = 50;
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["calls"]).await;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let mut connection = connection(&t.db).await;
        writers.push(tokio::spawn(async move {
            let mut written = Vec::new();
            for _ in 0..WRITES {
                let query = sqlx::query_scalar("insert into calls (org_id) values ($1) returning id");
                let id: Uuid = query.bind(org).fetch_one(&mut connection).await.expect("inserts");
                written.push(id.to_string());
            }
            written
        }));
    }
    let mut written = HashSet::new();
    for writer in writers {
        written.extend(writer.await.expect("writes"));
    }
    assert_eq!(written.len(), WRITERS * WRITES);
    while !written.is_empty() {
        let event = client.expect_event("calls", "call.created").await;
        assert!(written.remove(event.row_id()), "delivered twice, or never written: {event:?}");
    }
    let last = t.db.insert_call(org).await;
    expect_row(&mut client, "calls", "call.created", last).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_two_phase_commit_works_and_delivers_at_the_commit() {
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["calls"]).await;
    let spellings = [
        "prepare transaction",
        "PREPARE\n\tTRANSACTION",
        "prepare /*x*/ transaction",
        "prepare/**/transaction",
        "/* first */ prepare /* a\nb */ /* c */ transaction",
        "prepare /* a /* nested */ b */ transaction",
        "prepare -- to commit later\n transaction",
        "prepare --\n--x\n/* y */ transaction",
    ];
    for (n, spelling) in spellings.iter().enumerate() {
        // Names of prepared transactions are unique in the whole cluster.
        let name = format!("{}-{n}", t.db.name);
        let mut connection = connection(&t.db).await;
        let call = Uuid::new_v4();
        execute(&mut connection, format!("begin; insert into calls (id, org_id) values ('{call}', '{org}')"))
            .await;
        execute(&mut connection, format!("{spelling} '{name}'")).await;
        let meanwhile = t.db.insert_call(org).await;
        expect_row(&mut client, "calls", "call.created", meanwhile).await;
        execute(&mut connection, format!("commit prepared '{name}'")).await;
        expect_row(&mut client, "calls", "call.created", call).await;
    }
    // Also through the extended protocol, and in one message with several statements.
    let mut connection = connection(&t.db).await;
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let name = format!("{}-more", t.db.name);
    execute(&mut connection, "begin").await;
    sqlx::query("insert into calls (id, org_id) values ($1, $2)")
        .bind(one)
        .bind(org)
        .execute(&mut connection)
        .await
        .expect("inserts");
    sqlx::query(AssertSqlSafe(format!("prepare transaction '{name}'")))
        .execute(&mut connection)
        .await
        .expect("prepares");
    execute(&mut connection, format!("commit prepared '{name}'")).await;
    expect_row(&mut client, "calls", "call.created", one).await;
    execute(
        &mut connection,
        format!(
            "begin; insert into calls (id, org_id) values ('{two}', '{org}'); prepare transaction '{name}'"
        ),
    )
    .await;
    execute(&mut connection, format!("rollback prepared '{name}'")).await;
    let last = t.db.insert_call(org).await;
    expect_row(&mut client, "calls", "call.created", last).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn immediate_constraints_do_not_lose_events() {
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["calls"]).await;
    let (before, after) = (Uuid::new_v4(), Uuid::new_v4());
    let mut connection = connection(&t.db).await;
    execute(&mut connection, format!("begin; insert into calls (id, org_id) values ('{before}', '{org}')"))
        .await;
    execute(&mut connection, "set constraints all immediate").await;
    execute(&mut connection, format!("insert into calls (id, org_id) values ('{after}', '{org}')")).await;
    // The doorbell does not ring before the commit. Other events are delivered all the same.
    let meanwhile = t.db.insert_call(org).await;
    expect_row(&mut client, "calls", "call.created", meanwhile).await;
    execute(&mut connection, "commit").await;
    expect_row(&mut client, "calls", "call.created", before).await;
    expect_row(&mut client, "calls", "call.created", after).await;
    t.gateway.stop().await;
}

/// With immediate constraints the doorbell's trigger runs before the commit. A NOTIFY there would make
/// PREPARE fail.
#[tokio::test]
async fn immediate_constraints_do_not_break_a_two_phase_commit() {
    let (t, [org]) = with_orgs("").await;
    let mut client = joined(&t, org, &["calls"]).await;
    let (early, late) = (Uuid::new_v4(), Uuid::new_v4());
    let name = format!("{}-immediate", t.db.name);
    let mut connection = connection(&t.db).await;
    execute(&mut connection, "begin").await;
    execute(&mut connection, format!("insert into calls (id, org_id) values ('{early}', '{org}')")).await;
    execute(&mut connection, "set constraints all immediate").await;
    execute(&mut connection, format!("insert into calls (id, org_id) values ('{late}', '{org}')")).await;
    execute(&mut connection, format!("prepare transaction '{name}'")).await;
    execute(&mut connection, format!("commit prepared '{name}'")).await;
    expect_row(&mut client, "calls", "call.created", early).await;
    expect_row(&mut client, "calls", "call.created", late).await;
    t.gateway.stop().await;
}

//! Joins with a snapshot: pages on the socket, with the bytes, the rights and the errors of `GET`, and then
//! the stream. `stream` shows that both together are exact.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use uuid::Uuid;
use warden::config::Limits;
use warden::metrics::CloseLabels;
use warden_testkit::phoenix;

use super::{get, rows_text, with_table};
use crate::harness::{Client, TestDb, TestGateway, eventually, token, within};
use crate::transactions::current_tx;

/// Kernel buffers of a client that does not read, and of its session, in bytes.
const BUFFER_BYTES: u32 = 4 * 1024;

/// Texts of 1 KiB, of which a claim selects some.
const TEXTS: &str = "
    create table texts (id int primary key, org_id uuid not null, level int not null, body text not null);
    grant select on texts to authenticated;
    alter table texts enable row level security;
    create policy by_level on texts for select to authenticated
      using (level <= (current_setting('request.jwt.claims')::json ->> 'level')::int);
    select warden.watch('texts', 'texts', 'text', visibility => 'organisation')";

/// Inserts 400 rows: even ids have level 0, odd ones level 1.
async fn fill(db: &TestDb, org: Uuid, first: i32) {
    db.run(format!(
        "insert into texts select n, '{org}', n % 2, repeat('x', 1000) from generate_series({first}, {first} + 399) n"
    ))
    .await;
}

/// Rows of all pages, up to the last one, and its cursor.
async fn pages(client: &mut Client, topic: &str) -> (Vec<Value>, String) {
    let mut rows = Vec::new();
    loop {
        let page = client.expect_event(topic, "warden.snapshot").await.payload;
        rows.extend(page["rows"].as_array().expect("rows").iter().cloned());
        match page["last"].as_bool().expect("says whether it is the last one") {
            true => return (rows, page["cursor"].as_str().expect("a cursor").to_owned()),
            false => assert!(page.get("cursor").is_none(), "a client could resume too early: {page}"),
        }
    }
}

fn ids(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["id"].as_i64().expect("an id")).collect()
}

/// A client that reads nothing until it is asked to, with small buffers.
async fn connect_idle(t: &TestGateway, token: &str) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(BUFFER_BYTES).expect("a small buffer");
    let stream: TcpStream =
        within("a connection", socket.connect(t.gateway.public_addr())).await.expect("connects");
    Client::new(
        within("the handshake", phoenix::connect_over(stream, token, None)).await.expect("is accepted"),
    )
}

#[tokio::test]
async fn pages_have_the_bytes_and_the_order_of_get() {
    let (t, [org, other]) = with_table("").await;
    t.db.run(format!(
        "insert into calls (org_id, to_number) select '{org}', '+49' || n from generate_series(1, 250) n;
         insert into calls (org_id, to_number) select '{other}', '+49' || n from generate_series(1, 9) n;
         insert into calls (org_id, to_number) values ('{org}', '+1')"
    ))
    .await;
    let all = get(&t, org, "/v1/calls?to_number=like.%2B49*&order=to_number.desc&limit=250").await;
    let mut client = t.connect(org).await;
    let snapshot = json!({"to_number": "like.+49*", "order": "to_number.desc", "limit": 100});
    let join = json!(["7", "8", "calls", "phx_join", {"snapshot": snapshot}]);
    client.send(&join.to_string()).await;
    let mut frames = Vec::new();
    while frames.len() < 4 {
        let frame = within("a frame", client.socket.next()).await.expect("open").expect("reads");
        frames.push(frame.into_text().expect("text").to_string());
    }
    // The reply has no cursor: a client that resumed from it before the last page would miss rows.
    assert_eq!(frames[0], r#"["7","8","calls","phx_reply",{"status":"ok","response":{}}]"#);
    let mut rows = Vec::new();
    for (n, frame) in frames[1..].iter().enumerate() {
        let page = frame.strip_prefix(r#"["7",null,"calls","warden.snapshot",{"rows":["#).expect("a page");
        let (page, end) = page.rsplit_once("],\"last\":").expect("an end");
        assert_eq!(end.starts_with("true,\"cursor\":\""), n == 2, "{end}");
        rows.push(page);
    }
    assert_eq!(rows.join(","), rows_text(&all));

    // The stream follows from the cursor, without what the pages have.
    let call = t.db.insert_call(org).await;
    assert_eq!(client.expect_event("calls", "call.created").await.row_id(), call.to_string());
    let empty = client.push("recordings", "phx_join", json!({"snapshot": {}})).await;
    assert_eq!((empty.status.as_str(), &empty.response), ("ok", &json!({})));
    let (none, cursor) = pages(&mut client, "recordings").await;
    assert_eq!(none, Vec::<Value>::new());
    t.db.open_cursor(org, &cursor).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn errors_are_those_of_get_and_leave_the_topic_unjoined() {
    let (t, [org, other]) = with_table(TEXTS).await;
    fill(&t.db, other, 1).await;
    t.db.run("select warden.declare_topic('invoices')").await;
    let mut client = t.connect(org).await;
    // The policy needs a claim that this token lacks, so it shows no row; rows of others are never read.
    let reply = client.push("texts", "phx_join", json!({"snapshot": {"level": "gte.0"}})).await;
    assert_eq!(reply.status, "ok", "{reply:?}");
    assert_eq!(pages(&mut client, "texts").await.0, Vec::<Value>::new());
    for (topic, snapshot, query) in [
        ("calls", json!({"ssn": "eq.1"}), Some("ssn=eq.1")),
        ("calls", json!({"status": "equals.1"}), Some("status=equals.1")),
        ("calls", json!({"id": "eq.x"}), Some("id=eq.x")),
        ("calls", json!({"limit": 0}), Some("limit=0")),
        ("calls", json!({"or": "(status.eq.queued"}), Some("or=(status.eq.queued")),
        ("invoices", json!({}), Some("")),
        ("calls", json!({"after": "W10"}), None),
        ("calls", json!("status=eq.queued"), None),
        ("calls", json!({"status": {"eq": "queued"}}), None),
        ("org", json!({}), None),
        ("call:11111111-1111-4111-8111-111111111111", json!({}), None),
    ] {
        let reply = client.push(topic, "phx_join", json!({"snapshot": snapshot})).await;
        assert_eq!(reply.status, "error", "{topic} {snapshot}: {reply:?}");
        let (reason, message) = (&reply.response["reason"], &reply.response["message"]);
        if let Some(query) = query {
            let answer = get(&t, org, &format!("/v1/{topic}?{query}")).await;
            assert_eq!((reason, message), (&json!(answer.code()), &json!(answer.message())), "{answer:?}");
        } else {
            assert!(reason == "invalid_query" || reason == "unknown_topic", "{reply:?}");
        }
    }
    let both = client.push("calls", "phx_join", json!({"snapshot": {}, "since": "x"})).await;
    assert_eq!((both.status.as_str(), &both.response["reason"]), ("error", &json!("invalid payload")));
    // None of these joins receives events.
    t.db.insert_call(org).await;
    t.db.publish(org, "invoices", "invoice.paid").await;
    client.join("recordings").await;
    t.db.publish(org, "recordings", "test.end").await;
    client.expect_only("recordings", "test.end").await;

    let limited = token(org, &json!({"app_metadata": {"org_id": org, "warden_topics": ["calls"]}}));
    let mut limited = Client::connect(t.gateway.public_addr(), &limited).await;
    let reply = limited.push("texts", "phx_join", json!({"snapshot": {}})).await;
    assert_eq!(reply.response["reason"], "forbidden topic");
    t.gateway.stop().await;
}

/// A gateway with small buffers, on which clients that do not read are noticed soon, and two organisations
/// with rows.
async fn with_small_buffers(change: impl FnOnce(&mut Limits)) -> (TestGateway, [Uuid; 2]) {
    let db = TestDb::create().await;
    let orgs = [db.create_org().await, db.create_org().await];
    db.run(TEXTS).await;
    for (n, org) in (0..).zip(orgs) {
        fill(&db, org, n * 1000).await;
    }
    let t = TestGateway::start_with(db, |config| {
        config.limits.session.send_buffer_bytes = BUFFER_BYTES as usize;
        config.limits.session.close_timeout = Duration::from_millis(200);
        config.limits.reading.snapshots_per_org_max = 1;
        config.limits.reading.snapshot_page_bytes_max = 16 * 1024;
        change(&mut config.limits);
    })
    .await;
    (t, orgs)
}

fn rows_read(t: &TestGateway) -> u64 {
    t.gateway.metrics().rows_read.get()
}

/// Connects, joins with a snapshot of all rows, and does not read them.
async fn join_idle(t: &TestGateway, token: &str) -> Client {
    let mut client = connect_idle(t, token).await;
    let before = rows_read(t);
    let join = json!(["1", "1", "texts", "phx_join", {"snapshot": {"order": "id"}}]);
    client.send(&join.to_string()).await;
    eventually("a page was read", async || rows_read(t) > before).await;
    client
}

/// Later pages are read with the claims of the session's present token.
#[tokio::test]
async fn a_fresh_token_decides_about_the_remaining_pages() {
    let (t, [org, other]) = with_small_buffers(|limits| limits.session.snapshots_max = 1).await;
    let with_level = |level: i32| token(org, &json!({"level": level}));
    // The gateway cannot send all pages, because this client reads nothing.
    let mut client = join_idle(&t, &with_level(1)).await;
    let second = json!(["2", "2", "calls", "phx_join", {"snapshot": {}}]);
    client.send(&second.to_string()).await;
    let fresh = json!([null, "3", "phoenix", "access_token", {"access_token": with_level(0)}]);
    client.send(&fresh.to_string()).await;
    // Another organisation has a place of its own, and its connections and memory are free.
    let mut theirs = Client::connect(t.gateway.public_addr(), &token(other, &json!({"level": 1}))).await;
    theirs.join_with("texts", json!({"snapshot": {}})).await;
    assert_eq!(pages(&mut theirs, "texts").await.0.len(), 400);

    assert_eq!(client.next_reply().await.response, json!({}));
    let rejected = client.next_reply().await;
    assert_eq!(rejected.response["reason"], "too many snapshots", "{rejected:?}");
    assert_eq!(client.next_reply().await.status, "ok");
    let (rows, _) = pages(&mut client, "texts").await;
    let ids = ids(&rows);
    assert!(ids.is_sorted() && ids.len() < 400, "{ids:?}");
    let (first, last) = (&ids[..10], &ids[ids.len() - 10..]);
    assert!(first.windows(2).all(|pair| pair[1] == pair[0] + 1), "{first:?}");
    assert!(last.iter().all(|id| id % 2 == 0), "rows that the present token may not read: {last:?}");
    t.gateway.stop().await;
}

/// The answer to a question follows the events, and these follow the pages.
#[tokio::test]
async fn a_question_during_a_snapshot_is_answered_behind_the_events() {
    let (t, [org, _]) = with_small_buffers(|_| {}).await;
    let jwt = token(org, &json!({"level": 1}));
    let mut live = Client::connect(t.gateway.public_addr(), &jwt).await;
    live.join("texts").await;
    let mut client = join_idle(&t, &jwt).await;
    let mut transaction = t.db.pool.begin().await.expect("begins");
    let tx = current_tx(&mut transaction, org).await;
    let insert = sqlx::query("insert into texts values (5000, $1, 0, 'new')").bind(org);
    insert.execute(&mut *transaction).await.expect("inserts");
    transaction.commit().await.expect("commits");
    // The node's position covers the transaction.
    assert_eq!(live.expect_event("texts", "text.created").await.payload["tx"], tx);
    client.send(&json!(["1", "2", "texts", "warden.covers", {"tx": tx}]).to_string()).await;
    assert_eq!(client.next_reply().await.response, json!({}));
    pages(&mut client, "texts").await;
    assert_eq!(client.expect_event("texts", "text.created").await.payload["tx"], tx);
    assert_eq!(client.next_reply().await.response, json!({"covered": true}));
    t.gateway.stop().await;
}

/// Clients that leave or disconnect free the place of their organisation.
#[tokio::test]
async fn a_snapshot_that_nobody_receives_ends() {
    let (t, [org, _]) = with_small_buffers(|_| {}).await;
    let jwt = token(org, &json!({"level": 1}));
    let mut leaves = join_idle(&t, &jwt).await;
    leaves.send(&json!(["1", "2", "texts", "phx_leave", {}]).to_string()).await;
    drop(join_idle(&t, &jwt).await);
    let mut reads = Client::connect(t.gateway.public_addr(), &jwt).await;
    reads.join_with("texts", json!({"snapshot": {}})).await;
    assert_eq!(pages(&mut reads, "texts").await.0.len(), 400);

    // The client that left receives what was sent before, and can join again.
    assert_eq!(leaves.next_reply().await.response, json!({}));
    assert_eq!(leaves.next_reply().await.status, "ok");
    leaves.join_with("texts", json!({"snapshot": {"order": "id.desc"}})).await;
    loop {
        let event = leaves.next_event().await;
        assert!(matches!(event.name.as_str(), "warden.snapshot" | "phx_close"), "{event:?}");
        if event.payload["last"] == true {
            break;
        }
    }
    t.db.run(format!("delete from texts where id = 0 and org_id = '{org}'")).await;
    assert_eq!(leaves.expect_event("texts", "text.deleted").await.data("id"), &json!(0));
    t.gateway.stop().await;
}

/// A client that does not accept a page in time is closed. If a page cannot be read, the client gets a
/// resync. The gateway stops although a client reads nothing. On the next one the client begins again.
#[tokio::test]
async fn a_snapshot_that_cannot_be_completed_begins_again() {
    let (t, [org, other]) = with_small_buffers(|limits| {
        limits.reading.snapshot_page_timeout = Duration::from_secs(1);
        limits.reading.statement_timeout = Duration::from_millis(500);
    })
    .await;
    let (jwt, of_other) = (token(org, &json!({"level": 1})), token(other, &json!({"level": 1})));
    let _slow = join_idle(&t, &jwt).await;
    let mut locked_out = join_idle(&t, &of_other).await;
    let mut lock = t.db.pool.begin().await.expect("begins");
    sqlx::query("lock table texts in access exclusive mode").execute(&mut *lock).await.expect("locks");
    assert_eq!(locked_out.next_reply().await.status, "ok");
    let resync = loop {
        let event = locked_out.next_event().await;
        if event.name != "warden.snapshot" {
            break event;
        }
        assert_eq!(event.payload["last"], false);
    };
    assert_eq!((resync.name.as_str(), &resync.payload["reason"]), ("warden.resync", &json!("snapshot")));
    lock.rollback().await.expect("rolls back");
    // Live events follow, as after every resync.
    t.db.run(format!("delete from texts where id = 1001 and org_id = '{other}'")).await;
    locked_out.expect_event("texts", "text.deleted").await;
    let closed = CloseLabels { code: 4429 };
    eventually("the slow client is closed", async || {
        t.gateway.metrics().closed.get_or_create(&closed).get() == 1
    })
    .await;
    let _idle = join_idle(&t, &jwt).await;
    let TestGateway { db, gateway } = t;
    within("the end of the gateway", gateway.stop()).await;

    let t = TestGateway::start_with(db, |_| {}).await;
    let mut client = Client::connect(t.gateway.public_addr(), &jwt).await;
    client.join_with("texts", json!({"snapshot": {"order": "id"}})).await;
    let (rows, cursor) = pages(&mut client, "texts").await;
    assert_eq!(ids(&rows), (0..400).collect::<Vec<i64>>());
    drop(client);
    // The cursor of the last page resumes, like that of any event.
    t.db.run(format!("delete from texts where id = 7 and org_id = '{org}'")).await;
    let mut client = Client::connect(t.gateway.public_addr(), &jwt).await;
    assert_eq!(client.join_with("texts", json!({"since": cursor})).await, json!({"cursor": cursor}));
    client.expect_only("texts", "text.deleted").await;
    t.gateway.stop().await;
}

//! Questions whether a transaction is covered, by HTTP and on the socket.

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use uuid::Uuid;

use super::{current_tx, expect_written, write};
use crate::harness::{Client, Post, TestDb, TestGateway, token};

const PATH: &str = "/v1/covers";

async fn ask(t: &TestGateway, token: &str, body: &Value) -> (u16, Value) {
    let answer = Post::json(PATH, token, body).send(t.gateway.public_addr()).await;
    (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
}

/// Asks as a user, and expects this answer.
async fn expect(t: &TestGateway, org: Uuid, body: Value, expected: Value) {
    assert_eq!(ask(t, &token(org, &json!({})), &body).await, (200, expected), "{body}");
}

#[tokio::test]
async fn a_cursor_covers_the_transactions_before_it_and_no_later_one() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut client = t.connect(org).await;
    let before = client.join("calls").await["cursor"].clone();
    let tx = write(&t.db, org).await;
    client.expect_event("calls", "call.created").await;
    let inside = client.expect_event("calls", "test.note").await;
    let covered = |cursor: &Value| json!({"cursor": cursor, "tx": tx});
    expect(&t, org, covered(&before), json!({"covered": false})).await;
    expect(&t, org, covered(&inside.payload["cursor"]), json!({"covered": true})).await;
    let mut late = t.connect(org).await;
    let after = late.join("calls").await["cursor"].clone();
    expect(&t, org, covered(&after), json!({"covered": true})).await;
    expect(&t, org, json!({"cursor": after, "page": before}), json!({"covered": true})).await;
    expect(&t, org, json!({"cursor": before, "page": after}), json!({"covered": false})).await;
    // A back end may ask as well.
    let service = token(org, &json!({"role": "service_role"}));
    assert_eq!(ask(&t, &service, &covered(&after)).await, (200, json!({"covered": true})));

    // Strings of another organisation are those that nobody has issued.
    let foreign = write(&t.db, other).await;
    for (body, reason) in [
        (json!({"cursor": after, "tx": foreign}), "unknown_tx"),
        (json!({"cursor": after, "tx": ""}), "unknown_tx"),
        (json!({"cursor": after, "tx": after}), "unknown_tx"),
        (json!({"cursor": tx, "tx": tx}), "unknown_cursor"),
        (json!({"cursor": after, "page": "____"}), "unknown_page"),
    ] {
        expect(&t, org, body, json!({"resync": true, "reason": reason})).await;
    }
    expect(&t, other, covered(&after), json!({"resync": true, "reason": "unknown_cursor"})).await;

    for body in [
        json!([]),
        json!({}),
        json!({"tx": tx}),
        json!({"cursor": after}),
        json!({"cursor": after, "tx": tx, "page": after}),
        json!({"cursor": after, "tx": 1}),
        json!({"cursor": null, "tx": tx}),
        json!({"cursor": after, "tx": tx, "page": null}),
        json!({"cursor": after, "tx": null, "page": after}),
        json!({"cursor": after, "tx": tx, "org_id": other}),
    ] {
        let (status, problem) = ask(&t, &service, &body).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_question")), "{body}: {problem}");
    }
    assert_eq!(ask(&t, "no token", &covered(&after)).await.0, 401);
    t.gateway.stop().await;
}

/// A transaction whose last event belongs to another organisation.
#[tokio::test]
async fn the_last_event_of_an_organisation_in_a_batch_covers_the_batch() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut live = t.connect(org).await;
    let since = live.join("calls").await["cursor"].clone();
    let mut connection = PgConnection::connect(t.db.url()).await.expect("connects");
    let mut transaction = connection.begin().await.expect("begins");
    let tx = current_tx(&mut transaction, org).await;
    for owner in [org, org, other] {
        let publish = format!("select warden.publish('{owner}', 'calls', 'test.note')");
        sqlx::raw_sql(AssertSqlSafe(publish)).execute(&mut *transaction).await.expect("publishes");
    }
    transaction.commit().await.expect("commits");
    let from_log = TestGateway::gateway(&t.db, |config| config.limits.recent.bytes_max = 0).await;
    let mut resumed =
        [t.connect(org).await, Client::connect(from_log.public_addr(), &token(org, &json!({}))).await];
    for client in &mut resumed {
        client.join_with("calls", json!({"since": since})).await;
    }
    let [memory, log] = resumed;
    for mut client in [live, memory, log] {
        let first = client.expect_event("calls", "test.note").await.payload["cursor"].clone();
        let last = client.expect_only("calls", "test.note").await.payload["cursor"].clone();
        expect(&t, org, json!({"cursor": first, "tx": tx}), json!({"covered": false})).await;
        expect(&t, org, json!({"cursor": last, "tx": tx}), json!({"covered": true})).await;
        // The first cursor still lacks the second event, and the last one lacks none.
        let mut client = t.connect(org).await;
        client.join_with("calls", json!({"since": first})).await;
        client.expect_only("calls", "test.note").await;
        let mut client = t.connect(org).await;
        client.join_with("calls", json!({"since": last})).await;
        t.db.publish(org, "calls", "test.after").await;
        client.expect_event("calls", "test.after").await;
    }
    from_log.stop().await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn the_answer_on_a_socket_follows_the_events_that_it_covers() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    let since = client.join("calls").await["cursor"].clone();

    // Of a transaction that is still open.
    let mut connection = PgConnection::connect(t.db.url()).await.expect("connects");
    let mut transaction = connection.begin().await.expect("begins");
    let tx = current_tx(&mut transaction, org).await;
    client.send(&json!([null, "q1", "calls", "warden.covers", {"tx": tx}]).to_string()).await;
    client.expect_silence().await;
    for _ in 0..3 {
        let insert = format!("insert into calls (org_id) values ('{org}')");
        sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut *transaction).await.expect("inserts");
    }
    transaction.commit().await.expect("commits");
    for _ in 0..3 {
        // The answer has not arrived: it would be none of these events.
        assert_eq!(client.expect_event("calls", "call.created").await.payload["tx"], tx);
    }
    let answer = client.next_event().await;
    assert_eq!((answer.name.as_str(), &answer.payload["response"]), ("phx_reply", &json!({"covered": true})));

    // At once if it is covered, also while the topic resumes.
    let mut resuming = t.connect(org).await;
    let join = json!(["1", "1", "calls", "phx_join", {"since": since}]);
    resuming.send(&join.to_string()).await;
    resuming.send(&json!(["1", "2", "calls", "warden.covers", {"tx": tx}]).to_string()).await;
    assert_eq!(resuming.next_reply().await.response, json!({"cursor": since}));
    for _ in 0..3 {
        resuming.expect_event("calls", "call.created").await;
    }
    assert_eq!(resuming.next_event().await.payload["response"], json!({"covered": true}));

    // A transaction without events, which was rolled back.
    let mut transaction = connection.begin().await.expect("begins");
    let tx = current_tx(&mut transaction, org).await;
    transaction.rollback().await.expect("rolls back");
    let reply = client.push("calls", "warden.covers", json!({"tx": tx})).await;
    assert_eq!(reply.response, json!({"covered": true}));

    let reply = client.push("calls", "warden.covers", json!({"cursor": since})).await;
    assert_eq!(reply.response, json!({"covered": true}));
    let reply = client.push("calls", "warden.covers", json!({"tx": "x"})).await;
    assert_eq!(reply.response, json!({"resync": true, "reason": "unknown_tx"}));
    for wrong in [json!({}), json!([]), json!({"tx": 1}), json!({"tx": tx, "cursor": since})] {
        let reply = client.push("calls", "warden.covers", wrong.clone()).await;
        assert_eq!(reply.response["reason"], "invalid payload", "{wrong}");
    }
    let reply = client.push("org", "warden.covers", json!({"tx": tx})).await;
    assert_eq!(reply.response["reason"], "not joined");
    t.gateway.stop().await;
}

#[tokio::test]
async fn questions_that_wait_are_bounded() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    client.join("calls").await;
    let mut connection = PgConnection::connect(t.db.url()).await.expect("connects");
    let mut transaction = connection.begin().await.expect("begins");
    let tx = current_tx(&mut transaction, org).await;
    for n in 0..9 {
        client.send(&json!([null, n.to_string(), "calls", "warden.covers", {"tx": tx}]).to_string()).await;
    }
    let rejected = client.next_reply().await;
    assert_eq!((rejected.reference, rejected.status.as_str()), (json!("8"), "error"));
    transaction.commit().await.expect("commits");
    for _ in 0..8 {
        assert_eq!(client.next_event().await.payload["response"], json!({"covered": true}));
    }
    t.gateway.stop().await;
}

/// A question waits until the missed events were sent. If the topic is joined again, or left, meanwhile, it
/// waits no longer.
#[tokio::test]
async fn a_question_is_answered_if_its_join_ends() {
    let t =
        TestGateway::start_with(TestDb::create().await, |config| config.limits.recent.bytes_max = 0).await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    let since = client.join("calls").await["cursor"].clone();
    let tx = write(&t.db, org).await;
    expect_written(&mut client, "calls").await;
    for end in ["phx_join", "phx_leave"] {
        let mut client = t.connect(org).await;
        // No replay reads the log.
        let mut lock = t.db.pool.begin().await.expect("begins");
        sqlx::query("lock table warden.log_state").execute(&mut *lock).await.expect("locks");
        client.send(&json!(["1", "1", "calls", "phx_join", {"since": since}]).to_string()).await;
        client.send(&json!(["1", "2", "calls", "warden.covers", {"tx": tx}]).to_string()).await;
        client.send(&json!(["1", "3", "calls", end, {}]).to_string()).await;
        while client.next_event().await.payload["response"]["covered"] != true {}
        lock.rollback().await.expect("rolls back");
    }
    t.gateway.stop().await;
}

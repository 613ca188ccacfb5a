//! The transactions of events: the string `tx`, which a back end and the subscribers of its events share.

mod covers;
mod marks;

use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _};
use uuid::Uuid;
use warden::cursor::{Epoch, Transaction};

use crate::harness::{Client, Post, TestDb, TestGateway, token};

/// The `tx` of the connection's transaction.
pub(crate) async fn current_tx(connection: &mut PgConnection, org: Uuid) -> String {
    let tx = sqlx::query_scalar("select warden.current_tx($1)");
    tx.bind(org).fetch_one(connection).await.expect("queries")
}

/// Inserts a call and publishes an event in one transaction. Returns the `tx` that the database names
/// beforehand.
async fn write(db: &TestDb, org: Uuid) -> String {
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut transaction = connection.begin().await.expect("begins");
    let tx = current_tx(&mut transaction, org).await;
    for sql in [
        format!("insert into calls (org_id) values ('{org}')"),
        format!("select warden.publish('{org}', 'calls', 'test.note')"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.expect("writes");
    }
    transaction.commit().await.expect("commits");
    tx
}

/// Expects the two events of [`write`] on a topic. Returns the `tx` of both.
async fn expect_written(client: &mut Client, topic: &str) -> String {
    let [row, note] =
        [client.expect_event(topic, "call.created").await, client.expect_event(topic, "test.note").await];
    assert_eq!(row.payload["tx"], note.payload["tx"]);
    row.payload["tx"].as_str().expect("a string").to_owned()
}

#[tokio::test]
async fn events_carry_the_string_that_the_transaction_itself_has_named() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut live = t.connect(org).await;
    let since = live.join("calls").await["cursor"].clone();
    live.join("org").await;
    let first = write(&t.db, org).await;
    for _ in 0..2 {
        let event = live.next_event().await;
        assert_eq!(event.payload["tx"], first, "{event:?}");
    }
    let second = write(&t.db, org).await;
    assert_ne!(first, second);
    assert_ne!(first, write(&t.db, other).await);

    // Replays from memory and from the log, on this node and on another one.
    let from_log = TestGateway::gateway(&t.db, |config| config.limits.recent.bytes_max = 0).await;
    for node in [&t.gateway, &from_log] {
        let mut client = Client::connect(node.public_addr(), &token(org, &json!({}))).await;
        let reply = client.join_with("calls", json!({"since": since})).await;
        assert_eq!(reply, json!({"cursor": since}));
        assert_eq!(expect_written(&mut client, "calls").await, first);
        assert_eq!(expect_written(&mut client, "calls").await, second);
    }
    from_log.stop().await;

    // Publishing through HTTP answers with the same string.
    let mut live = t.connect(org).await;
    live.join("calls").await;
    let event = json!({"topic": "calls", "event": "test.note"});
    let service = token(org, &json!({"role": "service_role"}));
    let answer = Post::json("/v1/events", &service, &event).send(t.gateway.public_addr()).await;
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(live.expect_only("calls", "test.note").await.payload["tx"], answer["tx"], "{answer}");
    t.gateway.stop().await;
}

/// The database and the gateway seal every transaction alike, whatever the length of its id, and the string
/// is bound to organisation, incarnation and epoch.
#[tokio::test]
async fn database_and_gateway_seal_a_transaction_alike() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    let epoch = db.epoch().await;
    for org in [org, other] {
        for xid in [1, 750, 1 << 33, i64::MAX] {
            let transaction = Transaction { epoch, xid: xid.cast_unsigned() };
            let sealed = sealed_by_database(&db, org, xid).await;
            let seal = db.seal(org).await;
            assert_eq!(sealed, seal.seal_transaction(transaction));
            assert_eq!(seal.open_transaction(epoch, &sealed), Ok(transaction));
            let elsewhere = Epoch { timeline: epoch.timeline + 1, ..epoch };
            assert!(seal.open_transaction(elsewhere, &sealed).is_err());
        }
    }
    let former = sealed_by_database(&db, org, 750).await;
    assert!(db.seal(other).await.open_transaction(epoch, &former).is_err());
    db.run(format!(
        "delete from organizations where id = '{org}'; insert into organizations (id, name) values ('{org}', 'x')"
    ))
    .await;
    assert_ne!(sealed_by_database(&db, org, 750).await, former);
    assert!(db.seal(org).await.open_transaction(epoch, &former).is_err());
}

async fn sealed_by_database(db: &TestDb, org: Uuid, xid: i64) -> String {
    sqlx::query_scalar("select warden.seal_transaction($1, $2::text::xid8)")
        .bind(org)
        .bind(xid.to_string())
        .fetch_one(&db.pool)
        .await
        .expect("seals")
}

/// Without an argument the claims name the organisation. The key and the seal stay closed to every caller.
#[tokio::test]
async fn only_a_publisher_asks_for_the_transaction_and_nobody_for_the_key() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let ask = async |setup: String, call: String| -> Result<(String, String), String> {
        let mut connection = PgConnection::connect(db.url()).await.expect("connects");
        let mut transaction = connection.begin().await.expect("begins");
        let xid: String = sqlx::query_scalar("select pg_current_xact_id()::text")
            .fetch_one(&mut *transaction)
            .await
            .expect("queries");
        sqlx::raw_sql(AssertSqlSafe(setup)).execute(&mut *transaction).await.expect("sets up");
        let tx = sqlx::query_scalar(AssertSqlSafe(call)).fetch_one(&mut *transaction).await;
        tx.map(|tx: String| (tx, xid)).map_err(|error| error.to_string())
    };
    let claims = |org: Uuid| {
        format!(
            "select set_config('request.jwt.claims', '{{\"app_metadata\": {{\"org_id\": \"{org}\"}}}}', true);
             set local role warden_publisher"
        )
    };
    let (tx, xid) = ask(claims(org), "select warden.current_tx()".into()).await.expect("answers");
    assert_eq!(tx, sealed_by_database(&db, org, xid.parse().expect("a number")).await);
    let denied = "permission denied";
    for (setup, call, expected) in [
        (claims(org), format!("select warden.seal_transaction('{org}', '1')"), denied),
        (claims(org), "select encode(key, 'hex') from warden.transaction_key".into(), denied),
        (claims(org), "select encode(warden.load_transaction_key(), 'hex')".into(), denied),
        ("set local role authenticated".into(), "select warden.current_tx()".into(), denied),
        ("set local role authenticated".into(), format!("select warden.current_tx('{org}')"), denied),
        ("set local role warden_publisher".into(), "select warden.current_tx()".into(), "no claims"),
        ("set local role anon".into(), "select warden.current_tx()".into(), denied),
        (
            "set local role warden_publisher".into(),
            "select warden.current_tx(gen_random_uuid())".into(),
            "does not exist",
        ),
    ] {
        let error = ask(setup, call.clone()).await.expect_err(&call);
        assert!(error.contains(expected), "{call}: {error}");
    }
}

//! Rows that logical replication applies: a real subscription, whose changes reach the clients of a gateway.

use std::path::Path;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::strings;
use crate::harness::{TestDb, TestGateway, eventually, token};
use warden_testkit::Client;

const TABLES: &str = "create table items (id int, org_id uuid not null, qty int, primary key (org_id, id));
    create table parts (id int, org_id uuid not null, qty int, primary key (org_id, id)) partition by hash (id);
    create table parts_0 partition of parts for values with (modulus 2, remainder 0);
    create table parts_1 partition of parts for values with (modulus 2, remainder 1);";

/// Creates the publisher, another database of the cluster, and connects to it. The subscriber cannot create
/// the replication slot itself, because that would wait for its own transaction.
async fn publisher(db: &TestDb) -> PgConnection {
    db.run("create database publisher").await;
    let url = db.url().replace(&format!("/{}?", db.name()), "/publisher?");
    let mut source = PgConnection::connect(&url).await.expect("connects");
    source.execute(sqlx::raw_sql(TABLES)).await.expect("creates");
    for statement in [
        "create publication p for table items, parts with (publish_via_partition_root)",
        "select pg_create_logical_replication_slot('slot', 'pgoutput')",
    ] {
        source.execute(statement).await.expect("publishes");
    }
    source
}

fn subscribe(socket: &Path) -> String {
    format!(
        "create subscription s connection 'dbname=publisher user=postgres host={}' publication p
         with (create_slot = false, slot_name = slot)",
        socket.display()
    )
}

/// Events of the log in the order of their ids.
const EVENTS: &str =
    "select concat_ws(' ', event, data ->> 'id', data ->> 'qty', old ->> 'qty') from warden.events
                      where topic in ('items', 'parts') order by id";

#[tokio::test]
async fn rows_that_a_subscription_applies_reach_clients_once() {
    let (cluster, db) = TestDb::create_alone_with(&[("wal_level", "logical")]).await;
    let org = db.create_org().await;
    let mut source = publisher(&db).await;
    let mut apply = async |sql: String| {
        source.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.expect("writes");
    };
    apply(format!("insert into items values (1, '{org}', 1)")).await;
    // A table of an ordinary role: from PostgreSQL 16 on, its triggers run with restricted rights.
    db.run(format!(
        "{TABLES} create role items_owner; alter table items owner to items_owner;
         select warden.watch('items', 'items', 'item', replicated => true);
         select warden.watch('parts', 'parts', 'part', replicated => true)"
    ))
    .await;
    // Without the doorbell, the test would wait for the next poll.
    let gateway = TestGateway::gateway(&db, |config| {
        config.limits.tailer.poll_interval = Duration::from_secs(600);
    })
    .await;
    let mut client = Client::connect(gateway.public_addr(), &token(org, &serde_json::json!({}))).await;
    client.join("items").await;
    client.join("parts").await;
    db.run(subscribe(&db.socket_dir())).await;
    assert_eq!(client.expect_event("items", "item.created").await.data("id"), 1, "the initial copy");
    apply(format!("insert into items values (2, '{org}', 1); update items set qty = 2 where id = 2")).await;
    assert_eq!(client.expect_event("items", "item.created").await.data("id"), 2);
    assert_eq!(client.expect_event("items", "item.updated").await.data("qty"), 2);
    db.run(format!("insert into items values (3, '{org}', 1)")).await;
    assert_eq!(client.expect_event("items", "item.created").await.data("id"), 3, "a local write");
    apply("update items set id = 9 where id = 1; delete from items where id = 9".to_owned()).await;
    for (event, id) in [("item.deleted", 1), ("item.created", 9), ("item.deleted", 9)] {
        assert_eq!(client.expect_event("items", event).await.data("id"), id);
    }
    eventually("the partitions are copied", async || {
        strings(&db, "select srsubstate::text from pg_subscription_rel where srsubstate <> 'r'")
            .await
            .is_empty()
    })
    .await;
    apply(format!(
        "insert into parts values (1, '{org}', 1), (2, '{org}', 1); delete from parts where id = 1"
    ))
    .await;
    for (event, id) in [("part.created", 1), ("part.created", 2), ("part.deleted", 1)] {
        assert_eq!(client.expect_event("parts", event).await.data("id"), id);
    }
    apply("truncate items".to_owned()).await;
    client.expect_event("items", "warden.resync").await;
    let expected = [
        "item.created 1 1",
        "item.created 2 1",
        "item.updated 2 2 1",
        "item.created 3 1",
        "item.deleted 1 1",
        "item.created 9 1",
        "item.deleted 9 1",
        "part.created 1 1",
        "part.created 2 1",
        "part.deleted 1 1",
        "warden.resync",
    ];
    assert_eq!(strings(&db, EVENTS).await, expected, "each change is logged once");
    gateway.stop().await;
    db.run("alter subscription s disable; alter subscription s set (slot_name = none); drop subscription s")
        .await;
    cluster.close().await.expect("ends");
}

/// Sessions that load data, as `pg_restore` does, may run like an apply worker and prepare their transaction.
#[tokio::test]
async fn a_session_in_replica_mode_logs_rows_once_and_may_prepare_its_transaction() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(format!("{TABLES} select warden.watch('items', 'items', 'item', replicated => true)")).await;
    db.run(format!(
        "begin; set local session_replication_role = replica; insert into items values (1, '{org}', 1);
         prepare transaction 'replica of items'"
    ))
    .await;
    db.run("commit prepared 'replica of items'").await;
    // The end of `pg_restore --disable-triggers` enables every trigger for ordinary sessions.
    db.run("alter table items disable trigger all; alter table items enable trigger all").await;
    db.run(format!("insert into items values (2, '{org}', 1); update items set qty = 5 where id = 2")).await;
    let expected = ["item.created 1 1", "item.created 2 1", "item.updated 2 5 1"];
    assert_eq!(strings(&db, EVENTS).await, expected);
    // Columns that have changed since, without the event trigger.
    db.run(
        "select warden.watch('items', 'items', 'item', replicated => true);
         alter event trigger warden_refresh_watches disable; alter table items add extra int default 7;
         set session_replication_role = replica; update items set qty = 6 where id = 2; reset session_replication_role",
    )
    .await;
    let last = "select concat(data ->> 'extra', old) from warden.events where topic = 'items' order by id desc limit 1";
    assert_eq!(strings(&db, last).await, [r#"7{"qty": 5}"#]);
    db.run("select warden.watch('items', 'items', 'item')").await;
    let left = "select tgname::text from pg_trigger where tgrelid = 'items'::regclass and tgname ~ 'apply'";
    assert!(strings(&db, left).await.is_empty(), "the triggers go with the argument");
}

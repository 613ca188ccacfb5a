//! Filters on tables that change, and on events that a former version logged.

use serde_json::json;
use warden::postgres::migrate;

use super::{TABLE, expect, joined, summary, with_items_and};
use crate::harness::{TestDb, TestGateway};

/// Spaces at the end of `code` do not count in comparisons.
const PADDED: &str = "alter table items add code char(4)";

/// Each change gives a column another comparison, while its values look the same in events.
#[tokio::test]
async fn a_change_of_type_ends_filters_before_the_next_event() {
    let (t, org) = with_items_and(PADDED).await;
    let mut client = joined(&t, org, json!({"filter": "code=eq.ab"})).await;
    let mut plain = joined(&t, org, json!({})).await;
    let mut calls = t.connect(org).await;
    calls.join_with("calls", json!({"filter": "status=eq.queued"})).await;
    t.db.run(format!("insert into items (id, org_id, code) values (1, '{org}', 'ab')")).await;
    let event = client.next_event().await;
    assert_eq!(event.payload["data"]["code"], "ab  ");
    let since = event.cursor();
    plain.next_event().await;
    // In one transaction with a row that the former filter would misread.
    t.db.run(format!(
        "begin;
         alter table items alter code type text;
         insert into items (id, org_id, code) values (2, '{org}', 'ab  '), (3, '{org}', 'ab');
         commit"
    ))
    .await;
    client.expect_close(4412).await;
    // A client that joins now gets the present columns, although they were read a moment ago.
    let mut text = joined(&t, org, json!({"filter": "code=eq.ab"})).await;
    t.db.run(format!("insert into items (id, org_id, code) values (4, '{org}', 'ab  '), (5, '{org}', 'ab')"))
        .await;
    expect(&mut text, &[("item.created", 5, None)]).await;
    // The missed events contain the resync, after which the client reads the rows.
    let mut resumed = joined(&t, org, json!({"filter": "code=eq.ab", "since": since})).await;
    let resync = resumed.expect_event("items", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "changed");
    expect(&mut resumed, &[("item.created", 3, None), ("item.created", 5, None)]).await;
    // Sessions without a filter, and those with a filter on another table, stay.
    for name in ["warden.resync", "item.created", "item.created", "item.created", "item.created"] {
        assert_eq!(plain.next_event().await.name, name);
    }
    calls.push("phoenix", "heartbeat", json!({})).await;
    t.gateway.stop().await;
}

/// With the present type, the filter does not select the row that was deleted.
#[tokio::test]
async fn a_replay_across_a_change_of_type_resyncs_although_the_table_is_empty() {
    let (t, org) = with_items_and(PADDED).await;
    t.db.run(format!("insert into items (id, org_id, code) values (1, '{org}', 'ab')")).await;
    let mut plain = t.connect(org).await;
    let since = plain.join("items").await["cursor"].clone();
    t.db.run("delete from items").await;
    plain.expect_event("items", "item.deleted").await;
    // A file without rows, in which vacuum has left no page.
    t.db.run("vacuum items").await;
    t.db.run("alter table items alter code type text").await;
    t.db.run(format!("insert into items (id, org_id, code) values (2, '{org}', 'ab')")).await;
    plain.expect_event("items", "warden.resync").await;
    plain.expect_event("items", "item.created").await;
    let mut resumed = joined(&t, org, json!({"filter": "code=eq.ab", "since": since})).await;
    let resync = resumed.expect_event("items", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "changed");
    expect(&mut resumed, &[("item.created", 2, None)]).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_right_that_is_revoked_ends_filters_on_its_column() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(TABLE).await;
    let interval = std::time::Duration::from_millis(50);
    let t = TestGateway::start_with(db, |config| config.limits.watch_check.interval = interval).await;
    let mut client = joined(&t, org, json!({"filter": "n=eq.1"})).await;
    t.db.run("revoke select on items from authenticated; grant select (id, org_id, status) on items to authenticated")
        .await;
    client.expect_close(4412).await;
    let mut client = t.connect(org).await;
    let reply = client.push("items", "phx_join", json!({"filter": "n=eq.1"})).await;
    assert_eq!(reply.response["reason"], "invalid_query", "{reply:?}");
    t.gateway.stop().await;
}

/// A former version did not log the watch of a row, so nobody knows whether an event is one.
#[tokio::test]
async fn events_of_a_former_version_resync_a_filter() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(TABLE).await;
    let t = TestGateway::start_with(db, |_| {}).await;
    let since = t.connect(org).await.join("items").await["cursor"].clone();
    t.gateway.stop().await;
    let db = t.db;
    db.run(format!("insert into items (id, org_id, status) values (1, '{org}', 'open')")).await;
    db.run("alter table warden.events drop column watch; delete from warden._sqlx_migrations").await;
    migrate(db.url()).await.expect("migrates");
    let t = TestGateway::start_with(db, |_| {}).await;
    let mut former = joined(&t, org, json!({"filter": "status=eq.open", "since": since})).await;
    let resync = former.expect_event("items", "warden.resync").await;
    assert_eq!(resync.payload["reason"], "filter");
    let since = t.connect(org).await.join("items").await["cursor"].clone();
    // Events of this version are known again.
    t.db.publish(org, "items", "open").await;
    t.db.run(format!("insert into items (id, org_id, status) values (2, '{org}', 'open')")).await;
    let mut resumed = joined(&t, org, json!({"filter": "status=eq.open", "since": since})).await;
    for client in [&mut former, &mut resumed] {
        assert_eq!(summary(&client.next_event().await), ("item.created".into(), 2, json!(null)));
    }
    t.gateway.stop().await;
}

/// Since PostgreSQL 18, a constraint NOT NULL may be not valid.
#[tokio::test]
async fn null_in_a_column_whose_constraint_is_not_valid_is_null() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(TABLE).await;
    if !db.has_version(18).await {
        return;
    }
    db.run(format!(
        "insert into items (id, org_id, status) values (1, '{org}', 'open');
         alter table items add constraint n_is_set not null n not valid"
    ))
    .await;
    let t = TestGateway::start_with(db, |_| {}).await;
    let mut client = joined(&t, org, json!({"filter": "n=is.null"})).await;
    t.db.run("delete from items").await;
    expect(&mut client, &[("item.deleted", 1, None)]).await;
    t.gateway.stop().await;
}

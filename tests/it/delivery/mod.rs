//! Delivery: which events reach a socket, when, and in which order.
//!
//! The organisations are created before the gateway starts ([`with_orgs`]), so that the tests do not receive
//! the events of their creation.

mod doorbell;
mod entities;
mod publish;
mod rows;
mod transactions;

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::harness::{Client, Event, TestDb, TestGateway};

/// Sockets are still open when their gateway stops, and no test reads the Close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(50);

/// Starts a gateway on a database with new organisations, after these statements.
async fn with_orgs<const N: usize>(sql: &str) -> (TestGateway, [Uuid; N]) {
    let db = TestDb::create().await;
    let mut orgs = [Uuid::nil(); N];
    for org in &mut orgs {
        *org = db.create_org().await;
    }
    db.run(sql).await;
    let t = TestGateway::start_with(db, |config| config.limits.session.close_timeout = CLOSE_TIMEOUT).await;
    (t, orgs)
}

/// Connects a client that joins these topics.
async fn joined(t: &TestGateway, org: Uuid, topics: &[&str]) -> Client {
    let mut client = t.connect(org).await;
    for topic in topics {
        client.join(topic).await;
    }
    client
}

/// Expects this event of this row next.
async fn expect_row(client: &mut Client, topic: &str, name: &str, id: Uuid) -> Event {
    let event = client.expect_event(topic, name).await;
    assert_eq!(event.row_id(), id.to_string(), "{event:?}");
    event
}

#[tokio::test]
async fn a_change_reaches_its_topics_in_its_organisation_only() {
    let (t, [org, other]) = with_orgs("").await;
    let mut ours = joined(&t, org, &["calls", "org"]).await;
    let mut theirs = joined(&t, other, &["org"]).await;

    let call = t.db.insert_call(org).await;
    let event = expect_row(&mut ours, "calls", "call.created", call).await;
    assert_eq!(event.data("status"), "queued");
    ours.expect_event("org", "call.created").await;

    ours.join(&format!("call:{call}")).await;
    t.db.run(format!("update calls set status = 'ringing' where id = '{call}'")).await;
    let event = ours.expect_event("calls", "call.updated").await;
    assert_eq!(event.payload["old"], json!({"status": "queued"}));
    ours.expect_event(&format!("call:{call}"), "call.updated").await;
    ours.expect_event("org", "call.updated").await;

    t.db.insert_call(other).await;
    let event = theirs.expect_only("org", "call.created").await;
    assert_eq!(event.data("org_id"), &json!(other));
    t.gateway.stop().await;
}

//! What reaches a socket, when, and in which order.

use serde_json::json;

use crate::harness::TestGateway;

#[tokio::test]
async fn a_change_reaches_its_topics_and_its_org_alone() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let mut ours = t.connect(org).await;
    let mut theirs = t.connect(other).await;
    ours.join("calls").await;
    ours.join("org").await;
    theirs.join("org").await;

    let call = t.db.insert_call(org).await;
    let event = ours.expect_event("calls", "call.created").await;
    assert_eq!(event.row_id(), call.to_string());
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

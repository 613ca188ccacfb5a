//! A user who moves to another organisation: open sessions stay in the old organisation, new sessions are in
//! the new one.

use serde_json::json;
use uuid::Uuid;

use crate::harness::{Client, TestDb, TestGateway, token};

const USER: &str = "11111111-1111-4111-8111-111111111111";

/// Inserts a call in both organisations and expects that the client receives only its own organisation's.
async fn expect_only_own_call(t: &TestGateway, client: &mut Client, topic: &str, own: Uuid, other: Uuid) {
    t.db.insert_call(other).await;
    let call = t.db.insert_call(own).await;
    let event = client.expect_only(topic, "call.created").await;
    assert_eq!(event.row_id(), call.to_string());
    assert_eq!(event.data("org_id"), &json!(own));
}

#[tokio::test]
async fn a_new_org_in_the_token_does_not_move_open_sessions() {
    let t = TestGateway::start().await;
    let (former, present) = (t.db.create_org().await, t.db.create_org().await);
    let mut before = t.connect(former).await;
    before.join("calls").await;
    // The administrator moves the user: tokens issued from now on name the other organisation.
    let moved = token(present, &json!({"sub": USER}));
    let mut after = Client::connect(t.gateway.public_addr(), &moved).await;
    after.join("calls").await;
    expect_only_own_call(&t, &mut before, "calls", former, present).await;
    let event = after.expect_only("calls", "call.created").await;
    assert_eq!(
        event.data("org_id"),
        &json!(present),
        "the new session received an event of the former organisation"
    );
    // Neither another join nor a resume with the old session's cursor moves a session.
    let cursor = before.join("org").await["cursor"].clone();
    let mut again = Client::connect(t.gateway.public_addr(), &moved).await;
    let reply = again.join_with("org", json!({"since": cursor})).await;
    assert_eq!(reply["resync"], json!(true), "a cursor of the former organisation was accepted: {reply}");
    t.db.insert_call(present).await;
    let event = again.next_event().await;
    assert_eq!(event.data("org_id"), &json!(present), "{event:?}");

    // A session cannot change its organisation: a refresh with the new token ends it.
    let payload = json!({"access_token": moved});
    before.send(&json!([null, "9", "calls", "access_token", payload]).to_string()).await;
    before.expect_close(4403).await;
    // Sessions of the new organisation are unaffected.
    let reply = after.push("calls", "access_token", json!({"access_token": moved})).await;
    assert_eq!(reply.status, "ok");
    drop((before, after, again));
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_changed_membership_does_not_move_open_sessions() {
    let t = TestGateway::start().await;
    let (former, present) = (t.db.create_org().await, t.db.create_org().await);
    let member =
        |org: Uuid| format!("insert into organization_members (org_id, user_id) values ('{org}', '{USER}')");
    t.db.run(member(former)).await;
    let mut client = t.connect(former).await;
    client.join("calls").await;
    t.db.run(format!("delete from organization_members where user_id = '{USER}'")).await;
    t.db.run(member(present)).await;
    expect_only_own_call(&t, &mut client, "calls", former, present).await;
    // The token decides until it expires, so the user may even reconnect with it.
    let mut same = t.connect(former).await;
    same.join("calls").await;
    expect_only_own_call(&t, &mut same, "calls", former, present).await;
    drop((client, same));
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_session_of_the_former_organisation_ends_when_its_token_expires() {
    let db = TestDb::create().await;
    let t = TestGateway::start_with(db, |config| {
        config.limits.session.expiry_grace = std::time::Duration::ZERO;
    })
    .await;
    let (former, present) = (t.db.create_org().await, t.db.create_org().await);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let short = token(former, &json!({"sub": USER, "exp": now.as_secs() + 3}));
    let mut before = Client::connect(t.gateway.public_addr(), &short).await;
    let mut after = Client::connect(t.gateway.public_addr(), &token(present, &json!({"sub": USER}))).await;
    after.join("calls").await;
    before.expect_close(4401).await;
    expect_only_own_call(&t, &mut after, "calls", present, former).await;
    drop((before, after));
    t.gateway.stop().await;
}

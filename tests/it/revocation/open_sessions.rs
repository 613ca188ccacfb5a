//! Sessions at the moment of a revocation: during a refresh, during the handshake, and while the database is
//! down.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, Executor as _};

use super::{REVOKED, answer, expect_accepted, expect_rejected, login, now, warden_call};
use crate::harness::{Client, PostgresProxy, TestDb, TestGateway, eventually, token, within};

#[tokio::test]
async fn a_refresh_with_a_revoked_token_ends_the_session() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    let former = token(org, &login("alice", "phone"));
    let mut stale = Client::connect(addr, &former).await;
    let mut fresh = Client::connect(addr, &former).await;
    // The token of a later login session, as a user gets it who signs in again after a revocation.
    let later = token(org, &json!({"sub": "alice", "session_id": "tablet", "iat": now() + 4}));
    let refreshed = fresh.push("phoenix", "access_token", json!({"access_token": later})).await;
    assert_eq!(refreshed.status, "ok", "{refreshed:?}");

    warden_call(&t.db, "revoke(user_id => 'alice')").await;
    stale.expect_close(REVOKED).await;
    assert_eq!(fresh.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    // A refresh with the earlier, revoked token ends the session.
    fresh.send(&json!([null, "9", "phoenix", "access_token", {"access_token": former}]).to_string()).await;
    fresh.expect_close(REVOKED).await;

    // Only the current token decides: revoking the login session of a replaced token ends nothing.
    let mut moved = Client::connect(addr, &token(org, &login("bob", "phone"))).await;
    let next = token(org, &login("bob", "desk"));
    assert_eq!(moved.push("phoenix", "access_token", json!({"access_token": next})).await.status, "ok");
    let mut witness = Client::connect(addr, &token(org, &login("carol", "phone"))).await;
    warden_call(&t.db, "revoke(session_id => 'phone')").await;
    witness.expect_close(REVOKED).await;
    assert_eq!(moved.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    drop((stale, fresh, moved, witness));
    t.gateway.stop().await;
}

#[tokio::test]
async fn revocations_during_a_database_outage_take_effect_after_it() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut proxy = PostgresProxy::start(&db.socket_dir()).await;
    let url = format!("postgres://warden_gateway@{}/{}", proxy.host(), db.name);
    let gateway = TestGateway::gateway(&db, |config| {
        config.database = warden::postgres::options(&url).expect("a URL");
    })
    .await;
    let alice = login("alice", "phone");
    let mut client = Client::connect(gateway.public_addr(), &token(org, &alice)).await;
    warden_call(&db, "revoke(user_id => 'bob')").await;
    let bob = login("bob", "desk");
    eventually("bob is rejected", async || answer(gateway.public_addr(), org, &bob).await.0 == 401).await;

    proxy.shut().await;
    warden_call(&db, "revoke(user_id => 'alice')").await;
    eventually("the node has lost the log", async || {
        *gateway.reader().borrow() != warden::log::TailerState::Following
    })
    .await;
    // The node still applies the revocations that it has loaded.
    expect_rejected(&[&gateway], org, &bob).await;
    assert_eq!(client.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    proxy.reopen().await;
    client.expect_close(REVOKED).await;
    expect_rejected(&[&gateway], org, &alice).await;
    drop(client);
    gateway.stop().await;
}

#[tokio::test]
async fn a_session_revoked_during_its_handshake_ends() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.look_up_timeout = crate::harness::DEADLINE;
        config.limits.serve.header_timeout = crate::harness::DEADLINE;
    })
    .await;
    let org = t.db.create_org().await;
    let alice = login("alice", "phone");
    // The handshake looks up the organisation after it has verified the token. This lock makes it wait in
    // between.
    let mut holder = sqlx::PgConnection::connect(t.db.url()).await.expect("connects");
    holder.execute("begin; lock table organizations").await.expect("locks");
    let (addr, jwt) = (t.gateway.public_addr(), token(org, &alice));
    let waiting = tokio::spawn(async move { Client::connect(addr, &jwt).await });
    eventually("the handshake waits", async || {
        let waits: bool = sqlx::query_scalar(
            "select exists (select from pg_locks where not granted and relation = 'organizations'::regclass)",
        )
        .fetch_one(&t.db.pool)
        .await
        .expect("reads");
        waits
    })
    .await;
    warden_call(&t.db, "revoke(user_id => 'alice')").await;
    eventually("the node has loaded the revocation", async || t.gateway.metrics().revocations.get() == 1)
        .await;
    holder.execute("rollback").await.expect("unlocks");
    let mut late = within("the handshake ends", waiting).await.expect("connects");
    late.expect_close(REVOKED).await;
    drop(late);
    t.gateway.stop().await;
}

/// A node loads the rows that its last snapshot lacks, and all rows after a removal. No periodic load helps
/// here.
#[tokio::test]
async fn revocations_take_effect_in_any_order_of_commits_and_end_when_removed() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.revocations.interval = Duration::from_hours(1);
    })
    .await;
    let org = t.db.create_org().await;
    let nodes = [&t.gateway];
    let rejects = async |user: &str| {
        eventually("the user is rejected", async || {
            answer(t.gateway.public_addr(), org, &login(user, user)).await.0 == 401
        })
        .await;
    };
    let accepts = async |user: &str| {
        eventually("the user is accepted", async || {
            answer(t.gateway.public_addr(), org, &login(user, user)).await.0 == 101
        })
        .await;
    };
    let mut slow = t.db.pool.begin().await.expect("begins");
    slow.execute("select warden.revoke(user_id => 'alice')").await.expect("revokes");
    for user in ["bob", "carol"] {
        warden_call(&t.db, &format!("revoke(user_id => '{user}')")).await;
        rejects(user).await;
    }
    expect_accepted(&nodes, org, &login("alice", "alice")).await;
    slow.commit().await.expect("commits");
    rejects("alice").await;

    t.db.run("select warden.unrevoke(id) from warden.revocations where user_id = 'bob'").await;
    accepts("bob").await;
    let mut dave = Client::connect(t.gateway.public_addr(), &token(org, &login("dave", "dave"))).await;
    t.db.run("update warden.revocations set user_id = 'dave' where user_id = 'carol'").await;
    dave.expect_close(REVOKED).await;
    accepts("carol").await;
    for user in ["alice", "dave"] {
        expect_rejected(&nodes, org, &login(user, user)).await;
    }
    // An operator ends a revocation early.
    t.db.run("update warden.revocations set expires_at = now() where user_id = 'dave'").await;
    accepts("dave").await;
    t.gateway.stop().await;
}

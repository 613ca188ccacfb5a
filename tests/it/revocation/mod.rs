//! Revocation: exactly the concerned sessions end, on every node; their tokens are rejected from then on; and
//! no other client receives anything about it.

mod http;
mod identities;
mod open_sessions;
mod shares;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;
use warden::app::Gateway;

use crate::harness::{Client, LogCapture, TestDb, TestGateway, Upgrade, eventually, token, within};

const REVOKED: u16 = 4410;
const SUSPENDED: u16 = 4423;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// Claims of a token that was issued a minute ago to this user, in this login session.
fn login(user: &str, session_id: &str) -> Value {
    json!({"sub": user, "session_id": session_id, "iat": now() - 60})
}

/// Claims of a fresh token for the same login session, issued after all earlier revocations.
fn renewed(claims: &Value) -> Value {
    let mut claims = claims.clone();
    claims["iat"] = json!(now() + 1);
    claims
}

/// Calls a function of the schema `warden` that returns an id.
async fn warden_call(db: &TestDb, function: &str) -> i64 {
    let statement = format!("select warden.{function}");
    within(function, sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&db.pool))
        .await
        .unwrap_or_else(|error| panic!("{function}: {error}"))
}

/// Status and code of the response to a handshake with these claims.
async fn answer(addr: SocketAddr, org: Uuid, claims: &Value) -> (u16, String) {
    let answer = Upgrade::bearer(&token(org, claims)).send(addr).await;
    let code = if answer.status == 101 { String::new() } else { answer.code() };
    (answer.status, code)
}

async fn expect_rejected(nodes: &[&Gateway], org: Uuid, claims: &Value) {
    for node in nodes {
        let answer = answer(node.public_addr(), org, claims).await;
        assert_eq!((answer.0, answer.1.as_str()), (401, "token_revoked"), "{claims}");
    }
}

async fn expect_accepted(nodes: &[&Gateway], org: Uuid, claims: &Value) {
    for node in nodes {
        assert_eq!(answer(node.public_addr(), org, claims).await.0, 101, "{claims}");
    }
}

/// Opens a session on each node and joins `org`.
async fn connect_to_each(nodes: &[&Gateway], org: Uuid, claims: &Value) -> Vec<Client> {
    let mut clients = Vec::new();
    for node in nodes {
        let mut client = Client::connect(node.public_addr(), &token(org, claims)).await;
        client.join("org").await;
        clients.push(client);
    }
    clients
}

async fn expect_closed(clients: Vec<Client>, code: u16) {
    for mut client in clients {
        client.expect_close(code).await;
    }
}

/// Expects that each session is open and that its next message is a new call, with nothing about the
/// revocation before it.
async fn expect_open(db: &TestDb, org: Uuid, clients: &mut [&mut Vec<Client>]) {
    let call = db.insert_call(org).await;
    for client in clients.iter_mut().flat_map(|clients| clients.iter_mut()) {
        assert_eq!(client.expect_only("org", "call.created").await.row_id(), call.to_string());
    }
}

/// Receives and drops the events of changes from before the joins, which the tailer may have read later.
async fn skip_earlier_events(db: &TestDb, org: Uuid, clients: &mut [&mut Vec<Client>]) {
    let call = db.insert_call(org).await.to_string();
    for client in clients.iter_mut().flat_map(|clients| clients.iter_mut()) {
        while client.next_event().await.data("id") != call.as_str() {}
    }
}

#[tokio::test]
async fn a_revocation_closes_its_sessions_on_every_node_and_rejects_their_tokens() {
    let t = TestGateway::start().await;
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    let nodes = [&t.gateway, &second];
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let (phone, laptop, bob) = (login("alice", "phone"), login("alice", "laptop"), login("bob", "desk"));
    let elsewhere = login("alice", "elsewhere");
    let mut of_phone = connect_to_each(&nodes, org, &phone).await;
    let mut of_laptop = connect_to_each(&nodes, org, &laptop).await;
    let mut of_bob = connect_to_each(&nodes, org, &bob).await;
    let mut of_elsewhere = connect_to_each(&nodes, other, &elsewhere).await;
    skip_earlier_events(&t.db, org, &mut [&mut of_phone, &mut of_laptop, &mut of_bob]).await;
    skip_earlier_events(&t.db, other, &mut [&mut of_elsewhere]).await;

    warden_call(&t.db, "revoke(session_id => 'phone')").await;
    expect_closed(of_phone, REVOKED).await;
    expect_open(&t.db, org, &mut [&mut of_laptop, &mut of_bob]).await;
    expect_rejected(&nodes, org, &phone).await;
    expect_accepted(&nodes, org, &renewed(&phone)).await;
    expect_accepted(&nodes, org, &laptop).await;

    warden_call(&t.db, &format!("revoke(user_id => 'alice', org_id => '{org}')")).await;
    expect_closed(of_laptop, REVOKED).await;
    expect_open(&t.db, org, &mut [&mut of_bob]).await;
    expect_open(&t.db, other, &mut [&mut of_elsewhere]).await;
    expect_rejected(&nodes, org, &laptop).await;
    expect_accepted(&nodes, org, &renewed(&laptop)).await;
    expect_accepted(&nodes, other, &elsewhere).await;

    warden_call(&t.db, "revoke(user_id => 'alice')").await;
    expect_closed(of_elsewhere, REVOKED).await;
    expect_open(&t.db, org, &mut [&mut of_bob]).await;
    expect_rejected(&nodes, other, &elsewhere).await;

    let mut of_carol = connect_to_each(&nodes, other, &login("carol", "home")).await;
    skip_earlier_events(&t.db, other, &mut [&mut of_carol]).await;
    warden_call(&t.db, &format!("revoke(org_id => '{org}')")).await;
    expect_closed(of_bob, REVOKED).await;
    expect_open(&t.db, other, &mut [&mut of_carol]).await;
    expect_rejected(&nodes, org, &bob).await;
    expect_accepted(&nodes, org, &renewed(&bob)).await;

    // A node that starts later knows the same revocations.
    let third = TestGateway::gateway(&t.db, |_| {}).await;
    for (org, claims) in [(org, &phone), (org, &laptop), (org, &bob), (other, &elsewhere)] {
        expect_rejected(&[&third], org, claims).await;
        expect_accepted(&[&third], org, &renewed(claims)).await;
    }
    drop(of_carol);
    for gateway in [t.gateway, second, third] {
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_revocation_for_one_issuer_spares_the_same_user_of_another() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let alice = login("alice", "phone");
    warden_call(&t.db, "revoke(user_id => 'alice', issuer => 'https://elsewhere.example')").await;
    warden_call(&t.db, "revoke(user_id => 'bob')").await;
    eventually("bob is rejected", async || {
        answer(t.gateway.public_addr(), org, &login("bob", "desk")).await.0 == 401
    })
    .await;
    expect_accepted(&[&t.gateway], org, &alice).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_token_issued_in_the_second_of_the_revocation_or_without_iat_is_rejected() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let id = warden_call(&t.db, &format!("revoke(org_id => '{org}')")).await;
    let second: i64 =
        sqlx::query_scalar("select floor(extract(epoch from revoked_at))::bigint from warden.revocations")
            .fetch_one(&t.db.pool)
            .await
            .expect("reads");
    let silent = json!({"sub": "alice", "iat": null});
    eventually("the node has loaded it", async || {
        answer(t.gateway.public_addr(), org, &silent).await.0 == 401
    })
    .await;
    expect_rejected(&[&t.gateway], org, &silent).await;
    expect_rejected(&[&t.gateway], org, &json!({"iat": second})).await;
    expect_accepted(&[&t.gateway], org, &json!({"iat": second + 1})).await;

    t.db.run(format!("select warden.unrevoke({id})")).await;
    eventually("the node has loaded the change", async || {
        answer(t.gateway.public_addr(), org, &silent).await.0 == 101
    })
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_revocation_is_removed_when_every_token_it_revokes_has_expired() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.revocations.interval = Duration::from_millis(100);
    })
    .await;
    let org = t.db.create_org().await;
    let suspended = t.db.create_org().await;
    let silent = json!({"sub": "alice", "iat": null});
    warden_call(&t.db, "revoke(user_id => 'alice', max_token_age => '2 seconds')").await;
    warden_call(&t.db, "revoke(user_id => 'bob')").await;
    warden_call(&t.db, &format!("suspend('{suspended}', max_token_age => '1 second')")).await;
    eventually("the node has loaded it", async || {
        answer(t.gateway.public_addr(), org, &silent).await.0 == 401
    })
    .await;
    eventually("the entry has no effect any more", async || {
        answer(t.gateway.public_addr(), org, &silent).await.0 == 101
    })
    .await;
    eventually("the entry is removed", async || {
        let left: Vec<String> =
            sqlx::query_scalar("select coalesce(user_id, 'suspended') from warden.revocations order by id")
                .fetch_all(&t.db.pool)
                .await
                .expect("reads");
        left == ["bob", "suspended"]
    })
    .await;
    let answer = answer(t.gateway.public_addr(), suspended, &renewed(&login("carol", "home"))).await;
    assert_eq!((answer.0, answer.1.as_str()), (403, "organisation_suspended"));
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_suspended_organisation_is_rejected_until_it_is_resumed() {
    let t = TestGateway::start().await;
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    let nodes = [&t.gateway, &second];
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let alice = login("alice", "phone");
    let of_alice = connect_to_each(&nodes, org, &alice).await;
    let mut of_bob = connect_to_each(&nodes, other, &login("bob", "desk")).await;
    skip_earlier_events(&t.db, other, &mut [&mut of_bob]).await;

    warden_call(&t.db, &format!("suspend('{org}', 'unpaid')")).await;
    expect_closed(of_alice, SUSPENDED).await;
    expect_open(&t.db, other, &mut [&mut of_bob]).await;
    let third = TestGateway::gateway(&t.db, |_| {}).await;
    for node in [&t.gateway, &second, &third] {
        for claims in [&alice, &renewed(&alice), &json!({"iat": null})] {
            let answer = answer(node.public_addr(), org, claims).await;
            assert_eq!((answer.0, answer.1.as_str()), (403, "organisation_suspended"), "{claims}");
        }
    }
    // Neither a revocation nor an undone revocation ends the suspension.
    warden_call(&t.db, &format!("revoke(org_id => '{org}')")).await;
    t.db.run("select warden.unrevoke(id) from warden.revocations").await;
    assert_eq!(answer(third.public_addr(), org, &renewed(&alice)).await.0, 403);

    t.db.run(format!("select warden.resume('{org}')")).await;
    for node in [&t.gateway, &second, &third] {
        eventually("the organisation is accepted", async || {
            answer(node.public_addr(), org, &renewed(&alice)).await.0 == 101
        })
        .await;
        expect_rejected(&[node], org, &alice).await;
    }
    drop(of_bob);
    for gateway in [t.gateway, second, third] {
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_resume_never_delivers_revocations() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut before = t.connect(org).await;
    let cursor = before.join("org").await["cursor"].clone();
    drop(before);
    warden_call(&t.db, "revoke(user_id => 'nobody')").await;
    warden_call(&t.db, "revoke(session_id => 'nothing')").await;
    let call = t.db.insert_call(org).await;
    // The first node replays from memory. The second started later, so it replays from the log.
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    for node in [&t.gateway, &second] {
        let mut again = Client::connect(node.public_addr(), &token(org, &json!({}))).await;
        again.join_with("org", json!({"since": cursor})).await;
        let mut event = again.next_event().await;
        if event.name == "org.created" {
            event = again.next_event().await;
        }
        assert_eq!(event.name, "call.created", "{event:?}");
        assert_eq!(event.row_id(), call.to_string());
    }
    t.gateway.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn the_audit_trail_names_the_revoked_session_and_its_revoker() {
    let logs = LogCapture::begin();
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let user = format!("user-{}", Uuid::new_v4());
    let mut client = Client::connect(t.gateway.public_addr(), &token(org, &login(&user, "phone"))).await;
    let id = warden_call(&t.db, &format!("revoke(user_id => '{user}', org_id => '{org}')")).await;
    client.expect_close(REVOKED).await;
    drop(client);
    let revoked = || logs.lines_with(&["warden::audit", "action=\"revoke\"", &user]);
    assert_eq!(revoked().len(), 1, "{:?}", revoked());
    for field in [format!("revocation.id={id}"), format!("org.id={org}"), "by=\"postgres\"".to_owned()] {
        assert!(revoked()[0].contains(&field), "{field}: {:?}", revoked());
    }
    eventually("the end is logged", async || {
        !logs.lines_with(&["session ended", &user, "code=4410"]).is_empty()
    })
    .await;
    // A further entry is logged too. Loading the table again logs nothing new.
    warden_call(&t.db, &format!("suspend('{org}')")).await;
    eventually("the suspension is logged", async || {
        logs.lines_with(&["action=\"revoke\"", &org.to_string(), "suspended=true"]).len() == 1
    })
    .await;
    assert_eq!(revoked().len(), 1, "{:?}", revoked());
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_invalid_revocation_fails_with_its_reason() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    for (call, error) in [
        ("revoke()".to_owned(), "pass one of session_id, user_id and org_id"),
        ("revoke(session_id => 'a', user_id => 'b')".to_owned(), "pass one of"),
        ("revoke(user_id => '')".to_owned(), "not be empty"),
        ("revoke(user_id => repeat('x', 257))".to_owned(), "at most 256 bytes"),
        ("revoke(user_id => 'a', reason => repeat('x', 501))".to_owned(), "at most 500"),
        (
            "revoke(user_id => 'a', org_id => '00000000-0000-0000-0000-000000000000')".to_owned(),
            "no organisation",
        ),
        ("revoke(user_id => 'a', max_token_age => '0')".to_owned(), "max_token_age"),
        ("revoke(user_id => 'a', max_token_age => null)".to_owned(), "max_token_age"),
        (format!("revoke(org_id => '{}')", Uuid::new_v4()), "does not exist"),
        (format!("suspend('{}')", Uuid::new_v4()), "does not exist"),
        ("suspend(null)".to_owned(), "pass one of session_id, user_id and org_id"),
    ] {
        let message = db.error(format!("select warden.{call}")).await;
        assert!(message.contains(error), "{call}: {message}");
    }
    // A repeated revocation keeps its entry and moves the time.
    let first = warden_call(&db, &format!("revoke(org_id => '{org}')")).await;
    let before: bool =
        sqlx::query_scalar("select max(revoked_at) < clock_timestamp() from warden.revocations")
            .fetch_one(&db.pool)
            .await
            .expect("reads");
    assert!(before);
    assert_eq!(warden_call(&db, &format!("revoke(org_id => '{org}')")).await, first);
    // The table is full; one more entry fails.
    db.run(
        "insert into warden.revocations (session_id, revoked_at, expires_at)
         select n::text, now(), now() + interval '1 hour' from generate_series(1, 99999) n",
    )
    .await;
    let message = db.error("select warden.revoke(user_id => 'late')").await;
    assert!(message.contains("which is the limit"), "{message}");
}

//! Revocation: exactly the sessions that it concerns end, on every node; tokens from before it stay out; and
//! nobody is told of it who is not concerned.

mod http;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;
use warden::app::Gateway;

use crate::harness::{
    Client, LogCapture, PostgresProxy, TestDb, TestGateway, Upgrade, eventually, token, within,
};

const REVOKED: u16 = 4410;
const SUSPENDED: u16 = 4423;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// The claims of somebody who logged in a while ago.
fn of(user: &str, session: &str) -> Value {
    json!({"sub": user, "session_id": session, "iat": now() - 60})
}

/// The same login with a token that is made now, after whatever was revoked.
fn renewed(claims: &Value) -> Value {
    let mut claims = claims.clone();
    claims["iat"] = json!(now() + 1);
    claims
}

async fn call(db: &TestDb, function: &str) -> i64 {
    let statement = format!("select warden.{function}");
    within(function, sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&db.pool))
        .await
        .unwrap_or_else(|error| panic!("{function}: {error}"))
}

/// Status and code of the answer to a handshake.
async fn answer(addr: SocketAddr, org: Uuid, claims: &Value) -> (u16, String) {
    let answer = Upgrade::bearer(&token(org, claims)).send(addr).await;
    let code = if answer.status == 101 { String::new() } else { answer.code() };
    (answer.status, code)
}

async fn expect_refused(nodes: &[&Gateway], org: Uuid, claims: &Value) {
    for node in nodes {
        let answer = answer(node.public_addr(), org, claims).await;
        assert_eq!((answer.0, answer.1.as_str()), (401, "token_revoked"), "{claims}");
    }
}

async fn expect_taken(nodes: &[&Gateway], org: Uuid, claims: &Value) {
    for node in nodes {
        assert_eq!(answer(node.public_addr(), org, claims).await.0, 101, "{claims}");
    }
}

/// A session on each node, joined to everything of its organisation.
async fn on_each(nodes: &[&Gateway], org: Uuid, claims: &Value) -> Vec<Client> {
    let mut clients = Vec::new();
    for node in nodes {
        let mut client = Client::connect(node.public_addr(), &token(org, claims)).await;
        client.join("org").await;
        clients.push(client);
    }
    clients
}

async fn expect_ended(clients: Vec<Client>, code: u16) {
    for mut client in clients {
        client.expect_close(code).await;
    }
}

/// The next thing that each hears of is this call: neither its end, nor anything about the revocation.
async fn expect_open(db: &TestDb, org: Uuid, clients: &mut [&mut Vec<Client>]) {
    let call = db.insert_call(org).await;
    for client in clients.iter_mut().flat_map(|clients| clients.iter_mut()) {
        assert_eq!(client.expect_only("org", "call.created").await.row_id(), call.to_string());
    }
}

/// What was written before they joined, and read after, has come.
async fn caught_up(db: &TestDb, org: Uuid, clients: &mut [&mut Vec<Client>]) {
    let call = db.insert_call(org).await.to_string();
    for client in clients.iter_mut().flat_map(|clients| clients.iter_mut()) {
        while client.next_event().await.data("id") != call.as_str() {}
    }
}

#[tokio::test]
async fn exactly_what_is_revoked_ends_on_every_node_and_stays_out() {
    let t = TestGateway::start().await;
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    let nodes = [&t.gateway, &second];
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let (phone, laptop, bob) = (of("alice", "phone"), of("alice", "laptop"), of("bob", "desk"));
    let elsewhere = of("alice", "elsewhere");
    let mut of_phone = on_each(&nodes, org, &phone).await;
    let mut of_laptop = on_each(&nodes, org, &laptop).await;
    let mut of_bob = on_each(&nodes, org, &bob).await;
    let mut of_elsewhere = on_each(&nodes, other, &elsewhere).await;
    caught_up(&t.db, org, &mut [&mut of_phone, &mut of_laptop, &mut of_bob]).await;
    caught_up(&t.db, other, &mut [&mut of_elsewhere]).await;

    call(&t.db, "revoke(session_id => 'phone')").await;
    expect_ended(of_phone, REVOKED).await;
    expect_open(&t.db, org, &mut [&mut of_laptop, &mut of_bob]).await;
    expect_refused(&nodes, org, &phone).await;
    expect_taken(&nodes, org, &renewed(&phone)).await;
    expect_taken(&nodes, org, &laptop).await;

    call(&t.db, &format!("revoke(user_id => 'alice', org_id => '{org}')")).await;
    expect_ended(of_laptop, REVOKED).await;
    expect_open(&t.db, org, &mut [&mut of_bob]).await;
    expect_open(&t.db, other, &mut [&mut of_elsewhere]).await;
    expect_refused(&nodes, org, &laptop).await;
    expect_taken(&nodes, org, &renewed(&laptop)).await;
    expect_taken(&nodes, other, &elsewhere).await;

    call(&t.db, "revoke(user_id => 'alice')").await;
    expect_ended(of_elsewhere, REVOKED).await;
    expect_open(&t.db, org, &mut [&mut of_bob]).await;
    expect_refused(&nodes, other, &elsewhere).await;

    let mut of_carol = on_each(&nodes, other, &of("carol", "home")).await;
    caught_up(&t.db, other, &mut [&mut of_carol]).await;
    call(&t.db, &format!("revoke(org_id => '{org}')")).await;
    expect_ended(of_bob, REVOKED).await;
    expect_open(&t.db, other, &mut [&mut of_carol]).await;
    expect_refused(&nodes, org, &bob).await;
    expect_taken(&nodes, org, &renewed(&bob)).await;

    // A node that has only just started knows as much.
    let third = TestGateway::gateway(&t.db, |_| {}).await;
    for (org, claims) in [(org, &phone), (org, &laptop), (org, &bob), (other, &elsewhere)] {
        expect_refused(&[&third], org, claims).await;
        expect_taken(&[&third], org, &renewed(claims)).await;
    }
    drop(of_carol);
    for gateway in [t.gateway, second, third] {
        gateway.stop().await;
    }
}

#[tokio::test]
async fn another_issuers_user_of_the_same_name_is_not_concerned() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let alice = of("alice", "phone");
    call(&t.db, "revoke(user_id => 'alice', issuer => 'https://elsewhere.example')").await;
    call(&t.db, "revoke(user_id => 'bob')").await;
    eventually("bob is out", async || {
        answer(t.gateway.public_addr(), org, &of("bob", "desk")).await.0 == 401
    })
    .await;
    expect_taken(&[&t.gateway], org, &alice).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_token_of_the_same_second_or_without_its_time_is_refused() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let id = call(&t.db, &format!("revoke(org_id => '{org}')")).await;
    let second: i64 =
        sqlx::query_scalar("select floor(extract(epoch from revoked_at))::bigint from warden.revocations")
            .fetch_one(&t.db.pool)
            .await
            .expect("reads");
    let silent = json!({"sub": "alice", "iat": null});
    eventually("it is known", async || answer(t.gateway.public_addr(), org, &silent).await.0 == 401).await;
    expect_refused(&[&t.gateway], org, &silent).await;
    expect_refused(&[&t.gateway], org, &json!({"iat": second})).await;
    expect_taken(&[&t.gateway], org, &json!({"iat": second + 1})).await;

    t.db.run(format!("select warden.unrevoke({id})")).await;
    eventually("it is undone", async || answer(t.gateway.public_addr(), org, &silent).await.0 == 101).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn entries_that_cannot_matter_any_more_vanish() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.revocations.interval = Duration::from_millis(100);
    })
    .await;
    let org = t.db.create_org().await;
    let suspended = t.db.create_org().await;
    let silent = json!({"sub": "alice", "iat": null});
    call(&t.db, "revoke(user_id => 'alice', max_token_age => '2 seconds')").await;
    call(&t.db, "revoke(user_id => 'bob')").await;
    call(&t.db, &format!("suspend('{suspended}', max_token_age => '1 second')")).await;
    eventually("it is known", async || answer(t.gateway.public_addr(), org, &silent).await.0 == 401).await;
    eventually("it is forgotten", async || answer(t.gateway.public_addr(), org, &silent).await.0 == 101)
        .await;
    eventually("it is removed", async || {
        let left: Vec<String> =
            sqlx::query_scalar("select coalesce(user_id, 'suspended') from warden.revocations order by id")
                .fetch_all(&t.db.pool)
                .await
                .expect("reads");
        left == ["bob", "suspended"]
    })
    .await;
    let answer = answer(t.gateway.public_addr(), suspended, &renewed(&of("carol", "home"))).await;
    assert_eq!((answer.0, answer.1.as_str()), (403, "organisation_suspended"));
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_refresh_with_a_revoked_token_ends_the_session() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let addr = t.gateway.public_addr();
    let former = token(org, &of("alice", "phone"));
    let mut stale = Client::connect(addr, &former).await;
    let mut fresh = Client::connect(addr, &former).await;
    // Of a later login, as one has who signs in again behind the revocation.
    let later = token(org, &json!({"sub": "alice", "session_id": "tablet", "iat": now() + 3600}));
    let refreshed = fresh.push("phoenix", "access_token", json!({"access_token": later})).await;
    assert_eq!(refreshed.status, "ok", "{refreshed:?}");

    call(&t.db, "revoke(user_id => 'alice')").await;
    stale.expect_close(REVOKED).await;
    assert_eq!(fresh.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    // Back to a token from before: it is refused, and so is the session.
    fresh.send(&json!([null, "9", "phoenix", "access_token", {"access_token": former}]).to_string()).await;
    fresh.expect_close(REVOKED).await;

    // What counts is the present token: the login that was left behind ends nothing.
    let mut moved = Client::connect(addr, &token(org, &of("bob", "phone"))).await;
    let next = token(org, &of("bob", "desk"));
    assert_eq!(moved.push("phoenix", "access_token", json!({"access_token": next})).await.status, "ok");
    let mut witness = Client::connect(addr, &token(org, &of("carol", "phone"))).await;
    call(&t.db, "revoke(session_id => 'phone')").await;
    witness.expect_close(REVOKED).await;
    assert_eq!(moved.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    drop((stale, fresh, moved, witness));
    t.gateway.stop().await;
}

#[tokio::test]
async fn what_was_revoked_while_the_database_was_away_ends_when_it_is_back() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut proxy = PostgresProxy::start(&db.socket_dir()).await;
    let url = format!("postgres://warden_gateway@{}/{}", proxy.host(), db.name);
    let gateway = TestGateway::gateway(&db, |config| {
        config.database = warden::postgres::options(&url).expect("a URL");
    })
    .await;
    let alice = of("alice", "phone");
    let mut client = Client::connect(gateway.public_addr(), &token(org, &alice)).await;
    call(&db, "revoke(user_id => 'bob')").await;
    let bob = of("bob", "desk");
    eventually("bob is out", async || answer(gateway.public_addr(), org, &bob).await.0 == 401).await;

    proxy.shut().await;
    call(&db, "revoke(user_id => 'alice')").await;
    eventually("the node notices", async || {
        *gateway.reader().borrow() != warden::log::TailerState::Following
    })
    .await;
    // What it knew it knows.
    expect_refused(&[&gateway], org, &bob).await;
    assert_eq!(client.push("phoenix", "heartbeat", json!({})).await.status, "ok");
    proxy.reopen().await;
    client.expect_close(REVOKED).await;
    expect_refused(&[&gateway], org, &alice).await;
    drop(client);
    gateway.stop().await;
}

/// Its token was good when it was looked at, and revoked before the session was there to be ended.
#[tokio::test]
async fn a_session_that_was_revoked_while_it_was_accepted_ends() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.look_up_timeout = crate::harness::DEADLINE;
        config.limits.serve.header_timeout = crate::harness::DEADLINE;
    })
    .await;
    let org = t.db.create_org().await;
    let alice = of("alice", "phone");
    // The organisation is looked up after the token: that waits for this lock.
    let mut holder = sqlx::PgConnection::connect(t.db.url()).await.expect("connects");
    holder.execute("begin; lock table organizations").await.expect("locks");
    let (addr, jwt) = (t.gateway.public_addr(), token(org, &alice));
    let waiting = tokio::spawn(async move { Client::connect(addr, &jwt).await });
    eventually("it waits", async || {
        let waits: bool = sqlx::query_scalar(
            "select exists (select from pg_locks where not granted and relation = 'organizations'::regclass)",
        )
        .fetch_one(&t.db.pool)
        .await
        .expect("reads");
        waits
    })
    .await;
    call(&t.db, "revoke(user_id => 'alice')").await;
    eventually("the node knows", async || t.gateway.metrics().revocations.get() == 1).await;
    holder.execute("rollback").await.expect("unlocks");
    let mut late = within("it is let in", waiting).await.expect("connects");
    late.expect_close(REVOKED).await;
    drop(late);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_suspended_organisation_is_out_until_it_is_resumed() {
    let t = TestGateway::start().await;
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    let nodes = [&t.gateway, &second];
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let alice = of("alice", "phone");
    let of_alice = on_each(&nodes, org, &alice).await;
    let mut of_bob = on_each(&nodes, other, &of("bob", "desk")).await;
    caught_up(&t.db, other, &mut [&mut of_bob]).await;

    call(&t.db, &format!("suspend('{org}', 'unpaid')")).await;
    expect_ended(of_alice, SUSPENDED).await;
    expect_open(&t.db, other, &mut [&mut of_bob]).await;
    let third = TestGateway::gateway(&t.db, |_| {}).await;
    for node in [&t.gateway, &second, &third] {
        for claims in [&alice, &renewed(&alice), &json!({"iat": null})] {
            let answer = answer(node.public_addr(), org, claims).await;
            assert_eq!((answer.0, answer.1.as_str()), (403, "organisation_suspended"), "{claims}");
        }
    }
    // Neither ends the suspension.
    call(&t.db, &format!("revoke(org_id => '{org}')")).await;
    t.db.run("select warden.unrevoke(id) from warden.revocations").await;
    assert_eq!(answer(third.public_addr(), org, &renewed(&alice)).await.0, 403);

    t.db.run(format!("select warden.resume('{org}')")).await;
    for node in [&t.gateway, &second, &third] {
        eventually("it is resumed", async || {
            answer(node.public_addr(), org, &renewed(&alice)).await.0 == 101
        })
        .await;
        expect_refused(&[node], org, &alice).await;
    }
    drop(of_bob);
    for gateway in [t.gateway, second, third] {
        gateway.stop().await;
    }
}

#[tokio::test]
async fn nobody_who_comes_back_is_told_of_revocations() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut before = t.connect(org).await;
    let cursor = before.join("org").await["cursor"].clone();
    drop(before);
    call(&t.db, "revoke(user_id => 'nobody')").await;
    call(&t.db, "revoke(session_id => 'nothing')").await;
    let call = t.db.insert_call(org).await;
    // From memory, and on a node whose memory begins later, from the log.
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
async fn the_audit_trail_names_what_was_revoked_and_by_whom() {
    let logs = LogCapture::begin();
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let user = format!("user-{}", Uuid::new_v4());
    let mut client = Client::connect(t.gateway.public_addr(), &token(org, &of(&user, "phone"))).await;
    let id = call(&t.db, &format!("revoke(user_id => '{user}', org_id => '{org}')")).await;
    client.expect_close(REVOKED).await;
    drop(client);
    let told = || logs.lines_with(&["warden::audit", "action=\"revoke\"", &user]);
    assert_eq!(told().len(), 1, "{:?}", told());
    for field in [format!("revocation.id={id}"), format!("org.id={org}"), "by=\"postgres\"".to_owned()] {
        assert!(told()[0].contains(&field), "{field}: {:?}", told());
    }
    eventually("the end is told", async || {
        !logs.lines_with(&["session ended", &user, "code=4410"]).is_empty()
    })
    .await;
    // Again, as by hand in haste: told again. A load without a change tells nothing.
    call(&t.db, &format!("suspend('{org}')")).await;
    eventually("it is told", async || {
        logs.lines_with(&["action=\"revoke\"", &org.to_string(), "suspended=true"]).len() == 1
    })
    .await;
    assert_eq!(told().len(), 1, "{:?}", told());
    t.gateway.stop().await;
}

#[tokio::test]
async fn what_cannot_be_revoked_is_refused_with_the_reason() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    for (call, error) in [
        ("revoke()".to_owned(), "pass one of session_id, user_id and org_id"),
        ("revoke(session_id => 'a', user_id => 'b')".to_owned(), "pass one of"),
        ("revoke(user_id => '')".to_owned(), "not be empty"),
        ("revoke(user_id => repeat('x', 257))".to_owned(), "at most 256 bytes"),
        ("revoke(user_id => 'a', reason => repeat('x', 501))".to_owned(), "at most 500"),
        ("revoke(user_id => 'a', max_token_age => '0')".to_owned(), "max_token_age"),
        ("revoke(user_id => 'a', max_token_age => null)".to_owned(), "max_token_age"),
        (format!("revoke(org_id => '{}')", Uuid::new_v4()), "does not exist"),
        (format!("suspend('{}')", Uuid::new_v4()), "does not exist"),
        ("suspend(null)".to_owned(), "pass one of session_id, user_id and org_id"),
    ] {
        let said = db.error(format!("select warden.{call}")).await;
        assert!(said.contains(error), "{call}: {said}");
    }
    // Again is once, with the later time.
    let first = call(&db, &format!("revoke(org_id => '{org}')")).await;
    let before: bool =
        sqlx::query_scalar("select max(revoked_at) < clock_timestamp() from warden.revocations")
            .fetch_one(&db.pool)
            .await
            .expect("reads");
    assert!(before);
    assert_eq!(call(&db, &format!("revoke(org_id => '{org}')")).await, first);
    // As many as may be, and one more.
    db.run(
        "insert into warden.revocations (session_id, revoked_at, expires_at)
         select n::text, now(), now() + interval '1 hour' from generate_series(1, 99999) n",
    )
    .await;
    let said = db.error("select warden.revoke(user_id => 'late')").await;
    assert!(said.contains("which is the limit"), "{said}");
}

//! Revocation over HTTP: only back ends may revoke, only within their own organisation, and it takes effect
//! on every node.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use uuid::Uuid;
use warden::rate::Rate;

use super::{
    REVOKED, connect_to_each, expect_accepted, expect_closed, expect_open, expect_rejected, login, now,
    renewed, skip_earlier_events,
};
use crate::harness::{
    Answer, LogCapture, Post, PostgresProxy, TestDb, TestGateway, eventually, token, within,
};

const PATH: &str = "/v1/revocations";

/// Token of a back end. It is issued before the revocations, as the tokens that they concern are.
pub(super) fn service(org: Uuid) -> String {
    token(org, &json!({"sub": "billing", "role": "service_role", "iat": now() - 60}))
}

/// A valid request, which tests change.
pub(super) fn post(token: &str, body: &Value) -> Post {
    Post::json(PATH, token, body)
}

/// Revokes with success. Returns the body of the response.
pub(super) async fn revoke(addr: SocketAddr, token: &str, body: &Value) -> Value {
    let answer = post(token, body).send(addr).await;
    assert_eq!(answer.status, 201, "{body}: {answer:?}");
    assert_eq!(answer.headers("content-type"), ["application/json"]);
    serde_json::from_str(&answer.body).expect("JSON")
}

async fn revocation_count(db: &TestDb) -> i64 {
    sqlx::query_scalar("select count(*) from warden.revocations").fetch_one(&db.pool).await.expect("counts")
}

#[tokio::test]
async fn a_back_end_revokes_within_its_organisation_on_every_node() {
    let t = TestGateway::start().await;
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    let nodes = [&t.gateway, &second];
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let (phone, laptop, bob) = (login("alice", "phone"), login("alice", "laptop"), login("bob", "desk"));
    let of_phone = connect_to_each(&nodes, org, &phone).await;
    let mut of_laptop = connect_to_each(&nodes, org, &laptop).await;
    let mut of_bob = connect_to_each(&nodes, org, &bob).await;
    // The same user and login session in another organisation must not be concerned.
    let mut elsewhere = connect_to_each(&nodes, other, &phone).await;
    skip_earlier_events(&t.db, org, &mut [&mut of_laptop, &mut of_bob]).await;
    skip_earlier_events(&t.db, other, &mut [&mut elsewhere]).await;
    let (backend, addr) = (service(org), t.gateway.public_addr());

    let revoked = revoke(addr, &backend, &json!({"session_id": "phone", "reason": "lost"})).await;
    assert_eq!((&revoked["session_id"], &revoked["org_id"]), (&json!("phone"), &json!(org)), "{revoked}");
    let is_stored: bool = sqlx::query_scalar(
        "select r.id = $1 and r.revoked_at = $2::text::timestamptz and r.expires_at = $3::text::timestamptz
                and r.expires_at - r.revoked_at = '7 days' and r.reason = 'lost' and r.org_id = $4
         from warden.revocations r",
    )
    .bind(revoked["id"].as_i64())
    .bind(revoked["revoked_at"].as_str())
    .bind(revoked["expires_at"].as_str())
    .bind(org)
    .fetch_one(&t.db.pool)
    .await
    .expect("reads");
    assert!(is_stored, "{revoked}");
    expect_closed(of_phone, REVOKED).await;
    expect_open(&t.db, org, &mut [&mut of_laptop, &mut of_bob]).await;
    expect_rejected(&nodes, org, &phone).await;
    expect_accepted(&nodes, org, &laptop).await;

    let body = json!({"user_id": "alice", "max_token_age_seconds": 3600});
    let revoked = revoke(second.public_addr(), &backend, &body).await;
    assert_eq!(revoked["user_id"], "alice");
    expect_closed(of_laptop, REVOKED).await;
    expect_open(&t.db, org, &mut [&mut of_bob]).await;
    expect_open(&t.db, other, &mut [&mut elsewhere]).await;
    expect_accepted(&nodes, other, &phone).await;
    let third = TestGateway::gateway(&t.db, |_| {}).await;
    expect_rejected(&[&third], org, &laptop).await;
    expect_accepted(&[&third], org, &renewed(&laptop)).await;
    expect_accepted(&[&third], other, &phone).await;
    of_bob.extend(connect_to_each(&[&third], org, &bob).await);

    // A revocation of the whole organisation also concerns the back end that requests it, until its next
    // token.
    revoke(addr, &backend, &json!({"org_id": org})).await;
    expect_closed(of_bob, REVOKED).await;
    expect_open(&t.db, other, &mut [&mut elsewhere]).await;
    expect_rejected(&[&t.gateway, &second, &third], org, &bob).await;
    let answer = post(&backend, &json!({"user_id": "bob"})).send(addr).await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "token_revoked"));
    let fresh = token(org, &json!({"role": "service_role", "iat": now() + 1}));
    revoke(addr, &fresh, &json!({"user_id": "bob"})).await;
    drop(elsewhere);
    for gateway in [t.gateway, second, third] {
        gateway.stop().await;
    }
}

#[tokio::test]
async fn only_a_back_end_of_the_organisation_may_revoke() {
    let t = TestGateway::start().await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let gone = Uuid::new_v4();
    let body = json!({"user_id": "alice"});
    let with = |changes: Value| post(&token(org, &changes), &body);
    let good = || post(&service(org), &body);
    let mut in_url = good();
    in_url.target = format!("{PATH}?token={}", service(org));
    let forged = service(org).replace('.', ".e");
    let cookie = Post::bare(PATH, &body.to_string()).with("Cookie", &format!("token={}", service(org)));
    let bearer = format!("Bearer {}", service(org));
    for (name, request, status, code) in [
        ("no token", Post::bare(PATH, &body.to_string()), 401, "no_token"),
        ("a cookie", cookie, 401, "no_token"),
        ("a user's token", with(json!({})), 403, "not_a_backend"),
        ("no role", with(json!({"role": null})), 403, "not_a_backend"),
        ("a role in another case", with(json!({"role": "Service_Role"})), 403, "not_a_backend"),
        ("a list of roles", with(json!({"role": ["service_role"]})), 403, "not_a_backend"),
        (
            "a role in user_metadata",
            with(json!({"user_metadata": {"role": "service_role"}})),
            403,
            "not_a_backend",
        ),
        ("expired", with(json!({"role": "service_role", "exp": now() - 1})), 401, "token_expired"),
        ("forged", post(&forged, &body), 401, "invalid_token"),
        (
            "no organisation",
            with(json!({"role": "service_role", "app_metadata": {}})),
            403,
            "no_organisation",
        ),
        ("a deleted organisation", post(&service(gone), &body), 403, "unknown_organisation"),
        ("another organisation", post(&service(org), &json!({"org_id": other})), 403, "other_organisation"),
        (
            "a page of another origin",
            good().with("Origin", "https://evil.example"),
            403,
            "origin_not_allowed",
        ),
        ("a token in the URL", in_url, 400, "credential_in_url"),
        ("two tokens", good().with("Authorization", &bearer), 400, "several_tokens"),
        ("two Hosts", good().with("Host", "x"), 400, "ambiguous_request"),
    ] {
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{name}: {answer:?}");
    }
    assert_eq!(revocation_count(&t.db).await, 0);
    // The valid request is accepted.
    revoke(t.gateway.public_addr(), &service(org), &body).await;
    assert_eq!(revocation_count(&t.db).await, 1);
    // The back end of a suspended organisation is rejected too.
    super::warden_call(&t.db, &format!("suspend('{other}')")).await;
    eventually("the node has loaded the suspension", async || {
        let answer = post(&service(other), &body).send(t.gateway.public_addr()).await;
        answer.code() == "organisation_suspended"
    })
    .await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn an_issuers_rules_name_the_role_of_its_back_ends() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let body = json!({"user_id": "alice"});
    for (rule, role, status) in
        [("worker", "worker", 201), ("worker", "service_role", 403), ("", "service_role", 403), ("", "", 403)]
    {
        let gateway = TestGateway::gateway(&db, |config| {
            config.verifier.issuers[0].rules.service_role = Some(rule.into());
        })
        .await;
        let answer = post(&token(org, &json!({"role": role})), &body).send(gateway.public_addr()).await;
        assert_eq!(answer.status, status, "{rule:?} {role:?}: {answer:?}");
        gateway.stop().await;
    }
}

#[tokio::test]
async fn an_invalid_request_is_rejected_with_a_reason() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let backend = service(org);
    let long = |bytes: usize| "x".repeat(bytes);
    for body in [
        String::new(),
        "null".into(),
        format!("[\"phone\", \"{org}\"]"),
        "{}".into(),
        "{\"user_id\": \"a\"".into(),
        json!({"user_id": "a", "session_id": "b"}).to_string(),
        json!({"user_id": "a", "org_id": org}).to_string(),
        // A caller's empty variable must not turn a user into the whole organisation.
        json!({"user_id": null, "org_id": org}).to_string(),
        json!({"user_id": ""}).to_string(),
        json!({"user_id": 1}).to_string(),
        json!({"user_id": long(257)}).to_string(),
        json!({"user_id": "a\0"}).to_string(),
        json!({"user_id": "a", "issuer": ""}).to_string(),
        json!({"user_id": "a", "reason": long(501)}).to_string(),
        json!({"user_id": "a", "reason": "\0"}).to_string(),
        json!({"user_id": "a", "max_token_age_seconds": 0}).to_string(),
        json!({"user_id": "a", "max_token_age_seconds": 400_000_000}).to_string(),
        json!({"user_id": "a", "max_token_age_seconds": "1"}).to_string(),
        json!({"user_id": "a", "suspended": true}).to_string(),
        json!({"org_id": "all"}).to_string(),
        "{\"user_id\": \"a\", \"user_id\": \"b\"}".into(),
    ] {
        let mut request = post(&backend, &json!({}));
        request.body = body.clone().into();
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "invalid_revocation"),
            "{body}: {answer:?}"
        );
    }
    let good = || post(&backend, &json!({"user_id": "a"}));
    let mut get = good();
    get.method = "GET";
    let mut padded = good();
    padded.body.resize(16 * 1024, b' ');
    for (request, status, code) in [
        (get, 405, "method_not_allowed"),
        (good().without("Content-Type"), 415, "not_json"),
        (good().without("Content-Type").with("Content-Type", "text/plain"), 415, "not_json"),
        (padded, 413, "body_too_long"),
    ] {
        let answer = request.send(t.gateway.public_addr()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
        assert_eq!(answer.headers("allow"), if status == 405 { vec!["POST"] } else { vec![] });
    }
    assert_eq!(revocation_count(&t.db).await, 0);
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_missing_body_times_out() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.serve.header_timeout = Duration::from_millis(300);
    })
    .await;
    let org = t.db.create_org().await;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\
         Authorization: Bearer {}\r\n\r\n{{\"user",
        service(org)
    );
    let mut stream = TcpStream::connect(t.gateway.public_addr()).await.expect("connects");
    stream.write_all(head.as_bytes()).await.expect("writes");
    let answer = within("an answer", Answer::read(&mut stream)).await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"), "{answer:?}");
    t.gateway.stop().await;
}

#[tokio::test]
async fn revocations_are_limited_per_organisation() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.admission.revocations_per_org = Rate::new(1, 2);
        // A node that has reached its session limit must still revoke.
        config.limits.admission.sessions_max = 0;
    })
    .await;
    let (org, other) = (t.db.create_org().await, t.db.create_org().await);
    let addr = t.gateway.public_addr();
    let (backend, body) = (service(org), json!({"user_id": "alice"}));
    let first = revoke(addr, &backend, &body).await;
    // A repeated revocation keeps its entry.
    assert_eq!(revoke(addr, &backend, &body).await["id"], first["id"]);
    let answer = post(&backend, &body).send(addr).await;
    assert_eq!((answer.status, answer.code().as_str()), (429, "revocations_per_org"), "{answer:?}");
    assert_eq!(answer.headers("retry-after"), ["1"]);
    revoke(addr, &service(other), &body).await;
    t.gateway.stop().await;

    t.db.run(format!(
        "insert into warden.revocations (session_id, org_id, revoked_at, expires_at)
         select n::text, '{org}', now(), now() + interval '1 hour' from generate_series(1, 9999) n"
    ))
    .await;
    let t = TestGateway::start_with(t.db, |_| {}).await;
    let addr = t.gateway.public_addr();
    let answer = post(&backend, &json!({"user_id": "bob"})).send(addr).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "too_many_revocations"), "{answer:?}");
    revoke(addr, &service(other), &json!({"user_id": "bob"})).await;
    t.gateway.stop().await;
}

#[tokio::test]
async fn a_revocation_fails_with_503_while_the_database_is_down() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut proxy = PostgresProxy::start(&db.socket_dir()).await;
    let url = format!("postgres://warden_gateway@{}/{}", proxy.host(), db.name);
    let gateway = TestGateway::gateway(&db, |config| {
        config.database = warden::postgres::options(&url).expect("a URL");
        config.limits.revocations.timeout = Duration::from_secs(1);
    })
    .await;
    let (addr, backend) = (gateway.public_addr(), service(org));
    revoke(addr, &backend, &json!({"user_id": "alice"})).await;
    proxy.shut().await;
    let answer = post(&backend, &json!({"user_id": "bob"})).send(addr).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"), "{answer:?}");
    assert_eq!(answer.headers("retry-after"), ["1"]);
    proxy.reopen().await;
    eventually("the database is reachable again", async || {
        post(&backend, &json!({"user_id": "bob"})).send(addr).await.status == 201
    })
    .await;
    assert_eq!(revocation_count(&db).await, 2);
    gateway.stop().await;
}

#[tokio::test]
async fn the_audit_trail_and_the_metrics_record_revocations_over_http() {
    let logs = LogCapture::begin();
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let (user, by) = (format!("user-{}", Uuid::new_v4()), format!("backend-{}", Uuid::new_v4()));
    let backend = token(org, &json!({"sub": by, "role": "service_role"}));
    let revoked = revoke(t.gateway.public_addr(), &backend, &json!({"user_id": user})).await;
    let requested = logs.lines_with(&["warden::audit_trail", "action=\"revoke_request\"", &by]);
    assert_eq!(requested.len(), 1, "{requested:?}");
    for field in [
        format!("revocation.id={}", revoked["id"]),
        format!("org.id={org}"),
        "address=127.0.0.1".to_owned(),
        "token.hash=".to_owned(),
    ] {
        assert!(requested[0].contains(&field), "{field}: {requested:?}");
    }
    // Every node logs the revocation when it has loaded it.
    let logged = || logs.lines_with(&["action=\"revoke\"", &user, &format!("requested_by=\"{by}\"")]);
    eventually("the node has loaded the revocation", async || logged().len() == 1).await;
    assert!(logged()[0].contains("by=\"warden_gateway\""), "{:?}", logged());

    let stranger = format!("stranger-{}", Uuid::new_v4());
    let nobody = token(org, &json!({"sub": stranger}));
    let hash = warden::audit_trail::TokenHash::of(&nobody).to_string();
    assert_eq!(post(&nobody, &json!({"user_id": user})).send(t.gateway.public_addr()).await.status, 403);
    let rejected = logs.lines_with(&["action=\"revoke_reject\"", "code=\"not_a_backend\"", &hash]);
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    let metrics = t.gateway.metrics().encode();
    assert!(metrics.contains("warden_revocations_requested_total 1"), "{metrics}");
    assert!(metrics.contains("warden_revocations_refused_total{code=\"not_a_backend\"} 1"), "{metrics}");
    t.gateway.stop().await;
}

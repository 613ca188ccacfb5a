//! Shares of the table of revocations: back ends cannot take what operators need in an emergency, and deleted
//! organisations leave one entry each.

use std::time::Duration;

use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::http::{post, revoke, service};
use super::{
    REVOKED, SUSPENDED, answer, connect_to_each, expect_accepted, expect_closed, expect_rejected, login,
    renewed, warden_call,
};
use crate::harness::{TestDb, TestGateway, eventually};

async fn entries(db: &TestDb, org: Uuid) -> i64 {
    sqlx::query_scalar("select count(*) from warden.revocations where org_id = $1")
        .bind(org)
        .fetch_one(&db.pool)
        .await
        .expect("counts")
}

/// Adds entries of the organisation as its back ends do, until they are rejected. Most are written directly,
/// because each call counts the table.
async fn take_share(db: &TestDb, org: Uuid) {
    db.run(format!(
        "insert into warden.revocations (session_id, org_id, revoked_at, expires_at)
         select n::text, '{org}', now(), now() + interval '10 years'
         from generate_series(1, (90000 - (select count(*) from warden.revocations)) / 9 - 1) n"
    ))
    .await;
    for n in 0..20 {
        let call =
            format!("select id from warden.revoke_within('{org}', 'backend', session_id => 'more{n}')");
        match sqlx::query(AssertSqlSafe(call)).execute(&db.pool).await {
            Ok(_) => {}
            Err(error) => return assert!(error.to_string().contains("which is the limit"), "{error}"),
        }
    }
    panic!("the share has no end");
}

#[tokio::test]
async fn back_ends_cannot_take_the_entries_of_operators() {
    let db = TestDb::create().await;
    let (greedy, other) = (db.create_org().await, db.create_org().await);
    take_share(&db, greedy).await;
    assert_eq!(entries(&db, greedy).await, 10_000);
    for _ in 0..40 {
        let org = db.create_org().await;
        take_share(&db, org).await;
    }
    // A gateway that ran earlier would read the entries again after each change.
    let t = TestGateway::start_with(db, |_| {}).await;
    let addr = t.gateway.public_addr();
    let rejected = post(&service(greedy), &json!({"user_id": "new"})).send(addr).await;
    assert_eq!((rejected.status, rejected.code().as_str()), (409, "too_many_revocations"), "{rejected:?}");
    // Repeating an entry adds none. Another organisation still gets some.
    revoke(addr, &service(greedy), &json!({"session_id": "1"})).await;
    revoke(addr, &service(other), &json!({"user_id": "alice"})).await;

    // Operators are not limited by what back ends have taken.
    let sessions = connect_to_each(&[&t.gateway], greedy, &login("mallory", "desk")).await;
    warden_call(&t.db, &format!("suspend('{greedy}')")).await;
    expect_closed(sessions, SUSPENDED).await;
    let sessions = connect_to_each(&[&t.gateway], other, &login("bob", "desk")).await;
    warden_call(&t.db, "revoke(user_id => 'bob')").await;
    expect_closed(sessions, REVOKED).await;
    expect_rejected(&[&t.gateway], other, &login("bob", "desk")).await;

    // At the limit of the table an operator can still renew entries, and suspend an organisation that has
    // one.
    t.db.run(
        "insert into warden.revocations (session_id, revoked_at, expires_at)
         select 'operator' || n, now(), now() + interval '1 day'
         from generate_series(1, 100000 - (select count(*) from warden.revocations)) n",
    )
    .await;
    let beyond = sqlx::query("select warden.revoke(user_id => 'carol')").execute(&t.db.pool).await;
    assert!(beyond.is_err_and(|error| error.to_string().contains("which is the limit")));
    warden_call(&t.db, "revoke(user_id => 'bob')").await;
    warden_call(&t.db, &format!("suspend('{greedy}')")).await;
    revoke(addr, &service(other), &json!({"user_id": "alice"})).await;
    t.gateway.stop().await;
}

/// An organisation that is deleted leaves one entry. It rejects the former tokens if the organisation is
/// created again with the same id.
#[tokio::test]
async fn a_deleted_organisation_leaves_one_entry_that_outlives_its_tokens() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        config.limits.revocations.interval = Duration::from_millis(200);
    })
    .await;
    let nodes = [&t.gateway];
    let (org, suspended, other) = (t.db.create_org().await, t.db.create_org().await, t.db.create_org().await);
    for org in [org, suspended, other] {
        for n in 0..5 {
            warden_call(&t.db, &format!("revoke(session_id => 'login{n}', org_id => '{org}')")).await;
        }
    }
    let longest = format!("revoke(user_id => 'alice', org_id => '{org}', max_token_age => '1 year')");
    warden_call(&t.db, &longest).await;
    warden_call(&t.db, &format!("suspend('{suspended}')")).await;
    t.db.run(format!("delete from organizations where id in ('{org}', '{suspended}')")).await;
    eventually("the entries are merged", async || {
        entries(&t.db, org).await == 1 && entries(&t.db, suspended).await == 1
    })
    .await;
    assert_eq!(entries(&t.db, other).await, 5);
    let lives_as_long: bool = sqlx::query_scalar(
        "select expires_at > now() + interval '364 days' from warden.revocations where org_id = $1",
    )
    .bind(org)
    .fetch_one(&t.db.pool)
    .await
    .expect("reads");
    assert!(lives_as_long, "the entry expires before the tokens that it revokes");

    for org in [org, suspended] {
        t.db.run(format!("insert into organizations (id, name) values ('{org}', 'again')")).await;
    }
    for claims in [login("alice", "any"), login("bob", "login3")] {
        expect_rejected(&nodes, org, &claims).await;
        expect_accepted(&nodes, org, &renewed(&claims)).await;
    }
    let still = answer(t.gateway.public_addr(), suspended, &renewed(&login("bob", "desk"))).await;
    assert_eq!(still.1, "organisation_suspended");
    expect_accepted(&nodes, other, &login("alice", "desk")).await;
    t.gateway.stop().await;
}

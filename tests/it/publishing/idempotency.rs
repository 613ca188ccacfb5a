//! Idempotency keys: a repeated request publishes once, on any node, and gets the same answer.

use std::collections::HashSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{code, ids, paid, post, publish, published, service, with_orgs};
use crate::harness::TestGateway;

#[tokio::test]
async fn a_repeated_request_publishes_once_and_gets_the_same_answer() {
    let (t, [org, other]) = with_orgs().await;
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    let nodes = [t.gateway.public_addr(), second.public_addr()];
    let keyed = |key: &str, body: &Value| post(&service(org), body).with("Idempotency-Key", key);
    for body in [paid(0), json!([paid(1), paid(2)])] {
        let key = format!("order {}", body.is_array());
        let first = publish(nodes[0], keyed(&key, &body)).await;
        assert_eq!(first["events"][0].get("duplicate"), None, "{first}");
        // Other white space and another order of the keys are the same events.
        let spaced = serde_json::to_string_pretty(&body).expect("JSON").replace("  ", "\t");
        let again = publish(nodes[1], keyed(&key, &Value::Null).body(spaced)).await;
        assert_eq!((ids(&again), &again["tx"]), (ids(&first), &first["tx"]), "{again}");
        assert!(
            again["events"].as_array().expect("events").iter().all(|e| e["duplicate"] == true),
            "{again}"
        );
        let reused = keyed(&key, &paid(9)).send(nodes[1]).await;
        assert_eq!(code(&reused), (409, "idempotency_key_reused".to_owned()), "{reused:?}");
    }
    assert_eq!(published(&t.db).await, 3);
    // The key of another organisation is another key, and an invalid request uses none.
    publish(nodes[0], post(&service(other), &paid(0)).with("Idempotency-Key", "order false")).await;
    let invalid = keyed("new", &json!([paid(3), {"topic": "nowhere", "event": "a"}])).send(nodes[0]).await;
    assert_eq!(invalid.status, 400, "{invalid:?}");
    publish(nodes[1], keyed("new", &json!([paid(3), paid(4)]))).await;
    assert_eq!(published(&t.db).await, 6);

    // An expired key is new, and a deleted organisation's keys are unknown to the next one with its id.
    t.db.run("update warden.idempotency_keys set created_at = created_at - interval '24 hours 1 second'")
        .await;
    let fresh = publish(nodes[0], keyed("order false", &paid(7))).await;
    assert_eq!((published(&t.db).await, fresh["events"][0].get("duplicate")), (7, None), "{fresh}");
    t.gateway.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn fifty_callers_on_two_nodes_publish_once() {
    let (t, [org]) = with_orgs().await;
    let second = TestGateway::gateway(&t.db, |_| {}).await;
    let nodes = [t.gateway.public_addr(), second.public_addr()];
    let body = json!([paid(0), paid(1)]);
    let token = service(org);
    for key in ["first", "second"] {
        let callers =
            (0..50).map(|n| publish(nodes[n % 2], post(&token, &body).with("Idempotency-Key", key)));
        let answers = join_all(callers).await;
        let different: HashSet<String> =
            answers.iter().map(|answer| format!("{:?} {}", ids(answer), answer["tx"])).collect();
        assert_eq!(different.len(), 1, "{different:?}");
        let new = answers.iter().filter(|answer| answer["events"][0].get("duplicate").is_none()).count();
        assert_eq!(new, 1);
    }
    assert_eq!(published(&t.db).await, 4);
    t.gateway.stop().await;
    second.stop().await;
}

#[tokio::test]
async fn keys_are_limited_per_organisation_and_deleted_when_they_expire() {
    let (t, [org, other]) = with_orgs().await;
    let addr = t.gateway.public_addr();
    t.db.run(format!(
        "insert into warden.idempotency_keys (org_id, incarnation, key, content, xid, epoch, created_at)
         select '{org}', 0, set_byte(sha256(n::text::bytea), 0, bucket), sha256(''), '1', '', now() - interval '23 h'
         from generate_series(1, 1000) n, generate_series(0, 255) bucket"
    ))
    .await;
    let keyed = |org| post(&service(org), &paid(0)).with("Idempotency-Key", "a new one");
    let answer = keyed(org).send(addr).await;
    assert_eq!(code(&answer), (429, "idempotency_keys".to_owned()), "{answer:?}");
    let wait: u32 = answer.headers("retry-after")[0].parse().expect("seconds");
    assert!((3000..=3600).contains(&wait), "{wait}");
    publish(addr, post(&service(org), &paid(0))).await;
    publish(addr, keyed(other)).await;

    let forget = "select warden.forget_idempotency_keys(1000000)";
    let forgotten: i64 = sqlx::query_scalar(forget).fetch_one(&t.db.pool).await.expect("deletes");
    assert_eq!(forgotten, 0);
    t.db.run("update warden.idempotency_keys set created_at = now() - interval '25 h' where key > '\\xf0'")
        .await;
    let forgotten: i64 = sqlx::query_scalar(forget).fetch_one(&t.db.pool).await.expect("deletes");
    assert!((16_000..=16_001).contains(&forgotten), "{forgotten}");
    t.db.run(format!("delete from organizations where id = '{org}'")).await;
    let _: i64 = sqlx::query_scalar(forget).fetch_one(&t.db.pool).await.expect("deletes");
    let left: i64 = sqlx::query_scalar("select count(*) from warden.idempotency_keys where org_id = $1")
        .bind(org)
        .fetch_one(&t.db.pool)
        .await
        .expect("counts");
    assert_eq!(left, 0);
    t.gateway.stop().await;
}

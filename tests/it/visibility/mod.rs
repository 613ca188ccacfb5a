//! Streaming is access: a socket shows nothing that the same claims may not SELECT, unless the operator said
//! who receives it.

mod random;
mod roles;

use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;
use warden::app::Gateway;

use crate::harness::{Client, TestDb, TestGateway, eventually, token};

/// Short, because sockets of these tests may still be open when their gateway stops.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(50);

/// A token, whose claim names these topics if there are any.
fn token_naming(org: Uuid, topics: Option<&Value>) -> String {
    match topics {
        Some(topics) => token(org, &json!({"app_metadata": {"org_id": org, "warden_topics": topics}})),
        None => token(org, &json!({})),
    }
}

async fn connect(gateway: &Gateway, org: Uuid, topics: Option<Value>) -> Client {
    Client::connect(gateway.public_addr(), &token_naming(org, topics.as_ref())).await
}

/// A database that uses the role `authenticated`, with a table of salaries that it may not read.
async fn with_salaries() -> (TestDb, Uuid) {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create table notes (id int primary key, org_id uuid not null);
         grant select on notes to authenticated;
         create table salaries (id int primary key, org_id uuid not null, amount int not null default 0);",
    )
    .await;
    (db, org)
}

async fn gateway(db: &TestDb, has_memory: bool) -> Gateway {
    TestGateway::gateway(db, |config| {
        config.limits.session.close_timeout = CLOSE_TIMEOUT;
        if !has_memory {
            config.limits.recent.bytes_max = 0;
        }
    })
    .await
}

const WATCH_BY_CLAIM: &str = "select warden.watch('salaries', 'salaries', 'salary', entity_topic => 'salary',
                                                  visibility => 'claim')";

async fn insert_salary(db: &TestDb, org: Uuid, id: i32) {
    db.run(format!("insert into salaries values ({id}, '{org}', 1000)")).await;
}

/// Waits until the node has loaded that the topic needs a claim.
async fn expect_closed_topic(client: &mut Client, topic: &str) {
    eventually("the topic needs a claim", async || {
        let reply = client.push(topic, "phx_join", json!({})).await;
        reply.response["reason"] == "forbidden topic"
    })
    .await;
}

#[tokio::test]
async fn a_narrower_table_is_watched_only_after_a_decision() {
    let (db, _) = with_salaries().await;
    let watch = |arguments: &str| format!("select warden.watch('salaries', 'salaries', 'salary'{arguments})");
    let reason = async || -> Option<String> {
        sqlx::query_scalar("select warden.narrower_than_organization('salaries', '{}', 'org_id')")
            .fetch_one(&db.pool)
            .await
            .expect("queries")
    };
    // Each statement makes the table narrower or not, with a part of the reason.
    let steps = [
        ("", Some("columns id, org_id, amount")),
        ("grant select (id, org_id) on salaries to authenticated", Some("columns amount")),
        ("grant select on salaries to public", None),
        ("alter table salaries enable row level security", Some("no policy")),
        ("create policy own on salaries using (id = 7)", Some("no policy")),
        ("create policy boss on salaries to service_role using (true)", Some("no policy")),
        ("create policy writes on salaries for insert with check (true)", Some("no policy")),
        ("create policy org on salaries for select using (org_id = (select auth_org_id()))", None),
        (
            "create policy few on salaries as restrictive for select to authenticated using (id > 7)",
            Some("few"),
        ),
        ("alter policy few on salaries using (true)", None),
        ("create policy del on salaries as restrictive for delete using (id > 7)", None),
        ("alter policy org on salaries using (org_id = (select auth_org_id()) or id = 1)", Some("no policy")),
        ("alter policy own on salaries using (true)", None),
        ("revoke select on salaries from public", Some("columns amount")),
    ];
    for (statement, expected) in steps {
        db.run(statement).await;
        let found = reason().await;
        match expected {
            Some(part) => {
                assert!(found.as_ref().is_some_and(|found| found.contains(part)), "{statement}: {found:?}");
                let error = db.error(watch("")).await;
                assert!(
                    error.contains("more of public.salaries than they may SELECT"),
                    "{statement}: {error}"
                );
            }
            None => {
                assert_eq!(found, None, "{statement}");
                db.run(watch("")).await;
            }
        }
    }
    db.run(watch(", omit_columns => '{amount}'")).await;
    // The entity column is sent even if it is omitted.
    db.run("revoke select on salaries from authenticated; grant select (org_id, amount) on salaries to authenticated")
        .await;
    db.error(watch(", omit_columns => '{id}'")).await;
    for visibility in ["organisation", "claim"] {
        db.run(watch(&format!(", visibility => '{visibility}'"))).await;
    }
    assert!(db.error(watch(", visibility => 'everybody'")).await.contains("visibility \"everybody\""));
}

#[tokio::test]
async fn a_database_that_does_not_use_authenticated_is_not_judged_by_it() {
    let db = TestDb::create().await;
    db.run(
        "create table salaries (id int primary key, org_id uuid not null);
         select warden.watch('salaries', 'salaries', 'salary')",
    )
    .await;
}

#[tokio::test]
async fn the_audit_finds_watches_that_send_more_than_clients_may_select() {
    let (db, _) = with_salaries().await;
    db.run(
        "grant select on salaries to authenticated;
         select warden.watch('salaries', 'salaries', 'salary');
         revoke select (amount) on salaries from authenticated; revoke select on salaries from authenticated;
         grant select (id, org_id) on salaries to authenticated",
    )
    .await;
    let sql = include_str!("../../../src/tenancy/audit/sql/watches.sql");
    let found = async || -> Vec<(String, String)> {
        let sql = format!("select r.table, r.remedy from ({sql}) r where r.rule = 'watch-visibility'");
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&db.pool).await.expect("queries")
    };
    let findings = found().await;
    let [(table, remedy)] = &findings[..] else { panic!("one finding: {findings:?}") };
    assert_eq!(table, "public.salaries");
    for visibility in ["organisation", "claim"] {
        assert!(remedy.contains(&format!("visibility => '{visibility}');")), "{remedy}");
    }
    db.run("select warden.watch('salaries', 'salaries', 'salary', visibility => 'organisation')").await;
    assert_eq!(found().await, []);
}

#[tokio::test]
async fn a_claim_topic_reaches_only_tokens_that_name_it() {
    let (db, org) = with_salaries().await;
    db.run(WATCH_BY_CLAIM).await;
    let node = gateway(&db, true).await;
    let mut named = connect(&node, org, Some(json!(["salaries", "org", "salary:*"]))).await;
    for topic in ["salaries", "org", "salary:7"] {
        named.join(topic).await;
    }
    let mut unnamed = connect(&node, org, None).await;
    let mut limited = connect(&node, org, Some(json!(["org", "calls", "salary:*"]))).await;
    for client in [&mut unnamed, &mut limited] {
        for topic in ["salaries", "org", "salary:7"] {
            expect_closed_topic(client, topic).await;
        }
        client.join("calls").await;
    }
    // Entity topics that carry no salaries stay open.
    unnamed.join(&format!("call:{}", Uuid::new_v4())).await;
    insert_salary(&db, org, 7).await;
    db.publish(org, "salaries", "salary.paid").await;
    db.insert_call(org).await;
    let mut topics = Vec::new();
    for _ in 0..6 {
        topics.push(named.next_event().await.topic);
    }
    topics.sort();
    assert_eq!(topics, ["org", "org", "org", "salaries", "salaries", "salary:7"]);
    unnamed.expect_only("calls", "call.created").await;
    limited.expect_only("calls", "call.created").await;
    node.stop().await;
}

/// The node hears of the claim by the log's event about topics or, if that is lost, by the first row.
#[tokio::test]
async fn sessions_that_joined_before_the_topic_needed_a_claim_are_closed_before_its_first_event() {
    for is_announced in [true, false] {
        let (db, org) = with_salaries().await;
        db.run(
            "select warden.watch('salaries', 'salaries', 'salary', entity_topic => 'salary',
                                 visibility => 'organisation')",
        )
        .await;
        let node = gateway(&db, true).await;
        let mut named = connect(&node, org, Some(json!(["*"]))).await;
        named.join("salaries").await;
        let mut before = Vec::new();
        for topic in ["salaries", "org", "salary:2"] {
            let mut client = connect(&node, org, None).await;
            client.join(topic).await;
            before.push(client);
        }
        if !is_announced {
            db.run("alter table warden.watches disable trigger topics_changed").await;
        }
        db.run(WATCH_BY_CLAIM).await;
        if !is_announced {
            // The node does not know yet, so this join is accepted, unless the node has just reloaded its
            // topics.
            let mut late = connect(&node, org, None).await;
            match late.try_push("salaries", "phx_join", json!({})).await {
                Ok(reply) if reply.status == "ok" => before.push(late),
                Ok(_) => {}
                // The node has reloaded them just after the join.
                Err(code) => assert_eq!(code, 4409),
            }
        }
        insert_salary(&db, org, 2).await;
        for client in &mut before {
            client.expect_close(4409).await;
        }
        assert_eq!(named.expect_event("salaries", "salary.created").await.data("id"), 2);
        node.stop().await;
    }
}

#[tokio::test]
async fn replays_from_memory_and_from_the_log_omit_events_that_need_a_claim() {
    for has_memory in [true, false] {
        let (db, org) = with_salaries().await;
        db.run(WATCH_BY_CLAIM).await;
        let node = gateway(&db, has_memory).await;
        let mut named = connect(&node, org, Some(json!(["*"]))).await;
        let since = named.join("org").await["cursor"].clone();
        insert_salary(&db, org, 3).await;
        named.expect_event("org", "salary.created").await;
        let mut unnamed = connect(&node, org, None).await;
        for topic in ["org", "salaries", "salary:3"] {
            let reply = unnamed.push(topic, "phx_join", json!({"since": since})).await;
            assert_eq!(reply.response["reason"], "forbidden topic", "{topic}");
        }
        // The topic is opened, but the rows that were logged before are not.
        db.run("select warden.watch('salaries', 'salaries', 'salary', visibility => 'organisation')").await;
        eventually("the topic is open", async || {
            unnamed.push("salaries", "phx_join", json!({})).await.status == "ok"
        })
        .await;
        for topic in ["org", "salaries", "salary:3"] {
            let mut back = connect(&node, org, None).await;
            back.join_with(topic, json!({"since": since})).await;
            let resync = back.next_event().await;
            assert_eq!(
                (resync.name.as_str(), &resync.payload["reason"]),
                ("warden.resync", &json!("needs_claim"))
            );
        }
        let mut back = connect(&node, org, Some(json!(["*"]))).await;
        back.join_with("salary:3", json!({"since": since})).await;
        back.expect_event("salary:3", "salary.created").await;
        insert_salary(&db, org, 4).await;
        unnamed.expect_event("salaries", "salary.created").await;
        node.stop().await;
    }
}

#[tokio::test]
async fn a_refreshed_token_that_no_longer_names_a_claim_topic_leaves_it() {
    let (db, org) = with_salaries().await;
    db.run(WATCH_BY_CLAIM).await;
    let node = gateway(&db, true).await;
    let mut client = connect(&node, org, Some(json!(["salaries", "org", "salary:*", "calls"]))).await;
    for topic in ["salaries", "org", "salary:5", "calls"] {
        client.join(topic).await;
    }
    let less = token_naming(org, Some(&json!(["org", "salary:*", "calls"])));
    client.push("calls", "access_token", json!({"access_token": less})).await;
    let mut left = Vec::new();
    for _ in 0..3 {
        let event = client.next_event().await;
        assert_eq!(event.name, "phx_close");
        left.push(event.topic);
    }
    left.sort();
    assert_eq!(left, ["org", "salaries", "salary:5"]);
    insert_salary(&db, org, 5).await;
    db.insert_call(org).await;
    client.expect_only("calls", "call.created").await;
    node.stop().await;
}

/// The events of an organisation's own row contain the id alone if clients may not SELECT all of it.
#[tokio::test]
async fn events_of_a_narrower_organisation_contain_its_id_alone() {
    let (db, org) = with_salaries().await;
    db.run(
        "revoke select on organizations from authenticated;
         grant select (id) on organizations to authenticated;
         select warden.watch_organizations()",
    )
    .await;
    let node = gateway(&db, true).await;
    let mut client = connect(&node, org, None).await;
    client.join("org").await;
    db.run(format!("update organizations set name = 'renamed' where id = '{org}'")).await;
    db.run(format!("delete from organizations where id = '{org}'")).await;
    let deleted = client.expect_event("org", "org.deleted").await;
    assert_eq!(deleted.payload["data"], json!({"id": org}));
    client.expect_close(4404).await;
    node.stop().await;
}

//! Attempts to receive or read more than the filters of a token allow.
//!
//! Agent `a` has a token for its own items. Every other value in the tables contains `HIDDEN`, and no answer,
//! page or event that the agent gets may contain it.

mod joins;
mod refreshes;
mod requests;
mod timing;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Answer, Client, Event, Post, TestDb, TestGateway, Upgrade, token};

const TABLES: &str = "
    create table items (id int primary key, org_id uuid not null, agent text, n int, span interval, note text);
    create table others (id int primary key, org_id uuid not null, agent text, note text);
    create table salaries (id int primary key, org_id uuid not null, agent text, note text);
    alter table salaries enable row level security;
    create policy own on salaries for select to authenticated using (agent = 'a');
    create table visits (id int primary key, org_id uuid not null, item_id int, agent text, note text);
    create table audits (id int primary key, org_id uuid not null, item_id int, agent text);
    grant select on items, others, salaries, audits to authenticated;
    grant select (id, org_id, agent, note) on visits to authenticated;
    select warden.declare_entity_topic('item', 'integer');
    select warden.declare_topic('notes'), warden.declare_topic('drafts');
    select warden.watch('items', 'items', 'item', entity_topic => 'item', visibility => 'organisation');
    select warden.watch('others', 'others', 'other', visibility => 'organisation');
    select warden.watch('visits', 'visits', 'visit', entity_topic => 'item', entity_topic_column => 'item_id',
                        visibility => 'organisation');
    select warden.watch('audits', 'audits', 'audit', entity_topic => 'item', entity_topic_column => 'item_id',
                        omit_columns => '{item_id}', visibility => 'organisation');
    select warden.watch('salaries', 'salaries', 'salary', visibility => 'claim')";

/// Content that no agent may see.
const HIDDEN: &str = "HIDDEN";

/// The filter of agent `a`, and of other agents by their name in `app_metadata`.
const OWN: &str = "agent=eq.$app_metadata.agent";

async fn with_tables() -> (TestGateway, Uuid) {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(TABLES).await;
    db.run(format!(
        "insert into items (id, org_id, agent, n, note) values
           (1, '{org}', 'a', 1, 'mine'), (2, '{org}', 'b', 2, '{HIDDEN}'), (3, '{org}', null, 3, '{HIDDEN}');
         insert into others (id, org_id, agent, note) values (1, '{org}', 'a', '{HIDDEN}')"
    ))
    .await;
    (TestGateway::start_with(db, |_| {}).await, org)
}

/// Token of an agent with these filters.
fn agent(org: Uuid, name: &Value, filters: &Value) -> String {
    token(org, &json!({"app_metadata": {"org_id": org, "agent": name, "warden_filters": filters}}))
}

fn mine(org: Uuid) -> String {
    agent(org, &json!("a"), &json!({"items": OWN}))
}

async fn get(t: &TestGateway, token: &str, path: &str) -> Answer {
    Upgrade::bearer(token)
        .without("Upgrade")
        .without("Connection")
        .with("Prefer", "count=exact")
        .to(path)
        .send(t.gateway.public_addr())
        .await
}

/// Ids of a page with its total, or the code of an error.
fn summary(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match body["rows"].as_array() {
        Some(rows) => {
            let ids: Vec<String> = rows.iter().map(|row| row["id"].to_string()).collect();
            format!("{} of {}", ids.join(","), body["total"])
        }
        None if answer.status == 200 => "row".to_owned(),
        None => answer.code(),
    }
}

async fn connect(t: &TestGateway, token: &str) -> Client {
    Client::connect(t.gateway.public_addr(), token).await
}

/// Joins, and returns `ok` or the reason of the error.
async fn join(client: &mut Client, topic: &str, payload: Value) -> String {
    let reply = client.push(topic, "phx_join", payload).await;
    assert!(!reply.response.to_string().contains(HIDDEN), "{reply:?}");
    if reply.status == "ok" { "ok".to_owned() } else { reply.response["reason"].to_string().replace('"', "") }
}

/// A token that may join everything.
fn wide(org: Uuid) -> String {
    token(org, &json!({"app_metadata": {"org_id": org, "warden_topics": ["*"]}}))
}

/// Events up to the item with this id on a topic, which ends a test. None may contain a hidden value.
async fn events_until(client: &mut Client, topic: &str, id: i64) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = client.next_event().await;
        assert!(!event.payload.to_string().contains(HIDDEN), "{event:?}");
        if event.topic == topic && event.name.starts_with("item.") && event.data("id") == id {
            return events;
        }
        events.push(event);
    }
}

/// Name, id and filter field of events.
fn summaries(events: &[Event]) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let of = |event: &Event| {
        format!("{} {} {}", event.name, event.data("id"), text(&event.payload["filter"])).trim().to_owned()
    };
    events.iter().map(of).collect()
}

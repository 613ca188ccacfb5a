//! Random grants, column grants and policies on watched tables. Everything that arrives live, from memory or
//! from the log is part of what the same claims may SELECT, unless the operator decided otherwise.
//!
//! `WARDEN_SEED=n` runs one seed.

use std::collections::HashSet;
use std::fmt::Write as _;

use fastrand::Rng;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;
use warden::app::Gateway;

use super::{connect, gateway};
use crate::harness::{Client, TestDb, claims};

const TABLES: usize = 12;

/// Columns of each table besides `id` and `org_id`.
const COLUMNS: [&str; 3] = ["owner", "secret", "plain"];

/// A watched table.
struct Table {
    name: String,
    /// The visibility that its watch needed, if any.
    visibility: Option<&'static str>,
    /// Random part of its definition, for messages.
    sql: String,
}

/// A subscriber: its organisation, the topics that its token names, and what it received.
struct Subscriber {
    org: Uuid,
    named: Option<Vec<String>>,
    client: Client,
    /// Topics with the cursors of their joins.
    joined: Vec<(String, Value)>,
}

fn condition(rng: &mut Rng) -> &'static str {
    rng.choice([
        "true",
        "org_id = (select public.auth_org_id())",
        "org_id = (select warden.auth_org_id())",
        "owner = auth_user_id()::text",
        "org_id = (select auth_org_id()) and owner = auth_user_id()::text",
        "false",
    ])
    .expect("a condition")
}

/// Random grants and policies.
fn access(rng: &mut Rng, table: &str) -> String {
    let mut sql = String::new();
    for role in ["authenticated", "public", "staff"] {
        match rng.u8(0..6) {
            0 | 1 => {
                let _ = write!(sql, "grant select on {table} to {role}; ");
            }
            2 => {
                let columns: Vec<_> = COLUMNS.into_iter().filter(|_| rng.bool()).collect();
                let columns = ["id", "org_id"].into_iter().chain(columns).collect::<Vec<_>>().join(", ");
                let _ = write!(sql, "grant select ({columns}) on {table} to {role}; ");
            }
            _ => {}
        }
    }
    if rng.u8(0..3) == 0 {
        return sql;
    }
    let _ = write!(sql, "alter table {table} enable row level security; ");
    for n in 0..rng.u8(0..4) {
        let kind = if rng.u8(0..4) == 0 { "restrictive" } else { "permissive" };
        let command = rng.choice(["select", "all", "all", "delete"]).expect("a command");
        let role = rng.choice(["public", "authenticated", "staff", "service_role"]).expect("a role");
        let using = condition(rng);
        let _ =
            write!(sql, "create policy p{n} on {table} as {kind} for {command} to {role} using ({using}); ");
    }
    sql
}

/// Creates a table with random access, and watches it. If the watch needs a decision, a random one is made.
async fn watched_table(db: &TestDb, rng: &mut Rng, n: usize) -> Table {
    let name = format!("t{n}");
    let sql = access(rng, &name);
    db.run(format!(
        "create table {name} (id int primary key, org_id uuid not null, owner text, secret text, plain text); {sql}"
    ))
    .await;
    let omitted = if rng.u8(0..4) == 0 { "{secret}" } else { "{}" };
    let watch = |visibility: &str| {
        format!(
            "select warden.watch('{name}', '{name}', '{name}', omit_columns => '{omitted}',
                                 entity_topic => '{name}', visibility => {visibility})"
        )
    };
    let is_undecided = db.pool.execute(sqlx::raw_sql(AssertSqlSafe(watch("null")))).await.is_err();
    let visibility = is_undecided.then(|| *rng.choice(&["organisation", "claim", "claim"]).expect("one"));
    if let Some(visibility) = visibility {
        db.run(watch(&format!("'{visibility}'"))).await;
    }
    Table { name, visibility, sql }
}

/// Connects with a token that names a random part of the topics, and joins whatever it may join.
async fn subscriber(node: &Gateway, rng: &mut Rng, org: Uuid, tables: &[Table]) -> Subscriber {
    let named = rng.bool().then(|| {
        let mut named = vec!["org".to_owned(), "calls".to_owned()];
        let is_full = rng.bool();
        for table in tables {
            if is_full || rng.bool() {
                named.push(table.name.clone());
                named.push(format!("{}:*", table.name));
            }
        }
        named
    });
    let mut client = connect(node, org, named.as_ref().map(|named| json!(named))).await;
    let mut joined = Vec::new();
    let entities = tables.iter().map(|table| format!("{}:1", table.name));
    for topic in tables.iter().map(|table| table.name.clone()).chain(entities).chain(["org".to_owned()]) {
        let reply = client.push(&topic, "phx_join", json!({})).await;
        if reply.status == "ok" {
            joined.push((topic, reply.response["cursor"].clone()));
        } else {
            assert_eq!(reply.response["reason"], "forbidden topic", "{topic}: {reply:?}");
        }
    }
    client.join("calls").await;
    Subscriber { org, named, client, joined }
}

/// The columns of a row that these claims may SELECT, with their values.
async fn selectable(
    connection: &mut PgConnection,
    subscriber: &Subscriber,
    table: &str,
    id: i64,
) -> Vec<(String, Value)> {
    let mut claims = claims(subscriber.org);
    if let Some(named) = &subscriber.named {
        claims["app_metadata"]["warden_topics"] = json!(named);
    }
    let mut found = Vec::new();
    for column in ["id", "org_id"].into_iter().chain(COLUMNS) {
        let mut tx = connection.begin().await.expect("begins");
        tx.execute("set local role authenticated").await.expect("sets");
        sqlx::query("select set_config('request.jwt.claims', $1, true)")
            .bind(claims.to_string())
            .execute(&mut *tx)
            .await
            .expect("sets");
        let sql = format!("select to_jsonb({column}) from {table} where id = {id}");
        if let Ok(Some(value)) = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_optional(&mut *tx).await {
            found.push((column.to_owned(), value));
        }
    }
    found
}

/// Receives until the event of the marker call, and checks each event before it.
async fn check_until_marker(
    connection: &mut PgConnection,
    subscriber: &mut Subscriber,
    tables: &[Table],
    marker: Uuid,
    context: &str,
) -> usize {
    let mut received = 0;
    loop {
        let event = subscriber.client.next_event().await;
        if event.topic == "calls" && event.row_id() == marker.to_string() {
            return received;
        }
        let Some(table) = event
            .name
            .split_once('.')
            .and_then(|(prefix, _)| tables.iter().find(|table| table.name == prefix))
        else {
            continue;
        };
        received += 1;
        assert_eq!(event.data("org_id"), &json!(subscriber.org), "{context}: {event:?}");
        let is_named = subscriber.named.as_ref().is_some_and(|named| named.contains(&table.name));
        if table.visibility == Some("organisation") || (table.visibility == Some("claim") && is_named) {
            continue;
        }
        let id = event.data("id").as_i64().expect("an id");
        let selectable = selectable(connection, subscriber, &table.name, id).await;
        for (column, value) in event.payload["data"].as_object().expect("a row") {
            // The update has changed `plain` since.
            let is_equal = |selected: &Value| selected == value || value.is_null() || column == "plain";
            assert!(
                selectable.iter().any(|(name, selected)| name == column && is_equal(selected)),
                "{context}: {column} of {event:?} arrived, but may not be selected: {}",
                table.sql
            );
        }
    }
}

/// One run of a seed. Returns the number of events that were checked.
async fn run(seed: u64) -> usize {
    let mut rng = Rng::with_seed(seed);
    let db = TestDb::create().await;
    let orgs = [db.create_org().await, db.create_org().await];
    // Roles belong to the cluster. `authenticated` has NOINHERIT, so the membership gives it no rights.
    db.run(
        "do $$ begin create role staff nologin; exception when duplicate_object or unique_violation then null; end $$;
         grant staff to authenticated;
         create table used (id int); grant select on used to authenticated",
    )
    .await;
    let mut tables = Vec::new();
    for n in 0..TABLES {
        tables.push(watched_table(&db, &mut rng, n).await);
    }
    let nodes = [gateway(&db, true).await, gateway(&db, false).await];
    let mut subscribers = Vec::new();
    for n in 0..8 {
        subscribers.push(subscriber(&nodes[n % 2], &mut rng, orgs[n / 2 % 2], &tables).await);
    }
    let sub = claims(orgs[0])["sub"].as_str().expect("a sub").to_owned();
    for table in &tables {
        for (n, org) in orgs.iter().enumerate() {
            let name = &table.name;
            db.run(format!(
                "insert into {name} values ({n}, '{org}', '{sub}', 's', 'p'), ({n} + 10, '{org}', 'other', 's', 'p');
                 update {name} set plain = plain || '2' where id % 10 = {n}",
            ))
            .await;
        }
    }
    let mut markers = Vec::new();
    for org in orgs {
        markers.push(db.insert_call(org).await);
    }
    let marker_of = |org: Uuid| if org == orgs[0] { markers[0] } else { markers[1] };
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let mut checked = 0;
    for subscriber in &mut subscribers {
        let marker = marker_of(subscriber.org);
        checked += check_until_marker(&mut connection, subscriber, &tables, marker, "live").await;
    }
    // The same tokens resume on both nodes: from memory and from the log.
    let cursors: HashSet<_> =
        subscribers.iter().flat_map(|s| s.joined.clone()).map(|(_, c)| c.to_string()).collect();
    let since: Value = serde_json::from_str(cursors.iter().min().expect("a cursor")).expect("JSON");
    for node in &nodes {
        for former in &subscribers {
            let named = former.named.clone();
            let client = connect(node, former.org, named.as_ref().map(|named| json!(named))).await;
            let mut back = Subscriber { org: former.org, named, client, joined: Vec::new() };
            for (topic, _) in &former.joined {
                back.client.join_with(topic, json!({"since": since})).await;
            }
            back.client.join("calls").await;
            let marker = db.insert_call(back.org).await;
            checked += check_until_marker(&mut connection, &mut back, &tables, marker, "replay").await;
        }
    }
    for node in nodes {
        node.stop().await;
    }
    checked
}

#[tokio::test]
async fn what_arrives_is_part_of_what_the_same_claims_may_select() {
    let seeds = match std::env::var("WARDEN_SEED") {
        Ok(seed) => vec![seed.parse().expect("a number")],
        Err(_) => vec![1, 2, 3],
    };
    for seed in seeds {
        println!("seed {seed}");
        let checked = run(seed).await;
        assert!(checked > 100, "seed {seed}: only {checked} events arrived");
    }
}

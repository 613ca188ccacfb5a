//! Filtered collections: clients that apply events, after a live join, a resume or a snapshot, end with the
//! rows that PostgreSQL selects.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::with_items;
use crate::harness::{Client, TestDb, TestGateway, token, within};

/// Conditions of the filters. Each filter also selects the row that ends the test.
const CONDITIONS: [&str; 10] = [
    "status.eq.open",
    "status.in.(open,held)",
    "status.not.eq.open",
    "and(status.neq.open,n.lte.5)",
    "note.is.null",
    "note.like.\"a*\"",
    "n.eq.3",
    "price.gte.1e0",
    "not.or(n.gt.3,price.lt.2)",
    "id.gt.20",
];

/// Rows that are written.
const ROWS: usize = 40;
/// Changes of each writer.
const CHANGES: usize = 150;

fn random_value(random: &mut fastrand::Rng, column: &str) -> String {
    let choices: &[&str] = match column {
        "status" => &["'open'", "'held'", "'done'", "null"],
        "n" => &["1", "3", "5", "7", "null"],
        "price" => &["0.5", "1", "2", "2.5", "'NaN'", "null"],
        _ => &["'abc'", "'b'", "'aü'", "null"],
    };
    choices[random.usize(..choices.len())].to_owned()
}

/// `with_bulk` allows statements that change several rows. Two such writers could deadlock.
async fn write(db: &TestDb, org: Uuid, first: usize, with_bulk: bool, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..CHANGES {
        let id = first + random.usize(..ROWS);
        let columns = ["status", "n", "price", "note"];
        let values: Vec<String> = columns.iter().map(|column| random_value(&mut random, column)).collect();
        let column = columns[random.usize(..columns.len())];
        let value = random_value(&mut random, column);
        let last = first + ROWS;
        let sql = match random.u8(..8) {
            0 => format!("delete from items where id = {id}"),
            1 if with_bulk => format!(
                "update items set {column} = {value} where id between {first} and {last} and id % 3 = 1"
            ),
            1..=4 => format!("update items set {column} = {value} where id = {id}"),
            _ => format!(
                "insert into items (id, org_id, status, n, price, note) values ({id}, '{org}', {}) on conflict (id) do nothing",
                values.join(", ")
            ),
        };
        db.run(sql).await;
    }
}

/// Joins, again while the database is unavailable, as clients do. On a busy machine a connection may take
/// longer than a join waits.
async fn join_items(client: &mut Client, payload: Value) {
    within("joins", async {
        loop {
            let reply = client.push("items", "phx_join", payload.clone()).await;
            if reply.status == "ok" {
                return;
            }
            assert_eq!(reply.response["reason"], "unavailable", "{reply:?}");
        }
    })
    .await;
}

/// Applies events up to the last row. With `is_exact`, no event comes twice.
async fn apply(mut client: Client, is_exact: bool) -> BTreeMap<i64, Value> {
    let mut rows = BTreeMap::new();
    loop {
        let event = client.next_event().await;
        if event.name == "warden.snapshot" {
            let page = event.payload["rows"].as_array().expect("rows");
            rows.extend(page.iter().map(|row| (row["id"].as_i64().expect("an id"), row.clone())));
            continue;
        }
        let id = event.data("id").as_i64().unwrap_or_else(|| panic!("{event:?}"));
        let filter = event.payload["filter"].as_str();
        let was_selected = match (event.name.as_str(), filter) {
            ("item.created", None) | ("item.updated", Some("entered")) => false,
            ("item.updated", None | Some("left")) | ("item.deleted", None) => true,
            other => panic!("{other:?}"),
        };
        assert!(!is_exact || rows.contains_key(&id) == was_selected, "{event:?}");
        if filter == Some("left") || event.name == "item.deleted" {
            rows.remove(&id);
        } else {
            rows.insert(id, event.payload["data"].clone());
        }
        if id == 0 {
            return rows;
        }
    }
}

/// Rows that PostgreSQL selects, as the page of a request has them.
async fn reference(t: &TestGateway, org: Uuid, filter: &str) -> BTreeMap<i64, Value> {
    let mut client = Client::connect(t.gateway.public_addr(), &token(org, &json!({}))).await;
    let (name, group) = filter.split_once('=').expect("a parameter");
    join_items(&mut client, json!({"snapshot": {name: group, "limit": 1000}})).await;
    let page = client.expect_event("items", "warden.snapshot").await;
    assert_eq!(page.payload["last"], true);
    let rows = page.payload["rows"].as_array().expect("rows").iter();
    rows.map(|row| (row["id"].as_i64().expect("an id"), row.clone())).collect()
}

#[tokio::test]
async fn filtered_collections_end_with_the_rows_that_postgresql_selects() {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("WARDEN_SEED={seed}");
    let (t, org) = with_items().await;
    let other = t.db.create_org().await;
    let filters = CONDITIONS.map(|condition| format!("or=(id.eq.0,{condition})"));
    let since = t.connect(org).await.join("items").await["cursor"].clone();
    let mut live = Vec::new();
    for filter in &filters {
        let mut client = t.connect(org).await;
        join_items(&mut client, json!({"filter": filter})).await;
        live.push(tokio::spawn(apply(client, true)));
    }
    let joins = async {
        let mut joined = Vec::new();
        for filter in &filters {
            for join in [
                json!({"filter": filter, "since": since}),
                json!({"filter": filter, "snapshot": {"limit": 7}}),
            ] {
                let is_exact = join.get("since").is_some();
                let mut client = t.connect(org).await;
                join_items(&mut client, join).await;
                joined.push(tokio::spawn(apply(client, is_exact)));
            }
        }
        joined
    };
    let (joined, (), (), ()) = tokio::join!(
        joins,
        write(&t.db, org, 1, true, seed),
        write(&t.db, org, 1, false, seed.wrapping_add(1)),
        write(&t.db, other, 1000, true, seed.wrapping_add(2)),
    );
    t.db.run(format!("insert into items (id, org_id, status) values (0, '{org}', 'end')")).await;
    let mut some = 0;
    for (n, client) in live.into_iter().enumerate() {
        let expected = reference(&t, org, &filters[n]).await;
        some += usize::from(expected.len() > 1);
        assert_eq!(client.await.expect("ends"), expected, "WARDEN_SEED={seed}: {}", filters[n]);
    }
    for (n, client) in joined.into_iter().enumerate() {
        let filter = &filters[n / 2];
        let expected = reference(&t, org, filter).await;
        assert_eq!(client.await.expect("ends"), expected, "WARDEN_SEED={seed}: {filter} {n}");
    }
    assert!(some > CONDITIONS.len() / 2, "WARDEN_SEED={seed}: most filters select rows");
    t.gateway.stop().await;
}

/// A token whose filter for `items` is this one.
async fn signed(t: &TestGateway, org: Uuid, filter: &str) -> Client {
    let metadata = json!({"org_id": org, "warden_filters": {"items": filter}});
    Client::connect(t.gateway.public_addr(), &token(org, &json!({"app_metadata": metadata}))).await
}

/// Each filter is required by a token: live, after a replay and a snapshot, on `items` and on `org`, and with
/// another filter that the join asks for.
#[tokio::test]
async fn signed_collections_end_with_the_rows_that_postgresql_selects() {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("WARDEN_SEED={seed}");
    let (t, org) = with_items().await;
    let filters = CONDITIONS.map(|condition| format!("or=(id.eq.0,{condition})"));
    let since = t.connect(org).await.join("items").await["cursor"].clone();
    // Filter of the token and of the join, and what both select.
    let mut cases = Vec::new();
    for (n, filter) in filters.iter().enumerate() {
        let asked = &filters[(n + 3) % filters.len()];
        let both = format!("and=({},{})", filter.replacen('=', "", 1), asked.replacen('=', "", 1));
        cases.push((filter, None, filter.clone()));
        cases.push((filter, Some(asked), both));
    }
    let mut clients = Vec::new();
    for (filter, asked, expected) in &cases {
        let mut join = json!({});
        if let Some(asked) = asked {
            join["filter"] = json!(asked);
        }
        let topics: &[&str] = if asked.is_some() { &["items"] } else { &["items", "org"] };
        for topic in topics {
            let mut client = signed(&t, org, filter).await;
            client.join_with(topic, join.clone()).await;
            clients.push((expected.clone(), tokio::spawn(apply(client, true))));
        }
    }
    let joins = async {
        for (filter, asked, expected) in &cases {
            let with = |key: &str, value: &Value| {
                let mut join = json!({key: value});
                if let Some(asked) = asked {
                    join["filter"] = json!(asked);
                }
                join
            };
            let mut joins = vec![
                ("items", with("since", &since), true),
                ("items", with("snapshot", &json!({"limit": 7})), false),
            ];
            if asked.is_none() {
                joins.push(("org", json!({"since": since}), true));
            }
            for (topic, join, is_exact) in joins {
                let mut client = signed(&t, org, filter).await;
                client.join_with(topic, join).await;
                clients.push((expected.clone(), tokio::spawn(apply(client, is_exact))));
            }
        }
    };
    let ((), (), ()) = tokio::join!(
        joins,
        write(&t.db, org, 1, true, seed),
        write(&t.db, org, 1, false, seed.wrapping_add(1)),
    );
    t.db.run(format!("insert into items (id, org_id, status) values (0, '{org}', 'end')")).await;
    for (filter, client) in clients {
        let expected = reference(&t, org, &filter).await;
        assert_eq!(client.await.expect("ends"), expected, "WARDEN_SEED={seed}: {filter}");
    }
    t.gateway.stop().await;
}

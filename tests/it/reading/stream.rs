//! The initial state and the stream together. A client reads all pages of a table, and joins with the cursor
//! of the first page, or it joins with a snapshot. In the end it has exactly the rows of the table.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::{page, strings, with_table};
use crate::harness::{Client, TestGateway};

/// A table with a trigger of the application, which changes the row again.
pub(super) const TABLE: &str = "
    create table items (id int primary key, org_id uuid not null, n int not null, touched int not null default 0,
                        price numeric not null default 1.50, label text not null default E'a\\t\"b\" ü');
    create function touch() returns trigger language plpgsql as $$
      begin update items set touched = touched + 1 where id = new.id; return null; end $$;
    create trigger touch after insert on items for each row execute function touch();
    grant select on items to authenticated;
    select warden.watch('items', 'items', 'item', visibility => 'organisation')";

/// Reads all pages, and joins with the first cursor.
async fn follow(t: &TestGateway, org: Uuid) -> BTreeMap<i64, Value> {
    let mut rows = BTreeMap::new();
    let mut path = "/v1/items?order=n.desc&limit=7".to_owned();
    let mut since = None;
    loop {
        let body = page(t, org, &path).await;
        since = since.or_else(|| Some(body["cursor"].clone()));
        for row in body["rows"].as_array().expect("rows") {
            rows.insert(row["id"].as_i64().expect("an id"), row.clone());
        }
        match body["next"].as_str() {
            Some(next) => path = next.to_owned(),
            None => break,
        }
    }
    let mut client = t.connect(org).await;
    let reply = client.join_with("items", json!({"since": since})).await;
    assert!(reply.get("resync").is_none(), "{reply}");
    apply(client, rows).await
}

/// Joins with a snapshot.
async fn follow_by_socket(t: &TestGateway, org: Uuid) -> BTreeMap<i64, Value> {
    let mut client = t.connect(org).await;
    client.join_with("items", json!({"snapshot": {"order": "n.desc", "limit": 7}})).await;
    apply(client, BTreeMap::new()).await
}

/// Applies pages and events, up to the end of the test. Returns the rows.
async fn apply(mut client: Client, mut rows: BTreeMap<i64, Value>) -> BTreeMap<i64, Value> {
    loop {
        let event = client.next_event().await;
        let id = event.payload["data"]["id"].as_i64().unwrap_or_default();
        match event.name.as_str() {
            "item.deleted" => drop(rows.remove(&id)),
            "item.created" | "item.updated" => drop(rows.insert(id, event.payload["data"].clone())),
            "warden.snapshot" => {
                let page = event.payload["rows"].as_array().expect("rows").iter();
                rows.extend(page.map(|row| (row["id"].as_i64().expect("an id"), row.clone())));
            }
            "test.end" => return rows,
            other => panic!("{other}"),
        }
    }
}

async fn write(t: &TestGateway, org: Uuid, writer: i32) {
    for step in 0..25 {
        let id = writer * 1000 + step;
        t.db.run(format!(
            "insert into items values ({id}, '{org}', {step});
             update items set n = n + 7 where id % 5 = {step} % 5 and id / 1000 = {writer};
             delete from items where id = {id} - 8"
        ))
        .await;
    }
}

#[tokio::test]
async fn a_snapshot_and_the_stream_end_with_the_table() {
    let (t, [org, other]) = with_table(TABLE).await;
    t.db.run(format!("insert into items select n, '{org}', n from generate_series(100, 160) n")).await;
    t.db.run(format!("insert into items select n, '{other}', n from generate_series(200, 220) n")).await;
    let writers = async {
        tokio::join!(write(&t, org, 1), write(&t, org, 2), write(&t, org, 3));
        t.db.publish(org, "items", "test.end").await;
    };
    let (a, b, c, d, ()) = tokio::join!(
        follow(&t, org),
        follow(&t, org),
        follow_by_socket(&t, org),
        follow_by_socket(&t, org),
        writers
    );
    let stored =
        strings(&t.db, &format!("select to_jsonb(i)::text from items i where org_id = '{org}' order by id"))
            .await;
    for rows in [a, b, c, d] {
        let rows: Vec<&Value> = rows.values().collect();
        let stored: Vec<Value> = stored.iter().map(|row| serde_json::from_str(row).expect("JSON")).collect();
        assert_eq!(rows, stored.iter().collect::<Vec<_>>());
    }
    t.gateway.stop().await;
}

//! Keys of several columns: which rows events belong to, and how clients identify them.

use std::collections::BTreeMap;

use fastrand::Rng;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::strings;
use crate::harness::TestDb;

#[tokio::test]
async fn the_primary_key_identifies_a_row_within_its_organisation() {
    let db = TestDb::create().await;
    let (org, other) = (db.create_org().await, db.create_org().await);
    db.run(
        "create table items (org_id uuid, warehouse text, sku bigint, qty int, note text,
                             primary key (org_id, warehouse, sku));
         select warden.watch('items', 'items', 'item', as_text => '{sku}')",
    )
    .await;
    db.run(format!(
        "insert into items values ('{org}', 'a', 1, 5), ('{org}', 'b', 1, 5), ('{other}', 'a', 1, 7);
         update items set qty = qty + 1;
         update items set sku = 2 where warehouse = 'b';
         update items set note = repeat(md5(warehouse), 5000) where org_id = '{org}';
         delete from items where org_id = '{org}' and warehouse = 'b'"
    ))
    .await;
    let events = format!(
        "select concat_ws(' ', event, data - 'org_id' - 'note', old) from warden.events
         where topic = 'items' and org_id = '{org}' order by id"
    );
    let row = |event: &str, warehouse: &str, sku: u8, qty: u8| {
        format!(r#"item.{event} {{"qty": {qty}, "sku": "{sku}", "warehouse": "{warehouse}"}}"#)
    };
    let expected = [
        row("created", "a", 1, 5),
        row("created", "b", 1, 5),
        row("updated", "a", 1, 6) + r#" {"qty": 5}"#,
        row("updated", "b", 1, 6) + r#" {"qty": 5}"#,
        row("deleted", "b", 1, 6),
        row("created", "b", 2, 6),
        row("updated", "a", 1, 6),
        row("updated", "b", 2, 6),
        row("deleted", "b", 2, 6),
    ];
    assert_eq!(strings(&db, &events).await, expected);
    let truncated = "select (document - 'org_id')::text from warden.row_documents('items') where truncated";
    assert_eq!(strings(&db, truncated).await, [r#"{"qty": 6, "sku": "1", "warehouse": "a"}"#]);
}

#[tokio::test]
async fn a_value_that_changes_its_bytes_only_emits_an_event() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(format!(
        "create table items (id int primary key, org_id uuid, price numeric, part int not null);
         select warden.watch('items', 'items', 'item');
         insert into items values (1, '{org}', 1, 1);
         update items set price = 1.0; update items set price = 1.0; update items set price = 1"
    ))
    .await;
    let events = "select concat_ws(' ', event, data ->> 'price', old) from warden.events where topic = 'items' order by id";
    let expected = ["item.created 1", r#"item.updated 1.0 {"price": 1}"#, r#"item.updated 1 {"price": 1.0}"#];
    assert_eq!(strings(&db, events).await, expected);
}

/// Keys whose former and new value are equal for PostgreSQL, but not for clients: these know the rows by the
/// bytes of the key.
#[tokio::test]
async fn a_key_that_changes_its_bytes_only_is_deleted_and_created() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create collation blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create domain blind_text as text collate blind",
    )
    .await;
    for (kind, former, new) in [
        ("numeric", "1", "1.00"),
        ("text collate blind", "abc", "ABC"),
        ("blind_text", "abc", "ABC"),
        ("bpchar", "abc", "abc "),
    ] {
        db.run(format!(
            "create table probe (id {kind} primary key, org_id uuid, v int);
             select warden.watch('probe', 'probes', 'probe');
             insert into probe values ('{former}', '{org}', 1);
             update probe set v = 2; update probe set id = '{new}'"
        ))
        .await;
        let events = "select concat(event, ' ', data ->> 'id', ' ', data ->> 'v') from warden.events where topic = 'probes' order by id";
        let expected = [
            format!("probe.created {former} 1"),
            format!("probe.updated {former} 2"),
            format!("probe.deleted {former} 2"),
            format!("probe.created {new} 2"),
        ];
        assert_eq!(strings(&db, events).await, expected, "{kind}");
        db.run("select warden.unwatch('probe'); drop table probe; delete from warden.events").await;
    }
}

/// The default key, by the primary key of a table.
#[tokio::test]
async fn the_default_key_is_the_primary_key_without_the_organisation() {
    let db = TestDb::create().await;
    for (definition, key) in [
        ("id int primary key, org_id uuid", "{id}"),
        ("uid uuid primary key, id int unique, org_id uuid", "{uid}"),
        ("id int, org_id uuid, primary key (org_id, id)", "{id}"),
        ("a int, b text, org_id uuid, primary key (b, org_id, a)", "{b,a}"),
        ("org_id uuid primary key, theme text", "{org_id}"),
        ("id int not null unique, org_id uuid", "{id}"),
        ("id int, day date, org_id uuid, primary key (id, day)) partition by range (day", "{id}"),
        (
            "device int, at timestamptz, org_id uuid, primary key (device, at)) partition by range (at",
            "{device,at}",
        ),
    ] {
        db.run(format!(
            "drop table if exists probe; create table probe ({definition}); select warden.watch('probe', 'probe', 'probe')"
        ))
        .await;
        let watched = "select key_columns::text from warden.watches where topic = 'probe'";
        assert_eq!(strings(&db, watched).await, [key], "{definition}");
    }
}

#[tokio::test]
async fn a_key_follows_its_renamed_columns() {
    for follows_ddl in [true, false] {
        let db = TestDb::create().await;
        let org = db.create_org().await;
        if !follows_ddl {
            db.run("alter event trigger warden_refresh_watches disable").await;
        }
        db.run(format!(
            "create table items (warehouse text, sku int, org_id uuid, qty int, primary key (warehouse, sku));
             select warden.watch('items', 'items', 'item');
             insert into items values ('a', 1, '{org}', 1);
             alter table items rename warehouse to other; alter table items rename sku to warehouse;
             alter table items rename other to sku;
             update items set qty = 2; update items set sku = 'b'"
        ))
        .await;
        let events = "select concat_ws(' ', event, data - 'org_id', old) from warden.events
                      where topic = 'items' and event <> 'warden.resync' order by id";
        let expected = [
            r#"item.created {"qty": 1, "sku": 1, "warehouse": "a"}"#,
            r#"item.updated {"qty": 2, "sku": "a", "warehouse": 1} {"qty": 1}"#,
            r#"item.deleted {"qty": 2, "sku": "a", "warehouse": 1}"#,
            r#"item.created {"qty": 2, "sku": "b", "warehouse": 1}"#,
        ];
        assert_eq!(strings(&db, events).await, expected, "{follows_ddl}");
        db.run("alter table items drop sku; select warden.refresh_watches()").await;
        db.run("update items set qty = 3").await;
        let last = "select event || data from warden.events order by id desc limit 1";
        assert_eq!(strings(&db, last).await, [r#"warden.resync{"reason": "changed"}"#]);
    }
}

/// A column of a key: its type, and an SQL expression for one of three values. Some types have an equality
/// that is wider than the bytes of a document.
const TYPES: [(&str, &str); 16] = [
    ("text collate blind", "(array['a', 'A', 'b'])[1 + {}]"),
    ("blind_text", "(array['a', 'A', 'b'])[1 + {}]"),
    ("bpchar", "rpad('a', 1 + {})"),
    ("numeric", "(array[1, 1.0, 2.00])[1 + {}]"),
    ("int", "{}"),
    ("bigint", "9007199254740991 + {}"),
    ("text", "repeat('\"\\ü', {})"),
    ("date", "date '2026-01-01' + {}"),
    ("timestamptz", "timestamptz '2026-01-01 12:00+03' + {} * interval '1 hour'"),
    ("numeric", "{} + 0.10"),
    ("boolean", "{} = 1"),
    ("bytea", "decode(lpad({}::text, 2, '0'), 'hex')"),
    ("cidr", "set_masklen(cidr '10.0.0.0/8', 8 + {})"),
    ("macaddr", "('08:00:2b:01:02:0' || {})::macaddr"),
    ("macaddr8", "('08:00:2b:01:02:03:04:0' || {})::macaddr8"),
    ("mood", "(array['sad', 'it''s', 'ok'])[1 + {}]::mood"),
];

/// The key of a row, as a client builds it.
fn key_of(org: Uuid, row: &Value, keys: &[String]) -> String {
    json!([org, keys.iter().map(|k| &row[k]).collect::<Vec<_>>()]).to_string()
}

/// Applies events to rows that are identified by the key. A truncated event has some of the columns.
fn apply(events: &[(Uuid, String, Value)], keys: &[String]) -> BTreeMap<String, Value> {
    let mut rows = BTreeMap::new();
    for (org, event, data) in events {
        let key = key_of(*org, data, keys);
        match event.as_str() {
            "probe.created" => assert!(rows.insert(key, data.clone()).is_none(), "created twice: {data}"),
            "probe.updated" => {
                assert!(rows.insert(key, data.clone()).is_some(), "updated before created: {data}");
            }
            _ => assert!(rows.remove(&key).is_some(), "deleted before created: {data}"),
        }
    }
    rows
}

/// A random statement on the table of random columns.
fn statement(rng: &mut Rng, columns: &[String], expressions: &[&str], org: Uuid) -> String {
    let mut value = |n: usize| expressions[n].replace("{}", &rng.u8(0..3).to_string());
    let (all, changed) = ([value(0), value(1), value(2)], value(2));
    let n = rng.usize(0..3);
    let where_row = format!("where {} = ({})", columns[n], all[n]);
    match rng.u8(0..6) {
        0 | 1 => format!("insert into probe values ({}, '{org}') on conflict do nothing", all.join(", ")),
        2 => format!("update probe set n1 = coalesce(n1, 0) + 1 {where_row}"),
        3 => format!(
            "update probe set {0} = {changed} where ctid = (select min(ctid) from probe where org_id = '{org}')
               and not exists (select from probe q where q.{0} = ({changed}) and q.ctid <> probe.ctid)",
            columns[2]
        ),
        4 => {
            format!("update probe set big = case when big is null then repeat(md5('x'), 4000) end {where_row}")
        }
        _ => format!("delete from probe {where_row} and org_id = '{org}'"),
    }
}

#[tokio::test]
async fn clients_that_identify_rows_by_the_key_end_with_the_table() {
    let seed =
        std::env::var("WARDEN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    eprintln!("WARDEN_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let db = TestDb::create().await;
    let orgs = [db.create_org().await, db.create_org().await];
    db.run(
        "create type mood as enum ('sad', 'it''s', 'ok');
         create collation blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create domain blind_text as text collate blind",
    )
    .await;
    for _ in 0..5 {
        let types = rng.choose_multiple(TYPES.iter(), 3);
        let names = rng.choose_multiple(["a", "n", "new", "Ö\"x", "key 1", "doc"].into_iter(), 3);
        let columns: Vec<String> = names.iter().map(|n| format!("\"{}\"", n.replace('"', "\"\""))).collect();
        let definitions: Vec<String> =
            columns.iter().zip(&types).map(|(name, (kind, _))| format!("{name} {kind}")).collect();
        // The last column changes, whether it is part of the key or not.
        let size = rng.usize(1..=3);
        let key_columns = columns[3 - size..].join(", ");
        let within_org = if rng.bool() { ", org_id" } else { "" };
        db.run(format!(
            "create table probe ({}, org_id uuid, big text, n1 int, primary key ({key_columns}{within_org}))",
            definitions.join(", ")
        ))
        .await;
        sqlx::query("select warden.watch('probe', 'probe', 'probe', as_text => $1)")
            .bind(if rng.bool() { names.clone() } else { Vec::new() })
            .execute(&db.pool)
            .await
            .expect("watches");
        let expressions: Vec<&str> = types.iter().map(|(_, expression)| *expression).collect();
        let statements: Vec<String> =
            (0..40).map(|n| statement(&mut rng, &columns, &expressions, orgs[n % 2])).collect();
        for statement in statements {
            db.run(statement).await;
        }
        let keys: Vec<String> = names[3 - size..].iter().map(|n| (*n).to_owned()).collect();
        assert_rows(&db, &keys).await;
        db.run("drop table probe; delete from warden.events").await;
    }
}

/// Compares the table with the rows of a client.
async fn assert_rows(db: &TestDb, keys: &[String]) {
    let watched = "select unnest(key_columns) from warden.watches where topic = 'probe'";
    assert_eq!(strings(db, watched).await, keys);
    let events: Vec<(Uuid, String, Value)> = sqlx::query_as(
        "select org_id, event, data from warden.events where topic = 'probe' and org_id is not null order by id",
    )
    .fetch_all(&db.pool)
    .await
    .expect("reads");
    let rows = apply(&events, keys);
    let documents: Vec<Value> =
        sqlx::query_scalar(AssertSqlSafe("select document from warden.row_documents('probe')"))
            .fetch_all(&db.pool)
            .await
            .expect("reads");
    assert_eq!(rows.len(), documents.len(), "{rows:?}");
    for document in documents {
        let same = rows
            .iter()
            .find(|(_, row)| keys.iter().all(|k| row[k] == document[k]) && has_org(row, &document));
        let (_, row) = same.unwrap_or_else(|| panic!("{document} is missing in {rows:?}"));
        let (row_columns, columns) = (row.as_object().expect("a row"), document.as_object().expect("a row"));
        let is_same = |name: &String| name == "big" || row_columns.get(name) == columns.get(name);
        assert!(row_columns.keys().chain(columns.keys()).all(is_same), "{row} instead of {document}");
        if let (Some(big), Some(stored)) = (row.get("big"), document.get("big")) {
            assert_eq!(big, stored);
        }
    }
}

/// Whether two documents may be of the same organisation.
fn has_org(row: &Value, document: &Value) -> bool {
    [row, document].iter().any(|d| d.get("org_id").is_none()) || row["org_id"] == document["org_id"]
}

//! Virtual generated columns (PostgreSQL 18): transition tables, NEW and OLD have nulls instead of their
//! values.

use sqlx::AssertSqlSafe;

use super::strings;
use crate::harness::TestDb;

/// Whether the server knows virtual columns. Before version 18, the tests of this file check nothing.
async fn are_known(db: &TestDb) -> bool {
    db.has_version(18).await
}

/// Event, data, old and the mark of truncated events.
async fn logged(db: &TestDb, topic: &str) -> Vec<String> {
    let query = format!(
        "select concat_ws(' ', split_part(event, '.', 2), data - 'org_id', old, case when truncated then 'truncated' end)
         from warden.events where topic = '{topic}' order by id"
    );
    strings(db, &query).await
}

const ITEMS: &str = "
    create table items (
      id int primary key, org_id uuid not null, price int, qty int, secret text,
      total bigint generated always as (price * qty) virtual,
      mask text generated always as (left(secret, 1)) virtual,
      each numeric(10, 2) generated always as (price::numeric / qty) virtual,
      \"the \"\"v\"\" r\" text generated always as (price || '/' || qty) virtual)";

#[tokio::test]
async fn virtual_columns_have_the_values_that_a_snapshot_has() {
    let db = TestDb::create().await;
    if !are_known(&db).await {
        return;
    }
    let org = db.create_org().await;
    db.run(ITEMS).await;
    // With a trigger that writes to its own table, rows have times of their own.
    for trigger in [
        "select 1",
        "create function reprice() returns trigger language plpgsql as
           $$ begin update items set price = price + 1 where id = new.id; return new; end $$;
         create trigger reprice after insert on items for each row execute function reprice()",
    ] {
        db.run(format!(
            "{trigger}; select warden.watch('items', 'items', 'item', omit_columns => '{{secret}}', as_text => '{{total}}',
                                            visibility => 'organisation');
             set extra_float_digits = 0;
             insert into items (id, org_id, price, qty, secret) values (1, '{org}', 2, 3, 'ab'), (2, '{org}', 7, 3, 'ab');
             update items set qty = 5, secret = 'cd' where id = 1;
             update items set secret = 'cde' where id = 1;
             update items set secret = 'de' where id = 1"
        ))
        .await;
        let last = logged(&db, "items").await.pop().expect("an update");
        assert!(
            last.starts_with("updated") && last.ends_with(r#"{"mask": "c"}"#),
            "an omitted column shows: {last}"
        );
        let stale = "
            select document::text from warden.row_documents('items') d where not exists (
              select from (select distinct on (data -> 'id') data from warden.events where topic = 'items' and not truncated
                           order by data -> 'id', id desc) e where e.data::text = d.document::text)";
        assert_eq!(strings(&db, stale).await, Vec::<String>::new());
        db.run("delete from items where id = 2").await;
        let deleted = logged(&db, "items").await.pop().expect("a deletion");
        assert!(deleted.contains(r#""total": "2"#) && deleted.contains(r#""the \"v\" r": ""#), "{deleted}");
        db.run("delete from items; delete from warden.events").await;
    }
}

#[tokio::test]
async fn a_virtual_column_that_fails_truncates_the_event_and_not_the_write() {
    let db = TestDb::create().await;
    if !are_known(&db).await {
        return;
    }
    let org = db.create_org().await;
    db.run(ITEMS).await;
    db.run(format!(
        "select warden.watch('items', 'items', 'item', omit_columns => '{{secret,mask}}', visibility => 'organisation');
         insert into items (id, org_id, price, qty) values (1, '{org}', 2147483647, 2);
         update items set price = 1, qty = 0;
         update items set qty = 1;
         update items set qty = 0;
         delete from items"
    ))
    .await;
    let whole = r#"updated {"id": 1} truncated"#;
    let expected = [r#"created {"id": 1} truncated"#, whole, whole, whole, r#"deleted {"id": 1} truncated"#];
    assert_eq!(logged(&db, "items").await, expected);
    // A subtransaction with an id would slow down the server.
    let mut session = db.pool.begin().await.expect("begins");
    sqlx::raw_sql(AssertSqlSafe(format!(
        "insert into items (id, org_id, price, qty) values (1, '{org}', 2, 2); update items set qty = 0;
         update items set qty = 1; update items set qty = 0"
    )))
    .execute(&mut *session)
    .await
    .expect("writes");
    let count: i32 = sqlx::query_scalar(
        "select s.subxact_count from pg_stat_get_backend_idset() b cross join pg_stat_get_backend_subxact(b) s
         where pg_stat_get_backend_pid(b) = pg_backend_pid()",
    )
    .fetch_one(&mut *session)
    .await
    .expect("reads");
    assert_eq!(count, 0);
}

#[tokio::test]
async fn virtual_columns_follow_their_table() {
    let db = TestDb::create().await;
    if !are_known(&db).await {
        return;
    }
    let org = db.create_org().await;
    db.run(format!(
        "create table items (id int primary key, org_id uuid not null, n int, m int generated always as (n + 1));
         select warden.watch('items', 'items', 'item');
         insert into items (id, org_id, n) values (1, '{org}', 1);
         alter table items alter m set expression as (n + 2); update items set n = 2;
         alter table items rename n to \"N\"; update items set \"N\" = 3;
         alter table items add o int generated always as (id + \"N\"); update items set \"N\" = 4;
         alter event trigger warden_refresh_watches disable; alter table items rename \"N\" to k;
         update items set k = 5"
    ))
    .await;
    let expected = [
        r#"created {"m": 2, "n": 1, "id": 1}"#,
        r#"updated {"m": 4, "n": 2, "id": 1} {"m": 3, "n": 1}"#,
        r#"updated {"N": 3, "m": 5, "id": 1} {"N": 2, "m": 4}"#,
        r#"updated {"N": 4, "m": 6, "o": 5, "id": 1} {"N": 3, "m": 5, "o": 4}"#,
        // Nobody has tried the new expressions.
        r#"updated {"id": 1} truncated"#,
    ];
    let events = logged(&db, "items").await;
    let (resyncs, rows): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| event.starts_with("resync"));
    assert_eq!(rows, expected);
    // For each statement that the event trigger has seen.
    assert_eq!(resyncs, [r#"resync {"reason": "changed"}"#; 3]);
}

#[tokio::test]
async fn rows_that_move_have_their_virtual_columns() {
    let db = TestDb::create().await;
    if !are_known(&db).await {
        return;
    }
    let org = db.create_org().await;
    db.run(format!(
        "create table items (id int, org_id uuid not null, part int, n int, m int generated always as (n + 1),
           primary key (id, part)) partition by list (part);
         create table items_1 partition of items for values in (1);
         create table items_2 (m int generated always as (n + 1), n int, part int not null, org_id uuid not null, id int not null);
         alter table items attach partition items_2 for values in (2);
         select warden.watch('items', 'items', 'item', replicated => true);
         insert into items (id, org_id, part, n) values (1, '{org}', 1, 1), (2, '{org}', 2, 1);
         merge into items using (values (1, 2), (2, 1), (3, 2)) v (id, part) on items.id = v.id
           when matched then update set part = v.part, n = n + 1
           when not matched then insert (id, org_id, part, n) values (v.id, '{org}', v.part, 7);
         update items set part = 1 where id = 3;
         set session_replication_role = replica; update items set n = 9 where id = 3;
         update items set n = 2147483647 where id = 3; reset session_replication_role"
    ))
    .await;
    let mut events = logged(&db, "items").await;
    let expected = [
        r#"updated {"m": 8, "n": 7, "id": 3, "part": 1} {"part": 2}"#,
        r#"updated {"m": 10, "n": 9, "id": 3, "part": 1} {"m": 8, "n": 7}"#,
        r#"updated {"id": 3} truncated"#,
    ];
    assert_eq!(events.split_off(events.len() - 3), expected);
    events.sort();
    let expected = [
        r#"created {"m": 2, "n": 1, "id": 1, "part": 1}"#,
        r#"created {"m": 2, "n": 1, "id": 2, "part": 2}"#,
        r#"created {"m": 8, "n": 7, "id": 3, "part": 2}"#,
        r#"updated {"m": 3, "n": 2, "id": 1, "part": 2} {"m": 2, "n": 1, "part": 1}"#,
        r#"updated {"m": 3, "n": 2, "id": 2, "part": 1} {"m": 2, "n": 1, "part": 2}"#,
    ];
    assert_eq!(events, expected);
}

#[tokio::test]
async fn virtual_columns_that_cannot_be_computed_are_refused_by_name() {
    let db = TestDb::create().await;
    if !are_known(&db).await {
        return;
    }
    let org = db.create_org().await;
    db.run(format!(
        "create collation blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         create table items (id int primary key, org_id uuid not null, name text, owner uuid generated always as (org_id));
         select warden.watch('items', 'items', 'item'); insert into items (id, org_id, name) values (1, '{org}', 'a');
         alter table items add same boolean generated always as (name = 'A' collate blind); update items set name = 'b'"
    ))
    .await;
    assert_eq!(logged(&db, "items").await.last().expect("an update"), r#"updated {"id": 1} truncated"#);
    assert_eq!(strings(&db, "select warden.unfit_watches()").await, ["public.items"]);
    for (arguments, error) in [
        (
            "",
            "the virtual column \"same\" of public.items cannot be computed in events: its expression uses a collation",
        ),
        (
            ", org_column => 'owner'",
            "column \"owner\" of public.items is a virtual generated column, which cannot be org_column",
        ),
    ] {
        let refused = db.error(format!("select warden.watch('items', 'items', 'item'{arguments})")).await;
        assert!(refused.contains(error), "{refused}");
    }
    db.run("select warden.watch('items', 'items', 'item', omit_columns => '{same}'); update items set name = 'c'").await;
    let last = logged(&db, "items").await.pop().expect("an update");
    assert!(last.contains(r#""name": "c""#) && !last.contains("truncated"), "{last}");
    assert_eq!(strings(&db, "select warden.unfit_watches()").await, Vec::<String>::new());
}

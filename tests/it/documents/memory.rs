//! Memory that a write of a watched table needs in the session that writes: no more than a small multiple of
//! the row, whatever unfolds in it.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::strings;
use crate::harness::{TestDb, backend_peak};

/// Largest growth of the writing session, in KiB. A row of each case has at most 200 KB in its table.
const GROWTH_MAX: u64 = 64 * 1024;

/// Column type, whether the watch sends the column as text, and a query for its value.
const CASES: [(&str, bool, &str); 11] = [
    ("jsonb", false, "select jsonb_agg(1e131000) from generate_series(1, 2000)"),
    ("jsonb", true, "select jsonb_agg(1e131000) from generate_series(1, 2000)"),
    ("json", false, "select ('[' || string_agg('1e131000', ',') || ']')::json from generate_series(1, 3000)"),
    ("json", false, "select ('[' || string_agg('1e399', ',') || ']')::json from generate_series(1, 10000)"),
    ("jsonb", false, "select jsonb_agg(round(1, 16000)) from generate_series(1, 5000)"),
    ("jsonb", false, "select jsonb_agg(null::int) from generate_series(1, 1000000)"),
    ("numeric[]", true, "select array_fill(1e131000::numeric, '{8000}')"),
    (
        "nummultirange",
        false,
        "select range_agg(numrange(10.0 ^ (4 * n), 10.0 ^ (4 * n + 1))) from generate_series(100, 1200) n",
    ),
    ("text", false, "select repeat('x', 50000000)"),
    ("bytea", false, "select decode(repeat('00', 50000000), 'hex')"),
    (
        "deep",
        false,
        "select row(array[row(jsonb_build_array(repeat('x', 5000000)), null)]::part[], 1e131000)::deep",
    ),
];

#[tokio::test]
async fn writes_need_a_small_multiple_of_the_row_whatever_unfolds_in_it() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run("create type part as (j jsonb, n numeric[]); create type deep as (parts part[], n numeric)").await;
    for (column_type, as_text, value) in CASES {
        let columns = if as_text { "{v}" } else { "{}" };
        db.run(format!(
            "create table source as select v from ({value}) s (v);
             create table probe (id int primary key, org_id uuid not null, v {column_type}, changes int default 0);
             select warden.watch('probe', 'probe', 'probe', as_text => '{columns}');
             insert into probe (id, org_id) values (0, '{org}'); update probe set changes = 1; delete from probe"
        ))
        .await;
        let mut writer = PgConnection::connect(db.url()).await.expect("connects");
        let pid: i32 =
            sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut writer).await.expect("a pid");
        writer
            .execute(AssertSqlSafe(format!("insert into probe (id, org_id) values (0, '{org}')")))
            .await
            .expect("inserts");
        let before = backend_peak(pid);
        for statement in [
            &format!("insert into probe select 1, '{org}', v from source"),
            "update probe set changes = changes + 1",
            "select count(*) from warden.row_documents('probe')",
            "delete from probe",
        ] {
            writer.execute(AssertSqlSafe(statement.to_owned())).await.expect("writes");
            let growth = backend_peak(pid).saturating_sub(before);
            assert!(
                growth < GROWTH_MAX,
                "{statement} of {column_type}, as text: {as_text}, needs {growth} KiB: {value}"
            );
        }
        let events = "select count(*)::text from warden.events where topic = 'probe' and data ->> 'id' = '1'";
        assert_eq!(strings(&db, events).await, ["3"], "{column_type}: {value}");
        db.run("drop table source, probe; delete from warden.events").await;
    }
}

/// Most memory that a truncated row takes, in KiB. An update has two rows of up to 5 MB, and it reads both
/// twice.
const TRUNCATED_GROWTH_MAX: u64 = 80 * 1024;

/// Each column of these rows is small, or unfolds. The row has some 200 KB or 5 MB in its table.
#[tokio::test]
async fn truncated_rows_of_many_columns_need_a_small_multiple_of_the_row() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    for (count, column_type, value) in [
        (300, "text", "repeat('x', 60000)"),
        (100, "jsonb", "(select jsonb_agg(null::int) from generate_series(1, 1000000))"),
    ] {
        let columns: Vec<String> = (0..count).map(|n| format!("c{n} {column_type}")).collect();
        let values: Vec<String> = (0..count).map(|_| "v".to_owned()).collect();
        db.run(format!(
            "create table source as select {value} as v;
             create table probe (id int primary key, org_id uuid not null, changes int default 0, {});
             select warden.watch('probe', 'probe', 'probe');
             insert into probe (id, org_id) values (0, '{org}'); update probe set changes = 1; delete from probe",
            columns.join(", ")
        ))
        .await;
        let mut writer = PgConnection::connect(db.url()).await.expect("connects");
        let pid: i32 =
            sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut writer).await.expect("a pid");
        // The session plans the usual statements first. Their plans grow with the number of columns.
        for statement in [
            &format!("insert into probe (id, org_id) values (0, '{org}')"),
            "update probe set changes = 1 where id = 0",
            "delete from probe where id = 0",
        ] {
            writer.execute(AssertSqlSafe(statement.to_owned())).await.expect("writes");
        }
        let before = backend_peak(pid);
        for statement in [
            &format!("insert into probe select 1, '{org}', 0, {} from source", values.join(", ")),
            "update probe set changes = changes + 1 where id = 1",
            "delete from probe where id = 1",
        ] {
            writer.execute(AssertSqlSafe(statement.to_owned())).await.expect("writes");
            let growth = backend_peak(pid).saturating_sub(before);
            assert!(
                growth < TRUNCATED_GROWTH_MAX,
                "{statement:.100} of {count} columns of {column_type} needs {growth} KiB"
            );
        }
        let events = "select count(*)::text from warden.events where topic = 'probe' and data ->> 'id' = '1' and truncated";
        assert_eq!(strings(&db, events).await, ["3"], "{column_type}: {value}");
        db.run("drop table source, probe; delete from warden.events").await;
    }
}

#[tokio::test]
async fn published_documents_are_not_unfolded_to_be_rejected() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(
        "create table source as select jsonb_agg(1e131000) as v from generate_series(1, 2000)
         union all select jsonb_agg(1) from generate_series(1, 1000000)",
    )
    .await;
    let mut writer = PgConnection::connect(db.url()).await.expect("connects");
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut writer).await.expect("a pid");
    let before = backend_peak(pid);
    let publish = format!(
        "select warden.publish('{org}', 'calls', 'call.noted', v) from source where jsonb_array_length(v)"
    );
    for (limit, part) in [("= 2000", "more than 400 digits"), ("> 2000", "at most 65536 are allowed")] {
        let error = writer.execute(AssertSqlSafe(format!("{publish} {limit}"))).await.expect_err("too large");
        assert!(error.to_string().contains(part), "{error}");
    }
    let growth = backend_peak(pid).saturating_sub(before);
    assert!(growth < GROWTH_MAX, "{growth} KiB");
}

//! Memory that reading takes in the database and in the gateway, whatever unfolds in a row.

use serde_json::json;

use super::{code, get, page};
use crate::harness::{DEADLINE, PostgresProxy, TestDb, TestGateway, backend_peak};

/// Largest growth of all sessions that read, in KiB. A row of each case has at most 60 KB in its table.
const GROWTH_MAX: u64 = 64 * 1024;

/// Most bytes that the database sends for the requests of one case.
const SENT_MAX: i64 = 256 * 1024;

/// Rows of each case.
const ROWS: usize = 3;

/// Column types that can be ordered, and a query for a value.
const CASES: [(&str, &str); 4] = [
    ("jsonb", "select jsonb_agg(1e131000) from generate_series(1, 2000)"),
    ("numeric", "select 1e131000"),
    ("text", "select repeat('x', 5000000)"),
    ("bytea", "select decode(repeat('00', 5000000), 'hex')"),
];

/// Address spaces of the gateway's sessions, in KiB.
async fn peaks(db: &TestDb) -> u64 {
    let sessions =
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'warden'";
    let pids: Vec<i32> = sqlx::query_scalar(sessions).fetch_all(&db.pool).await.expect("queries");
    pids.into_iter().map(backend_peak).sum()
}

#[tokio::test]
async fn an_order_by_values_that_unfold_takes_little_memory() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    for (column_type, value) in CASES {
        db.run(format!(
            "create table {column_type}s (id int primary key, org_id uuid not null, v {column_type});
             with source as materialized (select v from ({value}) s (v))
             insert into {column_type}s select n, '{org}', v from source, generate_series(1, {ROWS}) n;
             grant select on {column_type}s to authenticated;
             select warden.watch('{column_type}s', '{column_type}s', '{column_type}s', visibility => 'organisation')"
        ))
        .await;
    }
    let proxy = PostgresProxy::start(&db.socket_dir()).await;
    let url = format!("postgres://warden_gateway@{}/{}?sslmode=disable", proxy.host(), db.name());
    let t = TestGateway::start_with(db, |config| {
        config.database = warden::postgres::options(&url).expect("a URL");
        config.limits.reading.statement_timeout = DEADLINE;
    })
    .await;
    let mut client = t.connect(org).await;
    // The sessions are open, and have planned such queries.
    for (column_type, _) in CASES {
        for _ in 0..2 {
            page(&t, org, &format!("/v1/{column_type}s?v=is.null&order=v")).await;
        }
    }
    for (column_type, _) in CASES {
        let before = peaks(&t.db).await;
        proxy.reset_after(SENT_MAX);
        // All rows fit into a page, so their positions are not needed. Each document is too large.
        let body = page(&t, org, &format!("/v1/{column_type}s?order=v.desc")).await;
        assert_eq!(body["truncated"], json!((0..ROWS).collect::<Vec<_>>()), "{column_type}");
        // The URL of the next page would need the value.
        let answer = get(&t, org, &format!("/v1/{column_type}s?order=v&limit=1")).await;
        assert_eq!((answer.status, code(&answer)), (400, "invalid_query".to_owned()), "{answer:?}");
        assert!(answer.body.contains("too long for the URL of the next page"), "{}", answer.body);
        let snapshot = json!({"snapshot": {"order": "v"}});
        let reply = client.push(&format!("{column_type}s"), "phx_join", snapshot).await;
        assert_eq!(reply.status, "ok", "{column_type}: {reply:?}");
        let rows = client.next_event().await;
        assert_eq!(
            (rows.name.as_str(), &rows.payload["last"]),
            ("warden.snapshot", &json!(true)),
            "{rows:?}"
        );
        let growth = peaks(&t.db).await.saturating_sub(before);
        assert!(growth < GROWTH_MAX, "reading {column_type} takes {growth} KiB");
        assert!(!proxy.has_reset(), "the database sends more than {SENT_MAX} bytes for {column_type}");
    }
    t.gateway.stop().await;
}

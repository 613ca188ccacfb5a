//! Attempts to tell hidden rows from missing ones by the time of empty answers. The tests count what
//! PostgreSQL reads, because times differ from machine to machine.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::*;
use crate::harness::eventually;

/// Rows of other agents. Each has a note that is stored outside of its row.
const HIDDEN_ROWS: i64 = 500;

/// The filter of the token. It costs more than one condition of a request, so PostgreSQL would evaluate that
/// one first.
const COSTLY: &str = "or=(agent.eq.$app_metadata.agent,agent.eq.x1,agent.eq.x2,agent.eq.x3)";

/// Parts of the table that PostgreSQL has read.
#[derive(Debug, PartialEq, Eq)]
struct Reads {
    index_scans: i64,
    rows_by_index: i64,
    rows_in_sequence: i64,
    /// Blocks of values that are stored outside of their rows.
    outside_blocks: i64,
}

async fn reads(db: &TestDb) -> Reads {
    let row: (i64, i64, i64, i64) = sqlx::query_as(
        "select idx_scan, idx_tup_fetch, seq_tup_read, toast_blks_read + toast_blks_hit
         from pg_stat_user_tables t join pg_statio_user_tables using (relid) where t.relname = 'items'",
    )
    .fetch_one(&db.pool)
    .await
    .expect("reads");
    Reads { index_scans: row.0, rows_by_index: row.1, rows_in_sequence: row.2, outside_blocks: row.3 }
}

/// Runs requests on a gateway of its own, and returns what they have read. Its connections report that when
/// they end.
async fn reads_of(db: &TestDb, token: &str, requests: &[(&str, &str)], joins: &[Value]) -> Reads {
    let before = reads(db).await;
    let gateway = TestGateway::gateway(db, |_| {}).await;
    for (path, expected) in requests {
        let request = Upgrade::bearer(token).without("Upgrade").without("Connection");
        let answer = request.to(path).send(gateway.public_addr()).await;
        assert_eq!(summary(&answer), *expected, "{path}: {answer:?}");
    }
    for join in joins {
        let mut client = Client::connect(gateway.public_addr(), token).await;
        client.join_with("items", join.clone()).await;
        let page = client.expect_event("items", "warden.snapshot").await;
        assert_eq!((&page.payload["last"], &page.payload["rows"]), (&json!(true), &json!([])), "{join}");
    }
    gateway.stop().await;
    wait_for_end(db, "datname = current_database() and usename = 'warden_gateway'").await;
    let after = reads(db).await;
    Reads {
        index_scans: after.index_scans - before.index_scans,
        rows_by_index: after.rows_by_index - before.rows_by_index,
        rows_in_sequence: after.rows_in_sequence - before.rows_in_sequence,
        outside_blocks: after.outside_blocks - before.outside_blocks,
    }
}

/// Waits until the connections that a condition selects have ended.
async fn wait_for_end(db: &TestDb, condition: &str) {
    let sql = format!("select count(*) from pg_stat_activity where {condition}");
    eventually("the connections have ended", async || {
        let count = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.as_str()));
        count.fetch_one(&db.pool).await.expect("counts") == 0
    })
    .await;
}

async fn with_hidden_rows() -> (TestDb, String) {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    db.run(TABLES).await;
    // On a connection of its own, because a connection reports what it has read and written when it ends.
    let mut connection = PgConnection::connect(db.url()).await.expect("connects");
    let pid: i32 =
        sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await.expect("reads");
    let sql = format!(
        "alter table items alter note set storage external;
         insert into items (id, org_id, agent, note)
         select n, '{org}', 'b', '{HIDDEN}' || repeat('x', 20000) from generate_series(1, {HIDDEN_ROWS}) n;
         analyze items"
    );
    connection.execute(AssertSqlSafe(sql)).await.expect("inserts");
    connection.close().await.expect("closes");
    wait_for_end(&db, &format!("pid = {pid}")).await;
    (db, agent(org, &json!("a"), &json!({"items": COSTLY})))
}

/// PostgreSQL finds a hidden row in the index and rejects it. That row is the only difference.
#[tokio::test]
async fn a_hidden_row_costs_one_row_more_than_a_missing_one() {
    let (db, token) = with_hidden_rows().await;
    // Earlier versions collect statistics later than the end of a connection.
    if !db.has_version(15).await {
        return;
    }
    let hidden = reads_of(&db, &token, &[("/v1/items/2", "unknown_row"); 5], &[]).await;
    let missing = reads_of(&db, &token, &[("/v1/items/9999", "unknown_row"); 5], &[]).await;
    let expected =
        |rows_by_index| Reads { index_scans: 5, rows_by_index, rows_in_sequence: 0, outside_blocks: 0 };
    assert_eq!((hidden, missing), (expected(5), expected(0)));
}

/// The time of a pattern depends on the text. So it must not read the text of hidden rows, however cheap it
/// is.
#[tokio::test]
async fn patterns_of_a_client_do_not_read_hidden_rows() {
    let (db, token) = with_hidden_rows().await;
    // Earlier versions collect statistics later than the end of a connection.
    if !db.has_version(15).await {
        return;
    }
    let patterns = [
        ("/v1/items?note=like.H*", " of null"),
        ("/v1/items?note=not.ilike.*z", " of null"),
        ("/v1/items?or=(note.like.*x*,id.lt.0)", " of null"),
        ("/v1/items?id=eq.2&note=like.*%25_x*", " of null"),
    ];
    let joins = [
        json!({"snapshot": {"note": "like.H*"}}),
        json!({"snapshot": {}, "filter": "note=like.H*"}),
        json!({"snapshot": {"or": "(note.ilike.h*,id.lt.0)"}, "filter": "id=gt.0"}),
    ];
    let read = reads_of(&db, &token, &patterns, &joins).await;
    assert_eq!(read.outside_blocks, 0, "{read:?}");
    assert!(read.rows_by_index + read.rows_in_sequence > HIDDEN_ROWS, "the rows are visited: {read:?}");
}

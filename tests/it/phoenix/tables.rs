//! The recipe that shows several tables in consistent states, with the published `phoenix` package.

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use warden_testkit::{Gate, TcpProxy};

use super::driver::Recipe;
use super::good_token;
use crate::harness::TestGateway;

const TOPICS: [&str; 2] = ["lefts", "rights"];
const TRANSFERS: usize = 40;

#[tokio::test]
async fn the_recipe_shows_no_part_of_a_transfer() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    for topic in TOPICS {
        t.db.run(format!(
            "create table {topic} (id int primary key, org_id uuid not null, n int not null);
             grant select on {topic} to authenticated;
             select warden.watch('{topic}', '{topic}', '{topic}', visibility => 'organisation');
             insert into {topic} select n, '{org}', 100 from generate_series(1, 10) n"
        ))
        .await;
    }
    let proxy = TcpProxy::start(vec![t.gateway.public_addr()]).await;
    let config = json!({"url": format!("ws://{}/socket", proxy.addr()), "authToken": good_token(org), "topics": TOPICS});
    let mut recipe = Recipe::start("tables.mjs", &config);
    let stored = async || -> Value {
        let sql = "select jsonb_build_array(
            (select coalesce(jsonb_agg(to_jsonb(l) order by id), '[]') from lefts l),
            (select coalesce(jsonb_agg(to_jsonb(r) order by id), '[]') from rights r))";
        sqlx::query_scalar(sql).fetch_one(&t.db.pool).await.expect("queries")
    };
    let is_whole = |shown: &Value| {
        let rows = shown.as_array().expect("tables").iter().flat_map(|table| table.as_array().expect("rows"));
        let sum: i64 = rows.map(|row| row["n"].as_i64().expect("a number")).sum();
        assert_eq!(sum, 2000, "{shown}");
    };
    let mut shows_the_tables = async || recipe.shows(&stored().await, is_whole).await;
    shows_the_tables().await;
    for step in 0..TRANSFERS {
        let (a, b, amount) = (step % 10 + 1, step * 7 % 10 + 1, step % 13 + 1);
        let sql = format!(
            "update lefts set n = n - {amount} where id = {a}; update rights set n = n + {amount} where id = {b}"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&t.db.pool).await.expect("transfers");
        if step % 10 == 9 {
            for gate in proxy.gates() {
                gate.send_replace(Gate::Cut);
            }
            shows_the_tables().await;
        }
    }
    // TRUNCATE leads to a resync of one topic, and its rows are read again.
    t.db.run(format!("begin; truncate lefts; insert into lefts values (1, '{org}', 2000 - (select sum(n) from rights)); commit"))
        .await;
    shows_the_tables().await;
    t.gateway.stop().await;
}

/// The recipe shows the former value of a row whose event has its key alone, or the key if there is none.
#[tokio::test]
async fn rows_that_are_too_large_for_an_event_are_marked_as_stale() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    t.db.run(format!(
        "create table texts (id int primary key, org_id uuid not null, body text not null);
         grant select on texts to authenticated;
         select warden.watch('texts', 'texts', 'text', visibility => 'organisation');
         insert into texts values (1, '{org}', 'a'), (2, '{org}', 'b')"
    ))
    .await;
    let url = format!("ws://{}/socket", t.gateway.public_addr());
    let config = json!({"url": url, "authToken": good_token(org), "topics": ["texts"]});
    let mut recipe = Recipe::start("tables.mjs", &config);
    let row = |id: usize, body: &str| json!({"id": id, "org_id": org, "body": body});
    let stale = |mut row: Value| {
        row["stale"] = json!(true);
        row
    };
    let key = json!({"id": 3, "org_id": org});
    let whole = "x".repeat(100_000);
    for (sql, rows) in [
        ("", vec![row(1, "a"), row(2, "b")]),
        ("update texts set body = repeat('x', 100000) where id = 1", vec![stale(row(1, "a")), row(2, "b")]),
        // The former row was too large, and so the event of this update lacks the column too.
        (
            "insert into texts values (3, '{org}', repeat('x', 100000)); update texts set body = 'c' where id = 1",
            vec![stale(row(1, "a")), row(2, "b"), stale(key.clone())],
        ),
        ("update texts set body = 'd' where id = 1", vec![row(1, "d"), row(2, "b"), stale(key)]),
        ("delete from texts where id = 3", vec![row(1, "d"), row(2, "b")]),
        // TRUNCATE leads to a resync. Pages contain rows of up to 1 MiB.
        (
            "begin; truncate texts; insert into texts values (1, '{org}', repeat('x', 100000)); commit",
            vec![row(1, &whole)],
        ),
        (
            "begin; truncate texts; insert into texts values (1, '{org}', repeat('x', 1100000)); commit",
            vec![stale(row(1, &whole))],
        ),
    ] {
        t.db.run(sql.replace("{org}", &org.to_string())).await;
        recipe.shows(&json!([rows]), |_| {}).await;
    }
    t.gateway.stop().await;
}

//! The recipe that keeps the rows of a table, with the published `phoenix` package.

use serde_json::{Value, json};

use super::driver::Recipe;
use super::good_token;
use crate::harness::TestGateway;

#[tokio::test]
async fn the_recipe_ends_with_the_rows_of_the_table() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    t.db.run(format!(
        "create table items (id int primary key, org_id uuid not null, n int not null);
         grant select on items to authenticated;
         select warden.watch('items', 'items', 'item', visibility => 'organisation');
         insert into items select n, '{org}', 0 from generate_series(1, 25) n"
    ))
    .await;
    let addr = t.gateway.public_addr();
    let config = json!({"url": format!("ws://{addr}/socket"), "authToken": good_token(org), "topic": "items",
                        "parameters": {"limit": 10, "order": "n,id"}});
    let mut recipe = Recipe::start("rows.mjs", &config);
    let stored = async || -> Value {
        sqlx::query_scalar("select jsonb_agg(to_jsonb(i) order by id) from items i")
            .fetch_one(&t.db.pool)
            .await
            .expect("queries")
    };
    let mut shows_the_table = async || recipe.shows(&stored().await, |_| {}).await;
    shows_the_table().await;
    t.db.run("update items set n = n + 1 where id < 9; delete from items where id = 3").await;
    shows_the_table().await;
    // TRUNCATE leads to a resync, and the client reads the rows again.
    t.db.run(format!("truncate items; insert into items select n, '{org}', 5 from generate_series(7, 31) n"))
        .await;
    shows_the_table().await;
    t.gateway.stop().await;
    t.db.run(format!("delete from items where id = 8; insert into items values (40, '{org}', 1)")).await;
    let gateway = TestGateway::gateway(&t.db, |config| config.listen = addr).await;
    shows_the_table().await;
    gateway.stop().await;
}

/// Their events contain the key alone.
#[tokio::test]
async fn the_recipe_fetches_rows_that_are_too_large_for_an_event() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    t.db.run(format!(
        "create table texts (id int primary key, org_id uuid not null, body text not null);
         grant select on texts to authenticated;
         select warden.watch('texts', 'texts', 'text', visibility => 'organisation');
         insert into texts select n, '{org}', n from generate_series(1, 3) n"
    ))
    .await;
    let config = json!({"url": format!("ws://{}/socket", t.gateway.public_addr()), "authToken": good_token(org),
                        "topic": "texts", "parameters": {}});
    let mut recipe = Recipe::start("rows.mjs", &config);
    let mut shows_the_table = async || {
        let stored: Value = sqlx::query_scalar("select jsonb_agg(to_jsonb(t) order by id) from texts t")
            .fetch_one(&t.db.pool)
            .await
            .expect("queries");
        // Until then a row has its former value, and not its key alone.
        let has_bodies = |shown: &Value| {
            assert!(shown.as_array().expect("rows").iter().all(|row| row["body"].is_string()), "{shown}");
        };
        recipe.shows(&stored, has_bodies).await;
    };
    shows_the_table().await;
    t.db.run(format!(
        "update texts set body = repeat('x', 100000) where id = 1; insert into texts values (4, '{org}', repeat('y', 200000))"
    ))
    .await;
    shows_the_table().await;
    t.db.run("update texts set body = repeat('z', 100000) where id < 3; update texts set body = 'small' where id < 2; delete from texts where id = 4")
        .await;
    shows_the_table().await;
    t.gateway.stop().await;
}

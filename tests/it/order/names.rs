//! Names of the application's triggers: those of Warden run last, whatever character a name begins with.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::harness::TestDb;

/// Names that sort before and after those of Warden's triggers.
const NAMES: [&str; 5] = ["a", "z", "~z", "é", "語"];

#[tokio::test]
async fn a_trigger_that_sorts_last_by_its_name_does_not_disorder_events() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    for (name, kind) in NAMES.iter().flat_map(|name| [(name, "table"), (name, "partition")]) {
        // The trigger may be older than the watch, be created later, or get its name later.
        for first in ["watch", "trigger", "other name"] {
            let create = |name: &str| {
                format!(
                    "create trigger \"{name}\" before insert on stock for each row execute function replace();"
                )
            };
            let watch = "select warden.watch('stock', 'stock', 'stock');";
            let steps = match first {
                "watch" => watch.to_owned() + &create(name),
                "trigger" => create(name) + watch,
                _ => format!("{} {watch} alter trigger b on stock rename to \"{name}\";", create("b")),
            };
            let parts = if kind == "table" {
                ("", "")
            } else {
                ("partition by range (id)", "create table stock_1 partition of stock default;")
            };
            let script = format!(
                "drop table if exists stock;
                 create or replace function replace() returns trigger language plpgsql as
                   'begin delete from stock where id = new.id; return new; end';
                 create table stock (id int primary key, org_id uuid not null, n int) {};
                 {} {steps}
                 insert into stock values (1, '{org}', 1);
                 insert into stock values (1, '{org}', 2), (2, '{org}', 3), (2, '{org}', 4);",
                parts.0, parts.1
            );
            session.execute(sqlx::raw_sql(AssertSqlSafe(script))).await.expect("runs");
            let logged: Vec<String> = sqlx::query_scalar(
                "delete from warden.events where topic = 'stock' and event <> 'warden.resync' returning
                   concat_ws(' ', split_part(event, '.', 2), data ->> 'n')",
            )
            .fetch_all(&mut session)
            .await
            .expect("reads");
            let expected = ["created 1", "deleted 1", "created 2", "created 3", "deleted 3", "created 4"];
            assert_eq!(logged, expected, "{kind} {name}, first the {first}");
        }
    }
}

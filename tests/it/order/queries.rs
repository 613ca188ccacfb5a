//! Queries that change several tables: rows that a trigger of one table writes to another one.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::harness::TestDb;

/// Bodies of a trigger of `visits`, and whether they may write to `orders`.
const BODIES: [(&str, bool); 12] = [
    ("update orders set n = 1;", true),
    ("delete from public.\"orders\" where id = new.id;", true),
    ("insert into recent_orders values (new.id, new.org_id, 1);", true),
    ("delete from buyers where id = new.id;", true),
    ("perform count_order(new.id);", true),
    ("perform count_indirectly(new.id);", true),
    ("execute new.command;", true),
    ("perform run(new.command);", true),
    ("insert into visit_log values (new.id);", false),
    ("insert into reorders values (new.id);", false),
    ("perform log_visit(new.id);", false),
    ("new.command := 'update orders';", false),
];

const SCHEMA: &str = "
    create table buyers (id int primary key);
    create table orders (id int primary key, org_id uuid not null, n int,
                         buyer int references buyers on delete cascade);
    create view recent_orders as select id, org_id, n from orders;
    create table visits (id int primary key, org_id uuid, command text);
    create table visit_log (id int);
    create table reorders (id int);
    create function count_order(x int) returns void language sql as 'update orders set n = n + 1 where id = x';
    create function count_indirectly(x int) returns void language plpgsql as 'begin perform count_order(x); end';
    create function log_visit(x int) returns void language sql as 'insert into visit_log values (x)';
    create function run(command text) returns void language plpgsql as 'begin execute command; end';
    create function visited() returns trigger language plpgsql as 'begin return new; end';
    create trigger visited after insert on visits for each row execute function visited();
    select warden.watch('orders', 'orders', 'order')";

async fn run(db: &mut PgConnection, sql: &str) {
    db.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.expect("runs");
}

#[tokio::test]
async fn a_table_that_triggers_of_other_tables_write_gets_order_triggers() {
    let db = TestDb::create().await;
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    run(&mut session, SCHEMA).await;
    for (body, writes) in BODIES {
        let quoted = body.replace('\'', "''");
        run(
            &mut session,
            &format!(
                "begin;
                 create or replace function visited() returns trigger language plpgsql as 'begin {quoted} return new; end'"
            ),
        )
        .await;
        let has_order: bool = sqlx::query_scalar(
            "select exists (select from pg_trigger where tgrelid = 'orders'::regclass and tgname = 'warden_begin_insert')",
        )
        .fetch_one(&mut session)
        .await
        .expect("asks");
        assert_eq!(has_order, writes, "{body}");
        run(&mut session, "rollback").await;
    }
}

#[tokio::test]
async fn parts_of_a_query_come_before_what_their_triggers_write() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    run(&mut session, SCHEMA).await;
    run(
        &mut session,
        &format!(
            "create or replace function visited() returns trigger language plpgsql as
               'begin update orders set n = 2 where id = new.id; delete from orders where id = 9; return new; end';
             with o as (insert into orders values (1, '{org}', 1), (9, '{org}', 1))
             insert into visits values (1, '{org}', null);"
        ),
    )
    .await;
    let events: Vec<String> = sqlx::query_scalar(
        "select concat_ws(' ', split_part(event, '.', 2), data ->> 'id', data ->> 'n') from warden.events
         where topic = 'orders' order by id",
    )
    .fetch_all(&mut session)
    .await
    .expect("reads");
    assert_eq!(events, ["created 1 1", "created 9 1", "updated 1 2", "deleted 9 1"]);
}

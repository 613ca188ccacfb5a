//! Which tables get the triggers that keep the order, and what these triggers read.

use fastrand::Rng;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use crate::harness::TestDb;

/// Statements of usual triggers that set columns of their own row.
const ASSIGNMENTS: [&str; 8] = [
    "new.updated_at := now();",
    "NEW.updated_at = clock_timestamp();",
    "new.name := lower(btrim(new.name));",
    "if new.* is distinct from old.* then new.version := coalesce(old.version, 0) + 1; end if;",
    "if row(new.*) is distinct from row(old.*) then new.updated_at := now() at time zone 'utc'; end if;",
    "new.note := 'insert into log values (1)'; -- don't write",
    "new.id := nextval('ids');",
    "if tg_op = 'INSERT' then new.created_at := current_timestamp; else new.created_at := old.created_at; end if;",
];

/// Parts of a body that may write, each a statement.
const WRITES: [&str; 16] = [
    "insert into log values (1);",
    "update log set n = 1;",
    "delete from log;",
    "perform write();",
    "execute 'delete from log';",
    "call write();",
    "select write() into new.name;",
    "new.name := write();",
    "new.name := (select write());",
    "new.name := public.lower(new.name);",
    "new.name := new.name.write;",
    "new.name := new.\"write\";",
    "truncate log;",
    "with x as (insert into log values (1) returning 1) select 1 into new.n;",
    "for r in select write() loop null; end loop;",
    "if write() then null; end if;",
];

async fn connect(db: &TestDb) -> PgConnection {
    PgConnection::connect(db.url()).await.expect("connects")
}

async fn run(db: &mut PgConnection, sql: &str) {
    db.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await.expect("runs");
}

async fn is_true(db: &mut PgConnection, sql: &str) -> bool {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(db).await.expect("asks")
}

/// The events of a topic in an order: the verb and these columns.
async fn logged(db: &mut PgConnection, topic: &str, columns: &str, order: &str) -> Vec<String> {
    let query = format!(
        "select concat_ws(' ', split_part(event, '.', 2), {columns}) from warden.events
         where topic = '{topic}' order by {order}"
    );
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(db).await.expect("reads")
}

const HAS_ORDER: &str = "select exists (select from pg_trigger
                         where tgrelid = 'orders'::regclass and tgname = 'warden_begin_insert')";

#[tokio::test]
async fn a_body_with_a_write_never_counts_as_assignments_only() {
    let db = TestDb::create().await;
    let mut session = connect(&db).await;
    let mut rng = Rng::with_seed(7);
    for n in 0..400 {
        let mut parts: Vec<&str> = (0..rng.usize(1..4)).map(|_| ASSIGNMENTS[rng.usize(..8)]).collect();
        let writes = n % 2 == 1;
        if writes {
            parts.insert(rng.usize(..=parts.len()), WRITES[rng.usize(..WRITES.len())]);
        }
        let separator = [" \n", "\n\t", "\n-- it's a comment; insert into log\n"][rng.usize(..3)];
        let body = format!("begin {}\nreturn new; end", parts.join(separator));
        let only_assigns: bool = sqlx::query_scalar("select warden.only_assigns($1)")
            .bind(&body)
            .fetch_one(&mut session)
            .await
            .expect("asks");
        assert_eq!(only_assigns, !writes, "{body}");
    }
}

#[tokio::test]
async fn a_table_gets_order_triggers_once_its_trigger_may_write() {
    let db = TestDb::create().await;
    let mut session = connect(&db).await;
    // If no trigger wrote to a watched table, none would matter.
    run(
        &mut session,
        "create table counters (id int primary key, org_id uuid not null);
         create table visits (id int);
         create function visited() returns trigger language plpgsql as
           $$ begin delete from counters where id = new.id; return new; end $$;
         create trigger visited after insert on visits for each row execute function visited();
         select warden.watch('counters', 'counters', 'counter')",
    )
    .await;
    for (name, change) in [
        (
            "the function writes",
            "create or replace function touch() returns trigger language plpgsql as
             $$ begin delete from orders where id = 0; return new; end $$",
        ),
        (
            "a function of the same name as a known one",
            "create function public.lower(varchar) returns text language plpgsql as $$ begin return 1; end $$",
        ),
        (
            "a condition that calls a function",
            "create function is_due(int) returns boolean language plpgsql as $$ begin return true; end $$;
             create trigger later before update on orders for each row when (is_due(new.id)) execute function touch()",
        ),
        (
            "a cast with a function",
            "create type shade as (s text);
             create function to_shade(text) returns shade language sql as $$ select row($1)::shade $$;
             create cast (text as shade) with function to_shade(text) as assignment",
        ),
    ] {
        run(
            &mut session,
            "drop table if exists orders;
             drop function if exists public.lower(varchar);
             create table orders (id int primary key, org_id uuid not null, at timestamptz, name text);
             create or replace function touch() returns trigger language plpgsql as
               $$ begin new.at := now(); new.name := lower(new.name); return new; end $$;
             create trigger touch before insert or update on orders for each row
               when (pg_trigger_depth() < 3) execute function touch();
             select warden.watch('orders', 'orders', 'order')",
        )
        .await;
        assert!(!is_true(&mut session, HAS_ORDER).await, "{name}: an assignment alone needs no order");
        run(&mut session, change).await;
        assert!(is_true(&mut session, HAS_ORDER).await, "{name}");
    }
}

/// Changes after which a trigger of `orders` that writes to `log` may change a watched table.
const DETOURS: [&str; 29] = [
    "select warden.watch('log', 'log', 'log')",
    "create trigger tick after insert on log for each row execute function tick_row()",
    "create rule tick as on insert to log do also update audit set n = 1",
    "alter table log alter n set default tick(1, 1)",
    "alter table log add check (tick(id, 1) > 0)",
    "create operator |+| (leftarg = int, rightarg = int, function = tick)",
    "create policy tick on log using (tick(id, 1) > 0)",
    "create domain ticks as int check (tick(value, 1) > 0)",
    "create aggregate ticks (int) (sfunc = tick, stype = int)",
    "create procedure log(int) language plpgsql as $$ begin perform tick($1, 1); end $$",
    "create procedure note(int) language plpgsql as $$ begin perform tick($1, 1); end $$; alter procedure note rename to log",
    "create function note(int) returns int language plpgsql as $$ begin return tick($1, 1); end $$;
     alter routine note rename to log",
    "alter table log rename to former_log; create view note as select * from audit; alter view note rename to log",
    "alter table log rename to former_log; create table note (id int);
     create rule tick as on insert to note do also update audit set n = 1; alter table note rename to log",
    "create materialized view ticks as select tick(1, 1) with no data",
    "alter function tick immutable; create index on log (tick(id, 1))",
    "create schema app create table lines (id int)
       create trigger tick after insert on lines for each row execute function public.tick_row()",
    "create function distance(int, int) returns float8 immutable language plpgsql as
       $$ begin perform tick($1, 1); return 0; end $$;
     create type spans as range (subtype = int, subtype_diff = distance)",
    "create operator class ticks for type int using btree as function 1 tick(int, int)",
    "create foreign data wrapper nowhere; create server nowhere foreign data wrapper nowhere;
     create foreign table remote (id int default tick(1, 1)) server nowhere",
    "create trigger warden_tick after insert on log for each row execute function tick_row();
     alter trigger warden_tick on log rename to tick",
    "alter table audit add foreign key (id) references log on delete cascade",
    "alter table log rename to former_log; alter table audit rename to log",
    "create or replace function count_order() returns trigger language plpgsql as
       $$ begin perform warden.publish(new.org_id, 'orders', 'counted'); return new; end $$",
    "create or replace function count_order() returns trigger language plpgsql as
       $$ begin perform warden.publish_all(new.org_id, '[]'); return new; end $$",
    "create or replace function count_order() returns trigger language plpgsql as
       $$ begin perform warden.notify('orders', new.id::text); return new; end $$",
    "create or replace function count_order() returns trigger language plpgsql as
       $$ begin execute 'delete from ' || 'audit'; return new; end $$",
    r#"create or replace function count_order() returns trigger language plpgsql as
       $$ begin delete from U&"\0061udit"; return new; end $$"#,
    "create function tock() returns int language sql begin atomic; select tick(1, 1); end;
     create or replace function count_order() returns trigger language plpgsql as
       $$ begin perform tock(); return new; end $$",
];

#[tokio::test]
async fn a_trigger_that_writes_to_other_tables_needs_no_order_until_these_are_watched() {
    let db = TestDb::create().await;
    let mut session = connect(&db).await;
    run(
        &mut session,
        "create table orders (id int primary key, org_id uuid not null);
         create table audit (id int primary key, org_id uuid not null, n int);
         create table log (id int primary key, org_id uuid not null, n int);
         create function count_order() returns trigger language plpgsql as
           $$ begin insert into log values (new.id, new.org_id); return new; end $$;
         create trigger count_order before insert on orders for each row execute function count_order();
         create function tick(int, int) returns int language plpgsql as
           $$ begin update audit set n = n + 1 where id = $1; return $1; end $$;
         create function tick_row() returns trigger language plpgsql as
           $$ begin perform tick(new.id, 1); return new; end $$;
         select warden.watch('orders', 'orders', 'order'), warden.watch('audit', 'audit', 'audit')",
    )
    .await;
    assert!(!is_true(&mut session, HAS_ORDER).await, "nothing that a trigger calls names a watched table");
    for change in DETOURS {
        run(&mut session, &format!("begin; {change}")).await;
        assert!(is_true(&mut session, HAS_ORDER).await, "{change}");
        run(&mut session, "rollback").await;
    }
}

/// Functions of Warden that log events or notify, directly or through others, and that roles other than its
/// own may execute. Triggers of the application may call them.
const LOGGING_FUNCTIONS: &str = r"
    with recursive functions as (
      select p.oid, p.proname, lower(p.prosrc) as body, p.proowner,
        coalesce(p.proacl, acldefault('f', p.proowner)) as acl
      from pg_proc p where p.pronamespace = 'warden'::regnamespace
    ), logging as (
      select f.oid, f.proname from functions f where f.body ~ '\minto warden[.]events\M|\m(pg_)?notify\M'
      union
      select f.oid, f.proname from functions f join logging l on f.body ~ ('\mwarden[.]' || l.proname || '\M')
    )
    select distinct f.proname::text
    from logging l join functions f using (oid), aclexplode(f.acl) a
    where a.privilege_type = 'EXECUTE'
      and a.grantee not in (f.proowner, 'warden_gateway'::regrole)
    order by 1";

#[tokio::test]
async fn a_trigger_that_calls_a_function_that_logs_counts() {
    let db = TestDb::create().await;
    let mut session = connect(&db).await;
    run(
        &mut session,
        "create table orders (id int primary key);
         create function call() returns trigger language plpgsql as $$ begin return new; end $$;
         create trigger call before insert on orders for each row execute function call()",
    )
    .await;
    let functions: Vec<String> =
        sqlx::query_scalar(LOGGING_FUNCTIONS).fetch_all(&mut session).await.expect("reads the catalog");
    assert!(functions.iter().any(|f| f == "publish"), "{functions:?}");
    for function in functions {
        let create = format!(
            "create or replace function call() returns trigger language plpgsql as
               $$ begin perform warden.{function}(new.id); return new; end $$"
        );
        run(&mut session, &create).await;
        assert!(is_true(&mut session, "select '+' = any (warden.trigger_words())").await, "{function}");
    }
    run(
        &mut session,
        "create or replace function call() returns trigger language plpgsql as
           $$ begin perform warden.auth_org_id(); return new; end $$",
    )
    .await;
    assert!(!is_true(&mut session, "select '+' = any (warden.trigger_words())").await, "it only reads");
}

#[tokio::test]
async fn triggers_of_distant_parents_and_siblings_count() {
    let db = TestDb::create().await;
    let mut session = connect(&db).await;
    run(
        &mut session,
        "create table one (id int primary key);
         create table two (id int primary key references one on delete cascade);
         create table three (id int primary key references two on delete cascade);
         create table orders (id int primary key references three on delete cascade, org_id uuid not null);
         create table aside (id int primary key references one on delete cascade);
         select warden.watch('orders', 'orders', 'order');
         create function write() returns trigger language plpgsql as
           $$ begin update orders set id = id where false; return null; end $$",
    )
    .await;
    assert!(!is_true(&mut session, HAS_ORDER).await);
    run(&mut session, "create trigger write after delete on aside for each row execute function write()")
        .await;
    assert!(is_true(&mut session, HAS_ORDER).await);
}

#[tokio::test]
async fn several_actions_on_one_row_are_logged_one_by_one() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut session = connect(&db).await;
    run(
        &mut session,
        &format!(
            "create table people (id int primary key);
             create table orders (id int primary key, org_id uuid not null, author int references people on delete set null,
               editor int references people on delete set null, \"warden row\" text default 'mine');
             select warden.watch('orders', 'orders', 'order');
             insert into people values (1), (2);
             insert into orders values (1, '{org}', 1, 1), (2, '{org}', 2, 1);
             delete from people"
        ),
    )
    .await;
    let columns = "data ->> 'id', data ->> 'author', data ->> 'editor', data ->> 'warden row', old::text";
    let events = logged(&mut session, "orders", columns, "(data ->> 'id')::int, id").await;
    assert_eq!(
        events,
        [
            "created 1 1 1 mine",
            r#"updated 1 1 mine {"author": 1}"#,
            r#"updated 1 mine {"editor": 1}"#,
            "created 2 2 1 mine",
            r#"updated 2 2 mine {"editor": 1}"#,
            r#"updated 2 mine {"author": 2}"#,
        ]
    );
}

/// The action changes the row that the statement has just changed, and nothing else happens meanwhile.
#[tokio::test]
async fn a_row_that_refers_to_itself_is_logged_for_each_change() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut session = connect(&db).await;
    run(
        &mut session,
        &format!(
            "create table folders (id int primary key, org_id uuid not null,
               root int references folders on update cascade on delete set null);
             select warden.watch('folders', 'folders', 'folder');
             insert into folders values (1, '{org}', 1);
             update folders set id = 4 where id = 1"
        ),
    )
    .await;
    let columns = "data ->> 'id', data ->> 'root', old::text";
    let events = logged(&mut session, "folders", columns, "id").await;
    assert_eq!(events, ["created 1 1", "deleted 1 1", "created 4 1", r#"updated 4 4 {"root": 1}"#,]);
}

/// PostgreSQL 15 to 18 give the trigger of the updates the row that MERGE has inserted before.
#[tokio::test]
async fn merge_on_a_partitioned_table_logs_the_rows_that_it_updates() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut session = connect(&db).await;
    if !is_true(&mut session, "select current_setting('server_version_num')::int >= 150000").await {
        return;
    }
    run(
        &mut session,
        &format!(
            "create table parts (id int primary key, org_id uuid, n int) partition by range (id);
             create table parts_1 partition of parts for values from (0) to (10);
             select warden.watch('parts', 'parts', 'part');
             create table parts_2 partition of parts for values from (10) to (20);
             insert into parts values (1, '{org}', 1), (11, '{org}', 1);
             merge into parts p using (values (2), (1), (12), (11)) s (id) on p.id = s.id
               when matched then update set n = 2 when not matched then insert values (s.id, '{org}', 0)"
        ),
    )
    .await;
    let columns = "data ->> 'id', data ->> 'n', old::text";
    let events = logged(&mut session, "parts", columns, "(data ->> 'id')::int, id").await;
    assert_eq!(
        events,
        [
            "created 1 1",
            r#"updated 1 2 {"n": 1}"#,
            "created 2 0",
            "created 11 1",
            r#"updated 11 2 {"n": 1}"#,
            "created 12 0",
        ]
    );
}

#[tokio::test]
async fn sorting_reads_only_what_was_logged_within_the_statement() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut session = connect(&db).await;
    run(
        &mut session,
        "create table orders (id int primary key, org_id uuid not null, n int);
         create function number() returns trigger language plpgsql as
           $$ begin update orders set n = 1 where id = new.id; return null; end $$;
         create trigger number after insert on orders for each row execute function number();
         select warden.watch('orders', 'orders', 'order')",
    )
    .await;
    // Events of the same transaction, and of others, before the statement.
    let mut counts = Vec::new();
    for before in [10, 3000] {
        let sql = format!(
            "insert into orders select n + 100000 * {before}, '{org}' from generate_series(1, {before}) n;
             begin;
             insert into orders select n + 100000 * {before} + 10000, '{org}' from generate_series(1, {before}) n"
        );
        run(&mut session, &sql).await;
        let read = "select coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0)::bigint as n
                    from pg_stat_xact_all_tables where relname like 'events%' and schemaname = 'warden'";
        let former: i64 = sqlx::query(read).fetch_one(&mut session).await.expect("reads").get("n");
        run(&mut session, &format!("insert into orders values (-{before}, '{org}')")).await;
        let after: i64 = sqlx::query(read).fetch_one(&mut session).await.expect("reads").get("n");
        run(&mut session, "commit").await;
        counts.push(after - former);
    }
    assert!(counts[0] > 0 && counts[1] <= counts[0], "rows read: {counts:?}");
    let names: Vec<String> = sqlx::query_scalar(
        "select event from warden.events where topic = 'orders' and data ->> 'id' = '-3000' order by id",
    )
    .fetch_all(&mut session)
    .await
    .expect("reads");
    assert_eq!(names, ["order.created", "order.updated"]);
}

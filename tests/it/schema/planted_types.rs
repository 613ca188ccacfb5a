//! Types and relations that a login creates in its temporary schema do not take the place of PostgreSQL's in
//! Warden's functions. A domain or a view there may call a function of the login, which would then run with
//! the rights of the function's owner: of a superuser in event triggers.
//!
//! PostgreSQL searches the temporary schema first, also with an empty search_path, unless the search_path
//! names it.

use std::str::FromStr as _;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgConnection};
use uuid::Uuid;

use crate::harness::TestDb;

/// Creates a domain for every type and a view for every relation of PostgreSQL, under the same name.
const PLANT: &str = "
    create function pg_temp.spy(value anyelement) returns boolean language plpgsql as $$
    begin
      if current_user <> session_user then
        perform pg_catalog.set_config('spy.caught', pg_catalog.concat(
          pg_catalog.current_setting('spy.caught', true), ' as ', current_user, ' by ', pg_catalog.pg_typeof(value)), false);
      end if;
      return true;
    end
    $$;
    do $$
    declare
      planted record;
    begin
      for planted in
        select pg_catalog.format('create domain pg_temp.%I as pg_catalog.%I check (pg_temp.spy(value))', t.typname, t.typname) as sql
        from pg_catalog.pg_type t
        where t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace and t.typtype in ('b', 'r', 'm') and t.typname !~ '^_'
        union all
        select pg_catalog.format('create view pg_temp.%I as select %s from pg_catalog.%I where pg_temp.spy(0)', c.relname, (
          select pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ') from pg_catalog.pg_attribute a
          where a.attrelid = c.oid and a.attnum > 0 and a.atttypid not in (
            'pg_catalog.anyarray'::pg_catalog.regtype, 'pg_catalog._pg_statistic'::pg_catalog.regtype)), c.relname)
        from pg_catalog.pg_class c
        where c.relnamespace = 'pg_catalog'::pg_catalog.regnamespace and c.relkind in ('r', 'v')
      loop
        execute planted.sql;
      end loop;
    end
    $$";

/// Statements of the login: everything that runs functions of Warden with the rights of others.
const ACTIONS: &[&str] = &[
    "create temp table scratch (a int)",
    "insert into notes values (1, '{org}', 'a'), (2, '{org}', 'b')",
    "update notes set body = 'c'",
    "update notes set id = id + 10",
    "with moved as (delete from notes where id = 11 returning *) insert into notes select 13, org_id, body from moved",
    "delete from notes where id = 12",
    "select * from notes",
    "begin; insert into notes values (20, '{org}', repeat('x', 100000)); savepoint s; delete from notes; rollback to s; commit",
    "insert into parts values (1, '{org}'), (11, '{org}'); update parts set id = 12 where id = 1; delete from parts",
    "select warden.publish('{org}', 'notices', 'notice.sent', '{}')",
    "select warden.publish_all('{org}', '[{\"topic\": \"notices\", \"event\": \"notice.sent\", \"data\": {}}]')",
    "select warden.current_tx('{org}')",
    "alter table notes add column more int",
    "alter table notes rename column more to less",
    "alter table notes alter column less type bigint",
    "alter table notes drop column less",
    "create function own() returns trigger language plpgsql as 'begin new.body := new.body || ''!''; return new; end'",
    "create trigger own before insert on notes for each row execute function own()",
    "insert into notes values (30, '{org}', 'a')",
    "create table parts_3 partition of parts for values from (20) to (30)",
    "alter table parts detach partition parts_3",
    "alter table parts attach partition parts_3 for values from (20) to (30)",
    "create policy own on notes using (true)",
    "truncate notes",
    "drop table notes, parts",
];

async fn caught(connection: &mut PgConnection) -> String {
    let sql = "select coalesce(pg_catalog.current_setting('spy.caught', true), '')";
    sqlx::query_scalar(sql).fetch_one(connection).await.expect("reads")
}

#[tokio::test]
async fn no_function_of_warden_uses_planted_types_or_relations() {
    let db = TestDb::create().await;
    let (org, mallory) = (db.create_org().await, format!("mallory_{}", db.name()));
    db.run(format!(
        "create role {mallory} login;
         create table notes (id int primary key, org_id uuid not null references organizations, body text);
         create table parts (id int primary key, org_id uuid not null) partition by range (id);
         create table parts_1 partition of parts for values from (0) to (10);
         create table parts_2 partition of parts for values from (10) to (20);
         select warden.watch('notes', 'notes', 'note'), warden.watch('parts', 'parts', 'part');
         select warden.declare_topic('notices');
         alter table notes owner to {mallory}; alter table parts owner to {mallory};
         alter table parts_1 owner to {mallory}; alter table parts_2 owner to {mallory};
         grant create on schema public to {mallory};
         grant warden_publisher to {mallory};
         create function open() returns text language sql security definer set search_path = '' as $$ select 'x'::text $$;"
    ))
    .await;
    let options = PgConnectOptions::from_str(db.url()).expect("is valid").username(&mallory);
    let mut connection = options.connect().await.expect("connects");
    connection.execute(PLANT).await.expect("plants");
    let own = Uuid::to_string(&org);
    let mut found = Vec::new();
    for action in ACTIONS {
        let action = action.replace("{org}", &own);
        connection.execute(AssertSqlSafe(action.as_str())).await.unwrap_or_else(|e| panic!("{action}: {e}"));
        let caught = caught(&mut connection).await;
        if !caught.is_empty() {
            found.push(format!("{action}:{caught}"));
            connection.execute("select pg_catalog.set_config('spy.caught', '', false)").await.expect("sets");
        }
    }
    assert_eq!(found, Vec::<String>::new());
    connection.execute("select public.open()").await.expect("runs");
    assert!(!caught(&mut connection).await.is_empty(), "the spy notices an empty search_path");
}

//! Random programs of rows that move between partitions, with and without a change of their key.

use fastrand::Rng;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::{check, number, programs::Program, server_version, stored_halves};
use crate::harness::TestDb;

/// Bodies of the triggers of `a`. Without a trigger that writes to a watched table, it has no order triggers.
const BODIES: [&str; 7] = [
    "",
    "",
    "insert into notes values (1);",
    "insert into b values (coalesce(new.id, old.id), 'ORG', 0) on conflict (id) do update set v = b.v + 1;",
    "update a set r = 32 - r where id = 6 and id <> coalesce(new.id, old.id);",
    "update a set v = v + 1 where id = 5; delete from a where id = 7 and coalesce(new.id, old.id) <> 7;",
    "if tg_op = 'INSERT' then update a set v = v + 1 where id = new.id; end if;
     if tg_op = 'DELETE' and tg_when = 'BEFORE' and old.id = 4 then return null; end if;
     if tg_op = 'INSERT' and tg_when = 'BEFORE' and new.id = 3 and new.r > 20 then return null; end if;",
];

struct Random {
    rng: Rng,
    version: i32,
}

impl Random {
    fn one<'a>(&mut self, values: &[&'a str]) -> &'a str {
        values[self.rng.usize(..values.len())]
    }

    fn key(&mut self) -> u8 {
        self.rng.u8(1..8)
    }

    fn keys(&mut self) -> String {
        format!("({}, {}, {})", self.key(), self.key(), self.key())
    }

    fn place(&mut self) -> &'static str {
        self.one(&["1", "11", "21", "32 - t.r", "t.r"])
    }

    fn schema(&mut self) -> String {
        let body = self.one(&BODIES);
        let mut sql = "drop table if exists a, b, c, notes cascade;
            drop sequence if exists ids;
            create sequence ids start 10;
            create table a (id int not null, org_id uuid not null, r int not null, v int,
                            w int generated always as (v + 1) stored, primary key (id, r)) partition by range (r);
            create table a_low partition of a for values from (minvalue) to (10);
            create table a_middle (v int, r int not null, gone int, org_id uuid not null, id int not null,
                                   w int generated always as (v + 1) stored, primary key (id, r));
            alter table a_middle drop column gone;
            alter table a attach partition a_middle for values from (10) to (20);
            create table a_high partition of a for values from (20) to (maxvalue) partition by hash (id, r);
            create table a_high0 partition of a_high for values with (modulus 2, remainder 0);
            create table a_high1 partition of a_high for values with (modulus 2, remainder 1);
            create table b (id int primary key, org_id uuid not null, v int);
            create table notes (id int);
            select warden.watch('a', 'a', 'a'), warden.watch('b', 'b', 'b');"
            .to_owned();
        if !body.is_empty() {
            let (timing, event) = (
                self.one(&["before", "after"]),
                self.one(&["insert or update or delete", "update", "insert or delete"]),
            );
            sql += &format!(
                "create or replace function change() returns trigger language plpgsql as $$
                   begin if pg_trigger_depth() = 1 then {body} end if; return coalesce(new, old); end $$;
                 create trigger change {timing} {event} on a for each row execute function change();"
            );
        }
        sql
    }

    /// Actions of MERGE: any of them may be missing, so that its statement triggers are missing as well.
    fn actions(&mut self) -> String {
        let mut sql = String::new();
        if self.rng.bool() {
            sql += &format!(" when matched and t.id in {} then delete", self.keys());
        }
        if self.rng.bool() {
            sql += &format!(" when matched and t.id in {} then update set v = t.v + 1", self.keys());
        }
        if self.rng.u8(..3) == 0 {
            sql += &format!(
                " when matched and t.id in {} then update set r = {}, id = nextval('ids')",
                self.keys(),
                self.place()
            );
        }
        if self.rng.u8(..3) == 0 {
            sql +=
                &format!(" when not matched then insert (id, org_id, r, v) values (s.id, 'ORG', {}, 5)", {
                    self.one(&["1", "11", "21"])
                });
        }
        sql + &format!(" when matched then update set r = {}", self.place())
    }

    fn merge(&mut self) -> String {
        let rows = self.one(&["(1), (2), (3)", "(5), (4), (8)", "(3), (4), (5), (6), (7), (1), (9)"]);
        format!("merge into a t using (values {rows}) s (id) on t.id = s.id{}", self.actions())
    }

    fn statement(&mut self) -> String {
        let (key, keys, place) = (self.key(), self.keys(), self.place());
        // MERGE exists from PostgreSQL 15 on, and in WITH from 17 on.
        let kinds = match self.version {
            ..150_000 => 8,
            150_000..170_000 => 14,
            _ => 17,
        };
        match self.rng.u8(..kinds) {
            0 => format!("update a t set r = {place} where id in {keys}"),
            1 => format!("update a t set r = {place}, id = nextval('ids') where id in {keys}"),
            2 => format!("update a t set v = v + 1, r = {place} where id <> {key}"),
            3 => format!("delete from a where id in {keys}"),
            4 => format!(
                "insert into a (id, org_id, r, v) select {key}, 'ORG', 11, 0
                 where not exists (select from a where id = {key})"
            ),
            5 => format!(
                "with gone as (delete from a where id = {key} returning *)
                 update a t set r = {place} where id in {keys} and id <> {key}"
            ),
            6 => format!(
                "with moved as (update a t set r = {place} where id = {key} returning *)
                 insert into b select id, org_id, v from moved on conflict (id) do update set v = excluded.v + 1"
            ),
            7 => format!(
                "with moved as (update a t set r = {place} where id = {key} returning *)
                 delete from a where id in {keys} and id <> {key}"
            ),
            8 => format!(
                "with gone as (delete from b where id = {key} returning *)
                 merge into a t using (values (1), (2), ({key})) s (id) on t.id = s.id{}",
                self.actions()
            ),
            9 => format!(
                "with gone as (delete from a where id = {key} returning *)
                 merge into a t using (values {keys}) s (x, y, id) on t.id = s.id and t.id <> {key}
                 when matched then update set r = {place}"
            ),
            14 => format!(
                "with m as ({} returning t.id)
                 insert into a (id, org_id, r, v) select nextval('ids'), 'ORG', n, 0 from unnest('{{1,11}}'::int[]) n",
                self.merge()
            ),
            15 => format!("with m as ({} returning t.id) delete from a where id = {key}", self.merge()),
            16 => format!(
                "with gone as (delete from a where id = {key}), m as ({} returning t.id)
                 insert into a (id, org_id, r, v) values (nextval('ids'), 'ORG', 11, 0)",
                self.merge()
            ),
            _ => self.merge(),
        }
    }

    fn script(&mut self) -> String {
        let (first, second, third) = (self.statement(), self.statement(), self.statement());
        match self.rng.u8(..5) {
            0 => format!("begin; {first}; {second}; {third}; commit"),
            1 => format!("begin; {first}; savepoint s; {second}; rollback to s; {third}; commit"),
            _ => first,
        }
    }

    fn program(&mut self, org: Uuid) -> Program {
        let schema = self.schema();
        let rows = "insert into a (id, org_id, r, v) select n, 'ORG', n * 3, n from generate_series(1, 9) n;
                    insert into b values (1, 'ORG', 1), (2, 'ORG', 1)";
        let mut scripts = vec![rows.to_owned()];
        scripts.extend((0..12).map(|_| self.script()));
        let org = org.to_string();
        Program {
            schema: schema.replace("ORG", &org),
            scripts: scripts.iter().map(|s| s.replace("ORG", &org)).collect(),
        }
    }
}

#[tokio::test]
async fn rows_that_move_have_every_state_in_the_log() {
    let db = TestDb::create().await;
    let org = db.create_org().await;
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    let version = server_version(&mut session).await;
    let mut succeeded = 0;
    let (first, programs) = (number("WARDEN_ORDER_FIRST", 0), number("WARDEN_ORDER_PROGRAMS", 10));
    for seed in first..first + programs {
        let program = Random { rng: Rng::with_seed(seed), version }.program(org);
        match check(&mut session, &program).await {
            Ok(scripts) => succeeded += scripts,
            Err(error) => {
                let scripts = program.scripts.join(";\n-- next\n");
                panic!("seed {seed}: {error}\n{};\n{scripts};", program.schema)
            }
        }
    }
    assert!(succeeded > 8 * usize::try_from(programs).expect("fits"), "only {succeeded} scripts succeeded");
    assert_eq!(stored_halves(&mut session).await, 0, "a statement left rows behind");
}

/// Statements that move row 2, and perhaps do more, with the events that they log.
const MOVES: [(&str, &[&str]); 4] = [
    ("when matched then update set r = 15", &["updated 2 15"]),
    (
        "when matched then update set r = 15 when not matched then insert (id, org_id, r) values (s.id, 'ORG', 1)",
        &["updated 2 15", "created 3 1"],
    ),
    ("when matched and t.id = 3 then delete when matched then update set r = 15", &["updated 2 15"]),
    ("when matched then update set r = 15, id = 12", &["deleted 2 1", "created 12 15"]),
];

#[tokio::test]
async fn a_merge_that_moves_a_row_logs_one_update_whatever_its_actions_are() {
    let db = TestDb::create().await;
    let org = db.create_org().await.to_string();
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    if server_version(&mut session).await < 150_000 {
        return;
    }
    let schema = "
        create table a (id int not null, org_id uuid not null, r int not null, primary key (id, r)) partition by range (r);
        create table a_low partition of a for values from (minvalue) to (10);
        create table a_high partition of a for values from (10) to (maxvalue);
        select warden.watch('a', 'a', 'a')";
    session.execute(schema).await.expect("creates");
    for (actions, expected) in MOVES {
        let script = format!(
            "delete from a; insert into a values (2, 'ORG', 1);
             delete from warden.events;
             merge into a t using (values (2), (3)) s (id) on t.id = s.id {actions}"
        );
        session
            .execute(sqlx::raw_sql(AssertSqlSafe(script.replace("ORG", &org))))
            .await
            .unwrap_or_else(|e| panic!("{actions}: {e}"));
        let events: Vec<String> = sqlx::query_scalar(
            "select concat_ws(' ', split_part(event, '.', 2), data ->> 'id', data ->> 'r') from warden.events
             where topic = 'a' order by id",
        )
        .fetch_all(&mut session)
        .await
        .expect("reads");
        assert_eq!(events, expected, "{actions}");
    }
}

/// Queries that move rows of two watched tables, or several of one, with the events that they log.
const QUERIES: [(&str, &[&str]); 4] = [
    (
        "with gone as (delete from b where id = 2 returning id)
         merge into a t using gone s on t.id = s.id when matched then update set r = 15",
        &["b deleted 2 1", "a updated 2 15"],
    ),
    (
        "with moved as (update b set r = 15 where id = 2 returning id)
         merge into a t using moved s on t.id = s.id when matched then update set r = 15",
        &["b updated 2 15", "a updated 2 15"],
    ),
    (
        "with moved as (update b set r = 15 where id = 2 returning id)
         update a set r = 15 from moved s where a.id = s.id; delete from warden.events;
         update a set id = 4 where id = 2;
         merge into a t using (values (4)) s (id) on t.id = s.id when matched then update set r = 1",
        &["a deleted 2 15", "a created 4 15", "a updated 4 1"],
    ),
    // The table has no order triggers.
    (
        "merge into a t using (values (2, 3, 15), (1, 2, 1)) s (id, new_id, r) on t.id = s.id
         when matched then update set id = s.new_id, r = s.r",
        &["a deleted 1 1", "a deleted 2 1", "a created 2 1", "a created 3 15"],
    ),
];

#[tokio::test]
async fn a_query_that_moves_rows_of_several_tables_logs_each_move_once() {
    let db = TestDb::create().await;
    let org = db.create_org().await.to_string();
    let mut session = PgConnection::connect(db.url()).await.expect("connects");
    if server_version(&mut session).await < 150_000 {
        return;
    }
    for table in ["a", "b"] {
        let schema = format!(
            "create table {table} (id int not null, org_id uuid not null, r int not null, primary key (id, r))
               partition by range (r);
             create table {table}_low partition of {table} for values from (minvalue) to (10);
             create table {table}_high partition of {table} for values from (10) to (maxvalue);
             select warden.watch('{table}', '{table}', '{table}', key_columns => '{{id}}')"
        );
        session.execute(sqlx::raw_sql(AssertSqlSafe(schema))).await.expect("creates");
    }
    for (query, expected) in QUERIES {
        let script = format!(
            "delete from a; delete from b;
             insert into a values (1, 'ORG', 1), (2, 'ORG', 1); insert into b values (2, 'ORG', 1);
             delete from warden.events; {query}"
        );
        let script = script.replace("ORG", &org);
        session
            .execute(sqlx::raw_sql(AssertSqlSafe(script)))
            .await
            .unwrap_or_else(|e| panic!("{query}: {e}"));
        let events: Vec<String> = sqlx::query_scalar(
            "select concat_ws(' ', topic, split_part(event, '.', 2), data ->> 'id', data ->> 'r') from warden.events
             where topic in ('a', 'b') order by id",
        )
        .fetch_all(&mut session)
        .await
        .expect("reads");
        assert_eq!(events, expected, "{query}");
    }
    assert_eq!(stored_halves(&mut session).await, 0, "a statement left rows behind");
}

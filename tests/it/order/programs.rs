//! Random programs: three watched tables with triggers, keys and rules, and statements on them. Keys and
//! values are few, so that changes collide.

use fastrand::Rng;
use uuid::Uuid;

/// A program: the schema, and scripts that each run in one transaction. Any of them may fail.
#[derive(Debug)]
pub struct Program {
    /// Creates and watches the tables.
    pub schema: String,
    /// Statements of the application.
    pub scripts: Vec<String>,
}

const TABLES: [&str; 3] = ["a", "b", "c"];

/// The program of a seed. `has_merge` is false before PostgreSQL 15.
pub fn program(seed: u64, org: Uuid, has_merge: bool) -> Program {
    let mut random = Random { rng: Rng::with_seed(seed), org, has_merge };
    let schema = random.schema();
    let scripts = (0..14).map(|_| random.script()).collect();
    Program { schema, scripts }
}

struct Random {
    rng: Rng,
    org: Uuid,
    has_merge: bool,
}

impl Random {
    fn one<'a>(&mut self, values: &[&'a str]) -> &'a str {
        values[self.rng.usize(..values.len())]
    }

    fn schema(&mut self) -> String {
        let mut sql = String::from("drop table if exists a, b, c cascade;");
        for table in TABLES {
            let key = self.one(&[
                "",
                "",
                "references a (id) on delete cascade on update cascade",
                if table == "c" { "references b (id) on delete cascade on update cascade" } else { "" },
                "default 1 references a (id) on delete set default on update cascade",
                "references a (id) on delete set null on update cascade deferrable initially deferred",
            ]);
            let other = self.one(&["", "", "references a (id) on delete set null on update cascade"]);
            sql += &format!(
                "create table {table} (id int primary key, org_id uuid not null, v int, p int {key}, q int {other},
                   w int generated always as (v + 1) stored) {};",
                if self.rng.u8(..3) == 0 { "partition by range (id)" } else { "" }
            );
            if sql.ends_with("(id);") {
                sql += &format!(
                    "create table {table}_low partition of {table} for values from (minvalue) to (3);
                     create table {table}_high partition of {table} for values from (3) to (maxvalue);"
                );
            }
        }
        for table in TABLES {
            sql += &format!("select warden.watch('{table}', '{table}', '{table}');");
        }
        sql += "grant all on a, b, c to authenticated;";
        for n in 0..self.rng.usize(1..5) {
            sql += &self.trigger(n);
        }
        sql += &self.view();
        if self.rng.u8(..6) == 0 {
            sql += "create rule also as on update to a where old.id = 2
                      do also update b set v = coalesce(v, 0) + 1 where id = old.id;";
        }
        sql
    }

    /// A view whose trigger writes to the tables instead.
    fn view(&mut self) -> String {
        let target = self.one(&TABLES);
        let change = self.change(target, "new.id");
        format!(
            "create view shown as select id, org_id, v from b;
             create or replace function show() returns trigger language plpgsql as $$
             begin
               insert into b (id, org_id, v) values (new.id, new.org_id, new.v)
                 on conflict (id) do update set v = excluded.v;
               {change};
               return new;
             end $$;
             create trigger show instead of insert or update on shown for each row execute function show();"
        )
    }

    fn trigger(&mut self, n: usize) -> String {
        let table = self.one(&TABLES);
        let event = self.one(&["insert", "update", "delete", "insert or update"]);
        let (timing, level) =
            (self.one(&["before", "after", "after"]), self.one(&["row", "row", "row", "statement"]));
        let key = match (level, event) {
            ("statement", _) => "2",
            (_, "delete") => "old.id",
            (_, "update") => self.one(&["old.id", "new.id"]),
            _ => "new.id",
        };
        let target = self.one(&TABLES);
        let mut change = self.change(target, key);
        if self.rng.bool() {
            let target = self.one(&TABLES);
            change = format!("{change}; {}", self.change(target, key));
        }
        let assignments = ["new.v := coalesce(new.v, 0) + 1", "new.p := null", "new.q := new.id"];
        if timing == "before" && level == "row" && event != "delete" && self.rng.bool() {
            change = format!("{}; {change}", self.one(&assignments));
        }
        let has_rows =
            (timing, level) == ("after", "statement") && !event.contains(" or ") && self.rng.bool();
        if has_rows {
            change = format!("update {target} set v = 1 where id in (select id from given); {change}");
        }
        let given = match event {
            _ if !has_rows => "",
            "delete" => "referencing old table as given",
            _ => "referencing new table as given",
        };
        if self.rng.u8(..5) == 0 {
            change = format!("begin {change}; exception when others then null; end");
        }
        let deferred = timing == "after" && level == "row" && self.rng.u8(..4) == 0;
        let (kind, deferrable) =
            if deferred { ("constraint trigger", "deferrable initially deferred") } else { ("trigger", "") };
        // A deferred trigger may queue itself again without end.
        let condition = if deferred {
            "set_config('test.calls', (coalesce(nullif(current_setting('test.calls', true), ''), '0')::int + 1)::text,
                        true)::int < 6"
                .to_owned()
        } else {
            format!("pg_trigger_depth() <= {}", self.rng.u8(1..4))
        };
        format!(
            "create or replace function change_{n}() returns trigger language plpgsql {} as $$
             begin
               if {condition} then {change}; end if;
               return {};
             end $$;
             create {kind} {}_{n} {timing} {event} on {table} {deferrable} {given} for each {level}
               execute function change_{n}();",
            self.one(&["", "security definer", "set search_path = public"]),
            match (level, event) {
                ("statement", _) => "null",
                (_, "delete") => "old",
                _ => "new",
            },
            self.one(&["a", "z", "é"]),
        )
    }

    fn key(&mut self) -> String {
        self.rng.u8(1..5).to_string()
    }

    fn value(&mut self) -> String {
        self.one(&["0", "1", "null"]).to_owned()
    }

    /// One statement on a table and mostly on the row with this key.
    fn change(&mut self, table: &str, key: &str) -> String {
        let (org, value, other) = (self.org, self.value(), self.key());
        let parent = self.one(&["null", "1", "2", key]).to_owned();
        let rows = format!("values ({key}, '{org}'::uuid, {value}, {parent})");
        let insert = format!("insert into {table} (id, org_id, v, p) {rows}");
        match self.rng.u8(..if self.has_merge { 13 } else { 11 }) {
            0 => format!("{insert}, ({other}, '{org}', 1, null) on conflict do nothing"),
            1 => format!(
                "{insert}, ({other}, '{org}', 1, null) on conflict (id) do update set v = excluded.v + 1"
            ),
            2 => format!("update {table} set v = coalesce(v, 0) + 1 where id = {key}"),
            3 => format!("update {table} set v = {value} where id <> {key}"),
            4 => format!("update {table} set id = {other} where id = {key}"),
            5 => format!("delete from {table} where id = {key}"),
            6 => format!("delete from {table} where id in ({key}, {other})"),
            7 => format!("delete from {table} where id = {key}; {insert}"),
            8 => format!("update {table} set v = {value}, p = {parent}, q = {other} where id in ({key}, {other})"),
            9 => format!("{insert}, ({other}, '{org}', 1, null), ({key}, '{org}', 2, null)"),
            10 => insert,
            // Rows may move between partitions, and no action deletes or inserts.
            11 => format!(
                "merge into {table} t using (values ({key}, 1), (4, 1)) s (id, v) on t.id = s.id and t.id <> {other}
                 when matched and t.v = 1 then update set v = 0
                 when matched then update set id = {other}"
            ),
            _ => format!(
                "merge into {table} t using (values ({key}, 1), ({other}, 2)) s (id, v) on t.id = s.id and t.v = s.v
                 when matched and t.v = 1 then delete
                 when matched then update set v = 0
                 when not matched then insert (id, org_id, v) values (s.id, '{org}', s.v)"
            ),
        }
    }

    /// A query that changes tables in several parts.
    fn query(&mut self) -> String {
        let (one, two) = (self.one(&TABLES), self.one(&TABLES));
        let (key, other, org) = (self.key(), self.key(), self.org);
        match self.rng.u8(..if self.has_merge { 6 } else { 5 }) {
            0 => format!(
                "with gone as (delete from {one} where id = {key} returning *)
                 insert into {two} select id, org_id, v, p from gone on conflict do nothing"
            ),
            1 => format!(
                "with made as (insert into {one} values ({key}, '{org}', 1, {other}) returning id)
                 delete from {two} where id = {other}"
            ),
            2 => format!(
                "with moved as (update {one} set id = {other} where id = {key} returning id)
                 update {two} set v = 1 where id = {key}"
            ),
            3 => format!(
                "with gone as (delete from {one} where id = {key} returning *)
                 update {one} set id = 7 - id where id <> {key} and v = 1"
            ),
            5 => format!(
                "with gone as (delete from {one} where id = {key} returning *)
                 merge into {two} t using (values ({other})) s (id) on t.id = s.id and t.id <> {key}
                 when matched then update set id = {key}"
            ),
            _ => format!(
                "with gone as (delete from {one} where id = {key} returning *)
                 insert into {one} select id, org_id, 1, p from gone
                 union all values ({other}, '{org}'::uuid, 0, null)"
            ),
        }
    }

    fn statement(&mut self) -> String {
        let (table, key, value, org) = (self.one(&TABLES), self.key(), self.value(), self.org);
        match self.rng.u8(..12) {
            0..3 => self.query(),
            3 => format!("insert into shown values ({key}, '{org}', {value})"),
            4 => format!("update shown set v = {value} where id >= {key}"),
            _ => self.change(table, &key),
        }
    }

    fn script(&mut self) -> String {
        let (first, second, third) = (self.statement(), self.statement(), self.statement());
        match self.rng.u8(..6) {
            5 => format!("begin; set local role authenticated; {first}; {second}; commit"),
            0 => format!("begin; {first}; {second}; commit"),
            1 => format!("begin; {first}; savepoint s; {second}; rollback to s; {third}; commit"),
            2 => format!("begin; set constraints all immediate; {first}; {second}; commit"),
            _ => first,
        }
    }
}

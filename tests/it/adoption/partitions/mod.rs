//! Partitioned tables and inheritance trees: the whole and every member are adopted while the application
//! writes, and are isolated however a statement names them.
//!
//! - `members`: members that are created, detached, or cannot be protected.

mod members;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Run, audit, connect, migrate, small_db, spawn};
use crate::harness::TestDb;

const ORGS: [&str; 2] = ["a0000000-0000-0000-0000-00000000000a", "a0000000-0000-0000-0000-00000000000b"];

/// A tree of tables, and how an application that does not know org_id writes to it.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Creates the tables.
    tables: &'static str,
    /// The table at the top.
    whole: &'static str,
    /// Arguments of warden.adopt_table() after the table.
    arguments: &'static str,
    /// Inserts one row; `$1` is a number and `$2` a user.
    insert: &'static str,
    /// Updates a column of one row, and its partition key if there is one.
    update: &'static str,
    /// Creates a new member.
    grow: &'static str,
    /// The new member.
    grown: &'static str,
}

/// Partitioned by month, with a default partition, under a name that needs quotes.
const BY_MONTH: Shape = Shape {
    tables: r#"create table "Call Logs" (id uuid default gen_random_uuid(), started_on date not null, user_id uuid,
                 body text, primary key (id, started_on)) partition by range (started_on);
               create table "Call Logs 2024-01" partition of "Call Logs" for values from ('2024-01-01') to ('2024-02-01');
               create table "Call Logs 2024-02" partition of "Call Logs" for values from ('2024-02-01') to ('2024-03-01');
               create table other_logs partition of "Call Logs" default;"#,
    whole: r#"public."Call Logs""#,
    arguments: "user_column => 'user_id'",
    insert: r#"insert into "Call Logs" (started_on, user_id) values (date '2024-01-01' + ($1 % 90)::int, $2)"#,
    update: r#"update "Call Logs" set body = 'moved', started_on = started_on + 20
               where (id, started_on) = (select id, started_on from "Call Logs" limit 1)"#,
    grow: r#"create table "Call Logs 2025-01" (like "Call Logs" including all);
             alter table "Call Logs" attach partition "Call Logs 2025-01" for values from ('2025-01-01') to ('2025-02-01');"#,
    grown: r#"public."Call Logs 2025-01""#,
};

/// Two levels: by list, then by hash, in another schema.
const TWO_LEVELS: Shape = Shape {
    tables: "create schema regional; grant usage on schema regional to public;
             create table visits (id bigint generated always as identity, region text not null, user_id uuid, seen int,
               primary key (id, region)) partition by list (region);
             create table regional.visits_eu partition of visits for values in ('de', 'fr') partition by hash (id);
             create table regional.visits_eu_0 partition of regional.visits_eu for values with (modulus 2, remainder 0);
             create table regional.visits_eu_1 partition of regional.visits_eu for values with (modulus 2, remainder 1);
             create table visits_us partition of visits for values in ('us');",
    whole: "public.visits",
    arguments: "user_column => 'user_id'",
    insert: "insert into visits (region, user_id) values ((array['de', 'fr', 'us'])[1 + $1 % 3], $2)",
    update: "update visits set seen = 1, region = 'us' where id = (select min(id) from visits where region = 'de')",
    grow: "create table visits_asia partition of visits for values in ('jp', 'kr')",
    grown: "public.visits_asia",
};

/// Partitioned by its own key, so that a unique (org_id, id) and composite keys to it are possible.
const BY_KEY: Shape = Shape {
    tables: "create table rooms (id uuid primary key default gen_random_uuid(), user_id uuid, name text) partition by hash (id);
             create table rooms_0 partition of rooms for values with (modulus 3, remainder 0);
             create table rooms_1 partition of rooms for values with (modulus 3, remainder 1);
             create table beds (id uuid primary key default gen_random_uuid(),
               room_id uuid references rooms on delete cascade);",
    whole: "public.rooms",
    arguments: "user_column => 'user_id'",
    insert: "with r as (insert into rooms (name, user_id)
               select $1::text, $2 from generate_series(1, 1) returning id)
             select count(*) from r",
    update: "update rooms set name = 'renamed' where id = (select id from rooms limit 1)",
    grow: "create table rooms_2 partition of rooms for values with (modulus 3, remainder 2)",
    grown: "public.rooms_2",
};

/// Three levels of inheritance. The table at the top stores rows too.
const INHERITED: Shape = Shape {
    tables: "create table assets (id uuid primary key default gen_random_uuid(), user_id uuid, name text);
             create table vehicles (wheels int) inherits (assets);
             create table trucks (load int) inherits (vehicles);",
    whole: "public.assets",
    arguments: "user_column => 'user_id'",
    insert: "with a as (insert into assets (user_id, name) select $2, 'a' where $1 % 3 = 0),
                  v as (insert into vehicles (user_id, name) select $2, 'v' where $1 % 3 = 1)
             insert into trucks (user_id, name) select $2, 't' where $1 % 3 = 2",
    update: "update assets set name = 'renamed' where id = (select id from assets limit 1)",
    grow: "create table boats (id uuid primary key) inherits (assets)",
    grown: "public.boats",
};

impl Shape {
    /// A database with this shape, 600 rows of two users, who are members of two organisations.
    async fn database(&self) -> TestDb {
        let db = small_db(self.tables).await;
        migrate(db.url(), &[]).await.must(0);
        db.run(
            "insert into organizations (id, name) select o::uuid, o from unnest(array['a0000000-0000-0000-0000-00000000000a',
               'a0000000-0000-0000-0000-00000000000b']) o;
             insert into organization_members (org_id, user_id) select id, id from organizations where name like 'a0%'",
        )
        .await;
        let mut connection = connect(&db).await;
        if self.whole == BY_KEY.whole {
            db.run("insert into rooms (id) select gen_random_uuid() from generate_series(1, 900) n").await;
            db.run("delete from rooms where false").await;
        }
        for n in 0..600 {
            self.insert(&mut connection, n).await.expect("inserts");
        }
        db.run(&format!(
            "grant all on all tables in schema public to authenticated; select warden.adopt_table('{}', {})",
            self.whole, self.arguments
        ))
        .await;
        db
    }

    async fn insert(&self, connection: &mut PgConnection, n: i64) -> Result<(), sqlx::Error> {
        let user: Uuid = ORGS[usize::try_from(n / 7 % 2).expect("fits")].parse().expect("a uuid");
        sqlx::query(self.insert).bind(n).bind(user).execute(connection).await.map(|_| ())
    }

    /// The whole and its members.
    async fn tables(&self, connection: &mut PgConnection) -> Vec<String> {
        sqlx::query_scalar(
            "select format('%I.%I', n.nspname, c.relname) from warden.tree($1::text::regclass) t (oid)
                            join pg_class c on c.oid = t.oid join pg_namespace n on n.oid = c.relnamespace",
        )
        .bind(self.whole)
        .fetch_all(connection)
        .await
        .expect("the tree")
    }

    /// Writes until it is stopped. Returns the number of inserted rows.
    async fn writer(&self, db: &TestDb) -> Writer {
        let (stop, shape) = (Arc::new(AtomicBool::new(false)), *self);
        let mut connection = connect(db).await;
        let is_stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut rows = 0;
            while !is_stopped.load(Ordering::Relaxed) {
                shape.insert(&mut connection, rows).await.expect("an insert during the run");
                rows += 1;
                connection.execute(shape.update).await.expect("an update during the run");
            }
            rows
        });
        Writer { stop, task }
    }
}

struct Writer {
    stop: Arc<AtomicBool>,
    task: JoinHandle<i64>,
}

impl Writer {
    async fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("no write fails")
    }
}

async fn count(connection: &mut PgConnection, from: &str) -> i64 {
    let sql = format!("select count(*) from {from}");
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await.expect("counts")
}

/// Problems of the required objects of one phase, for the whole and its members.
async fn problems(db: &TestDb, condition: &str) -> Vec<String> {
    let sql = format!(
        "select format('%s: %s %s %s', table_name, kind, name, problem) from warden.tenant_objects
         where applies and not is_valid and table_name not like 'organization%' and {condition}"
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connect(db).await).await.expect("objects")
}

/// Asserts that requests of each organisation see and change its rows only, whichever table they name.
async fn assert_isolated(db: &TestDb, shape: &Shape) {
    let mut admin = connect(db).await;
    for table in shape.tables(&mut admin).await {
        for org in ORGS {
            let own = count(&mut admin, &format!("{table} where org_id = '{org}'")).await;
            let mut request = connect(db).await;
            let mut transaction = request.begin().await.expect("begins");
            let claims = format!(r#"{{"app_metadata": {{"org_id": "{org}"}}}}"#);
            transaction
                .execute("grant all on all tables in schema public to authenticated")
                .await
                .expect("grants");
            if table.starts_with("regional") {
                transaction
                    .execute("grant all on all tables in schema regional to authenticated")
                    .await
                    .expect("grants");
            }
            transaction.execute("set local role authenticated").await.expect("sets the role");
            sqlx::query("select set_config('request.jwt.claims', $1, true)")
                .bind(claims)
                .execute(&mut *transaction)
                .await
                .expect("sets the claims");
            assert_eq!(count(&mut transaction, &table).await, own, "{table} read by {org}");
            let update = format!("update {table} set org_id = org_id");
            let updated = transaction.execute(AssertSqlSafe(update)).await.expect("updates").rows_affected();
            assert_eq!(i64::try_from(updated).expect("fits"), own, "{table} written by {org}");
            let other = ORGS.iter().find(|o| **o != org).expect("two");
            let change = format!("update {table} set org_id = '{other}'");
            if own > 0 {
                let error = transaction.execute(AssertSqlSafe(change)).await.expect_err("is rejected");
                assert!(error.to_string().contains("org_id"), "{table}: {error}");
            }
            transaction.rollback().await.expect("ends");
        }
    }
}

/// Runs the steps of an operator, from the plan to the audit and back.
async fn lifecycle(shape: Shape) {
    let db = shape.database().await;
    let mut admin = connect(&db).await;
    let before = count(&mut admin, shape.whole).await;
    migrate(db.url(), &["--plan"]).await.must(0).says(&["partitions or inheritance children"]);

    let writer = shape.writer(&db).await;
    // A run that is killed at some moment is completed by the next one.
    for millis in [20, 150, 400] {
        let mut run = spawn(db.url(), &[]);
        // The timeout varies the moment of the kill; no condition is awaited.
        if tokio::time::timeout(Duration::from_millis(millis), run.wait()).await.is_err() {
            run.kill().await.expect("is killed");
        }
    }
    migrate(db.url(), &[]).await.must(0);
    assert_eq!(problems(&db, "phase in ('expand', 'fill')").await, Vec::<String>::new());
    let inserted = writer.stop().await;
    assert_eq!(count(&mut admin, shape.whole).await, before + inserted, "no row is lost");
    assert_eq!(count(&mut admin, &format!("{} where org_id is null", shape.whole)).await, 0);
    let strangers = format!("{} where org_id <> user_id", shape.whole);
    assert_eq!(count(&mut admin, &strangers).await, 0, "each row is its user's organisation's");
    migrate(db.url(), &[]).await.must(0).idle();

    migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
    assert_eq!(problems(&db, "phase <> 'fill'").await, Vec::<String>::new());
    assert_isolated(&db, &shape).await;
    is_clean(&audit(db.url()).await, &shape);

    // The event trigger protects a new member.
    db.run(shape.grow).await;
    assert_eq!(
        problems(&db, "kind in ('policy', 'row_security', 'trigger') and phase <> 'fill'").await,
        Vec::<String>::new()
    );
    assert_isolated(&db, &shape).await;

    migrate(db.url(), &["--relax", "--yes"]).await.must(0);
    assert_eq!(
        problems(&db, "phase in ('expand', 'fill') and kind <> 'index' and kind <> 'foreign_key'").await,
        Vec::<String>::new()
    );
    shape.insert(&mut admin, 1).await.expect("an application that does not know org_id works again");
    let policies: i64 = count(
        &mut admin,
        "pg_policies where policyname like 'warden%' and tablename not like 'organization%'",
    )
    .await;
    assert_eq!(policies, 0, "no member keeps a policy");
    migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
    is_clean(&audit(db.url()).await, &shape);
}

/// Asserts that the audit has no finding about the tree.
fn is_clean(run: &Run, shape: &Shape) {
    let mut table = String::new();
    for line in run.stdout.lines() {
        if !line.starts_with(' ') {
            line.clone_into(&mut table);
        }
        let is_other = table.contains("beds");
        assert!(
            !line.trim_start().starts_with("finding") || is_other,
            "{}: {table}: {}",
            shape.whole,
            run.stdout
        );
    }
}

#[tokio::test]
async fn a_table_partitioned_by_month_is_adopted_with_its_partitions() {
    lifecycle(BY_MONTH).await;
}

#[tokio::test]
async fn a_table_partitioned_at_two_levels_is_adopted_with_its_partitions() {
    lifecycle(TWO_LEVELS).await;
}

#[tokio::test]
async fn an_inheritance_tree_is_adopted_with_its_children() {
    lifecycle(INHERITED).await;
}

/// Children of a partitioned table get a composite key if the unique (org_id, key) can cover all partitions.
#[tokio::test]
async fn a_partitioned_parent_gives_its_children_their_organisation() {
    for shape in [BY_KEY, TWO_LEVELS] {
        let is_key_possible = shape.whole == BY_KEY.whole;
        let db = small_db(&format!(
            "{} {}",
            shape.tables,
            if is_key_possible {
                shape.grow
            } else {
                "create table beds (id uuid primary key, room_id bigint);"
            }
        ))
        .await;
        migrate(db.url(), &[]).await.must(0);
        db.run("insert into organizations (id, name) values ('a0000000-0000-0000-0000-00000000000a', 'a');
                insert into organization_members (org_id, user_id) select id, id from organizations where name = 'a'").await;
        let mut admin = connect(&db).await;
        for n in 0..50 {
            sqlx::query(shape.insert)
                .bind(n)
                .bind(ORGS[0].parse::<Uuid>().expect("a uuid"))
                .execute(&mut admin)
                .await
                .expect("inserts");
        }
        db.run(&format!(
            "insert into beds (id, room_id) select gen_random_uuid(), id from {whole};
             select warden.adopt_table('{whole}', user_column => 'user_id');
             select warden.adopt_table('beds', parent => '{whole}', parent_column => 'room_id');",
            whole = shape.whole
        ))
        .await;
        migrate(db.url(), &[]).await.must(0);
        migrate(db.url(), &["--enforce", "--yes"]).await.must(0);
        assert_eq!(count(&mut admin, &format!("beds where org_id <> '{}'", ORGS[0])).await, 0);
        let keys = count(
            &mut admin,
            "pg_constraint where contype = 'f' and conrelid = 'beds'::regclass
                          and array_length(conkey, 1) = 2 and conparentid = 0",
        )
        .await;
        assert_eq!(keys, i64::from(is_key_possible), "{}", shape.whole);
        assert_eq!(problems(&db, "phase <> 'fill'").await, Vec::<String>::new());
        assert_eq!(audit(db.url()).await.stdout.matches("  finding  ").count(), 0);
    }
}

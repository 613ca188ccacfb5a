//! A voice-call platform that predates organisations, and its application, whose statements do not name
//! org_id. Shared by the suite and `make adopt-full`.
//!
//! `schema.sql` and `data.sql` create the database. `partitioned.sql` partitions its call logs. [`Writers`]
//! write to it at full speed and count every inserted and deleted row and the longest statement. [`dump`]
//! compares two databases.

mod writers;

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

pub use writers::{Totals, Writers};

/// Role of the application: not a superuser, subject to row-level security.
pub const APP_ROLE: &str = "legacy_app";

/// Creates the tables and rows. Factor 1 gives a million rows in call_logs and a hundred thousand in five
/// other tables.
pub async fn load(connection: &mut PgConnection, factor: f64) {
    let data = include_str!("data.sql").replace("{factor}", &factor.to_string());
    for sql in [include_str!("schema.sql").to_owned(), data] {
        let sql = format!("begin; {sql}; commit");
        connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.expect("the legacy database loads");
    }
}

/// Partitions call_logs by month.
pub async fn partition_call_logs(connection: &mut PgConnection) {
    let sql = concat!("begin; ", include_str!("partitioned.sql"), "; commit");
    connection.execute(sqlx::raw_sql(sql)).await.expect("call_logs is partitioned");
}

/// Row count of each table; partitions count as part of their whole.
pub async fn counts(connection: &mut PgConnection) -> BTreeMap<String, i64> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class
         where relkind in ('r', 'p') and not relispartition and relnamespace = 'public'::regnamespace",
    )
    .fetch_all(&mut *connection)
    .await
    .expect("tables");
    let mut counts = BTreeMap::new();
    for table in tables {
        let count = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from public.{table}")))
            .fetch_one(&mut *connection)
            .await
            .expect("counts");
        counts.insert(table, count);
    }
    counts
}

/// Lines that differ if two databases differ: the catalogs' view of schema public, and a checksum of every
/// table.
pub async fn dump(connection: &mut PgConnection) -> Vec<String> {
    let mut lines = catalog(&mut *connection).await;
    for table in counts(&mut *connection).await.into_keys() {
        // The run creates the default organisation, so its timestamps differ between databases.
        let row = if table == "organizations" {
            "to_jsonb(t) - 'created_at' - 'updated_at'"
        } else {
            "to_jsonb(t)"
        };
        let sql = format!(
            "select count(*) || ' rows ' || coalesce(md5(string_agg(md5(({row})::text), '' order by md5(({row})::text))), '')
             from public.{table} t"
        );
        let sum: String =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *connection).await.expect("sums up");
        lines.push(format!("data {table}: {sum}"));
    }
    lines
}

/// The catalogs' view of the schemas `public` and `warden`, without the numbers of watches, which differ.
pub async fn catalog(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "with tables as (select c.*, c.oid::regclass::text as title from pg_class c join pg_namespace n on n.oid = c.relnamespace
                         where n.nspname in ('public', 'warden'))
         select regexp_replace(line, '(log[ _]|insert|update|delete)[0-9]+', '\\1', 'g') from (
         select format('table %s %s rls %s %s acl %s', title, relkind, relrowsecurity, relforcerowsecurity, relacl) from tables
           where relkind not in ('i', 'I', 'S')
         union all select format('column %s.%s %s not null %s', t.title, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull)
           from pg_attribute a join tables t on t.oid = a.attrelid where a.attnum > 0 and not a.attisdropped
         union all select format('constraint %s on %s: %s valid %s', conname, t.title, pg_get_constraintdef(k.oid), convalidated)
           from pg_constraint k join tables t on t.oid = k.conrelid
         union all select format('index on %s: %s valid %s', t.title, pg_get_indexdef(indexrelid), indisvalid and indisready)
           from pg_index i join tables t on t.oid = i.indrelid
         union all select format('trigger %s enabled %s', pg_get_triggerdef(g.oid), tgenabled)
           from pg_trigger g join tables t on t.oid = g.tgrelid where not tgisinternal
         union all select format('policy %s', p) from pg_policies p where schemaname in ('public', 'warden')
         union all select format('comment %s: %s', p.polname, obj_description(p.oid, 'pg_policy'))
           from pg_policy p where obj_description(p.oid, 'pg_policy') is not null
         union all select format('function %s by %s text %s acl %s', f.oid::regprocedure, f.proowner::regrole, case when f.proname like 'log %' then 'with numbers of tables' else md5(f.prosrc) end,
                  (select string_agg(a::text, ' ' order by a::text) from unnest(f.proacl) a))
           from pg_proc f where f.pronamespace in (select oid from pg_namespace where nspname in ('public', 'warden'))
         ) lines (line) order by 1",
    )
    .fetch_all(connection)
    .await
    .expect("the catalogs")
}

//! Migration files one by one: a run that was killed between two files, and the rights on what each file
//! creates.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use warden::postgres::{SchemaSet, migrate_platform};

use super::texts;
use crate::harness::{TestDb, shared_cluster_url};
use crate::legacy::catalog;

#[tokio::test]
async fn a_run_that_was_killed_between_two_files_is_continued() {
    let complete = TestDb::create().await;
    let mut connection = PgConnection::connect(complete.url()).await.expect("connects");
    let expected = catalog(&mut connection).await;
    for last in [1, 8, 20] {
        let db = TestDb::create_from("template0").await;
        let mut connection = PgConnection::connect(db.url()).await.expect("connects");
        connection.execute("create schema warden").await.expect("as the migrator does");
        for file in SchemaSet::Core.migrator().iter().filter(|m| m.version <= last) {
            let sql = format!("begin; {}; commit", file.sql.as_str());
            connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.expect("applies");
        }
        migrate_platform(db.url()).await.expect("continues");
        assert_eq!(catalog(&mut connection).await, expected, "after file {last}");
    }
}

/// Rights that default privileges give on new objects, as a role could abuse them.
const HOSTILE_DEFAULTS: &str = "
    alter default privileges grant all on tables to public, anon, authenticated;
    alter default privileges grant all on sequences to public, anon, authenticated;
    alter default privileges grant all on functions to public, anon, authenticated;
    alter default privileges grant all on schemas to public, anon, authenticated;
    alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
    alter default privileges for role warden_owner grant all on tables to public, anon;
    alter default privileges for role warden_owner grant all on sequences to public, anon;
    alter default privileges for role warden_owner grant all on functions to authenticated";

/// Objects of Warden that a request role, or any login, may write, or read without row-level security.
const OPEN: &str = "
    select format('%s %s', c.oid::regclass, r.rolname) from pg_class c, pg_roles r
    where r.rolname in ('anon', 'authenticated', 'stranger') and c.relkind in ('r', 'p', 'v', 'S')
      and (c.relnamespace = 'warden'::regnamespace
           or c.oid in (to_regclass('public.organizations'), to_regclass('public.organization_members')))
      and case c.relkind
        when 'S' then has_sequence_privilege(r.oid, c.oid, 'usage, update, select')
        else has_table_privilege(r.oid, c.oid, 'insert, update, delete, truncate, references, trigger')
          or (not c.relrowsecurity and has_any_column_privilege(r.oid, c.oid, 'select')) end
    union all
    select format('%s %s', p.oid::regprocedure, r.rolname) from pg_proc p, pg_roles r
    where r.rolname in ('anon', 'authenticated', 'stranger') and has_function_privilege(r.oid, p.oid, 'execute')
      and (p.pronamespace = 'warden'::regnamespace
           and p.proname not in ('auth_org_id', 'auth_user_id')
           and not (r.rolname = 'authenticated' and p.proname in ('has_short_numbers', 'json_is_convertible'))
           or p.oid = to_regprocedure('public.custom_access_token_hook(jsonb)'))
    union all
    select format('schema %s', r.rolname) from pg_roles r, pg_namespace n
    where n.nspname = 'warden' and r.rolname in ('anon', 'authenticated', 'stranger')
      -- Documents that `authenticated` reads call two functions.
      and has_schema_privilege(r.oid, n.oid, case r.rolname when 'authenticated' then 'create' else 'usage, create' end)";

#[tokio::test]
async fn default_privileges_open_nothing_of_warden_at_any_time() {
    // The roles exist, because another database of this cluster has them.
    let first = TestDb::create().await;
    let name = format!("defaults_{}", first.name);
    first.run("do $$ begin create role stranger; exception when duplicate_object then null; end $$").await;
    for (owner, kind) in [("postgres".to_owned(), "superuser"), (format!("app_{name}"), "owner")] {
        let database = format!("{name}_{kind}");
        if owner != "postgres" {
            first
                .run(format!(
                    "create role {owner} login createrole; grant warden_owner to {owner} with admin option;
                               grant anon, authenticated, service_role to {owner}"
                ))
                .await;
        }
        first.run(format!("create database {database} owner {owner} template template0")).await;
        let url = shared_cluster_url(&database, &owner);
        let db = TestDb::at(&database, &url, &url).await;
        db.run(HOSTILE_DEFAULTS).await;
        db.run("create schema warden").await;
        for file in SchemaSet::Core.migrator().iter() {
            db.run(format!("begin; {}; commit", file.sql.as_str())).await;
            assert_eq!(texts(&db, OPEN).await, Vec::<String>::new(), "{kind}, after file {}", file.version);
        }
    }
}

//! Default privileges of the database never grant anybody a right on what a migration creates.

use super::texts;
use crate::harness::managed::{ManagedDb, Operator};
use crate::harness::{Sample, TestDb};

/// Default privileges that grant everything to everybody, in each form that PostgreSQL has.
const HOSTILE: &str = "
    alter default privileges grant all on tables to public;
    alter default privileges grant all on tables to anon, authenticated, ordinary_login with grant option;
    alter default privileges grant all on sequences to anon, authenticated, ordinary_login;
    alter default privileges grant execute on functions to anon, ordinary_login;
    alter default privileges grant usage on types to anon;
    alter default privileges grant all on schemas to anon, authenticated, ordinary_login;
    alter default privileges in schema public grant all on tables to public, anon, ordinary_login;
    alter default privileges in schema public grant execute on functions to public, anon, ordinary_login;";
/// Such default privileges of the role that owns schema warden, and in that schema.
const HOSTILE_IN_WARDEN: &str = "
    alter default privileges for role warden_owner grant all on tables to public, anon, ordinary_login;
    alter default privileges for role warden_owner grant all on sequences to public;
    alter default privileges for role warden_owner grant execute on functions to public, anon;
    alter default privileges in schema warden grant all on tables to anon, ordinary_login;
    alter default privileges for role warden_owner in schema warden grant all on tables to authenticated;";

/// Rights on Warden's objects of roles that must have none, and tables without row-level security.
const OPEN: &str = "
    with rights as (
      select c.relnamespace as schema, c.oid::regclass::text as object, a.grantee, a.privilege_type, c.relrowsecurity
      from pg_class c, aclexplode(c.relacl) a
      where c.relnamespace = to_regnamespace('warden')
         or c.oid in (to_regclass('organizations'), to_regclass('organization_members'))
      union all
      select p.pronamespace, p.oid::regprocedure::text, a.grantee, a.privilege_type, null
      from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
      where p.pronamespace = to_regnamespace('warden')
         or p.pronamespace = 'public'::regnamespace and p.proname in ('custom_access_token_hook')
      union all
      select n.oid, n.nspname, a.grantee, a.privilege_type, null
      from pg_namespace n, aclexplode(n.nspacl) a where n.nspname = 'warden'
    )
    select format('%s of %s on %s', r.privilege_type, case r.grantee when 0 then 'public'
                  else r.grantee::regrole::text end, r.object) from rights r
    where r.grantee in (0, 'anon'::regrole, 'authenticated'::regrole, 'ordinary_login'::regrole)
      -- Policies call these, and members read their organisation.
      and r.object !~ '^(warden.)?auth_(org|user)_id\\(\\)$'
      and not (r.grantee = 'authenticated'::regrole and r.privilege_type = 'SELECT' and r.relrowsecurity)
      -- Documents that `authenticated` reads call these.
      and not (r.grantee = 'authenticated'::regrole and (r.privilege_type, r.object) in (('USAGE', 'warden'),
               ('EXECUTE', 'warden.has_short_numbers(jsonb)'), ('EXECUTE', 'warden.json_is_convertible(text)')))
    union all
    select format('no row-level security on %s', c.oid::regclass) from pg_class c
    where c.oid in (to_regclass('organizations'), to_regclass('organization_members')) and not c.relrowsecurity
    order by 1";

/// Default privileges other than Warden's own.
const FORMER: &str = "
    select format('%s %s %s %s', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype,
                  (select array_agg(a order by a) from unnest(defaclacl::text[]) a))
    from pg_default_acl
    where defaclrole <> 'warden_owner'::regrole and defaclnamespace is distinct from to_regnamespace('warden')
    order by 1";

/// Lets a run stop after a migration: its record accepts no later one.
async fn stop_after(db: &TestDb, version: usize) {
    db.run(format!(
        "alter table warden._sqlx_migrations drop constraint if exists stop;
         alter table warden._sqlx_migrations add constraint stop check (version <= {version})"
    ))
    .await;
}

#[tokio::test]
async fn hostile_default_privileges_open_nothing_after_any_migration() {
    for operator in Operator::ALL {
        let target = ManagedDb::create(operator).await;
        // The record exists before the first run, so that each run can be stopped.
        target
            .run_as_operator(
                "create schema warden;
                 create table warden._sqlx_migrations (version bigint primary key, description text not null,
                   installed_on timestamptz not null default now(), success boolean not null,
                   checksum bytea not null, execution_time bigint not null);
                 revoke all on warden._sqlx_migrations from public, anon, authenticated, service_role",
            )
            .await;
        target.run_as_operator(HOSTILE).await;
        let former = texts(&target.db, FORMER).await;
        let last = warden::postgres::SchemaSet::Core.migrator().iter().count() + 1;
        let sample = Sample::one_in(4);
        for version in (1..=last).filter(|version| *version == last || sample.contains(*version)) {
            target.db.run(HOSTILE_IN_WARDEN).await;
            stop_after(&target.db, version).await;
            let is_last =
                warden::postgres::SchemaSet::Core.migrator().iter().all(|m| m.version <= version as i64);
            target.warden(&["migrate"]).await.must(i32::from(!is_last));
            assert_eq!(texts(&target.db, OPEN).await, Vec::<String>::new(), "{operator:?} after {version}");
            assert_eq!(texts(&target.db, FORMER).await, former, "{operator:?} after {version}");
        }
        target.remove().await;
    }
}

#[tokio::test]
async fn hostile_default_privileges_do_not_open_the_record_or_watched_and_filled_tables() {
    // Without BYPASSRLS, the backfill of a table with rows is an issue.
    for operator in [Operator::Superuser, Operator::Managed] {
        let target = ManagedDb::create(operator).await;
        target.run_as_operator(HOSTILE).await;
        target.warden(&["migrate"]).await.must(0);
        target.db.run(HOSTILE_IN_WARDEN).await;
        target
            .run_as_operator(
                "create table notes (id uuid primary key default gen_random_uuid(), user_id uuid);
                 insert into notes default values;
                 select warden.adopt_table('notes', 'user_id', uses_default_organization => true)",
            )
            .await;
        target.warden(&["migrate"]).await.must(0);
        target.run_as_operator("select warden.watch('notes', 'notes', 'note')").await;
        assert_eq!(texts(&target.db, OPEN).await, Vec::<String>::new(), "{operator:?}");
        target.remove().await;
    }
}

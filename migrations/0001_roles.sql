-- Roles. They belong to the whole cluster, so each is created only if it is missing, and an existing one is never
-- altered.
--
--   warden_owner      owns schema warden and its SECURITY DEFINER functions. No one logs in as it, and it has no rights
--                     on tenant tables: a definer function can write the log, and nothing else.
--   warden_gateway    the gateway's role: reads the log, and whether an organisation exists.
--   warden_publisher  granted to back ends that call warden.publish().
--   warden_worker     runs the jobs of recordings, each within one organisation.
--
-- The request roles have the names and rights that Supabase (or PostgREST) gives them:
--   anon              a request without a token.
--   authenticated     a request with a token. Row-level security is written for it.
--   service_role      a back end that bypasses row-level security.
--
-- The role that runs this file needs CREATEROLE and CREATE on the database (a superuser has both).
set local lock_timeout = '5s';
set local statement_timeout = '5min';
do $$
declare
  wanted text;
begin
  foreach wanted in array array['warden_owner', 'warden_gateway', 'warden_publisher', 'warden_worker'] loop
    if not exists (select from pg_roles where rolname = wanted) then
      begin
        execute format('create role %I nologin noinherit', wanted);
      exception
        -- A concurrent migration of another database in this cluster may create the role first.
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
          raise exception 'role % does not exist, and % may not create roles', wanted, current_user
            using hint = format('As a superuser: create role %I nologin noinherit; grant %I to %I;',
                                wanted, wanted, current_user);
      end;
    end if;
  end loop;
  foreach wanted in array array['anon', 'authenticated', 'service_role'] loop
    if not exists (select from pg_roles where rolname = wanted) then
      begin
        execute format('create role %I nologin noinherit%s', wanted,
                       case wanted when 'service_role' then ' bypassrls' else '' end);
      exception
        when duplicate_object or unique_violation then null;
        -- Without superuser, a role can grant BYPASSRLS only from PostgreSQL 16 on, and only if it has it itself.
        when insufficient_privilege then
          begin
            execute format('create role %I nologin noinherit', wanted);
            raise notice 'role % has no BYPASSRLS, which % may not grant: row-level security applies to it',
              wanted, current_user;
          exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
              raise exception 'role % does not exist, and % may not create roles', wanted, current_user
                using hint = format('As a superuser: create role %I nologin noinherit;', wanted);
          end;
      end;
    end if;
  end loop;
  -- The migrating role gives objects to warden_owner and calls warden.watch(), so it must be a member. From PostgreSQL
  -- 16 on, the creator of a role is a member of it, but may neither use its rights nor become it.
  if not pg_has_role(current_user, 'warden_owner', 'usage') then
    begin
      execute format('grant warden_owner to %I', current_user);
    exception
      -- From PostgreSQL 16 on, CREATEROLE is not enough for a role that another one created: a migration of another
      -- database in this cluster.
      when insufficient_privilege then
        raise exception '% is no member of role warden_owner, and may not grant it', current_user
          using hint = format('As a superuser: grant warden_owner to %I;', current_user);
    end;
  end if;
end
$$;

-- `warden migrate` has checked this before, and explains it. A role could have created the schema since then.
do $$
begin
  if exists (
    select from pg_namespace n join pg_roles r on r.oid = n.nspowner join pg_database d on d.datname = current_database()
    where n.nspname = 'warden' and not r.rolsuper and r.oid <> d.datdba and r.rolname <> current_user
      and not pg_has_role(r.oid, 'warden_owner', 'member')) then
    raise exception 'schema warden belongs to an ordinary role, which could have created objects in it'
      using hint = 'If Warden was never installed in this database: drop schema warden cascade;';
  end if;
end
$$;
create schema if not exists warden;
alter schema warden owner to warden_owner;

-- Repairs a restored schema. After a restore without owners (pg_dump --no-owner), everything belongs to the role that
-- restored it. Fill functions run with the rights of the tables' owners, the event trigger with those of the migrating
-- role.
do $do$
declare
  command text;
begin
  for command in
    select format('alter %s %s owner to warden_owner',
                  case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end, c.oid::regclass)
    from pg_class c
    where c.relnamespace = 'warden'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
      and c.relowner <> 'warden_owner'::regrole and c.relname not in ('_sqlx_migrations', '_platform_migrations')
      -- The sequence of an identity column follows its table.
      and not exists (select from pg_depend d
                      where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype in ('i', 'a')
                        and d.refobjsubid > 0)
    union all
    select format('alter routine %s owner to warden_owner', p.oid::regprocedure)
    from pg_proc p
    where p.pronamespace = 'warden'::regnamespace and p.proowner <> 'warden_owner'::regrole
      and p.proname not like 'fill %' and p.prorettype <> 'event_trigger'::regtype
    union all
    -- After a restore without rights (pg_dump --no-privileges), or under default privileges. Policies call the two
    -- functions for every role, and documents that `authenticated` reads call the other two.
    select format('revoke execute on routine %s from public, anon, authenticated', p.oid::regprocedure)
    from pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    where p.pronamespace = 'warden'::regnamespace
      and a.grantee in (0, 'anon'::regrole, 'authenticated'::regrole)
      and p.proname not in ('auth_org_id', 'auth_user_id')
      and not (a.grantee = 'authenticated'::regrole and p.proname in ('has_short_numbers', 'json_is_convertible'))
  loop
    execute command;
  end loop;
end
$do$;

-- ALTER DEFAULT PRIVILEGES may grant new objects to any role, as Supabase does. Objects that warden_owner creates from
-- here on are granted by Warden's migrations alone. The schema, and the migrator's record, exist already.
do $do$
declare
  command text;
begin
  for command in
    select format('alter default privileges for role warden_owner%s revoke all on %s from %s',
                  case when d.defaclnamespace <> 0 then ' in schema ' || quote_ident(n.nspname) else '' end,
                  case d.defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions'
                                       when 'T' then 'types' else 'schemas' end,
                  case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
    from pg_default_acl d left join pg_namespace n on n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
    where d.defaclrole = 'warden_owner'::regrole and a.grantee <> d.defaclrole
      and d.defaclobjtype in ('r', 'S', 'f', 'T', 'n')
    union
    select format('revoke all on %s from %s', o.object,
                  case a.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(a.grantee)) end)
    from (
      select 'schema warden' as object, n.nspacl as acl, n.nspowner as owner from pg_namespace n
      -- Later migrations grant the schema to the roles that need it.
      where n.nspname = 'warden' and to_regclass('warden.events') is null
      union all
      select 'table ' || c.oid::regclass, c.relacl, c.relowner from pg_class c
      where c.oid in (to_regclass('warden._sqlx_migrations'), to_regclass('warden._platform_migrations'))
    ) o, aclexplode(o.acl) a
    where a.grantee <> o.owner
  loop
    execute command;
  end loop;
end
$do$;

-- By default PUBLIC may execute every new function. In schema warden, functions must be granted. (The form with IN
-- SCHEMA can only add rights. It cannot revoke the default one.)
alter default privileges for role warden_owner revoke execute on functions from public;

-- Revokes the right to execute a function from every role but its owner. Functions that belong to the migrating role,
-- or that it creates for another owner, may have got rights by default privileges.
set local role warden_owner;
create or replace function warden.close_function(function regprocedure) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
  grantee text;
begin
  for grantee in
    select distinct case a.grantee when 0 then 'public'
                                   else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) end
    from pg_catalog.pg_proc p, pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
    where p.oid = function and a.grantee <> p.proowner
  loop
    execute pg_catalog.format('revoke execute on function %s from %s', function, grantee);
  end loop;
end
$$;
reset role;

grant usage on schema warden to warden_gateway, warden_publisher, warden_worker;
-- PUBLIC may have lost this right. If the migrating role may not grant it, PostgreSQL only warns.
grant usage on schema public to warden_gateway, warden_owner, warden_worker, anon, authenticated, service_role;

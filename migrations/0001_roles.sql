-- Roles. They belong to the whole cluster, so each is created only if it is missing, and an existing one is never
-- altered.
--
--   warden_owner      owns schema warden and its SECURITY DEFINER functions. No one logs in as it, and it has no rights
--                     on tenant tables: a definer function can write the log, and nothing else.
--   warden_gateway    the gateway's role: reads the log, and whether an organisation exists.
--   warden_publisher  granted to back ends that call warden.publish().
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
  foreach wanted in array array['warden_owner', 'warden_gateway', 'warden_publisher'] loop
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
    execute format('grant warden_owner to %I', current_user);
  end if;
end
$$;

create schema if not exists warden;
alter schema warden owner to warden_owner;

-- By default PUBLIC may execute every new function. In schema warden, functions must be granted. (The form with IN
-- SCHEMA can only add rights. It cannot revoke the default one.)
alter default privileges for role warden_owner revoke execute on functions from public;

grant usage on schema warden to warden_gateway, warden_publisher;
-- PUBLIC may have lost this right. If the migrating role may not grant it, PostgreSQL only warns.
grant usage on schema public to warden_gateway, warden_owner, anon, authenticated, service_role;

-- Who owns what. Roles belong to the whole cluster, so each is created only where it is missing and
-- never altered where it is present.
--
--   warden_owner      owns schema warden and its definer functions. Nobody logs in as it, and it has
--                     no right on tenant tables: a definer function can write the log, nothing else.
--   warden_gateway    what the gateway runs as: reads the log, and whether an organisation exists.
--   warden_publisher  what a backend is granted to call warden.publish().
--
-- and those that Supabase (or PostgREST) gives requests, with its names and its rights:
--   anon              a request without a token.
--   authenticated     a request with one: what row-level security is written for.
--   service_role      a backend of the platform itself; passes over row-level security.
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
        -- Another database of this cluster is being migrated at the same moment.
        when duplicate_object or unique_violation then null;
        when insufficient_privilege then
          raise exception 'role % is missing and % may not create it', wanted, current_user
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
        -- Who is no superuser may give away BYPASSRLS from PostgreSQL 16 on, and only where he has it.
        when insufficient_privilege then
          begin
            execute format('create role %I nologin noinherit', wanted);
            raise notice 'role % was created without BYPASSRLS, which % may not give: it works within one organisation at a time',
              wanted, current_user;
          exception
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
              raise exception 'role % is missing and % may not create it', wanted, current_user
                using hint = format('As a superuser: create role %I nologin noinherit;', wanted);
          end;
      end;
    end if;
  end loop;
  -- The migrating role hands objects to the owner and calls warden.watch(), so it is a member. From
  -- PostgreSQL 16 on, who creates a role is one in name, but may neither use nor become it.
  if not pg_has_role(current_user, 'warden_owner', 'usage') then
    execute format('grant warden_owner to %I', current_user);
  end if;
end
$$;

create schema if not exists warden;
alter schema warden owner to warden_owner;

-- PostgreSQL lets PUBLIC execute every new function. In schema warden nobody may, unless granted.
-- (The form with IN SCHEMA can only add rights, not take the built-in one away.)
alter default privileges for role warden_owner revoke execute on functions from public;

grant usage on schema warden to warden_gateway, warden_publisher;
-- Where PUBLIC has lost it; no more than a warning where the migrating role may not grant it.
grant usage on schema public to warden_gateway, warden_owner, anon, authenticated, service_role;

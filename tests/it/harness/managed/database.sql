-- A managed provider's database, as it exists before the application: extensions and sign-in have schemas of their own,
-- and default privileges give requests every right on whatever {owner} creates in schema public.
create schema extensions;
grant usage on schema extensions to public;
create extension pgcrypto schema extensions;
create extension btree_gist schema extensions;
create extension citext schema extensions;

grant all on schema public to {owner};
grant usage on schema public to anon, authenticated, service_role, ordinary_login;
alter default privileges for role {owner} in schema public
  grant all on tables to anon, authenticated, service_role;
alter default privileges for role {owner} in schema public
  grant all on sequences to anon, authenticated, service_role;
alter default privileges for role {owner} in schema public
  grant all on functions to anon, authenticated, service_role;

create schema auth authorization supabase_auth_admin;
grant usage on schema auth to anon, authenticated, service_role, {owner};
set role supabase_auth_admin;
create table auth.users (
  id uuid primary key,
  email text unique,
  raw_app_meta_data jsonb not null default '{}'
);
create function auth.uid() returns uuid language sql stable as $$
  select coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
$$;
create function auth.role() returns text language sql stable as $$
  select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'
$$;
grant execute on function auth.uid(), auth.role() to public;
grant all on auth.users to {owner};
reset role;
-- Users of the organisations A and B.
insert into auth.users (id, email) values
  ('1a000000-0000-4000-8000-00000000000a', 'ann@a.example'),
  ('2a000000-0000-4000-8000-00000000000a', 'arthur@a.example'),
  ('1b000000-0000-4000-8000-00000000000b', 'ben@b.example');

-- Roles of a managed provider's cluster, as they exist before Warden. {owner} and {plain} own databases and are no
-- superusers. {plain} also lacks BYPASSRLS.
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit;
create role supabase_auth_admin login noinherit createrole;
create role ordinary_login login;
grant anon, authenticated, service_role to authenticator;

create role {owner} login createrole createdb bypassrls;
create role {plain} login createrole createdb;
grant anon, authenticated, service_role, authenticator, supabase_auth_admin, ordinary_login to {owner}, {plain}
  with admin option;
grant pg_monitor, pg_signal_backend to {owner};

do $$
declare
  role_name text;
begin
  foreach role_name in array array['{owner}', '{plain}', 'authenticator'] loop
    execute format('alter role %I set log_statement = ''all''', role_name);
    execute format('alter role %I set statement_timeout = ''2s''', role_name);
    execute format('alter role %I set lock_timeout = ''1s''', role_name);
    execute format('alter role %I set idle_in_transaction_session_timeout = ''10s''', role_name);
  end loop;
end
$$;

-- Logins that have the rights of a request, and nothing else: `set role` leads them nowhere.
create role anon_login login in role anon;
create role authenticated_login login in role authenticated;

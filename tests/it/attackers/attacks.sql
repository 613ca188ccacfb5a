-- Attacks, each with its aim, its name and its statements. A line `-- aim: name` begins an attack, and a semicolon at
-- the end of a line ends a statement. Some attacks also state what they would do before `org_id` exists. `{A}` and
-- `{B}` are organisations, `{PA}` is a project of A, and `{ANN}` and `{BEN}` are users of A and B. The attacker belongs
-- to B, or to no organisation.
--
--   read    reads rows of A
--   write   changes rows of A, or inserts some
--   join    becomes a member of A, or changes who is one
--   become  gets the rights of another role, or changes what Warden enforces
--   limit   remains possible, for the reason that follows the name; it is tried too, so that the list stays true

-- read: select from a table
select * from projects;

-- read: select from a child table
select * from documents;

-- read: select from a partitioned table
select * from visits;

-- read: select from a partition
select * from visits_2026_01;

-- read: select from a partition of a partition
select * from visits_2026_02_early;

-- read: select from an inheritance parent
select * from items;

-- read: select from an inheritance child
select * from special_items;

-- read: select only the parent
select * from only items;

-- read: select through a view
select * from project_list;

-- read: select from a materialized view
select * from project_report;

-- read: call a function with the rights of its owner
select project_secret('{PA}');

-- read: a function that sets the claims
select projects_as('{"app_metadata": {"org_id": "{A}"}}');

-- read: claims in a statement that a function builds
select sorted_projects('(select found.secrets
  from (select set_config(''request.jwt.claims'', ''{"app_metadata": {"org_id": "{A}"}}'', true) as done offset 0) claims
  cross join lateral (select string_agg(p.secret, '','') as secrets from projects p where p.secret <> claims.done) found)::int');

-- read: join of a visible row with others
select d.* from projects p right join documents d on true;

-- read: whole rows as JSON
select to_jsonb(p) from projects p;
select jsonb_agg(v) from visits v;

-- read: aggregate over all rows
select string_agg(secret, ',') from projects;

-- read: rows by their address
select * from projects where ctid = '(0,1)';

-- read: a table as XML
select table_to_xml('public.projects', true, false, '');

-- read: a query as text
select query_to_xml('select * from public.documents', true, false, '');

-- read: full-text statistics of a query
select * from ts_stat('select to_tsvector(''simple'', secret) from public.projects');
select table_name from information_schema.tables where table_name = 'secret-of-a';

-- read: copy a table out
copy projects to stdout;

-- read: copy a query out
copy (select * from documents) to stdout;

-- read: copy a partition out
copy visits_2026_01 to stdout;

-- read: copy to a program
copy projects to program 'cat > /tmp/copied';

-- read: returning from an update of other rows
update projects set code = code returning *;

-- read: returning from a deletion
delete from documents returning *;

-- read: returning from an upsert
insert into projects (id, owner_id, secret) values ('{PA}', '{BEN}', 'x')
  on conflict (id) do update set code = projects.code returning *;

-- read: merge that reads the target
merge into projects p using (select projects.id, secret from projects) s on p.id = s.id
  when matched then update set secret = s.secret;
select * from projects;

-- read: explain analyze shows counts and constants
explain (analyze, verbose) select * from projects where left(secret, 6) = 'secret';
explain select * from projects where secret > 'secret';

-- read: planner statistics
select * from pg_stats;
select * from pg_stats_ext;

-- read: planner statistics of the catalog
select * from pg_statistic;

-- read: a leaky function in a condition
create temp table leaked (what text);
create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0000001 as 'begin insert into leaked
  values ($1); return true; end';
select * from projects where pg_temp.leak(secret);
select * from visits_2026_01 where pg_temp.leak(body);
select * from leaked;

-- read: a leaky function through a barrier view
create temp table leaked (what text);
create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0000001 as 'begin insert into leaked
  values ($1); return true; end';
select * from project_list where pg_temp.leak(secret);
select * from leaked;

-- read: a leaky operator
create temp table leaked (what text);
create function pg_temp.leak(text) returns boolean language plpgsql cost 0.0000001 as 'begin insert into leaked
  values ($1); return true; end';
create function pg_temp.leak_both(text, text) returns boolean language plpgsql cost 0.0000001 as 'begin insert
  into leaked values ($1); return true; end';
create operator pg_temp.<<< (leftarg = text, rightarg = text, function = pg_temp.leak_both);
select * from projects where secret operator(pg_temp.<<<) '';
select * from leaked;

-- read: an error that shows a value
select secret::int from projects;
select * from documents where body::int = 1;

-- read: an error in an index expression
create index on projects ((secret::int));

-- read: a cursor
begin;
declare c cursor with hold for select * from projects;
commit;
fetch all from c;

-- read: a prepared statement that outlives its claims
prepare p as select * from projects;
execute p;
execute p;
execute p;
execute p;
execute p;
execute p;
set plan_cache_mode = force_generic_plan;
execute p;

-- read: row_security off
set row_security = off;
select * from projects;
select * from visits_2026_01;

-- read: user_metadata that names the organisation
select set_config('request.jwt.claims', '{"sub": "{BEN}", "user_metadata": {"org_id": "{A}"}}', false);
select * from projects;

-- read: claims with the organisation in other places
select set_config('request.jwt.claims', '{"org_id": "{A}", "app_metadata": {"orgs": ["{A}"]}}', false);
select * from projects;
select set_config('request.jwt.claim.org_id', '{A}', false);
select set_config('request.jwt.claim.app_metadata', '{A}', false);
select * from projects;

-- read: malformed claims
select set_config('request.jwt.claims', '{"app_metadata": {"org_id": ["{A}"]}}', false);
select * from projects;
select set_config('request.jwt.claims', '{"app_metadata": {"org_id": "{A} "}}', false);
select * from projects;
select set_config('request.jwt.claims', '{"app_metadata": {"org_id": "{A}"', false);
select * from projects;
select set_config('request.jwt.claims', '{"app_metadata": {"org_id": null}}', false);
select * from projects;

-- read: claims without an organisation
select set_config('request.jwt.claims', '{}', false);
select * from projects;
select * from visits;

-- read: no claims
select set_config('request.jwt.claims', '', false);
select * from projects;

-- read: large objects
select lo_get(oid) from pg_largeobject_metadata;
select * from pg_largeobject;

-- read: other sessions' statements
select query from pg_stat_activity;

-- read: recorded statements
select query from extensions.pg_stat_statements;

-- read: files of the server
select pg_read_file('postgresql.conf');
select pg_ls_dir('.');

-- read: dblink to the same server
create extension dblink;
select * from dblink('dbname=' || current_database(), 'select secret from projects') t (s text);

-- read: a foreign server to the same database
create extension postgres_fdw;
create server here foreign data wrapper postgres_fdw;

-- read: notifications of the log
listen warden;
listen warden_events;
select pg_notification_queue_usage();

-- read: the event log
select * from warden.events;

-- read: a slot of the event log
select * from warden.events_0;
select * from warden.events_1;

-- become: the registry
update warden.tenant_tables set scope = 'user', user_column = 'owner_id';

-- become: decisions of an operator
insert into warden.decisions (rule, object, choice) values ('policy', 'x', 'accept');

-- become: accept a finding
select warden.accept_finding('policy', 'public.projects', 'mine');

-- become: sequences of the log
select nextval('warden.events_slot');
select setval('warden.events_slot', 1);

-- become: remove the protection by function
select warden.unprotect('public.projects');

-- become: adopt a table into another state
select warden.adopt_table('public.countries');

-- become: register a table
select warden.register_table('public.countries');

-- read: watch a table
select warden.watch('public.projects', 'leak', 'leak');

-- write: publish into another organisation
select warden.publish('{A}', 'org', 'forged', '{}');

-- write: revoke the tokens of another organisation
select warden.revoke_org('{A}', 'x');
insert into warden.revocations (org_id, revoked_at, expires_at) values ('{A}', now(), now() + interval '1 day');

-- read: the organisation of another user by function
select warden.default_org_for('{ANN}')::text || 'secret-of-a';

-- join: the token hook for another user
select public.custom_access_token_hook('{"user_id": "{ANN}", "claims": {}}')::text || 'secret-of-a';
select warden.custom_access_token_hook('{"user_id": "{ANN}", "claims": {}}')::text || 'secret-of-a';

-- write: insert a row for another organisation
insert into projects (owner_id, secret, org_id) values ('{BEN}', 'forged', '{A}');
insert into projects (owner_id, secret) values ('{ANN}', 'forged');

-- write: insert a row whose user belongs to another organisation
insert into projects (owner_id, secret) values ('{ANN}', 'forged');

-- write: insert a child of another organisation's row
insert into documents (project_id, body) values ('{PA}', 'forged');

-- write: insert into a partition
insert into visits_2026_01 (project_id, happened_at, body, org_id) values ('{PA}', '2026-01-20', 'forged', '{A}');
insert into visits_2026_01 (project_id, happened_at, body) values ('{PA}', '2026-01-20', 'forged');

-- write: insert into an inheritance child
insert into special_items (owner_id, body, org_id) values ('{ANN}', 'forged', '{A}');
insert into special_items (owner_id, body) values ('{ANN}', 'forged');

-- write: copy rows in
copy documents (project_id, body) from program 'echo {PA}';

-- write: update another organisation's rows
update projects set secret = 'forged' where id = '{PA}';

-- write: update all rows
update documents set body = 'forged';
update items set body = 'forged';

-- write: update a partition
update visits_2026_02_late set body = 'forged';
update visits_2026_01 set body = 'forged';

-- write: move an own row into another organisation
update projects set org_id = '{A}';
update projects set owner_id = '{ANN}' where code = 'code-b';

-- write: move a foreign row into the own organisation
update projects set org_id = '{B}' where id = '{PA}';
update visits_2026_01 set org_id = '{B}';
update projects set owner_id = '{BEN}' where id = '{PA}';

-- write: change the parent of an own row
update documents set project_id = '{PA}' where body = 'of b';

-- write: upsert over a foreign row
insert into projects (id, owner_id, secret) values ('{PA}', '{BEN}', 'forged') on conflict (id) do update set
  secret = 'forged';

-- write: merge into foreign rows
merge into projects p using (select '{PA}'::uuid as id) s on p.id = s.id when matched then update set secret =
  'forged';

-- write: update through a view
update project_list set secret = 'forged';

-- write: insert through a view
insert into project_list (owner_id, secret) values ('{ANN}', 'forged');

-- write: delete all rows
delete from documents;
delete from projects;

-- write: delete from a partition
delete from visits_2026_01;

-- write: delete through a cascade
delete from projects where id = '{PA}';

-- write: truncate a table
truncate documents;

-- write: truncate a partition
truncate visits_2026_01;

-- write: truncate through a cascade
truncate projects cascade;

-- write: truncate organisations
truncate organizations cascade;

-- become: refresh a materialized view
refresh materialized view project_report;

-- become: create a trigger
create function pg_temp.spy() returns trigger language plpgsql as 'begin return null; end';
create trigger spy before update on projects for each row execute function pg_temp.spy();

-- become: create a rule
create rule spy as on insert to projects do instead nothing;

-- become: create a policy
create policy mine on projects using (true);

-- become: disable row-level security
alter table projects disable row level security;

-- become: no force of row-level security
alter table projects no force row level security;

-- become: drop a policy
drop policy warden_org on projects;

-- become: disable triggers
alter table projects disable trigger all;
set session_replication_role = replica;

-- become: create a view in schema public
create view public.mine as select * from projects;

-- become: create a function in schema public
create function public.mine() returns int language sql as 'select 1';

-- become: replace auth_org_id
create or replace function public.auth_org_id() returns uuid language sql stable as $$select '{A}'::uuid$$;
create or replace function warden.auth_org_id() returns uuid language sql stable as $$select '{A}'::uuid$$;

-- read: a temporary auth_org_id
create function pg_temp.auth_org_id() returns uuid language sql stable as $$select '{A}'::uuid$$;
set search_path = pg_temp, public, warden;
select * from projects;
select * from visits;

-- read: a temporary table in front of organizations
create temp table organizations (id uuid, name text);
create temp table organization_members (org_id uuid, user_id uuid);
insert into organization_members values ('{A}', '{BEN}');
set search_path = pg_temp, public;
select * from projects;

-- read: operators in front of pg_catalog
create function pg_temp.same(uuid, uuid) returns boolean language sql immutable as 'select true';
create operator pg_temp.= (leftarg = uuid, rightarg = uuid, function = pg_temp.same);
set search_path = pg_temp, pg_catalog, public;
select * from projects;
select * from documents;

-- read: own current_setting
create function pg_temp.current_setting(text, boolean) returns text language sql as $$select '{A}'$$;
set search_path = pg_temp, pg_catalog, public;
select * from projects;

-- read: a table that inherits from a protected one
create temp table mine () inherits (projects);
select * from mine;

-- write: attach a partition
create temp table part (like visits);
alter table visits attach partition part for values from ('2027-01-01') to ('2027-02-01');

-- read: a foreign key into another organisation
create temp table probe (id uuid references projects);
insert into probe values ('{PA}');
select 'secret-of-a' from probe;

-- become: comment on a table
comment on table projects is 'mine';
comment on policy warden_org on projects is 'mine';

-- become: a comment that claims to be Warden's
comment on function public.project_secret(uuid) is 'x (created by Warden)';

-- read: own statistics
create statistics public.spy on owner_id, secret from projects;

-- become: default privileges of the owner
alter default privileges for role managed_owner grant all on tables to public;

-- become: grant oneself rights
grant all on projects to public;
grant warden_owner to current_user;

-- become: set role
set role service_role;
set role managed_owner;
set role warden_owner;

-- become: set session authorization
set session authorization managed_owner;
set session authorization postgres;

-- become: change an own role
alter role current_user bypassrls;
alter role current_user superuser;

-- become: create a role
create role mine in role warden_owner;

-- become: become a member of the owner
grant managed_owner to current_user;

-- become: the gateway's role
set role warden_gateway;
set role warden_publisher;

-- join: insert a membership for oneself
insert into organization_members (org_id, user_id) values ('{A}', '{BEN}');

-- join: insert a primary membership
insert into organization_members (org_id, user_id, is_primary) values ('{A}', '{BEN}', true);

-- join: move an own membership
update organization_members set org_id = '{A}' where user_id = '{BEN}';

-- join: take over a membership
update organization_members set user_id = '{BEN}' where user_id = '{ANN}';

-- join: raise an own membership
update organization_members set role = 'owner';

-- join: remove members of another organisation
delete from organization_members where org_id = '{A}';

-- read: read members of another organisation
select 'secret-of-a' from organization_members where org_id = '{A}';

-- read: read other organisations
select 'secret-of-a' from organizations where id = '{A}';

-- write: rename another organisation
update organizations set name = 'forged' where id = '{A}';

-- write: delete another organisation
delete from organizations where id = '{A}';

-- join: create an organisation
insert into organizations (name) values ('forged');

-- write: replace the id of an organisation
update organizations set id = gen_random_uuid() where id = '{B}';

-- limit: probe a unique key | a unique constraint that does not start with `org_id` tells that a value exists
insert into projects (owner_id, code, secret) values ('{BEN}', 'code-a', 'x');

-- limit: lock a table | a role that may write a table may lock it
begin;
lock table projects in row exclusive mode nowait;
commit;

-- limit: advisory locks | every role may take advisory locks; Warden's jobs report who holds theirs
select pg_try_advisory_lock(1);

-- limit: read a sequence | a sequence that a role may read counts the rows of all organisations
select last_value from documents_id_seq;

-- limit: forge claims | a client that may send arbitrary SQL can set claims: PostgREST or the back end must not let it
select set_config('request.jwt.claims', '{"app_metadata": {"org_id": "{A}"}}', false);
select * from projects;

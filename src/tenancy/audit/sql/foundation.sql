-- What every policy and function of Warden rests on: the owner of schema warden and of what it contains, triggers of
-- others on its tables, and settings with which sessions begin.
with admin as (
  select case when current_setting('is_superuser') = 'on' then '' else E'-- as a superuser:\n' end as comment
), trusted as (
  -- Roles that may change isolation anyway.
  select r.oid from pg_roles r join pg_database d on d.datname = current_database()
  where r.rolsuper or r.oid = d.datdba or r.rolname = 'pg_database_owner'
     or pg_has_role(r.oid, (select w.oid from pg_roles w where w.rolname = 'warden_owner'), 'member')
), owned as (
  select 'schema warden' as object, 'schema' as kind, n.nspowner as owner, false as is_record
  from pg_namespace n where n.nspname = 'warden'
  union all
  select c.oid::regclass::text, case c.relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                                               when 'f' then 'foreign table' else 'table' end,
    c.relowner, c.relname in ('_sqlx_migrations', '_platform_migrations')
  from pg_class c where c.relnamespace = 'warden'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
  union all
  -- Types of their own, not those of relations and arrays.
  select t.oid::regtype::text, 'type', t.typowner, false
  from pg_type t left join pg_class c on c.oid = t.typrelid
  where t.typnamespace = 'warden'::regnamespace and t.typcategory <> 'A' and coalesce(c.relkind = 'c', true)
), isolating as (
  select c.oid, c.oid::regclass::text as name, c.relowner, n.nspname
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = 'warden' and c.relkind in ('r', 'p', 'v')
     or c.oid in (to_regclass('public.organizations'), to_regclass('public.organization_members'))
), tables as (
  select c.oid, c.relowner, format('%I.%I', t.schema_name, t.table_name) as name
  from warden.tenant_tables t join pg_class c on c.oid = to_regclass(format('%I.%I', t.schema_name, t.table_name))
  -- The rule organization-owner reports the owners of these.
  where (t.schema_name, t.table_name) not in (('public', 'organizations'), ('public', 'organization_members'))
), keeper as (
  -- A role to which objects may be given: the owner of the database, unless requests reach it.
  select k.rolname as name from pg_database d
  join pg_roles k on k.oid = case when exists (
      select from pg_roles q where q.rolname in ('anon', 'authenticated', 'service_role', 'authenticator')
        and not q.rolsuper and pg_has_role(q.oid, d.datdba, 'member')) then 10 else d.datdba end
  where d.datname = current_database()
), settings as (
  select r.rolname, d.datname, split_part(s.setting, '=', 1) as name, substr(s.setting, strpos(s.setting, '=') + 1) as value,
    case when r.oid is null then format('database %I', d.datname) when d.oid is null then format('role %I', r.rolname)
         else format('role %I in database %I', r.rolname, d.datname) end as place
  from pg_db_role_setting c
  cross join lateral unnest(c.setconfig) s (setting)
  left join pg_roles r on r.oid = c.setrole
  left join pg_database d on d.oid = c.setdatabase
  where d.oid is null or d.datname = current_database()
)
select 'warden-owner' as rule, null::text as severity, null::text as "table", o.object,
  format('it belongs to %s, which could change what isolates organisations', o.owner::regrole) as cause,
  'sql' as remedy_kind,
  format('%salter %s%s owner to %s;', admin.comment, case when o.kind = 'schema' then '' else o.kind || ' ' end, o.object,
         case when o.is_record then quote_ident(current_user) else 'warden_owner' end) as remedy
from owned o cross join admin
where case when o.is_record then o.owner not in (select t.oid from trusted t) else o.owner <> 'warden_owner'::regrole end
union all
select 'warden-owner', null, null, v.name, 'it is not the view that Warden created: it can hide problems', 'sql',
  E'set role warden_owner;\ncreate or replace view warden.tenant_objects as select * from warden.tenant_object_rows();\nreset role;'
from isolating v
cross join lateral (select pg_get_viewdef(v.oid) as definition) d
where v.name = 'warden.tenant_objects'
  and (d.definition !~ 'FROM warden\.tenant_object_rows\(\) [^;]*;$' or d.definition ~* '\m(where|limit|join|case|union|coalesce)\M')
union all
select 'warden-trigger', null, null, i.name,
  format('its trigger "%s" runs %s, which is not Warden''s', g.tgname, g.tgfoid::regprocedure), 'sql',
  format('drop trigger %I on %s;', g.tgname, i.name)
from isolating i join pg_trigger g on g.tgrelid = i.oid and not g.tgisinternal
join pg_proc p on p.oid = g.tgfoid
where i.nspname = 'warden' and p.pronamespace <> 'warden'::regnamespace and g.tgparentid = 0
union all
select 'warden-trigger', null, i.name, g.tgname,
  format('the trigger runs %s of %s, which could change who is a member of which organisation', g.tgfoid::regprocedure,
         p.proowner::regrole), 'decide',
  json_build_object('question', 'does the application need it, and is its text right?', 'choices', json_build_array(
    json_build_array('no', 'sql', format('drop trigger %I on %s;', g.tgname, i.name)),
    json_build_array('yes', 'sql', format('%salter function %s owner to %s;', admin.comment, g.tgfoid::regprocedure,
                                          i.relowner::regrole))))::text
from isolating i cross join admin
join pg_trigger g on g.tgrelid = i.oid and not g.tgisinternal and g.tgparentid = 0
join pg_proc p on p.oid = g.tgfoid
where i.nspname <> 'warden' and p.pronamespace <> 'warden'::regnamespace
  and p.proowner not in (select t.oid from trusted t) and not pg_has_role(p.proowner, i.relowner, 'usage')
union all
select 'session-default', null, null, s.place,
  format('%s is set for every session of %s: requests without claims would get these', s.name, s.place), 'sql',
  format('%salter %s reset %s;', admin.comment, s.place, s.name)
from settings s cross join admin where s.name ~ '^request\.jwt\.claim'
union all
select 'session-default', null, null, s.place,
  format('role = %s is set for %s, and bypasses row-level security', s.value, s.place), 'sql',
  format('%salter %s reset role;', admin.comment, s.place)
from settings s cross join admin
join pg_roles r on r.rolname = trim(both '"' from s.value) and (r.rolsuper or r.rolbypassrls)
where s.name = 'role' and coalesce(s.rolname in ('anon', 'authenticated', 'authenticator'), true)
union all
select 'session-default', null, null, s.place,
  format('the search_path of %s names pg_catalog after another schema, whose objects can take the place of '
         'PostgreSQL''s own: %s', s.place, s.value), 'sql',
  format('%salter %s set search_path = %s;', admin.comment, s.place, (
    select string_agg(e.name, ', ' order by e.n)
    from unnest(string_to_array(s.value, ',')) with ordinality x (raw, n)
    cross join lateral (select trim(x.raw) as name, x.n) e where trim(both '"' from e.name) <> 'pg_catalog'))
from settings s cross join admin
where s.name = 'search_path' and s.value ~ ',\s*"?pg_catalog"?\s*(,|$)'
union all
-- The same owners as in a plan (preflight/sql/table_owners.sql). The rule owner-member reports those that requests
-- reach.
select 'table-owner', null, null, o.rolname,
  format('%s owns %s, and can turn row-level security off there; roles that can log in as it or act as it: %s', o.rolname,
    o.tables, coalesce((select string_agg(r.rolname, ', ' order by r.rolname) from pg_roles r
                        where r.rolcanlogin and not r.rolsuper and pg_has_role(r.oid, o.oid, 'member')), 'none')), 'decide',
  json_build_object('question', 'do only migrations, and no statements of tenants, run as these roles?',
    'choices', json_build_array(json_build_array('no', 'sql', (
      select string_agg(format('%salter table %s owner to %I;', admin.comment, t.name, keeper.name), E'\n' order by t.name)
      from tables t where t.relowner = o.oid))))::text
from (select r.oid, r.rolname, string_agg(t.name, ', ' order by t.name) as tables
      from tables t join pg_roles r on r.oid = t.relowner group by r.oid, r.rolname) o
cross join admin cross join keeper
where o.oid not in (select x.oid from trusted x)
  and o.rolname not in ('anon', 'authenticated', 'service_role', 'authenticator', 'warden_gateway', 'warden_publisher',
                        'warden_worker')

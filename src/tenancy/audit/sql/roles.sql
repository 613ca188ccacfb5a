-- Roles that bypass row-level security, views of such roles, and settings that disable triggers.
with roles as (
  select r.oid, r.rolname, r.rolsuper, r.rolbypassrls,
    exists (select from warden.tenant_tables t
            join pg_namespace n on n.nspname = t.schema_name
            join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
            where c.relowner = r.oid) as is_owner
  from pg_roles r
), registered as (
  select c.oid, c.relowner, format('%I.%I', n.nspname, c.relname) as full_name
  from warden.tenant_tables t
  cross join lateral warden.tree(to_regclass(format('%I.%I', t.schema_name, t.table_name))) m (oid)
  join pg_class c on c.oid = m.oid and c.relkind in ('r', 'p')
  join pg_namespace n on n.oid = c.relnamespace
)
select 'bypassing-role' as rule,
  case when r.rolsuper or r.is_owner or r.rolname = 'service_role' or r.rolname ~ '^supabase_' then 'notice'
       else 'finding' end as severity,
  null::text as "table", r.rolname::text as object,
  case when r.rolsuper then 'superuser: bypasses row-level security, so no statement of a tenant should run as it'
       when r.rolname = 'service_role' then
         'has BYPASSRLS: bypasses row-level security; constraints and triggers still apply to it'
       else 'has BYPASSRLS: bypasses row-level security' end as cause,
  'decide' as remedy_kind,
  case when r.rolsuper then
         format('do not give its password to applications; if it need not be a superuser: alter role %I nosuperuser;',
                r.rolname)
       when r.rolname = 'service_role' then
         'give its key to back ends only, and let them name the organisation in every query'
       else format('alter role %I nobypassrls;', r.rolname) end as remedy
from roles r where r.rolsuper or r.rolbypassrls
union all
select 'owner-member', null, g.full_name, m.rolname,
  format('%s is a member of %s, which owns the table and can disable row-level security', m.rolname, o.rolname), 'sql',
  format('revoke %I from %I;', o.rolname, m.rolname)
from registered g join pg_roles o on o.oid = g.relowner
join pg_roles m on m.rolname in ('anon', 'authenticated', 'service_role', 'authenticator', 'warden_gateway',
                                 'warden_publisher', 'warden_owner')
where not m.rolsuper and pg_has_role(m.oid, o.oid, 'member')
union all
select 'silent-triggers', null, null, coalesce(r.rolname, 'every role'),
  format('%s is set for %s%s: it disables immutability triggers, watches and foreign keys', s.setting,
         coalesce(r.rolname, 'every role'), coalesce(' in database ' || d.datname, '')), 'sql',
  format('alter %s reset session_replication_role;', case
    when r.oid is null then format('database %I', d.datname)
    when d.oid is null then format('role %I', r.rolname)
    else format('role %I in database %I', r.rolname, d.datname) end)
from pg_db_role_setting c
cross join lateral unnest(c.setconfig) s (setting)
left join pg_roles r on r.oid = c.setrole
left join pg_database d on d.oid = c.setdatabase
where s.setting like 'session_replication_role=%' and s.setting <> 'session_replication_role=origin'
  and (d.oid is null or d.datname = current_database())
union all
select 'silent-triggers', null, null, 'configuration',
  format('session_replication_role is %s for every session: it disables immutability triggers, watches and '
         'foreign keys', s.setting),
  'decide', 'set session_replication_role to origin in the server''s configuration'
from pg_settings s
where s.name = 'session_replication_role' and s.reset_val <> 'origin'
  and s.source in ('configuration file', 'command line')
union all
select 'silent-triggers', null, g.full_name, t.tgname,
  format('the trigger behind foreign key "%s" is disabled: it checks nothing', k.conname), 'sql',
  format('alter table %s enable trigger %I;', t.tgrelid::regclass, t.tgname)
from registered g
join pg_constraint k on k.contype = 'f' and k.conrelid = g.oid
join pg_trigger t on t.tgconstraint = k.oid and t.tgenabled not in ('O', 'A')
-- A constraint that is NOT ENFORCED (from PostgreSQL 18 on) is reported as not validated.
where coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
union all
select distinct 'bypassing-view', null, format('%I.%I', n.nspname, v.relname), v.relname::text,
  format('it shows %s every row of %s that its owner %s sees, without row-level security', r.names, g.full_name,
         o.rolname),
  case when v.relkind = 'v' and current_setting('server_version_num')::int >= 150000 then 'sql' else 'decide' end,
  case when v.relkind = 'v' and current_setting('server_version_num')::int >= 150000
       then format('alter view %I.%I set (security_invoker = true);', n.nspname, v.relname)
       else format('revoke all on %I.%I from anon, authenticated;', n.nspname, v.relname) end
from pg_class v
join pg_namespace n on n.oid = v.relnamespace and n.nspname not in ('warden', 'pg_catalog', 'information_schema')
join pg_rewrite w on w.ev_class = v.oid
join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
join registered g on g.oid = d.refobjid
join pg_roles o on o.oid = v.relowner and (o.rolsuper or o.rolbypassrls or v.relkind = 'm')
cross join lateral (select string_agg(q.rolname, ' and ' order by q.rolname) as names from pg_roles q
                    where q.rolname in ('anon', 'authenticated')
                      and has_any_column_privilege(q.oid, v.oid, 'select')) r
where v.relkind in ('v', 'm') and r.names is not null
  and not (v.relkind = 'v' and exists (
    select from pg_options_to_table(v.reloptions) x
    where x.option_name = 'security_invoker' and x.option_value in ('true', 'on', '1', 'yes')))

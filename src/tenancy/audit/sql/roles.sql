-- Roles that bypass row-level security, and settings that disable triggers.
with admin as (
  -- A comment before statements that only a superuser may run.
  select case when current_setting('is_superuser') = 'on' then '' else E'-- as a superuser:\n' end as comment
), roles as (
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
  json_build_object('question', case
      when r.rolsuper then 'must it be a superuser?'
      when r.rolname = 'service_role' then 'do back ends need rows of several organisations?'
      else 'does it need rows of several organisations?' end,
    'choices', json_build_array(
      -- The first role of a cluster must be a superuser, and a role cannot take the right away from itself.
      case when r.rolsuper and r.oid <> 10 and r.rolname <> session_user then json_build_array('no', 'sql',
        format('%salter role %I nosuperuser nobypassrls;', admin.comment, r.rolname)) end,
      case when not r.rolsuper then json_build_array('no', 'sql',
        format('%salter role %I nobypassrls;', admin.comment, r.rolname)) end))::text as remedy
from roles r, admin where r.rolsuper or r.rolbypassrls
union all
select 'owner-member', null, g.full_name, m.rolname,
  format('%s is a member of %s, which owns %s', m.rolname, o.rolname, g.reach), 'sql',
  -- The role may be an indirect member.
  (select string_agg(format('%srevoke %I from %I%s;', case when pg_has_role(i.roleid, 'usage with admin option') then ''
                            else admin.comment end, i.roleid::regrole::name, m.rolname,
                            case when current_setting('server_version_num')::int >= 160000 then
                              format(' granted by %I', (to_jsonb(i) ->> 'grantor')::oid::regrole::name) else '' end),
                     E'\n' order by i.roleid)
   from pg_auth_members i where i.member = m.oid and pg_has_role(i.roleid, o.oid, 'member'))
from (select r.full_name, r.relowner, 'the table and can disable row-level security' as reach from registered r
      union all
      select null, d.datdba, 'the database, and can change everything in it'
      from pg_database d where d.datname = current_database()) g
join pg_roles o on o.oid = g.relowner
cross join admin
join pg_roles m on m.rolname in ('anon', 'authenticated', 'service_role', 'authenticator', 'warden_gateway',
                                 'warden_publisher', 'warden_worker', 'warden_owner')
where not m.rolsuper and m.oid <> o.oid and pg_has_role(m.oid, o.oid, 'member')
  -- The gateway's role may become `authenticated`, which is reported itself.
  and not (m.rolname = 'warden_gateway' and pg_has_role('authenticated', o.oid, 'member'))
  -- The owner of the database may grant its own role to these.
  and (g.full_name is not null or m.rolname not in ('service_role', 'warden_owner'))
union all
select 'owner-member', null, g.full_name, o.rolname,
  format('%s owns the table and can disable row-level security', o.rolname), 'sql',
  format('%salter table %s owner to %I;', admin.comment, g.full_name, f.owner)
from registered g join pg_roles o on o.oid = g.relowner
cross join admin
-- A role that may own tables: the one that owns the organisations, or else the one that runs the audit.
cross join lateral (
  select coalesce((select c.relowner::regrole::name from pg_class c
                   where c.oid = to_regclass('public.organizations') and c.relowner <> o.oid), current_user) as owner) f
where o.rolname in ('anon', 'authenticated', 'service_role', 'authenticator', 'warden_gateway', 'warden_publisher',
                    'warden_worker')
union all
-- The same owners as before a migration (preflight/sql/owners.sql).
select 'organization-owner', null, g.full_name, o.rolname,
  format('%s owns the table and can turn off what isolates organisations: it is no superuser, owns neither the database '
         'nor another registered table, and may not migrate', o.rolname), 'decide',
  json_build_object('question', 'is it a role of the application''s own, which only its migrations use?',
    'choices', json_build_array(json_build_array('no', 'sql',
      format('%salter table %s owner to %I;', admin.comment, g.full_name, k.rolname))))::text
from registered g join pg_roles o on o.oid = g.relowner join pg_database d on d.datname = current_database()
cross join admin
-- The owner of the database, unless that is a role of requests.
join pg_roles k on k.oid = case when d.datdba::regrole::text in ('anon', 'authenticated', 'service_role', 'authenticator')
                                then 10 else d.datdba end
where g.full_name in ('public.organizations', 'public.organization_members')
  and not o.rolsuper and o.oid <> d.datdba
  -- The rule owner-member reports these.
  and o.rolname not in ('pg_database_owner', 'anon', 'authenticated', 'service_role', 'authenticator', 'warden_gateway',
                        'warden_publisher', 'warden_worker')
  and not pg_has_role(o.oid, 'warden_owner', 'member')
  and not exists (select from registered t where t.relowner = o.oid
                  and t.full_name not in ('public.organizations', 'public.organization_members'))
  -- The operator has answered the question of the migration.
  and not exists (select from warden.decisions d where d.rule = 'preflight' and d.object = o.rolname)
union all
select 'silent-triggers', null, null, coalesce(r.rolname, 'every role'),
  format('%s is set for %s%s: it disables immutability triggers, watches and foreign keys', s.setting,
         coalesce(r.rolname, 'every role'), coalesce(' in database ' || d.datname, '')), 'sql',
  format('%salter %s reset session_replication_role;', admin.comment, case
    when r.oid is null then format('database %I', d.datname)
    when d.oid is null then format('role %I', r.rolname)
    else format('role %I in database %I', r.rolname, d.datname) end)
from pg_db_role_setting c
cross join admin
cross join lateral unnest(c.setconfig) s (setting)
left join pg_roles r on r.oid = c.setrole
left join pg_database d on d.oid = c.setdatabase
where s.setting like 'session_replication_role=%' and s.setting <> 'session_replication_role=origin'
  and (d.oid is null or d.datname = current_database())
union all
select 'silent-triggers', null, null, 'configuration',
  format('session_replication_role is %s for every session: it disables immutability triggers, watches and '
         'foreign keys', s.setting),
  'advice', 'set session_replication_role to origin in the server''s configuration'
from pg_settings s
where s.name = 'session_replication_role' and s.reset_val <> 'origin'
  and s.source in ('configuration file', 'command line')
union all
select 'silent-triggers', null, g.full_name, t.tgname,
  format('the trigger behind foreign key "%s" is disabled: it checks nothing', k.conname), 'sql',
  format('%salter table %s enable trigger %I;', admin.comment, t.tgrelid::regclass, t.tgname)
from registered g cross join admin
join pg_constraint k on k.contype = 'f' and k.conrelid = g.oid
join pg_trigger t on t.tgconstraint = k.oid and t.tgenabled not in ('O', 'A')
-- A constraint that is NOT ENFORCED (from PostgreSQL 18 on) is reported as not validated.
where coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
union all
select 'silent-triggers', null, null, e.evtname,
  'the event trigger is disabled: new partitions and changed columns of watched tables are not noticed', 'sql',
  format('%salter event trigger %I enable;', admin.comment, e.evtname)
from pg_event_trigger e join pg_proc p on p.oid = e.evtfoid and p.pronamespace = 'warden'::regnamespace
cross join admin where e.evtenabled not in ('O', 'A')
union all
select 'owner-member', null, null, o.rolname,
  format('%s owns the database, and can change everything in it', o.rolname), 'sql',
  format('%salter database %I owner to %I;', admin.comment, d.datname, s.owner)
from pg_database d cross join admin
cross join (select r.rolname as owner from pg_roles r where r.oid = 10) s
join pg_roles o on o.oid = d.datdba
where d.datname = current_database() and not o.rolsuper
  and o.rolname in ('anon', 'authenticated', 'authenticator', 'warden_gateway', 'warden_publisher', 'warden_worker')

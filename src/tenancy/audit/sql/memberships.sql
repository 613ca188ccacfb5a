-- Roles that can become more powerful ones, and request roles that can plant objects.
with admin as (
  -- A comment before statements that only a superuser may run.
  select case when current_setting('is_superuser') = 'on' then '' else E'-- as a superuser:\n' end as comment,
    current_setting('server_version_num')::int >= 160000 as has_grantors
), powers as (
  select r.oid, r.rolname, case
      when r.rolsuper then 'a superuser'
      when r.rolbypassrls then 'exempt from row-level security'
      when r.rolcreaterole then 'able to grant itself other roles'
      when r.rolreplication then 'able to read every change by replication'
      when r.rolname = 'pg_read_all_stats' then 'able to read the statements of every session'
      when r.rolname = 'pg_signal_backend' then 'able to end sessions of others'
      else 'able to read or write outside row-level security' end as power
  from pg_roles r
  where r.rolsuper or r.rolbypassrls or r.rolcreaterole or r.rolreplication
     or r.rolname in ('pg_read_all_data', 'pg_write_all_data', 'pg_execute_server_program', 'pg_read_server_files',
                      'pg_write_server_files', 'pg_read_all_stats', 'pg_signal_backend')
), grants as (
  select i.member, i.roleid, format('%srevoke %I from %I%s;',
      case when pg_has_role(i.roleid, 'usage with admin option') then '' else admin.comment end,
      i.roleid::regrole::name, i.member::regrole::name,
      case when admin.has_grantors then format(' granted by %I', (to_jsonb(i) ->> 'grantor')::oid::regrole::name)
           else '' end) as revocation
  from pg_auth_members i, admin
)
select 'request-role' as rule, null::text as severity, null::text as "table", m.rolname::text as object,
  format('%s may become %s, which is %s', m.rolname, p.rolname, p.power) as cause, 'sql' as remedy_kind,
  (select string_agg(g.revocation, E'\n' order by g.roleid) from grants g
   where g.member = m.oid and pg_has_role(g.roleid, p.oid, 'member')) as remedy
from pg_roles m join powers p on p.oid <> m.oid and pg_has_role(m.oid, p.oid, 'member')
where m.rolname in ('anon', 'authenticated') and not m.rolsuper
union all
select 'request-role', null, null, p.rolname, format('%s is %s', p.rolname, p.power), 'sql',
  format('%salter role %I nosuperuser nobypassrls nocreaterole noreplication;', admin.comment, p.rolname)
from powers p, admin where p.rolname in ('anon', 'authenticated')
union all
select 'all-data-role', null, null, m.rolname,
  format('%s is a member of %s: it reads or writes what belongs to every organisation, the event log included', m.rolname,
         string_agg(distinct o.rolname, ' and ')), 'decide',
  json_build_object('question', 'does it need every table?', 'choices', json_build_array(
    json_build_array('no', 'sql', string_agg(g.revocation, E'\n'))))::text
from grants g
join pg_roles m on m.oid = g.member and not m.rolsuper and m.rolname not in ('anon', 'authenticated')
join pg_roles o on o.oid = g.roleid and o.rolname in ('pg_read_all_data', 'pg_write_all_data', 'pg_execute_server_program',
                                                             'pg_read_server_files', 'pg_write_server_files')
group by m.rolname
union all
select 'all-data-role', case when r.rolname ~ '^supabase_' then 'notice' end, null, r.rolname,
  'it has REPLICATION: it reads every change of every organisation, the event log included', 'decide',
  json_build_object('question', 'does it replicate the whole database?', 'choices', json_build_array(
    json_build_array('no', 'sql', format('%salter role %I noreplication;', admin.comment, r.rolname))))::text
from pg_roles r, admin
where r.rolreplication and not r.rolsuper and r.rolname not in ('anon', 'authenticated')
union all
select 'role-creator', null, null, r.rolname, 'it has CREATEROLE, and may grant itself roles that own tables', 'decide',
  json_build_object('question', 'is it trusted like the owner of the tables?', 'choices', json_build_array(
    case when r.rolname <> current_user then json_build_array('no', 'sql',
      format('%salter role %I nocreaterole;', admin.comment, r.rolname)) end))::text
from pg_roles r, admin
where r.rolcreaterole and not r.rolsuper and r.rolname not in ('anon', 'authenticated') and r.rolname !~ '^supabase_'
  and not exists (select from warden.tenant_tables t
                  join pg_namespace n on n.nspname = t.schema_name
                  join pg_class c on c.relnamespace = n.oid and c.relname = t.table_name
                  where c.relowner = r.oid)
union all
select 'schema-right',
  -- Before PostgreSQL 15, every new database is like this.
  case when q.rolname is null and current_setting('server_version_num')::int < 150000 then 'notice' end, null,
  coalesce(q.rolname, 'PUBLIC'),
  format('%s may create objects in schema public, which statements of other roles could use by mistake',
         coalesce(q.rolname, 'PUBLIC')), 'sql',
  format('%srevoke create on schema public from %s;',
    case when pg_has_role(n.nspowner, 'usage') then '' else format(E'-- as %s:\n', n.nspowner::regrole) end,
    coalesce(quote_ident(q.rolname), 'public'))
from pg_namespace n
cross join lateral aclexplode(n.nspacl) a
left join pg_roles q on q.oid = a.grantee
where n.nspname = 'public' and a.privilege_type = 'CREATE'
  and (a.grantee = 0 or q.rolname in ('anon', 'authenticated'))
union all
select 'schema-right', null, null, q.rolname, format('%s may create schemas in the database, and trusted extensions', q.rolname),
  'sql', format('%srevoke create on database %I from %I;',
    case when pg_has_role(d.datdba, 'usage') then '' else format(E'-- as %s:\n', d.datdba::regrole) end, d.datname, q.rolname)
from pg_database d
cross join lateral aclexplode(d.datacl) a
join pg_roles q on q.oid = a.grantee and q.rolname in ('anon', 'authenticated')
where d.datname = current_database() and a.privilege_type = 'CREATE' and d.datdba <> q.oid
union all
-- The owner of a schema may drop whatever it contains.
select 'schema-right', null, null, o.rolname,
  format('%s owns schema public, so it may drop what policies call, and is an ordinary role', o.rolname), 'sql',
  format('%salter schema public owner to %I;',
    case when current_setting('is_superuser') = 'on' then '' else E'-- as a superuser:\n' end, k.rolname)
from pg_namespace n join pg_roles o on o.oid = n.nspowner
join pg_database d on d.datname = current_database()
join pg_roles k on k.oid = case when d.datdba::regrole::text in ('anon', 'authenticated', 'service_role', 'authenticator')
                                then 10 else d.datdba end
where n.nspname = 'public' and not o.rolsuper and o.oid <> d.datdba
  and o.rolname not in ('pg_database_owner', 'anon', 'authenticated') and not pg_has_role(o.oid, 'warden_owner', 'member')
  and not exists (select from warden.tenant_tables t join pg_class c on c.oid = to_regclass(format('%I.%I', t.schema_name, t.table_name))
                  where c.relowner = o.oid)
